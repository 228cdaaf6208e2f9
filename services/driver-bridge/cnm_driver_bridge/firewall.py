"""The bridge driver's rules: what a network needs, what stands, and the transaction from one to the other.

Two tables. A packet finds its network's chain by one look-up in a verdict map on the interface's name, so neither
packets nor changes cost more with more networks. What leaves a bridge is judged before what enters one: an internal
network's endpoint must not reach another network's published port. Packets that concern no bridge of ours are left
to others: nothing but the user's own chain sees them.

Every rule's comment names the network and ends in a digest of the rule, so a dump tells whether a chain is whole
by its comments alone.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from cnm.messages.bridge import BridgeNetwork

FILTER: Final = "cnm_filter"
NAT: Final = "cnm_nat"
USER_CHAIN = "cnm-user"
TABLES = (FILTER, NAT)

TO, FROM, FROM_TO_HOST, NAT_FROM = "to_network", "from_network", "host_from_network", "nat_from"
BRIDGES, SAME_BRIDGE = "bridges", "same_bridge"
NAME_SHOWN = 40

TableName = Literal["cnm_filter", "cnm_nat"]
COUNTED = ("isolation", "internal", "direct", "icc")
# Only chains and counters of these names are ever taken for ours.
OWN_CHAIN = re.compile(r"^(?:to|from|host|nat)-([0-9a-f]{12})$")
OWN_COUNTER = re.compile(rf"^(?:{'|'.join(COUNTED)})-([0-9a-f]{{12}})$")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, and a comment that names what it is for and tells it from every other text."""

    text: str
    about: str

    @property
    def comment(self) -> str:
        """Return the comment, at most 128 characters."""
        return f"{self.about} {hashlib.blake2s(self.text.encode(), digest_size=4).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain and its rules in order; one without rules of ours (``rules`` None) is made and never touched."""

    table: TableName
    name: str
    rules: tuple[Rule, ...] | None = ()
    hook: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """A map or a set."""

    table: TableName
    name: str
    kind: Literal["map", "set"]
    type: str


@dataclass(frozen=True, slots=True, order=True)
class Member:
    """An element: of a verdict map with the chain that it jumps to, of a set with none."""

    table: TableName
    container: str
    key: tuple[str, ...]
    jump: str = ""

    def __str__(self) -> str:
        key = " . ".join(f'"{part}"' for part in self.key)
        return f"{key} : jump {self.jump}" if self.jump else key


@dataclass(frozen=True, slots=True)
class Block:
    """What one network, or the frame around all of them, needs."""

    chains: tuple[Chain, ...] = ()
    containers: tuple[Container, ...] = ()
    counters: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()


def short(network_id: str) -> str:
    """Return the part of a network's id that its chains and counters carry."""
    return network_id[:12]


def frame() -> Block:
    """Return the tables' own chains, maps and sets."""

    def rules(about: str, *texts: str) -> tuple[Rule, ...]:
        return tuple(Rule(text, f"cnm {about}") for text in texts)

    guard = (f"iifname @{BRIDGES} ip daddr 127.0.0.0/8 drop", f"iifname @{BRIDGES} ip saddr 127.0.0.0/8 drop")
    return Block(
        containers=(
            Container(FILTER, TO, "map", "ifname : verdict"),
            Container(FILTER, FROM, "map", "ifname : verdict"),
            Container(FILTER, FROM_TO_HOST, "map", "ifname : verdict"),
            Container(FILTER, BRIDGES, "set", "ifname"),
            Container(NAT, NAT_FROM, "map", "ifname : verdict"),
            Container(NAT, BRIDGES, "set", "ifname"),
            Container(NAT, SAME_BRIDGE, "set", "ifname . ifname"),
        ),
        chains=(
            Chain(FILTER, USER_CHAIN, None),
            Chain(
                FILTER,
                "forward",
                (
                    *rules("your own rules", f"jump {USER_CHAIN}"),
                    *rules("by the bridge it leaves", f"iifname vmap @{FROM}"),
                    *rules("by the bridge it enters", f"oifname vmap @{TO}"),
                ),
                "type filter hook forward priority filter; policy accept;",
            ),
            Chain(
                FILTER,
                "input",
                rules("by the bridge it leaves", f"iifname vmap @{FROM_TO_HOST}"),
                "type filter hook input priority filter; policy accept;",
            ),
            Chain(
                FILTER,
                "loopback-guard",
                rules("no loopback addresses from a bridge", *guard),
                "type filter hook prerouting priority raw; policy accept;",
            ),
            Chain(
                NAT,
                "postrouting",
                (
                    *rules("by the bridge it leaves", f"iifname vmap @{NAT_FROM}"),
                    *rules("hairpin", f"ct status dnat iifname . oifname @{SAME_BRIDGE} masquerade"),
                    *rules(
                        "published on 127.0.0.1",
                        f"ip saddr 127.0.0.0/8 oifname @{BRIDGES} ct status dnat masquerade",
                    ),
                ),
                "type nat hook postrouting priority srcnat; policy accept;",
            ),
        ),
    )


