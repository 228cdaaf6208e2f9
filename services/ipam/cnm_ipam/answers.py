"""What the script replies, and the values or errors that it means."""

from collections.abc import Sequence

import msgspec

from cnm.errors import CnmError, Conflict, Exhausted, Forbidden, Internal, NotFound
from cnm.messages.ipam import AllocatedPool, Lease, NodeRoute, Pool
from cnm.messages.message import decode_trusted
from cnm.types import Address, parse_interface
from cnm_ipam.asks import AUXILIARY, GATEWAY, own_addresses
from cnm_ipam.pool import from_address_hex, from_prefix_bits, parse_pool_id, shown_count
from cnm_ipam.ports import FoundRoute, Holder, ReservedPool
from cnm_ipam.wish import PoolPlan


class _Shown(msgspec.Struct, frozen=True, kw_only=True):
    shown: str
    usable: str
    in_use: int


class _Route(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    bits: str
    by: str
    device: str | None = None


class _Reserved(msgspec.Struct, frozen=True, kw_only=True):
    pool_id: str
    addresses: list[str] | dict[str, str] = []  # cjson writes an empty list as an object
    routes: list[_Route] | dict[str, str] = []


class _Clash(msgspec.Struct, frozen=True, kw_only=True):
    pool_id: str
    label: str


class _Holder(msgspec.Struct, frozen=True, array_like=True):
    owner: str = ""
    pool_id: str = ""
    label: str = ""
    recall: str = ""
    use: str = ""
    rested: str = ""
    former: str = ""


class _Lease(msgspec.Struct, frozen=True, kw_only=True):
    hex: str
    holder: _Holder


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the script replies: ``error`` with what it tells of, or what was done."""

    error: str | None = None
    pool_id: str = ""
    address: str = ""
    label: str = ""
    index: int = 0
    number: int = 0
    place: str | None = None
    holder: _Holder = _Holder()
    clash: _Clash | None = None
    pools: list[_Reserved] = []
    routes: list[_Route] | dict[str, str] = []
    addresses: list[str] = []
    pool_ids: list[str] = []
    shown: list[_Shown] = []
    leases: list[_Lease] = []
    restored: list[str] | dict[str, str] = []
    given: list[str] | dict[str, str] = []


def check(answer: Answer) -> Answer:
    """Return an answer that tells of no error.

    Raises:
        CnmError: what it tells of.

    """
    if answer.error is not None:
        raise _error(answer)
    return answer


def _error(answer: Answer) -> CnmError:
    match answer.error:
        case "absent":
            return no_pool(answer.pool_id)
        case "full":
            pool = parse_pool_id(answer.pool_id)
            return Exhausted(f"no free address in {pool.range if pool else answer.pool_id}", pool_id=answer.pool_id)
        case "taken":
            address, holder = from_address_hex(answer.address), answer.holder
            use = f" as its {holder.use}" if holder.use else ""
            return Conflict(f"{address} is held by {holder.label}{use}", address=str(address), holder=holder.label)
        case _:
            return Internal(f"the script replied {answer.error!r}")


def no_pool(pool_id: str) -> NotFound:
    """Return the error of a pool that is not there."""
    return NotFound(f"no pool {pool_id}", pool_id=pool_id)


def overlap_error(answer: Answer, asked_id: str) -> CnmError:
    """Return the error of a pool that cannot be had, and who stands in its way."""
    asked = parse_pool_id(asked_id)
    if answer.error != "overlap" or answer.clash is None or asked is None:
        return _error(answer)
    held = parse_pool_id(answer.clash.pool_id) or asked
    by = answer.clash.label or "a client"
    details = {"pool_id": held.id, "holder": by}
    if held.id == asked.id:
        return Conflict(f"pool {asked.id} is held by {by} already", **details)
    return Conflict(f"{asked.pool} overlaps {held.pool}, which {by} holds in {asked.space}", **details)


def pool_error(answer: Answer, plans: Sequence[PoolPlan], holder: Holder) -> CnmError:
    """Return the error of a network's or a client's pools."""
    match answer.error:
        case "overlap":
            named = plans[answer.index - 1].named
            return overlap_error(answer, named.id if named else "")
        case "no_pool":
            wish = plans[answer.index - 1].wish
            size = f" of size /{wish.size}" if wish.size is not None else ""
            text = f"no predefined IPv{6 if wish.ipv6 else 4} pool{size} is left in {wish.space}"
            routes = found_routes(answer.routes)
            if not routes:
                return Exhausted(text)
            over = "; ".join(map(str, routes))
            return Exhausted(f"{text}; nodes use {over}", routes=[str(route) for route in routes])
        case "differs":
            return Conflict(f"{holder.label or 'this request'} holds other pools already", holder=holder.label)
        case _:
            return _error(answer)


def address_error(answer: Answer, holder: Holder) -> CnmError:
    """Return the error of an endpoint's addresses."""
    if answer.error == "differs":
        return Conflict(f"{holder.label} holds other addresses already", holder=holder.label)
    return _error(answer)


def pool_release_error(answer: Answer, pool_id: str) -> CnmError:
    """Return the error of a pool that a client cannot give back."""
    if answer.error == "owned":
        return Forbidden(f"pool {pool_id} belongs to {answer.label}", pool_id=pool_id, holder=answer.label)
    return _error(answer)


def address_release_error(answer: Answer, pool_id: str, address: Address) -> CnmError:
    """Return the error of an address that a client cannot give back."""
    match answer.error:
        case "owned":
            return Forbidden(f"{address} is held by {answer.label}", address=str(address), holder=answer.label)
        case "free":
            return NotFound(f"{address} is not held in pool {pool_id}", address=str(address), pool_id=pool_id)
        case _:
            return _error(answer)


def reconcile_error(answer: Answer, pools: Sequence[AllocatedPool]) -> CnmError:
    """Return the error of an owner's pools and addresses that cannot be reserved again."""
    return overlap_error(answer, pools[answer.index - 1].pool_id) if answer.error == "overlap" else _error(answer)


def place(answer: Answer) -> str | None:
    """Write where a list of all pools goes on after an answer; None when it ends there."""
    return None if answer.place is None else f"{answer.number}-{answer.place}"


def next_address(answer: Answer) -> Address | None:
    """Return after which address the list of one pool goes on; None when it ends there."""
    return None if answer.place is None else from_address_hex(answer.place)


def found_routes(routes: Sequence[_Route] | dict[str, str]) -> tuple[FoundRoute, ...]:
    """Read the routes of an answer."""
    return tuple(
        FoundRoute(
            node=route.node, route=NodeRoute(prefix=from_prefix_bits(route.bits), by=route.by, device=route.device)
        )
        for route in routes
        if isinstance(route, _Route)
    )


def reserved_pool(plan: PoolPlan, found: _Reserved) -> ReservedPool:
    """Read a pool that was reserved by a plan."""
    pool = parse_pool_id(found.pool_id)
    if pool is None:
        raise Internal(f"stored pool id {found.pool_id} cannot be read")
    uses = (use for use, _ in own_addresses(plan.wish))
    addresses = {use: from_address_hex(digits) for use, digits in zip(uses, list(found.addresses), strict=True)}
    return ReservedPool(
        pool=pool,
        gateway=addresses.get(GATEWAY),
        aux_addresses={name: addresses[AUXILIARY + name] for name in plan.wish.aux_addresses},
        routes=found_routes(found.routes),
    )


def shown_pool(shown: _Shown) -> Pool:
    """Read a pool as it is shown."""
    counts = {"in_use": shown.in_use, "available": shown_count(int(shown.usable) - shown.in_use)}
    return decode_trusted(Pool, shown.shown.encode() + b"," + msgspec.json.encode(counts)[1:])


def shown_lease(lease: _Lease) -> Lease:
    """Read a lease as it is shown."""
    holder = lease.holder
    pool = parse_pool_id(holder.pool_id)
    if pool is None:
        raise Internal(f"stored pool id {holder.pool_id} cannot be read")
    kind, _, name = holder.owner.partition(":")
    return Lease(
        address=parse_interface(f"{from_address_hex(lease.hex)}/{pool.pool.prefixlen}"),
        pool_id=holder.pool_id,
        owner=name if kind in ("o", "c") else None,
        holder=holder.label,
        use=holder.use or None,
    )


def text_of(restored: Sequence[str] | dict[str, str]) -> tuple[str, ...]:
    """Write pools and addresses that were restored or given back as people read them."""
    return tuple(each if "/" in each else str(from_address_hex(each)) for each in restored)
