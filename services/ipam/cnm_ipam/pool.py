"""An address pool: what automatic choice takes addresses from, and how it is written where it is kept.

Addresses are kept as hexadecimal digits of full width and prefixes as ``cnm.prefix.prefix_bits`` writes them; both
compare as text the way the numbers compare.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from cnm.prefix import first_usable, last_usable
from cnm.types import Address, Prefix


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
        return max(int(self.range.network_address), first_usable(self.pool))

    @cached_property
    def last(self) -> int:
        """Return the highest address of the range that may be handed out; below ``first`` when there is none."""
        return min(int(self.range.broadcast_address), last_usable(self.pool))

    @property
    def usable(self) -> int:
        """Return how many addresses of the range may be handed out in all."""
        return max(0, self.last - self.first + 1)


@lru_cache(maxsize=4096)
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


def from_prefix_bits(bits: str) -> Prefix:
    """Read what ``cnm.prefix.prefix_bits`` wrote."""
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