def block(network: BridgeNetwork) -> Block:
    """Return what a network needs."""
    key, bridge = short(network.network_id), network.bridge
    chains = [Chain(FILTER, f"to-{key}", tuple(_to(network)))]
    members = [Member(FILTER, TO, (bridge,), f"to-{key}"), Member(FILTER, BRIDGES, (bridge,))]
    if network.internal:
        chains.append(Chain(FILTER, f"from-{key}", tuple(_from_internal(network))))
        chains.append(Chain(FILTER, f"host-{key}", tuple(_host_from_internal(network))))
        members.append(Member(FILTER, FROM, (bridge,), f"from-{key}"))
        members.append(Member(FILTER, FROM_TO_HOST, (bridge,), f"host-{key}"))
    else:
        chains.append(Chain(NAT, f"nat-{key}", tuple(_nat_from(network))))
        members.append(Member(NAT, NAT_FROM, (bridge,), f"nat-{key}"))
        members.append(Member(NAT, BRIDGES, (bridge,)))
        members.append(Member(NAT, SAME_BRIDGE, (bridge, bridge)))
    counters = tuple(f"{name}-{key}" for name in _counted(network))
    return Block(tuple(chains), counters=counters, members=tuple(members))


def _counted(network: BridgeNetwork) -> Iterator[str]:
    yield from ("internal",) if network.internal else ("isolation", "direct")
    if not network.icc:
        yield "icc"


def _rule(network: BridgeNetwork, about: str, text: str) -> Rule:
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", network.name)[:NAME_SHOWN]
    return Rule(text, f"cnm {name} {short(network.network_id)} {about}")


def _refused(network: BridgeNetwork, match: str, counter: str, about: str) -> Iterator[Rule]:
    """Refuse at once, rather than leave somebody waiting; each packet is counted once."""
    counted = f"counter name {counter}-{short(network.network_id)}"
    start = f"{match} " if match else ""
    yield _rule(network, about, f"{start}meta l4proto tcp {counted} reject with tcp reset")
    yield _rule(network, about, f"{start}{counted} reject with icmpx type admin-prohibited")


def _to(network: BridgeNetwork) -> Iterator[Rule]:
    bridge = f'iifname "{network.bridge}"'
    if not network.internal:
        yield _rule(network, "replies", "ct state established,related accept")
        yield _rule(network, "published", "ct status dnat accept")
    if network.icc:
        yield _rule(network, "icc", f"{bridge} accept")
    else:
        yield from _refused(network, bridge, "icc", "icc off")
    if network.internal:
        yield from _refused(network, "", "internal", "internal")
        return
    yield from _refused(network, f"iifname @{BRIDGES}", "isolation", "another network")
    yield _rule(network, "from outside", f"counter name direct-{short(network.network_id)} drop")


def _from_internal(network: BridgeNetwork) -> Iterator[Rule]:
    yield from _refused(network, f'oifname != "{network.bridge}"', "internal", "internal")


