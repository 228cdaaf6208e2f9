"""An address pool: what lies in it, what may be handed out, and how it is written where it is kept.

Addresses are kept as hexadecimal digits of full width and prefixes as a family digit and their leading bits. Both
compare as text the way the numbers compare, and a prefix lies inside another when it begins with it.
"""

from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from cnm.types import Address, Prefix

LOCAL_DEFAULT = "LocalDefault"
GLOBAL_DEFAULT = "GlobalDefault"

_NEVER_POOLS: tuple[tuple[Prefix, str], ...] = (
    (IPv4Network("0.0.0.0/8"), "it is no unicast network"),
    (IPv4Network("127.0.0.0/8"), "it is loopback"),
    (IPv4Network("224.0.0.0/4"), "it is multicast"),
    (IPv4Network("255.255.255.255/32"), "it is the broadcast address"),
    (IPv6Network("::/128"), "it is the unspecified address"),
    (IPv6Network("::1/128"), "it is loopback"),
    (IPv6Network("ff00::/8"), "it is multicast"),
)


@dataclass(frozen=True, kw_only=True)
class AddressPool:
    """A pool of a space; ``sub_pool`` is the part of it that automatic choice takes addresses from."""

    space: str
    pool: Prefix
    sub_pool: Prefix | None = None

    @cached_property
    def id(self) -> str:
        """Return the id that clients know the pool by: the same pool always has the same."""
        return self.master_id if self.sub_pool is None else f"{self.master_id}/{self.sub_pool}"

    @property
    def master_id(self) -> str:
        """Return the id of the whole pool; all sub-pools of it share its addresses."""
        return f"{self.space}/{self.pool}"

    @property
    def range(self) -> Prefix:
        """Return the part that automatic choice takes addresses from."""
        return self.sub_pool or self.pool

    @cached_property
    def first(self) -> int:
        """Return the lowest address of the range that may be handed out."""
        lowest = int(self.range.network_address)
        return lowest + (_keeps_first(self.pool) and lowest == int(self.pool.network_address))

    @cached_property
    def last(self) -> int:
        """Return the highest address of the range that may be handed out; below ``first`` when there is none."""
        highest = int(self.range.broadcast_address)
        return highest - (_keeps_last(self.pool) and highest == int(self.pool.broadcast_address))

    @property
    def usable(self) -> int:
        """Return how many addresses of the range may be handed out in all."""
        return max(0, self.last - self.first + 1)

    def unfit(self, address: Address) -> str | None:
        """Return why nobody can have this address, or None: it may lie anywhere in the whole pool."""
        whole = AddressPool(space=self.space, pool=self.pool)
        fitting = f"choose one from {at(whole.first, self.pool)} to {at(whole.last, self.pool)}"
        if not holds(self.pool, address):
            return f"{address} is not in {self.pool}, {fitting}"
        if int(address) < whole.first:
            kind = "network" if self.pool.version == 4 else "subnet-router anycast"
            return f"{address} is the {kind} address of {self.pool}, {fitting}"
        if int(address) > whole.last:
            return f"{address} is the broadcast address of {self.pool}, {fitting}"
        return None


def parse_pool_id(pool_id: str) -> AddressPool | None:
    """Read the id of a pool; None when there can be no such pool."""
    space, *parts = pool_id.split("/")
    if len(parts) not in (2, 4):
        return None
    try:
        pool = ip_network("/".join(parts[:2]))
        sub_pool = ip_network("/".join(parts[2:])) if parts[2:] else None
    except ValueError:
        return None
    found = AddressPool(space=space, pool=pool, sub_pool=sub_pool)
    return found if found.id == pool_id else None


def _keeps_first(pool: Prefix) -> bool:
    """IPv4: the network address (RFC 950; RFC 3021 for /31). IPv6: subnet-router anycast (RFC 4291 2.6.1, 6164)."""
    return pool.max_prefixlen - pool.prefixlen >= 2


def _keeps_last(pool: Prefix) -> bool:
    return pool.version == 4 and pool.prefixlen < 31


def at(number: int, like: Prefix) -> Address:
    """Return an address of the family of ``like``."""
    return type(like.network_address)(number)


def holds(pool: Prefix, address: Address) -> bool:
    """Tell whether an address lies in a prefix; one of the other family never does."""
    return pool.version == address.version and address in pool


def contains(outer: Prefix, inner: Prefix) -> bool:
    """Tell whether a prefix lies in another, or is the same; one of the other family never does."""
    return prefix_bits(inner).startswith(prefix_bits(outer))


def overlap(one: Prefix, other: Prefix) -> bool:
    """Tell whether two prefixes share an address."""
    return contains(one, other) or contains(other, one)


def is_size_hint(pool: Prefix) -> bool:
    """Tell whether this asks only for a size: ``0.0.0.0/24`` or ``::/120``."""
    return int(pool.network_address) == 0 and pool.prefixlen > 0


def unfit_pool(pool: Prefix) -> str | None:
    """Return why this cannot be a pool, or None; a size hint is no pool."""
    if pool.prefixlen == 0:
        return f"{pool} is every address, it needs a prefix length above 0"
    for never, reason in _NEVER_POOLS:
        if contains(never, pool):
            return f"{pool} cannot be a pool, {reason}"
    return None


def prefix_bits(prefix: Prefix) -> str:
    """Write a prefix as its family and its leading bits: ``400001010`` is 10.0.0.0/8."""
    bits = f"{int(prefix.network_address):0{prefix.max_prefixlen}b}"[: prefix.prefixlen]
    return f"{prefix.version}{bits}"


def from_prefix_bits(bits: str) -> Prefix:
    """Read what ``prefix_bits`` wrote."""
    family = IPv4Network if bits[0] == "4" else IPv6Network
    length = len(bits) - 1
    number = int(bits[1:] or "0", 2) << ((32 if bits[0] == "4" else 128) - length)
    return family((number, length))


def address_hex(address: Address) -> str:
    """Write an address as hexadecimal digits of full width."""
    return number_hex(int(address), address.max_prefixlen)


def number_hex(number: int, bits: int) -> str:
    """Write the number of an address of a family with this many bits as hexadecimal digits of full width."""
    return f"{number:0{bits // 4}x}"


def from_address_hex(digits: str) -> Address:
    """Read what ``address_hex`` wrote."""
    return ip_address(bytes.fromhex(digits))


def shown_count(count: int) -> int | str:
    """Write a count for JSON: text above 2^53, where other people's numbers end."""
    return count if count <= 2**53 else str(count)
