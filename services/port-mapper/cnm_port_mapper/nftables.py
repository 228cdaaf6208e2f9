"""Table ``inet cnm_ports``: one map element a translated place, so that one change costs the same among ten thousand.

The table is made, and mended, by libnftables; elements change by raw nfnetlink. What is in the kernel outlives the
process: it is taken over, never flushed.
"""

import errno
import ipaddress
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from cnm.kernel.errors import KernelError
from cnm.kernel.nfnl import (
    AddElement,
    DeleteElement,
    Element,
    NfSocket,
    join,
    pack_address,
    pack_port,
    pack_protocol,
)
from cnm.kernel.nft import Nft
from cnm.kernel.thread import NetlinkThread
from cnm_port_mapper.binding import EVERY_IPV4, EVERY_IPV6, Place, Target
from cnm_port_mapper.flows import UdpFlows
from cnm_port_mapper.rules import Step, Translate, Translation, owner_of, plan

TABLE = "cnm_ports"
STEPS_AT_ONCE = 4096
"""More in one transaction could outgrow the socket's buffer."""

# 127.0.0.1 is local on every link: translated in prerouting, a port published there alone would be open to the
# neighbours of a link. A link-local source cannot be forwarded, nor ::1: those reach the socket, which relays.
# nft_nat skips a packet of the other family, so `dnat ip` needs no match before it.
STRUCTURE = f"""
table inet {TABLE} {{
    map dnat4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map dnat4_at {{ type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }}
    map dnat6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
    map dnat6_at {{ type inet_proto . ipv6_addr . inet_service : ipv6_addr . inet_service; }}
    chain translate {{ }}
    chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; }}
    chain output {{ type nat hook output priority -100; policy accept; }}
}}
flush table inet {TABLE}
table inet {TABLE} {{
    chain translate {{
        dnat ip to meta l4proto . ip daddr . th dport map @dnat4_at
        dnat ip to meta l4proto . th dport map @dnat4
        dnat ip6 to meta l4proto . ip6 daddr . th dport map @dnat6_at
        dnat ip6 to meta l4proto . th dport map @dnat6
    }}
    chain prerouting {{
        ip daddr 127.0.0.0/8 return
        ip6 daddr ::1 return
        ip6 saddr fe80::/10 return
        fib daddr type local jump translate
    }}
    chain output {{
        ip6 daddr ::1 return
        ip6 saddr fe80::/10 return
        fib daddr type local jump translate
    }}
}}
"""


@asynccontextmanager
async def open_firewall() -> AsyncIterator["NftFirewall"]:
    """Open the firewall of the process's namespace, and make the table where it is missing.

    Before anything else in the process: libnftables needs a low descriptor.
    """
    async with AsyncExitStack() as stack:
        thread = await stack.enter_async_context(NetlinkThread("firewall"))
        kernel = await thread.run(_Kernel)
        stack.push_async_callback(thread.run, kernel.close)
        await thread.run(kernel.make_table)
        yield NftFirewall(thread, kernel)


class NftFirewall:
    """The firewall as the mapper knows it."""

    def __init__(self, thread: NetlinkThread, kernel: "_Kernel") -> None:
        self._thread = thread
        self._kernel = kernel

    async def apply(self, steps: Sequence[Step], *, forget: Collection[Place] = ()) -> None:
        """Carry out steps in one transaction, then forget the UDP flows that were sent to some places."""
        if steps or forget:
            await self._thread.run(self._kernel.apply, steps, forget)

    async def observe(self) -> dict[Place, Translation]:
        """Return what the maps hold."""
        return await self._thread.run(self._kernel.observe)

    async def repair(self, desired: Mapping[Place, Translation], *, leave: Collection[str] = ()) -> tuple[Step, ...]:
        """Make the table and its maps as desired, but for the owners to leave; return the steps that it took."""
        return await self._thread.run(self._kernel.repair, desired, leave)