def _host_from_internal(network: BridgeNetwork) -> Iterator[Rule]:
    yield _rule(network, "replies", "ct state established,related accept")
    yield _rule(network, "neighbours", "meta l4proto ipv6-icmp accept")
    elsewhere = "fib daddr . iif type != { local, broadcast, multicast }"
    yield from _refused(network, elsewhere, "internal", "internal")


def _nat_from(network: BridgeNetwork) -> Iterator[Rule]:
    if not network.masquerade:
        return
    for subnet in network.subnets:
        family = "ip" if subnet.version == 4 else "ip6"
        away = f'oifname != "{network.bridge}" {family} saddr {subnet} masquerade'
        yield _rule(network, "masquerade", away)


@dataclass(frozen=True, slots=True)
class Ruleset:
    """What stands of our tables; of each chain the comments of its rules, None for a rule without one."""

    chains: Mapping[tuple[str, str], tuple[str | None, ...]] = field(default_factory=dict)
    containers: frozenset[tuple[str, str]] = frozenset()
    counters: frozenset[str] = frozenset()
    members: frozenset[Member] = frozenset()


NOTHING = Ruleset()


def parse(dumps: Iterable[Mapping[str, Any]]) -> Ruleset:
    """Read what nft's JSON tells of our tables."""
    chains: dict[tuple[str, str], list[str | None]] = {}
    containers: set[tuple[str, str]] = set()
    counters: set[str] = set()
    members: set[Member] = set()
    for dump in dumps:
        for entry in dump["nftables"]:
            kind, thing = next(iter(entry.items()))
            if kind == "chain":
                chains.setdefault((thing["table"], thing["name"]), [])
            elif kind == "rule":
                chains.setdefault((thing["table"], thing["chain"]), []).append(thing.get("comment"))
            elif kind == "counter":
                counters.add(thing["name"])
            elif kind in ("map", "set"):
                containers.add((thing["table"], thing["name"]))
                members.update(_members(thing))
    return Ruleset(
        chains={at: tuple(comments) for at, comments in chains.items()},
        containers=frozenset(containers),
        counters=frozenset(counters),
        members=frozenset(members),
    )


def _members(container: Mapping[str, Any]) -> Iterator[Member]:
    for element in container.get("elem", ()):
        key, verdict = element if isinstance(element, list) else (element, None)
        if isinstance(key, dict) and "elem" in key:
            key = key["elem"]["val"]
        parts = tuple(key["concat"]) if isinstance(key, dict) else (key,)
        jump = next(iter(verdict.values()))["target"] if isinstance(verdict, dict) else ""
        yield Member(container["table"], container["name"], tuple(str(part) for part in parts), jump)


def with_blocks(ruleset: Ruleset, blocks: Iterable[Block]) -> Ruleset:
    """Return what stands once these blocks were made."""
    chains, containers = dict(ruleset.chains), set(ruleset.containers)
    counters, members = set(ruleset.counters), set(ruleset.members)
    for made in blocks:
        for chain in made.chains:
            if chain.rules is not None or (chain.table, chain.name) not in chains:
                chains[chain.table, chain.name] = tuple(rule.comment for rule in chain.rules or ())
        containers.update((container.table, container.name) for container in made.containers)
        counters.update(made.counters)
        members.update(made.members)
    return Ruleset(chains, frozenset(containers), frozenset(counters), frozenset(members))


def holder(ruleset: Ruleset, network: BridgeNetwork) -> str | None:
    """Return the short id of another network that has this network's bridge, or None."""
    key = short(network.network_id)
    jumps = (member.jump for member in ruleset.members if member.container == TO and member.key == (network.bridge,))
    return next((owner for owner in map(_owner, jumps) if owner != key), None)


Owners = Callable[[str], bool]


def nobody(_: str) -> bool:
    """Own nothing."""
    return False


