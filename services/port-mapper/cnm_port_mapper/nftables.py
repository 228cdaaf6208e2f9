"""Table ``inet cnm_ports``: one map element a translated place, so that one change costs the same among ten thousand.

The table is made, and mended, by libnftables; elements change by raw nfnetlink. What is in the kernel outlives the
process: it is taken over, never flushed.
"""

import errno
import ipaddress
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

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
from cnm.kernel.watch import watching_tables
from cnm.types import Address, Prefix
from cnm_port_mapper.binding import EVERY_IPV4, EVERY_IPV6, Place, Target
from cnm_port_mapper.flows import Flows
from cnm_port_mapper.rules import Remake, Step, Translate, Translation, outdated, owner_of, plan

TABLE = "cnm_ports"
EVERY: Mapping[int, Address] = {4: EVERY_IPV4, 6: EVERY_IPV6}
LAST: Mapping[int, Address] = {4: ipaddress.IPv4Address(2**32 - 1), 6: ipaddress.IPv6Address(2**128 - 1)}
STEPS_AT_ONCE = 4096
"""More in one transaction could outgrow the socket's buffer."""

# 127.0.0.1 is local on every link: translated in prerouting, a port published there alone would be open to the
# neighbours of a link. A link-local source cannot be forwarded, nor ::1: those reach the socket, which relays.
# nft_nat skips a packet of the other family, so `dnat ip` needs no match before it.
# An SCTP association may have many addresses, and probes each from the first moment. One that is translated may have
# but one on either side; the node itself has many, so its own go to the proxy.
# A chain of type nat sees the first packet of a connection alone, also of one that the proxy will serve; what it
# drops leaves no trace in conntrack.
STRUCTURE = f"""
table inet {TABLE} {{
    map dnat4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map dnat4_at {{ type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }}
    map dnat6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
    map dnat6_at {{ type inet_proto . ipv6_addr . inet_service : ipv6_addr . inet_service; }}
    map rows4 {{ type inet_proto . ipv4_addr . inet_service : ipv4_addr; flags interval; }}
    map rows6 {{ type inet_proto . ipv6_addr . inet_service : ipv6_addr; flags interval; }}
    set guarded4 {{ type inet_proto . ipv4_addr . inet_service; flags interval; }}
    set guarded6 {{ type inet_proto . ipv6_addr . inet_service; flags interval; }}
    set allowed4 {{ type inet_proto . ipv4_addr . inet_service . ipv4_addr; flags interval; }}
    set allowed6 {{ type inet_proto . ipv6_addr . inet_service . ipv6_addr; flags interval; }}
    chain translate {{ }}
    chain refuse {{ }}
    chain refuse4 {{ }}
    chain refuse6 {{ }}
    chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; }}
    chain output {{ type nat hook output priority -100; policy accept; }}
}}
flush table inet {TABLE}
table inet {TABLE} {{
    chain refuse {{
        meta l4proto . ip daddr . th dport @guarded4 jump refuse4
        meta l4proto . ip6 daddr . th dport @guarded6 jump refuse6
    }}
    chain refuse4 {{
        meta l4proto . ip daddr . th dport . ip saddr @allowed4 return
        counter drop comment "cnm: not among those allowed"
    }}
    chain refuse6 {{
        meta l4proto . ip6 daddr . th dport . ip6 saddr @allowed6 return
        counter drop comment "cnm: not among those allowed"
    }}
    chain translate {{
        dnat ip to meta l4proto . ip daddr . th dport map @dnat4_at
        dnat ip to meta l4proto . th dport map @dnat4
        dnat ip to meta l4proto . ip daddr . th dport map @rows4
        dnat ip6 to meta l4proto . ip6 daddr . th dport map @dnat6_at
        dnat ip6 to meta l4proto . th dport map @dnat6
        dnat ip6 to meta l4proto . ip6 daddr . th dport map @rows6
    }}
    chain prerouting {{
        fib daddr type local jump refuse
        ip daddr 127.0.0.0/8 return
        ip6 daddr ::1 return
        ip6 saddr fe80::/10 return
        fib daddr type local jump translate
    }}
    chain output {{
        fib daddr type local jump refuse
        meta l4proto sctp return
        ip6 daddr ::1 return
        ip6 saddr fe80::/10 return
        fib daddr type local jump translate
    }}
}}
"""


@asynccontextmanager
async def open_firewall(memory: Path | None = None) -> AsyncIterator["NftFirewall"]:
    """Open the firewall of the process's namespace, and make the table where it is missing, or is not as it was made.

    How the kernel lists the table is remembered in a file for the process that comes after; without, each process
    makes it anew. Before anything else in the process: libnftables needs a low descriptor.
    """
    async with AsyncExitStack() as stack:
        thread = await stack.enter_async_context(NetlinkThread("firewall"))
        kernel = await thread.run(_Kernel, memory)
        stack.push_async_callback(thread.run, kernel.close)
        await thread.run(kernel.take_over)
        yield NftFirewall(thread, kernel)


