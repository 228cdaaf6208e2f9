"""What the script is asked, in the form that it reads; nothing here is sent."""

import re
from collections.abc import Iterable, Sequence
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Any

import msgspec

from cnm.errors import Invalid
from cnm.messages.ipam import AllocatedPool, HeldAddress, NodeRoute
from cnm.prefix import prefix_bits
from cnm.types import Address, Prefix
from cnm_ipam.pool import AddressPool, address_hex, number_hex, parse_pool_id
from cnm_ipam.ports import AddressAsk, Holder, Terms
from cnm_ipam.predefined import Base
from cnm_ipam.wish import PoolPlan, PoolWish

GATEWAY = "gateway"
AUXILIARY = "auxiliary address "
_PLACE = re.compile(r"(\d{1,15})-([0-9a-f]{8}|[0-9a-f]{32})", re.ASCII)


def given(**values: Any) -> dict[str, Any]:
    """Leave out what is None: null is a value of its own in Lua."""
    return {name: value for name, value in values.items() if value is not None}


def digest(value: Any) -> str:
    """Return what a repeat is recognised by."""
    return sha256(msgspec.json.encode(value)).hexdigest()[:16]


def wish_text(wish: PoolWish) -> list[str]:
    """Write a wish as it is compared with a repeat; the digest of it is stored, so this stays as it is."""
    values = (wish.space, wish.pool, wish.sub_pool, wish.size, wish.ipv6, wish.gateway, wish.wants_gateway)
    aux = (f"{name}={address}" for name, address in sorted(wish.aux_addresses.items()))
    return [*map(str, values), *aux]


def own_addresses(wish: PoolWish) -> list[tuple[str, Address | None]]:
    """Return (use, address or None for the lowest free) of a pool's own addresses; an automatic one comes last."""
    found: list[tuple[str, Address | None]] = [
        (AUXILIARY + name, address) for name, address in sorted(wish.aux_addresses.items())
    ]
    if wish.gateway is not None or wish.wants_gateway:
        found.append((GATEWAY, wish.gateway))
    return found


def pool_want(plan: PoolPlan, *, holder: Holder, terms: Terms) -> dict[str, Any]:
    """Write what is wanted by a plan."""
    wish = plan.wish
    want = _want(wish.space, own_addresses(wish), holder=holder, terms=terms, sub_pool=wish.sub_pool)
    if plan.named is not None:
        return {**want, "named": _record(plan.named)}
    return {**want, "turn": wish.turn, "bases": [_base(base) for base in plan.bases]}


def held_want(pool: AddressPool, allocated: AllocatedPool, *, holder: Holder, terms: Terms) -> dict[str, Any]:
    """Write that a pool is wanted as it was allocated."""
    addresses: list[tuple[str, Address | None]] = [
        (AUXILIARY + name, address) for name, address in allocated.aux_addresses.items()
    ]
    if allocated.gateway is not None:
        addresses.append((GATEWAY, allocated.gateway))
    want = _want(pool.space, addresses, holder=holder, terms=terms, sub_pool=pool.sub_pool)
    return {**want, "named": _record(pool)}


def _want(
    space: str,
    addresses: Sequence[tuple[str, Address | None]],
    *,
    holder: Holder,
    terms: Terms,
    sub_pool: Prefix | None,
) -> dict[str, Any]:
    tail = {
        "sub_pool": str(sub_pool) if sub_pool is not None else None,
        "options": terms.options,
        "owner": holder.id,
    }
    return {
        "space": space,
        "part": sub_pool is not None,
        "addresses": [
            {"use": use, **given(hex=address_hex(address) if address is not None else None)}
            for use, address in addresses
        ],
        "tail": msgspec.json.encode(tail)[1:-1].decode(),
        **given(serial=terms.serial, exclusive=terms.exclusive or None, device=terms.device),
    }


def _record(pool: AddressPool) -> dict[str, Any]:
    width = pool.pool.max_prefixlen
    return {
        "id": pool.id,
        "text": str(pool.pool),
        "bits": prefix_bits(pool.pool),
        "first": number_hex(pool.first, width),
        "last": number_hex(pool.last, width),
        "usable": str(pool.usable),
        "whole": pool.sub_pool is None,
    }


def _base(base: Base) -> dict[str, Any]:
    pool = AddressPool(space="", pool=type(base.prefix)((base.prefix.network_address, base.size)))
    return {"bits": prefix_bits(base.prefix), "size": base.size, "usable": str(pool.usable)}


def address_want(ask: AddressAsk) -> dict[str, Any]:
    """Write an address that is asked for."""
    return {"pool_ids": ask.pool_ids, **given(address=address_hex(ask.address) if ask.address is not None else None)}


def excluded(prefixes: Iterable[Prefix]) -> list[str]:
    """Write prefixes sorted and apart, as the search wants them."""
    found = list(prefixes)
    v4 = collapse_addresses([prefix for prefix in found if isinstance(prefix, IPv4Network)])
    v6 = collapse_addresses([prefix for prefix in found if isinstance(prefix, IPv6Network)])
    return [*map(prefix_bits, v4), *map(prefix_bits, v6)]


def surplus(addresses: Iterable[HeldAddress]) -> list[dict[str, str]]:
    """Write addresses that an owner is to give back; it holds none where there can be no pool."""
    return [
        {"pool_id": each.pool_id, "address": address_hex(each.address)}
        for each in addresses
        if parse_pool_id(each.pool_id) is not None
    ]


def place(after: str | None) -> dict[str, Any]:
    """Write where a list goes on.

    Raises:
        Invalid: it is no place that a list replied.

    """
    if after is None:
        return {}
    found = _PLACE.fullmatch(after)
    if found is None:
        raise Invalid.at("after", after, f"{after!r} is nothing that a list replied")
    return {"number": int(found[1]), "after": found[2]}


def routes(used: Iterable[NodeRoute]) -> dict[str, list[dict[str, Any]]]:
    """Write which ways a node uses each prefix."""
    found: dict[str, list[dict[str, Any]]] = {}
    for route in used:
        found.setdefault(prefix_bits(route.prefix), []).append(given(by=route.by, device=route.device))
    return found
