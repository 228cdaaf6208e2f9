"""Our two tables in the kernel: the adapter that carries out what `firewall` plans.

The frame comes by libnftables, elements by raw nfnetlink: libnftables reads whole tables before each transaction.
"""

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import structlog

from cnm.errors import CnmError, Conflict, Unavailable, Unsupported
from cnm.kernel.errors import KernelError, NftError
from cnm.kernel.nfnl import (
    AddCounter,
    AddElement,
    DeleteCounter,
    DeleteElement,
    Element,
    NfSocket,
    NfStep,
    pack_address,
    pack_name,
    pack_port,
    pack_protocol,
)
from cnm.kernel.nft import Nft
from cnm.messages.bridge import Attachment, BridgeNetwork
from cnm.types import parse_address
from cnm_driver_bridge import firewall
from cnm_driver_bridge.blocks import Block, Field, Member, block, network_of, ports_block, short
from cnm_driver_bridge.firewall import Change
from cnm_driver_bridge.frame import CLOSED, CONTAINERS, FILTER, REASONS, TABLES, USER_CHAIN
from cnm_driver_bridge.standing import Standing, parse

log = structlog.get_logger()

STEPS_AT_ONCE = 4096
"""More in one transaction could outgrow the socket's buffer."""


class Nftables:
    """The tables as we know them; for one thread.

    What stands is remembered, so that a change costs the same however many networks there are. A transaction that
    the kernel refuses means that somebody else changed our tables: they are read and planned for once more.
    """

    def __init__(self, nft: Nft, elements: NfSocket) -> None:
        self._nft = nft
        self._elements = elements
        self._found: Standing | None = None
        self._generation = -1
        self._closed: frozenset[str] = frozenset()
        self._users: Sequence[Mapping[str, Any]] = ()
        self._blocks: dict[str, tuple[BridgeNetwork, Block]] = {}
        self._settled: tuple[list[Block], set[str]] | None = None

    def ensure(self, network: BridgeNetwork) -> Sequence[str]:
        """Make a network's rules stand, and the frame around them; return the steps that it took.

        Raises:
            Conflict: the bridge is another network's.

        """
        wanted = self._block(network)
        holder = self._look().bridges.get(network.bridge, wanted.owner)
        if holder not in ("", wanted.owner):
            message = f"bridge {network.bridge} belongs to network {holder}"
            raise Conflict(message, ifname=network.bridge, holder=holder)
        return self._apply([wanted])

    def remove(self, network_id: str) -> Sequence[str]:
        """Remove a network's rules, and the open ports of its endpoints; return the steps that it took."""
        key = short(network_id)
        self._blocks.pop(network_id, None)

        def stale(found: Standing) -> list[str]:
            return [key, *(owner for owner in found.endpoints.values() if network_of(owner) == key)]

        return self._apply([], stale)

    def open_ports(self, attachment: Attachment) -> Sequence[str]:
        """Make exactly the ports of an endpoint open that it should have; return the steps that it took."""
        wanted = ports_block(attachment)
        if not wanted.members and self._found is not None and wanted.owner not in self._found.owned:
            return ()
        return self._apply([wanted])

    def close_ports(self, endpoint_id: str) -> Sequence[str]:
        """Close the ports of an endpoint, if it has any open; return the steps that it took."""
        key = short(endpoint_id)
        if self._found is not None and key not in self._found.endpoints:
            return ()
        return self._apply([], lambda found: [found.endpoints[key]] if key in found.endpoints else [])

    def converge(
        self, networks: Iterable[BridgeNetwork], attachments: Iterable[Attachment], keep: Collection[str]
    ) -> Sequence[str]:
        """Make the rules of these networks and endpoints stand and those of all others go, but for the ids to keep.

        Nothing is read unless the ruleset's generation tells of a change that was not ours.
        """
        blocks, kept = self._wanted(networks, attachments, keep)
        settled = (blocks, kept)
        if self._found is not None and settled == self._settled:
            return ()
        taken = self._apply(blocks, _strangers_to(kept))
        self._settled = settled
        return taken

    def compare(
        self, networks: Iterable[BridgeNetwork], attachments: Iterable[Attachment], keep: Collection[str]
    ) -> Sequence[str]:
        """Return what ``converge`` would do."""
        blocks, kept = self._wanted(networks, attachments, keep)
        frame, change = self._plan(blocks, _strangers_to(kept))
        return (*frame, *change.lines())

    def _wanted(
        self, networks: Iterable[BridgeNetwork], attachments: Iterable[Attachment], keep: Collection[str]
    ) -> tuple[list[Block], set[str]]:
        if self._elements.generation() != self._generation:
            self._found = self._settled = None
        blocks = [self._block(network) for network in networks]
        self._blocks = {identity: self._blocks[identity] for network in networks if (identity := network.network_id)}
        blocks += (wanted for each in attachments if each.open_ports and (wanted := ports_block(each)).members)
        return blocks, {short(identity) for identity in keep}

    def _block(self, network: BridgeNetwork) -> Block:
        """Return what a network needs, the very same as before while the network is the same."""
        known, made = self._blocks.get(network.network_id, (None, None))
        if made is None or known != network:
            made = block(network)
            self._blocks[network.network_id] = (network, made)
        return made

    def close_forwarding(self, versions: Collection[int]) -> Sequence[str]:
        """Keep others' packets from being forwarded, of families for which that was off; return the steps."""
        found = self._look()
        missing = [name for version in sorted(versions) if (name := f"ipv{version}") not in found.closed]
        if not missing:
            return ()
        lines = [*firewall.frame_lines(found, self._closed), *map(firewall.closing_line, missing)]
        self._run(lines)
        self._closed |= frozenset(missing)
        return lines

    def reopen_forwarding(self, versions: Collection[int]) -> Sequence[str]:
        """Leave it to others again, where forwarding was not turned on after all; return the steps."""
        names = self._look().closed.intersection(f"ipv{version}" for version in versions)
        self._closed -= names
        lines = [f"delete element inet {FILTER} {CLOSED} {{ {name} }}" for name in sorted(names)]
        if lines:
            self._run(lines)
        return lines

    def drops(self) -> Mapping[str, Mapping[str, tuple[int, int]]]:
        """Return what was refused or dropped, packets and bytes, by the network's short id and the reason."""
        found: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            listed = self._nft.dump(f"list counters table inet {FILTER}")["nftables"]
        except NftError as error:
            if error.errno == errno.ENOENT:
                return found
            raise _explained(error) from error
        for entry in listed:
            counter = entry.get("counter")
            reason, _, key = (counter or {}).get("name", "").partition("-")
            if reason in REASONS:
                found.setdefault(key, {})[reason] = counter["packets"], counter["bytes"]
        return found

    def _apply(self, blocks: Sequence[Block], stale: "Stale | None" = None) -> Sequence[str]:
        self._settled = None
        fresh = self._found is None
        try:
            return self._attempt(blocks, stale)
        except KernelError as error:
            if fresh:
                raise _explained(error) from error
        self._found = None
        try:
            return self._attempt(blocks, stale)
        except KernelError as error:
            raise _explained(error) from error

    def _attempt(self, blocks: Sequence[Block], stale: "Stale | None") -> Sequence[str]:
        frame, change = self._plan(blocks, stale)
        lines = (*frame, *change.lines())
        if frame:  # by libnftables, so that frame and elements come in one transaction
            self._run(lines)
        elif change:
            self._change(change)
            firewall.carry_out(change, self._look())
        return lines

    def _plan(self, blocks: Sequence[Block], stale: "Stale | None") -> tuple[Sequence[str], Change]:
        """Return what is missing of the frame, and what is to be changed of elements."""
        found = self._look()
        firewall.adopt(blocks, found)
        change = firewall.plan(blocks, found, stale(found) if stale else ())
        return firewall.frame_lines(found, self._closed), change

    def _run(self, lines: Sequence[str]) -> None:
        lost = self._users if self._found and (FILTER, USER_CHAIN) not in self._found.chains else ()
        self._found = None  # read again when it is needed: this is rare
        self._nft.run("\n".join(lines))
        if lost:
            self._bring_back(lost)

    def _bring_back(self, rules: Sequence[Mapping[str, Any]]) -> None:
        """Add the owner's rules again that went with their chain, as when all was flushed."""
        try:
            self._nft.add(rules)
        except NftError as error:  # as when they speak of a set that went as well
            log.warning("users_rules.lost", chain=USER_CHAIN, rules=rules, reason=str(error))
        else:
            log.warning("users_rules.restored", chain=USER_CHAIN, count=len(rules))

    def _change(self, change: Change) -> None:
        steps = list(_steps(change))
        for start in range(0, len(steps), STEPS_AT_ONCE):
            before = self._elements.generation()
            try:
                self._elements.apply(steps[start : start + STEPS_AT_ONCE])
            except KernelError:
                self._found = None
                raise
            # Somebody else's change in between shows at the next pass: the generation is then not the one we expect.
            self._generation = before + 1 if before == self._generation else self._generation

    def _look(self) -> Standing:
        if self._found is None:
            self._generation = self._elements.generation()
            self._found = parse(self._tables())
            # What a flush took, only we remember.
            if (FILTER, CLOSED) in self._found.containers:
                self._closed = frozenset(self._found.closed)
            if (FILTER, USER_CHAIN) in self._found.chains:
                self._users = self._found.users
        return self._found

    def _tables(self) -> Iterable[dict[str, object]]:
        for table in TABLES:
            try:
                yield self._nft.dump(f"list table inet {table}")
            except NftError as error:
                if error.errno != errno.ENOENT:
                    raise _explained(error) from error