class NftFirewall:
    """The firewall as the mapper knows it."""

    def __init__(self, thread: NetlinkThread, kernel: "_Kernel") -> None:
        self._thread = thread
        self._kernel = kernel

    async def apply(self, steps: Sequence[Step], *, forget: Collection[Place] = ()) -> None:
        """Carry out steps in one transaction, then forget the flows that were sent to some places."""
        if steps or forget:
            await self._thread.run(self._kernel.apply, steps, forget)

    async def observe(self) -> dict[Place, Translation]:
        """Return what the maps hold."""
        return await self._thread.run(self._kernel.observe)

    async def repair(
        self, desired: Mapping[Place, Translation], *, leave: Collection[str] = ()
    ) -> tuple[Step | Remake, ...]:
        """Make the table and its maps as desired, but for the owners to leave; return the steps that it took."""
        return await self._thread.run(self._kernel.repair, desired, leave)

    async def compare(
        self, desired: Mapping[Place, Translation], *, leave: Collection[str] = ()
    ) -> tuple[Step | Remake, ...]:
        """Return the steps that ``repair`` would take."""
        return await self._thread.run(self._kernel.compare, desired, leave)

    def watching(self, heard: Callable[[], None]) -> AbstractContextManager[None]:
        """Call back when others change the table, while the block runs."""
        return watching_tables(heard, (TABLE,), lambda: self._kernel.port)


class _Made(msgspec.Struct, frozen=True, kw_only=True):
    """What the table was made of, and how the kernel lists what came of it."""

    of: str
    listed: list[Any]


class _Kernel:
    """What runs in the thread."""

    def __init__(self, memory: Path | None = None) -> None:
        self._nft = Nft()
        self._elements = NfSocket()
        self._flows = Flows()
        self._memory = memory
        self._structure: list[object] = []
        self._settled = -1
        """The ruleset's generation at which all was as it should be; every transaction of anybody raises it."""

    @property
    def port(self) -> int:
        return self._elements.port

    def close(self) -> None:
        self._flows.close()
        self._elements.close()
        self._nft.close()

    def take_over(self) -> None:
        """Leave a table that is as an earlier process made it, and make it otherwise."""
        made = self._recall()
        if made and made == _structure(self._list()):
            self._structure = made
        else:
            self.make_table()

    def _recall(self) -> list[object]:
        """Return how the kernel listed the table when it was made of this very structure."""
        if self._memory is None:
            return []
        try:
            remembered = msgspec.json.decode(self._memory.read_bytes(), type=_Made)
        except (OSError, msgspec.DecodeError):  # nothing, or nothing that can be read: made anew
            return []
        return remembered.listed if remembered.of == STRUCTURE else []

    def _remember(self) -> None:
        if self._memory is not None:
            new = self._memory.with_suffix(".new")
            with suppress(OSError):  # a disk that is full has the next process make it anew
                new.write_bytes(msgspec.json.encode(_Made(of=STRUCTURE, listed=self._structure)))
                new.replace(self._memory)

    def make_table(self) -> None:
        """Make what is missing of the table; rules are replaced, elements stay."""
        try:
            self._nft.run(STRUCTURE)
        except KernelError:
            # Maps of another shape, from another version of CNM; what they hold is rebuilt.
            self._nft.run(f"add table inet {TABLE}\ndelete table inet {TABLE}\n{STRUCTURE}")
        self._structure = _structure(self._list())
        self._remember()

    def apply(self, steps: Sequence[Step], forget: Collection[Place]) -> None:
        self._change(steps)
        try:
            self._flows.forget(forget)
        except OSError:
            self._undo(steps)
            raise

    def observe(self) -> dict[Place, Translation]:
        return dict(_elements(self._list()))

    def compare(self, desired: Mapping[Place, Translation], leave: Collection[str]) -> tuple[Step | Remake, ...]:
        listed = self._list()
        remake = () if _structure(listed) == self._structure else (Remake(),)
        return (*remake, *plan(desired, dict(_elements(listed)), leave=leave))

    def repair(self, desired: Mapping[Place, Translation], leave: Collection[str]) -> tuple[Step | Remake, ...]:
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
        self._flows.forget(outdated(steps))
        if whole and not steps and not leave:
            self._settled = generation
        return steps if whole else (Remake(), *steps)

    def _list(self) -> list[dict[str, Any]]:
        try:
            listed: list[dict[str, Any]] = self._nft.dump(f"list table inet {TABLE}")["nftables"]
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            return []
        return listed

    def _change(self, steps: Sequence[Step]) -> None:
        done = 0
        for group in _groups(steps):
            before = self._elements.generation()
            try:
                self._elements.apply([each for step in group for each in _element_steps(step)])
            except OSError:
                self._undo(steps[:done])
                raise
            done += len(group)
            if before == self._settled:
                # Somebody else's change in between shows: the generation is then not the one expected here.
                self._settled = before + 1

    def _undo(self, steps: Sequence[Step]) -> None:
        self._change([step.undo() for step in reversed(steps)])


