"""What stands of our tables in the kernel, read from nft's JSON."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from cnm_driver_bridge.blocks import Field, Member, owner_of, span
from cnm_driver_bridge.frame import CLOSED, CONTAINERS, FILTER, USER_CHAIN


@dataclass
class Standing:
    """What stands of our tables; of each chain the comments of its rules, None for a rule without one.

    ``users`` are the owner's rules, in `USER_CHAIN`, as they can be added again.
    """

    chains: dict[tuple[str, str], tuple[str | None, ...]] = field(default_factory=dict)
    containers: set[tuple[str, str]] = field(default_factory=set)
    members: dict[Member, str] = field(default_factory=dict)
    counters: set[str] = field(default_factory=set)
    bridges: dict[str, str] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    users: list[Mapping[str, Any]] = field(default_factory=list)
    owned: dict[str, set[Member]] = field(default_factory=dict)
    endpoints: dict[str, str] = field(default_factory=dict)

    def add(self, member: Member, owner: str) -> None:
        """Note an element and whose it is."""
        self.discard(member)
        self.members[member] = owner
        self.owned.setdefault(owner, set()).add(member)
        if "/" in owner:
            self.endpoints[owner.partition("/")[2]] = owner
        if (member.table, member.container) == (FILTER, "bridges"):
            self.bridges[str(member.key[0])] = owner

    def discard(self, member: Member) -> None:
        """Note that an element is gone."""
        owner = self.members.pop(member, None)
        if owner is None:
            return
        self.owned[owner].discard(member)
        if not self.owned[owner]:
            del self.owned[owner]
            self.endpoints.pop(owner.partition("/")[2], None)
        if (member.table, member.container) == (FILTER, "bridges"):
            self.bridges.pop(str(member.key[0]), None)


def parse(dumps: Iterable[Mapping[str, Any]]) -> Standing:
    """Read what nft's JSON tells of our tables; what is in them besides ours is passed over."""
    found = Standing()
    chains: dict[tuple[str, str], list[str | None]] = {}
    for dump in dumps:
        for entry in dump["nftables"]:
            kind, thing = next(iter(entry.items()))
            if kind == "chain":
                chains.setdefault((thing["table"], thing["name"]), [])
            elif kind == "rule":
                chains.setdefault((thing["table"], thing["chain"]), []).append(thing.get("comment"))
                if (thing["table"], thing["chain"]) == (FILTER, USER_CHAIN):
                    # With a handle it would be added behind the rule of that handle.
                    found.users.append({kind: {name: each for name, each in thing.items() if name != "handle"}})
            elif kind == "counter":
                found.counters.add(thing["name"])
            elif kind in ("map", "set"):
                found.containers.add((thing["table"], thing["name"]))
                if (thing["table"], thing["name"]) == (FILTER, CLOSED):
                    found.closed.update(map(str, thing.get("elem", ())))
                elif (thing["table"], thing["name"]) in CONTAINERS:
                    for member, owner in _members(thing):
                        found.add(member, owner)
    found.chains = {at: tuple(comments) for at, comments in chains.items()}
    return found


def _members(thing: Mapping[str, Any]) -> Iterator[tuple[Member, str]]:
    container = CONTAINERS[thing["table"], thing["name"]]
    for element in thing.get("elem", ()):
        key, value = element if container.value else (element, "")
        comment = None
        if isinstance(key, dict) and "elem" in key:
            key, comment = key["elem"]["val"], key["elem"].get("comment")
        parts = key["concat"] if isinstance(key, dict) and "concat" in key else [key]
        fields = tuple(_field(kind, part) for kind, part in zip(container.fields, parts, strict=True))
        yield Member(container.table, container.name, fields, str(value)), owner_of(comment)


def _field(kind: str, part: Any) -> Field:
    if kind == "inet_service":
        first, last = part["range"] if isinstance(part, dict) else (part, part)
        return int(first), int(last)
    if kind not in ("ipv4_addr", "ipv6_addr"):
        return str(part)
    if isinstance(part, dict) and "prefix" in part:
        return span(ip_network(f"{part['prefix']['addr']}/{part['prefix']['len']}"))
    first, last = part["range"] if isinstance(part, dict) else (part, part)
    return ip_address(first), ip_address(last)
