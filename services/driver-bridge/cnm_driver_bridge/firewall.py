"""Plans of the firewall: from what stands to the frame, and to the elements that owners need."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cnm_driver_bridge.blocks import Block, Member
from cnm_driver_bridge.frame import CHAINS, CLOSED, CONTAINERS, FILTER, REASONS, STRANGERS, TABLES, Chain
from cnm_driver_bridge.standing import Standing


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be changed of elements and counters, all at once; additions with their owners' comments."""

    delete: tuple[Member, ...] = ()
    add: tuple[tuple[Member, Block], ...] = ()
    add_counters: tuple[tuple[str, Block], ...] = ()
    delete_counters: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.delete or self.add or self.add_counters or self.delete_counters)

    def lines(self) -> tuple[str, ...]:
        """Write it as nft reads it."""
        return (
            *(f'add counter inet {FILTER} {name} {{ comment "{of.comment}"; }}' for name, of in self.add_counters),
            *(f"delete element inet {each.table} {each.container} {{ {_key(each)} }}" for each in self.delete),
            *(_add_line(member, of) for member, of in self.add),
            *(f"delete counter inet {FILTER} {name}" for name in self.delete_counters),
        )


def _key(member: Member) -> str:
    return str(Member(member.table, member.container, member.key))


def _add_line(member: Member, of: Block) -> str:
    key, separator, value = str(member).partition(" : ")
    return f'add element inet {member.table} {member.container} {{ {key} comment "{of.comment}"{separator}{value} }}'


def plan(wanted: Iterable[Block], found: Standing, stale: Iterable[str] = ()) -> Change:
    """Plan from what stands to what some owners need; what ``stale`` owners have, and these need no more, goes."""
    blocks = list(wanted)
    desired = {member: each for each in blocks for member in each.members}
    counters = {name: each for each in blocks for name in each.counters}
    owners = {*(each.owner for each in blocks), *stale}
    surplus = {member for owner in owners for member in found.owned.get(owner, ()) if member not in desired}
    # One key leads to one place: an element that leads elsewhere goes before ours comes.
    mapped = {(each.table, each.container, each.key): each for each in desired if each.value}
    for owner in ("", *owners) if mapped else ():
        for member in found.owned.get(owner, ()):
            if mapped.get((member.table, member.container, member.key), member) != member:
                surplus.add(member)
    networks = {owner for owner in owners if "/" not in owner}
    surplus_counters = (f"{reason}-{key}" for key in networks for reason in REASONS)
    # Not by differences of sets, which would go through all that stands.
    return Change(
        delete=tuple(sorted(surplus, key=sort_key)),
        add=tuple(
            (member, desired[member])
            for member in sorted((each for each in desired if each not in found.members), key=sort_key)
        ),
        add_counters=tuple((name, counters[name]) for name in sorted(counters) if name not in found.counters),
        delete_counters=tuple(
            sorted(name for name in surplus_counters if name in found.counters and name not in counters)
        ),
    )


def sort_key(member: Member) -> tuple[str, str, str]:
    """Order elements the way that a person looks for them."""
    return member.table, member.container, str(member)


def carry_out(change: Change, found: Standing) -> None:
    """Note in what stands that a change was made."""
    for member in change.delete:
        found.discard(member)
    for member, of in change.add:
        found.add(member, of.owner)
    found.counters.update(name for name, _ in change.add_counters)
    found.counters.difference_update(change.delete_counters)


def adopt(wanted: Iterable[Block], found: Standing) -> None:
    """Give elements that stand already to those who need them, whatever their comments say."""
    for each in wanted:
        for member in each.members:
            if found.members.get(member, each.owner) != each.owner:
                found.add(member, each.owner)


def frame_lines(found: Standing, closed: Iterable[str] = ()) -> tuple[str, ...]:
    """Plan what is missing, or another than ours, of the frame, each step a line of nft; none where it is whole.

    ``closed`` are the families that others' packets are not forwarded of. They come back with their set only: who
    takes one out of the set that stands wants it forwarded.
    """
    tables = {table for table, _ in (*found.chains, *found.containers)}
    lines = [f"add table inet {table}" for table in TABLES if table not in tables]
    if STRANGERS not in found.counters:
        lines.append(f"add counter inet {FILTER} {STRANGERS}")
    lines += (
        f"add {each.kind} inet {each.table} {each.name} {each.declaration}"
        for at, each in CONTAINERS.items()
        if at not in found.containers
    )
    if (FILTER, CLOSED) not in found.containers:
        lines += (closing_line(name) for name in sorted(closed))
    for chain in CHAINS:
        if (chain.table, chain.name) not in found.chains:
            hook = f" {{ {chain.hook} }}" if chain.hook else ""
            lines.append(f"add chain inet {chain.table} {chain.name}{hook}")
    changed = [chain for chain in CHAINS if _differs(chain, found)]
    lines += (
        f"flush chain inet {chain.table} {chain.name}"
        for chain in changed
        if found.chains.get((chain.table, chain.name))
    )
    lines += (
        f'add rule inet {chain.table} {chain.name} {rule.text} comment "{rule.comment}"'
        for chain in changed
        for rule in chain.rules or ()
    )
    return (*lines, *_outdated(found))


def closing_line(family: str) -> str:
    """Return what keeps others' packets of a family, ``ipv4`` or ``ipv6``, from being forwarded."""
    return f"add element inet {FILTER} {CLOSED} {{ {family} }}"


def _differs(chain: Chain, found: Standing) -> bool:
    present = found.chains.get((chain.table, chain.name), ())
    return chain.rules is not None and present != tuple(rule.comment for rule in chain.rules)


def _outdated(found: Standing) -> Iterator[str]:
    """Yield what removes the chains and maps by which the first version of these tables told networks apart."""
    for table, name in sorted(found.containers):
        if name in ("to_network", "from_network", "host_from_network", "nat_from"):
            yield f"delete map inet {table} {name}"
    old = [at for at in sorted(found.chains) if re.fullmatch(r"(?:to|from|host|nat)-[0-9a-f]{12}", at[1])]
    yield from (f"flush chain inet {table} {name}" for table, name in old)
    yield from (f"delete chain inet {table} {name}" for table, name in old)