def _groups(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Cut steps into transactions."""
    group: list[Step] = []
    size = 0
    for step in steps:
        weight = 2 + len(step.translation.allow)
        if group and size + weight > STEPS_AT_ONCE:
            yield group
            group, size = [], 0
        group.append(step)
        size += weight
    if group:
        yield group


def _element_steps(step: Step) -> Iterator[AddElement | DeleteElement]:
    make = AddElement if isinstance(step, Translate) else DeleteElement
    yield from (make(element) for element in _elements_of(step.place, step.translation))


def _elements_of(place: Place, translation: Translation) -> Iterator[Element]:
    family, comment, target = place.address.version, translation.comment(place), translation.target
    protocol, everywhere = pack_protocol(place.protocol), place.address.is_unspecified
    first, last = (place.address, LAST[family]) if everywhere else (place.address, place.address)
    start = join((protocol, first.packed, pack_port(place.port)))
    end = join((protocol, last.packed, pack_port(place.last)))
    if target is not None and place.count > 1:
        yield Element(TABLE, f"rows{family}", start, key_end=end, data=pack_address(target.address), comment=comment)
    elif target is not None:
        yield Element(
            TABLE,
            f"dnat{family}{'' if everywhere else '_at'}",
            join((protocol, *(() if everywhere else (pack_address(place.address),)), pack_port(place.port))),
            data=join((pack_address(target.address), pack_port(target.port))),
            comment=comment,
        )
    if translation.guarded:
        yield Element(TABLE, f"guarded{family}", start, key_end=end, comment=comment)
    for source in translation.allow:
        yield Element(
            TABLE,
            f"allowed{family}",
            start + source.network_address.packed,
            key_end=end + source.broadcast_address.packed,
        )


def _structure(listed: Iterable[Mapping[str, Any]]) -> list[object]:
    """Return everything but elements, the kernel's handles and what counters count, to compare."""
    return [
        [kind, {name: _uncounted(value) for name, value in about.items() if name not in ("handle", "elem")}]
        for entry in listed
        for kind, about in entry.items()
        if kind != "metainfo"
    ]


def _uncounted(value: object) -> object:
    if not isinstance(value, list):
        return value
    return [{"counter": None} if isinstance(each, dict) and "counter" in each else each for each in value]


def _elements(listed: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Place, Translation]]:
    """Put together what maps and sets hold of each place."""
    found: dict[Place, Translation] = {}
    for entry in listed:
        for kind in ("map", "set"):
            about = entry.get(kind, {})
            for element in about.get("elem", ()):
                key, data = element if kind == "map" else (element, None)
                _note(found, about["name"], key, data)
    return found.items()


def _note(found: dict[Place, Translation], name: str, key: Mapping[str, Any], data: Any) -> None:
    about = key.get("elem", {"val": key})
    protocol, *address, ports = about["val"]["concat"][: 2 if name in ("dnat4", "dnat6") else 3]
    version = 4 if "4" in name else 6
    where = _prefix(address[0]) if address else None
    everywhere = where is None or where.prefixlen == 0
    first, last = (ports, ports) if isinstance(ports, int) else ports["range"]
    at = EVERY[version] if everywhere or where is None else where.network_address
    place = Place(protocol, at, first, last - first + 1)
    now = found.get(place, Translation(None, ""))
    owner = owner_of(about.get("comment", "")) or now.owner
    if data is not None:
        target = Target(ipaddress.ip_address(data), first) if isinstance(data, str) else _target(data)
        found[place] = replace(now, target=target, owner=owner)
    elif name.startswith("guarded"):
        found[place] = replace(now, guarded=True, owner=owner)
    else:
        allow = (*now.allow, _prefix(about["val"]["concat"][3]))
        found[place] = replace(now, allow=tuple(sorted(allow)))


def _target(data: Mapping[str, Any]) -> Target:
    address, port = data["concat"]
    return Target(ipaddress.ip_address(address), port)


def _prefix(value: str | Mapping[str, Any]) -> Prefix:
    """Read an address, a prefix or a range that is one, as nft lists it."""
    if isinstance(value, str):
        return ipaddress.ip_network(value)
    if "prefix" in value:
        return ipaddress.ip_network((value["prefix"]["addr"], value["prefix"]["len"]))
    first, last = (ipaddress.ip_address(each) for each in value["range"])
    (prefix,) = ipaddress.summarize_address_range(first, last)
    return prefix
