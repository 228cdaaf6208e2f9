"""Prefixes and the addresses in them: what lies where, what can be a pool, and what can be handed out of one.

Pure values, for IPAM, which hands out, and for whoever checks a request before IPAM is asked.
"""

from ipaddress import IPv4Network, IPv6Network

from cnm.types import Address, Prefix

_NEVER_POOLS: tuple[tuple[Prefix, str], ...] = (
    (IPv4Network("0.0.0.0/8"), "it is no unicast network"),
    (IPv4Network("127.0.0.0/8"), "it is loopback"),
    (IPv4Network("224.0.0.0/4"), "it is multicast"),
    (IPv4Network("255.255.255.255/32"), "it is the broadcast address"),
    (IPv6Network("::/128"), "it is the unspecified address"),
    (IPv6Network("::1/128"), "it is loopback"),
    (IPv6Network("::ffff:0:0/96"), "it is IPv4 written as IPv6"),
    (IPv6Network("ff00::/8"), "it is multicast"),
)


def prefix_bits(prefix: Prefix) -> str:
    """Write a prefix as its family and its leading bits: ``400001010`` is 10.0.0.0/8.

    Such texts compare the way the prefixes do, and a prefix lies inside another when its text begins with it.
    """
    bits = f"{int(prefix.network_address):0{prefix.max_prefixlen}b}"[: prefix.prefixlen]
    return f"{prefix.version}{bits}"


def contains(outer: Prefix, inner: Prefix) -> bool:
    """Tell whether a prefix lies in another, or is the same; one of the other family never does."""
    return prefix_bits(inner).startswith(prefix_bits(outer))


def overlap(one: Prefix, other: Prefix) -> bool:
    """Tell whether two prefixes share an address."""
    return contains(one, other) or contains(other, one)


def holds(pool: Prefix, address: Address) -> bool:
    """Tell whether an address lies in a prefix; one of the other family never does."""
    return pool.version == address.version and address in pool


def at(number: int, like: Prefix) -> Address:
    """Return an address of the family of ``like``."""
    return type(like.network_address)(number)


def is_size_hint(pool: Prefix) -> bool:
    """Tell whether this asks only for a size: ``0.0.0.0/24`` or ``::/120``."""
    return int(pool.network_address) == 0 and pool.prefixlen > 0


def first_usable(pool: Prefix) -> int:
    """Return the lowest address of a pool that may be handed out.

    Not IPv4's network address (RFC 950; RFC 3021 for /31) nor IPv6's subnet-router anycast (RFC 4291 2.6.1, 6164).
    """
    return int(pool.network_address) + (pool.max_prefixlen - pool.prefixlen >= 2)


def last_usable(pool: Prefix) -> int:
    """Return the highest address of a pool that may be handed out: not IPv4's broadcast address."""
    return int(pool.broadcast_address) - (pool.version == 4 and pool.prefixlen < 31)


def unfit_pool(pool: Prefix) -> str | None:
    """Return why this cannot be a pool, or None; a size hint is no pool."""
    if pool.prefixlen == 0:
        return f"{pool} is every address, it needs a prefix length above 0"
    for never, reason in _NEVER_POOLS:
        if contains(never, pool):
            return f"{pool} cannot be a pool, {reason}"
    return None


def unfit_part(part: Prefix, whole: Prefix) -> str | None:
    """Return why a prefix cannot be a part of a pool, with what could be, or None."""
    if part.version != whole.version:
        return f"{part} and {whole} are of different families"
    if contains(part, whole) and part != whole:
        return f"{part} is bigger than {whole}, at most {whole} is possible"
    if not contains(whole, part):
        right = type(whole)((whole.network_address, max(part.prefixlen, whole.prefixlen)))
        return f"{part} is not inside {whole}, which has {right} for example"
    return None


def unfit_address(pool: Prefix, address: Address) -> str | None:
    """Return why nobody can have this address of a pool, with those that one can have, or None."""
    first, last = first_usable(pool), last_usable(pool)
    fitting = f"choose one from {at(first, pool)} to {at(last, pool)}"
    if address.version == 6 and address.scope_id is not None:
        return f"{address} has a zone, which an address of a pool has not, {fitting}"
    if not holds(pool, address):
        return f"{address} is not in {pool}, {fitting}"
    if int(address) < first:
        kind = "network" if pool.version == 4 else "subnet-router anycast"
        return f"{address} is the {kind} address of {pool}, {fitting}"
    if int(address) > last:
        return f"{address} is the broadcast address of {pool}, {fitting}"
    for never, reason in _NEVER_POOLS:
        if holds(never, address):
            return f"{address} cannot be handed out, {reason}"
    return None
