"""What the handlers need beside the bus: a place where pools and addresses are reserved, each call all or nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cnm.messages.ipam import Pool, PoolUsage
from cnm.types import Address
from cnm_ipam.pool import AddressPool
from cnm_ipam.wish import PoolPlan, Survey


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who reserves: ``id`` is an owner's id, None for a client that named none.

    ``label`` is how messages call it. A ``client`` gives back what it holds by itself; what a network or an
    endpoint holds goes back only by its owner.
    """

    id: str | None
    label: str
    client: bool = False


@dataclass(frozen=True, kw_only=True)
class ReservedPool:
    """A pool that was reserved, with its gateway and auxiliary addresses."""

    pool: AddressPool
    gateway: Address | None = None
    aux_addresses: Mapping[str, Address]


@dataclass(frozen=True, kw_only=True)
class AddressAsk:
    """An address that is asked for: of this pool, ``address`` when it must be that one."""

    pool_id: str
    address: Address | None = None


class Pools(Protocol):
    """Every pool and address of the installation.

    A change and the events that tell of it become true together, or not at all.
    """

    async def survey(self, space: str) -> Survey:
        """Return what is taken in a space."""
        ...

    async def reserve(
        self, plans: Sequence[PoolPlan], *, holder: Holder, options: Mapping[str, str], serial: bool | None
    ) -> tuple[ReservedPool, ...] | None:
        """Reserve of each plan the first candidate that is free; None when others took all candidates meanwhile.

        A holder that asks again gets the same pools.

        Raises:
            Conflict: a named pool overlaps another, or an address is taken; the message names the holder.
            Exhausted: a plan has no candidate, or a pool has no address for its gateway.

        """
        ...

    async def release_pool(self, pool_id: str) -> None:
        """Give a client's pool back, and all addresses of it.

        Raises:
            NotFound: there is no such pool.
            Forbidden: a network owns it.

        """
        ...

    async def show(self, pool_id: str) -> Pool:
        """Return one pool.

        Raises:
            NotFound: there is no such pool.

        """
        ...

    async def list_pools(self, space: str | None) -> tuple[Pool, ...]:
        """Return the pools of a space, or of all, in the order of their request."""
        ...

    async def usages(self, pool_ids: Sequence[str]) -> tuple[PoolUsage, ...]:
        """Return how full those of the pools are that exist."""
        ...

    async def spaces(self) -> Mapping[str, int]:
        """Return the spaces that hold pools, and how many."""
        ...

    async def request_address(
        self, ask: AddressAsk, *, holder: Holder, serial: bool | None
    ) -> tuple[AddressPool, Address]:
        """Reserve an address for a client; one that asks again gets the same.

        Raises:
            NotFound: there is no such pool.
            Invalid: nobody can have the address asked for.
            Conflict: it is taken; the message names the holder.
            Exhausted: no address is free.

        """
        ...

    async def release_address(self, pool_id: str, address: Address) -> None:
        """Give a client's address back.

        Raises:
            NotFound: there is no such pool, or the address is not held in it.
            Forbidden: a network or an endpoint holds it.

        """
        ...

    async def allocate(
        self, asks: Sequence[AddressAsk], *, holder: Holder, serial: bool | None
    ) -> tuple[tuple[AddressPool, Address], ...]:
        """Reserve all addresses of an endpoint, or none; asked again, return the same.

        Raises:
            NotFound, Invalid, Conflict, Exhausted: as ``request_address``.

        """
        ...

    async def release_owned(self, owner: str) -> None:
        """Give back all pools and addresses of an owner; one that holds nothing is as good."""
        ...