def owned(ruleset: Ruleset, by: Owners) -> Ruleset:
    """Return the part of what stands that belongs to networks, told by their short ids; "" owns stray elements."""
    if by is nobody:
        return NOTHING  # what there is need not be looked through for each network that is added

    def theirs(match: re.Match[str] | None) -> bool:
        return match is not None and by(match[1])

    owners = {member.key[0]: _owner(member.jump) for member in ruleset.members if member.container == TO}
    return Ruleset(
        {at: rules for at, rules in ruleset.chains.items() if theirs(OWN_CHAIN.match(at[1]))},
        frozenset(),
        frozenset(name for name in ruleset.counters if theirs(OWN_COUNTER.match(name))),
        frozenset(
            member
            for member in ruleset.members
            if by(_owner(member.jump) if member.jump else owners.get(member.key[0], ""))
        ),
    )


def _owner(chain: str) -> str:
    return chain.partition("-")[2]


def without(ruleset: Ruleset, gone: Ruleset) -> Ruleset:
    """Return what stands once a part of it is gone."""
    return Ruleset(
        {at: rules for at, rules in ruleset.chains.items() if at not in gone.chains},
        ruleset.containers,
        ruleset.counters - gone.counters,
        ruleset.members - gone.members,
    )


def plan(blocks: Iterable[Block], found: Ruleset, stale: Ruleset = NOTHING) -> tuple[str, ...]:
    """Plan one transaction, each step a line of nft: make what the blocks need, and delete what is stale.

    Elements go before the chains they jump to, and come after them.
    """
    wanted = tuple(blocks)
    chains = tuple(chain for each in wanted for chain in each.chains)
    keys = {(chain.table, chain.name) for chain in chains}
    members = {member for each in wanted for member in each.members}
    counters = {name for each in wanted for name in each.counters}
    dying = sorted(member for member in stale.members if member not in members)
    clashing = sorted(_clashing(members, found.members - stale.members))
    lines = [*_declare(wanted, found)]
    lines += (_element("delete", member) for member in (*dying, *clashing))
    for chain in chains:
        lines += _fill(chain, found)
    lines += (_element("add", member) for member in sorted(members - found.members))
    gone = [at for at in sorted(stale.chains) if at not in keys]
    lines += (f"flush chain inet {table} {name}" for table, name in gone)
    lines += (f"delete chain inet {table} {name}" for table, name in gone)
    lines += (f"delete counter inet {FILTER} {name}" for name in sorted(stale.counters - counters))
    return tuple(lines)


def _declare(blocks: Iterable[Block], found: Ruleset) -> Iterator[str]:
    blocks = tuple(blocks)
    present = {table for table, _ in (*found.chains, *found.containers)}
    needed = {chain.table for each in blocks for chain in each.chains}
    yield from (f"add table inet {table}" for table in sorted(needed - present))
    for each in blocks:
        for container in each.containers:
            if (container.table, container.name) not in found.containers:
                yield f"add {container.kind} inet {container.table} {container.name} {{ type {container.type}; }}"
        for name in each.counters:
            if name not in found.counters:
                yield f"add counter inet {FILTER} {name}"
        for chain in each.chains:
            if (chain.table, chain.name) not in found.chains:
                hook = f" {{ {chain.hook} }}" if chain.hook else ""
                yield f"add chain inet {chain.table} {chain.name}{hook}"


def _fill(chain: Chain, found: Ruleset) -> Iterator[str]:
    present = found.chains.get((chain.table, chain.name), ())
    if chain.rules is None or present == tuple(rule.comment for rule in chain.rules):
        return
    if present:
        yield f"flush chain inet {chain.table} {chain.name}"
    for rule in chain.rules:
        yield f'add rule inet {chain.table} {chain.name} {rule.text} comment "{rule.comment}"'


def _clashing(wanted: Iterable[Member], found: Iterable[Member]) -> Iterator[Member]:
    """Yield elements that lead a key elsewhere than wanted."""
    jumps = {(member.table, member.container, member.key): member.jump for member in wanted}
    for member in found:
        at = (member.table, member.container, member.key)
        if at in jumps and jumps[at] != member.jump:
            yield member


def _element(verb: str, member: Member) -> str:
    shown = member if verb == "add" else Member(member.table, member.container, member.key)
    return f"{verb} element inet {member.table} {member.container} {{ {shown} }}"