Stale = Callable[[Standing], Iterable[str]]
"""Returns the owners whose elements are to go, unless they are wanted."""


def _strangers_to(kept: Collection[str]) -> Stale:
    """Return the owners of what stands, but for those to keep: what of theirs is not wanted goes."""
    return lambda found: [each for each in found.owned if not set(kept).intersection(each.split("/"))]


def _steps(change: Change) -> Iterator[NfStep]:
    for name, of in change.add_counters:
        yield AddCounter(FILTER, name, comment=of.comment)
    for member in change.delete:
        yield DeleteElement(_element(member))
    for member, of in change.add:
        yield AddElement(_element(member, of.comment), exclusive=False)
    for name in change.delete_counters:
        yield DeleteCounter(FILTER, name)


def _element(member: Member, comment: str | None = None) -> Element:
    container = CONTAINERS[member.table, member.container]
    ends = [
        b"".join(_pack(kind, part, end) for kind, part in zip(container.fields, member.key, strict=True))
        for end in (0, 1)
    ]
    return Element(
        member.table,
        member.container,
        ends[0],
        key_end=ends[1] if container.interval else None,
        data=pack_address(parse_address(member.value)) if container.value.endswith("_addr") else None,
        counter=member.value if container.value == "counter" else None,
        comment=comment,
    )


def _pack(kind: str, part: Field, end: int) -> bytes:
    match kind, part:
        case "ifname", str(name):
            return pack_name(name)
        case "inet_proto", str(protocol):
            return pack_protocol(protocol)
        case "inet_service", (int() as first, int() as last):
            return pack_port((first, last)[end])
        case _, (first, last):
            return pack_address((first, last)[end])  # type: ignore[arg-type]  # what is no port is an address
        case _:
            raise ValueError(f"{part!r} is no {kind}")


def _explained(error: KernelError) -> CnmError:
    """Say what a refused transaction means to who asked for it."""
    sentence = " ".join(str(error).split())[:300]
    match error.errno:
        case errno.EOPNOTSUPP | errno.ENOENT | errno.EAFNOSUPPORT:
            return Unsupported(f"nftables in this kernel lacks something: {sentence}")
        case errno.EEXIST | errno.EBUSY:
            return Conflict(f"nftables: {sentence}")
        case _:
            return Unavailable(f"nftables refused a change: {sentence}")