class _Kernel:
    """What runs in the thread."""

    def __init__(self) -> None:
        self._nft = Nft()
        self._elements = NfSocket()
        self._flows = UdpFlows()
        self._structure: list[object] = []
        self._settled = -1
        """The ruleset's generation at which all was as it should be; every transaction of anybody raises it."""

    def close(self) -> None:
        self._flows.close()
        self._elements.close()
        self._nft.close()

    def make_table(self) -> None:
        """Make what is missing of the table; rules are replaced, elements stay."""
        try:
            self._nft.run(STRUCTURE)
        except KernelError:
            # Maps of another shape, from another version of CNM; what they hold is rebuilt.
            self._nft.run(f"add table inet {TABLE}\ndelete table inet {TABLE}\n{STRUCTURE}")
        self._structure = _structure(self._list())

    def apply(self, steps: Sequence[Step], forget: Collection[Place]) -> None:
        self._change(steps)
        try:
            self._flows.forget(forget)
        except OSError:
            self._undo(steps)
            raise

    def observe(self) -> dict[Place, Translation]:
        return dict(_elements(self._list()))

    def repair(self, desired: Mapping[Place, Translation], leave: Collection[str]) -> tuple[Step, ...]:
        generation = self._elements.generation()
        if generation == self._settled:
            return ()
        listed = self._list()
        whole = _structure(listed) == self._structure
        if not whole:
            self.make_table()
            listed = self._list()
        steps = plan(desired, dict(_elements(listed)), leave=leave)
        self._change(steps)
        self._flows.forget([step.place for step in steps])
        if whole and not steps and not leave:
            self._settled = generation
        return steps

    def _list(self) -> list[dict[str, Any]]:
        try:
            listed: list[dict[str, Any]] = self._nft.dump(f"list table inet {TABLE}")["nftables"]
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            return []
        return listed

    def _change(self, steps: Sequence[Step]) -> None:
        for start in range(0, len(steps), STEPS_AT_ONCE):
            batch = [_element_step(step) for step in steps[start : start + STEPS_AT_ONCE]]
            before = self._elements.generation()
            try:
                self._elements.apply(batch)
            except OSError:
                self._undo(steps[:start])
                raise
            if before == self._settled:
                # Somebody else's change in between shows: the generation is then not the one expected here.
                self._settled = before + 1

    def _undo(self, steps: Sequence[Step]) -> None:
        self._change([step.undo() for step in reversed(steps)])


def _element_step(step: Step) -> AddElement | DeleteElement:
    place, target = step.place, step.translation.target
    everywhere = place.address.is_unspecified
    address = () if everywhere else (pack_address(place.address),)
    element = Element(
        TABLE,
        f"dnat{place.address.version}{'' if everywhere else '_at'}",
        join((pack_protocol(place.protocol), *address, pack_port(place.port))),
        data=join((pack_address(target.address), pack_port(target.port))),
        comment=step.translation.comment(place),
    )
    return AddElement(element) if isinstance(step, Translate) else DeleteElement(element)


def _structure(listed: Iterable[Mapping[str, Any]]) -> list[object]:
    """Return everything but the elements and the kernel's handles, to compare."""
    return [
        (kind, {name: value for name, value in about.items() if name not in ("handle", "elem")})
        for entry in listed
        for kind, about in entry.items()
        if kind != "metainfo"
    ]


def _elements(listed: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Place, Translation]]:
    for entry in listed:
        for key, data in entry.get("map", {}).get("elem", ()):
            yield _element(entry["map"]["name"], key, data["concat"])


def _element(map_name: str, key: Mapping[str, Any], data: list[Any]) -> tuple[Place, Translation]:
    about = key.get("elem", {"val": key})
    protocol, *address, port = about["val"]["concat"]
    every = EVERY_IPV4 if map_name.startswith("dnat4") else EVERY_IPV6
    place = Place(protocol, ipaddress.ip_address(address[0]) if address else every, port)
    target = Target(ipaddress.ip_address(data[0]), data[1])
    return place, Translation(target, owner_of(about.get("comment", "")))
