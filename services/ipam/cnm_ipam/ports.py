"""What the handlers need beside the bus: a place where pools and addresses are reserved, each call all or nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cnm.messages.ipam import AllocatedPool, HeldAddress, Lease, NodeRoute, Pool, PoolUsage
from cnm.types import Address, Prefix
from cnm_ipam.pool import AddressPool
from cnm_ipam.wish import PoolPlan


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who reserves: ``id`` is an owner's id, None for a client that named none.

    ``label`` is how messages call it. A ``client`` gives back what it holds by itself; what a network or an
    endpoint holds goes back only by its owner. ``recall`` is what the holder is remembered by, when not its id.
    """

    id: str | None
    label: str
    client: bool = False
    recall: str | None = None


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How pools are held: ``exclusive`` ones overlap no other, routes on ``device`` are a pool's own."""

    options: Mapping[str, str] = field(default_factory=dict)
    serial: bool | None = None
    exclusive: bool = False
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class FoundRoute:
    """A route of a node that a pool overlaps."""

    node: str
    route: NodeRoute

    def __str__(self) -> str:
        return f"{self.route.prefix} ({self.route.by} on node {self.node})"


@dataclass(frozen=True, kw_only=True)
class ReservedPool:
    """A pool that was reserved, with its gateway and auxiliary addresses, and the routes that it overlaps."""

    pool: AddressPool
    gateway: Address | None = None
    aux_addresses: Mapping[str, Address]
    routes: tuple[FoundRoute, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AddressAsk:
    """An address that is asked for: ``address``, or one of the first of these pools that has any."""

    pool_ids: tuple[str, ...]
    address: Address | None = None


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What an owner is to hold, and what it holds besides; ``dry_run`` asks only what would have to be done."""

    pools: Sequence[AllocatedPool] = ()
    addresses: Sequence[HeldAddress] = ()
    surplus_pools: Sequence[str] = ()
    surplus_addresses: Sequence[HeldAddress] = ()
    dry_run: bool = False


class Pools(Protocol):
    """Every pool and address of the installation.

    A change and the events that tell of it become true together, or not at all.
    """

    async def installation(self) -> str:
        """Return the id of the installation, which never changes."""
        ...

    async def reserve(
        self,
        plans: Sequence[PoolPlan],
        *,
        holder: Holder,
        terms: Terms,
        exclude: Sequence[Prefix],
        dry_run: bool = False,
    ) -> tuple[ReservedPool, ...]:
        """Reserve of each plan the pool it names, or the next predefined one that is free.

        Such a one overlaps no other pool, nothing in ``exclude`` and no route of a node. A holder that asks again
        gets the same pools. With ``dry_run`` nothing is reserved, whatever the holder holds.

        Raises:
            Conflict: a named pool overlaps another, or an address is taken; the message names the holder.
            Exhausted: no predefined pool is left, or a pool has no address for its gateway.

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

    async def list_pools(self, space: str | None, *, after: str | None, limit: int | None) -> tuple[Pool, ...]:
        """Return the pools of a space, or of all, in the order of their request, from the one after ``after``.

        Raises:
            NotFound: there is no pool ``after``.

        """
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

    async def addresses(
        self, pool_id: str, *, after: Address | None, limit: int
    ) -> tuple[tuple[Lease, ...], Address | None]:
        """Return who holds which address of a pool, above ``after``, and after which one to go on.

        Raises:
            NotFound: there is no such pool.
            Invalid: ``after`` does not lie in it.

        """
        ...

    async def leases(self, *, after: str | None, limit: int) -> tuple[tuple[Lease, ...], str | None]:
        """Return what networks and endpoints hold in all pools, and where to go on."""
        ...

    async def allocate(
        self, asks: Sequence[AddressAsk], *, holder: Holder, serial: bool | None
    ) -> tuple[tuple[AddressPool, Address], ...]:
        """Reserve all addresses of an endpoint, or none; asked again, return the same.

        Raises:
            NotFound, Invalid, Conflict, Exhausted: as ``request_address``.

        """
        ...

    async def release_owned(self, owner: str, *, unused: bool) -> None:
        """Give back all pools and addresses of an owner; one that holds nothing is as good."""
        ...

    async def reconcile(
        self, holding: Holding, *, holder: Holder, terms: Terms
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Make what an owner holds just this; return what was reserved again and what was given back.

        Raises:
            NotFound: the pool of an address is not there.
            Conflict: another one holds what was lost; the message names it.

        """
        ...

    async def report_routes(self, node: str, routes: Sequence[NodeRoute]) -> None:
        """Note which prefixes a node uses; tell of each pool that one of them begins to overlap."""
        ...
