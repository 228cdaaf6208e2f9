"""What each message of IPAM does."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from cnm.bus import Route
from cnm.errors import NotFound
from cnm.messages.ipam import (
    AddressLease,
    AddressSpace,
    AddressSpaces,
    AllocateAddresses,
    AllocatedAddresses,
    AllocatedPool,
    AllocatedPools,
    AllocatePools,
    CountPools,
    GetPool,
    LeasePage,
    Leases,
    ListAddresses,
    ListLeases,
    ListPools,
    ListSpaces,
    Pool,
    PoolUsages,
    Reconciled,
    ReconcileOwner,
    ReleaseAddress,
    ReleaseOwned,
    ReleasePool,
    ReportRoutes,
    RequestAddress,
    RequestedPool,
    RequestPool,
)
from cnm.messages.ipam import Pools as ShownPools
from cnm.messages.message import Command, Empty
from cnm.pool_faults import GLOBAL_DEFAULT, LOCAL_DEFAULT
from cnm.types import Address, Interface, Prefix, parse_interface
from cnm_ipam.pool import AddressPool
from cnm_ipam.ports import AddressAsk, Holder, Holding, Pools, ReservedPool, Terms
from cnm_ipam.predefined import Predefined
from cnm_ipam.wish import PoolWish, options_text, plan, serial_option, wish_of, wishes_of


async def list_spaces(command: ListSpaces, *, pools: Pools) -> AddressSpaces:
    """Show the default spaces, which always exist, and every other one that holds a pool.

    Raises:
        NotFound: there is no space ``after``.

    """
    counts = {LOCAL_DEFAULT: 0, GLOBAL_DEFAULT: 0, **dict(sorted((await pools.spaces()).items()))}
    spaces = [AddressSpace(name=name, pools=count) for name, count in counts.items()]
    if command.after is not None:
        if command.after not in counts:
            raise NotFound(f"no space {command.after}", space=command.after)
        spaces = spaces[list(counts).index(command.after) + 1 :]
    return AddressSpaces(spaces=spaces[: command.limit])


async def request_pool(command: RequestPool, *, pools: Pools, predefined: Predefined) -> RequestedPool:
    """Reserve a pool for a client.

    Raises:
        Invalid: the request contradicts itself; every fault is listed.
        Conflict: the pool overlaps another of the space; the message names the holder.
        Exhausted: no predefined pool is left.

    """
    wish = wish_of(command)
    options = options_text(command.options)
    (reserved,) = await _reserve(
        [wish],
        pools=pools,
        predefined=predefined,
        exclude=command.exclude,
        holder=Holder(id=None, label="", client=True),
        terms=Terms(options=options, serial=serial_option(options, "options")),
        fields=["pool"],
    )
    return RequestedPool(
        pool_id=reserved.pool.id,
        pool=reserved.pool.pool,
        options=options,
        warnings=_warnings([reserved]) or msgspec.UNSET,
    )


async def release_pool(command: ReleasePool, *, pools: Pools) -> Empty:
    """Give a client's pool back; addresses that are still held in it go with it, as in libnetwork.

    Raises:
        NotFound: there is no such pool.
        Forbidden: a network owns it.

    """
    await pools.release_pool(command.pool_id)
    return Empty()


async def get_pool(command: GetPool, *, pools: Pools) -> Pool:
    """Show one pool.

    Raises:
        NotFound: there is no such pool.

    """
    return await pools.show(command.pool_id)


async def list_pools(command: ListPools, *, pools: Pools) -> ShownPools:
    """Show the pools of a space, or of all, in the order of their request.

    Raises:
        NotFound: there is no pool ``after``.

    """
    found = await pools.list_pools(command.space, after=command.after, limit=command.limit)
    return ShownPools(pools=list(found))


async def count_pools(command: CountPools, *, pools: Pools) -> PoolUsages:
    """Count the addresses of those pools that exist."""
    return PoolUsages(usages=list(await pools.usages(command.pool_ids)))


async def request_address(command: RequestAddress, *, pools: Pools) -> AddressLease:
    """Reserve one address of a pool for a client; an owner that asks again gets the same one.

    Raises:
        NotFound: there is no such pool.
        Invalid: the address is not in the pool, or nobody can have it.
        Conflict: the address is taken; the message names the holder.
        Exhausted: the pool has no free address.

    """
    serial = serial_option(options_text(command.options), "options")
    label = "a client" if command.owner is None else f'owner "{command.owner}"'
    pool, address = await pools.request_address(
        AddressAsk(pool_ids=(command.pool_id,), address=command.address),
        holder=Holder(id=command.owner, label=label, client=True),
        serial=serial,
    )
    return AddressLease(address=_interface(pool, address))


async def release_address(command: ReleaseAddress, *, pools: Pools) -> Empty:
    """Give a client's address back; it rests before somebody else gets it.

    Raises:
        NotFound: there is no such pool, or the address is not held.
        Forbidden: a network or an endpoint holds it.

    """
    await pools.release_address(command.pool_id, command.address)
    return Empty()


async def list_addresses(command: ListAddresses, *, pools: Pools) -> Leases:
    """Show who holds which address of a pool, by address.

    Raises:
        NotFound: there is no such pool.
        Invalid: ``after`` does not lie in it.

    """
    leases, after = await pools.addresses(command.pool_id, after=command.after, limit=command.limit)
    return Leases(leases=list(leases), after=after)


async def allocate_pools(command: AllocatePools, *, pools: Pools, predefined: Predefined) -> AllocatedPools:
    """Reserve all pools of a network, their gateways and auxiliary addresses, or nothing.

    Raises:
        Invalid: a pool contradicts itself or another; every fault is listed under ``ipam``.
        Conflict: a pool overlaps another of the space, or an address is taken; the message names the holder.
        Exhausted: no predefined pool is left, or a pool has no address for its gateway.

    """
    wishes = wishes_of(command.space, command.pools, command.options, gateways=command.gateways)
    reserved = await _reserve(
        wishes,
        pools=pools,
        predefined=predefined,
        exclude=command.exclude,
        holder=Holder(id=command.owner, label=command.owner_label),
        terms=_terms(command),
        fields=[f"ipam.pools[{index}].subnet" for index in range(len(wishes))],
        dry_run=command.dry_run,
    )
    return AllocatedPools(pools=[_allocated(pool) for pool in reserved], warnings=_warnings(reserved))


async def allocate_addresses(command: AllocateAddresses, *, pools: Pools) -> AllocatedAddresses:
    """Reserve all addresses of an endpoint, or none.

    Raises:
        NotFound, Invalid, Conflict, Exhausted: as ``request_address``.

    """
    serial = serial_option(command.options, "ipam.options")
    if not command.addresses:
        return AllocatedAddresses(addresses=[])
    allocated = await pools.allocate(
        [
            AddressAsk(pool_ids=(wanted.pool_id, *wanted.others), address=wanted.address)
            for wanted in command.addresses
        ],
        holder=Holder(id=command.owner, label=command.owner_label, recall=command.recall),
        serial=serial,
    )
    return AllocatedAddresses(addresses=[_interface(pool, address) for pool, address in allocated])


async def release_owned(command: ReleaseOwned, *, pools: Pools) -> Empty:
    """Give back all pools and addresses of an owner; one that holds nothing is as good."""
    await pools.release_owned(command.owner, unused=command.unused)
    return Empty()


async def list_leases(command: ListLeases, *, pools: Pools) -> LeasePage:
    """Show what networks and endpoints hold, a page of it.

    Raises:
        Invalid: ``after`` is nothing that a page told.

    """
    leases, after = await pools.leases(after=command.after, limit=command.limit)
    return LeasePage(leases=list(leases), after=after)


async def reconcile_owner(command: ReconcileOwner, *, pools: Pools) -> Reconciled:
    """Make what an owner holds just what the command says, or change nothing.

    Raises:
        NotFound: the pool of an address is not there.
        Conflict: another one holds what was lost; the message names it.

    """
    holding = Holding(
        pools=command.pools,
        addresses=command.addresses,
        surplus_pools=command.surplus_pools,
        surplus_addresses=command.surplus_addresses,
        dry_run=command.dry_run,
    )
    holder = Holder(id=command.owner, label=command.owner_label, recall=command.recall)
    restored, given_back = await pools.reconcile(holding, holder=holder, terms=_terms(command))
    return Reconciled(restored=list(restored), given_back=list(given_back))


async def report_routes(command: ReportRoutes, *, pools: Pools) -> Empty:
    """Note which prefixes a node uses; a pool that one of them begins to overlap is told of as an event."""
    await pools.report_routes(command.node, command.routes)
    return Empty()


async def _reserve(
    wishes: Sequence[PoolWish],
    *,
    pools: Pools,
    predefined: Predefined,
    exclude: Sequence[Prefix],
    holder: Holder,
    terms: Terms,
    fields: Sequence[str],
    dry_run: bool = False,
) -> tuple[ReservedPool, ...]:
    if not wishes:
        return ()
    installation = await pools.installation()
    plans = [
        plan(wish, predefined=predefined, installation=installation, field=field)
        for wish, field in zip(wishes, fields, strict=True)
    ]
    return await pools.reserve(plans, holder=holder, terms=terms, exclude=exclude, dry_run=dry_run)


def _terms(command: AllocatePools | ReconcileOwner) -> Terms:
    serial = serial_option(command.options, "ipam.options")
    return Terms(options=command.options, serial=serial, exclusive=command.exclusive, device=command.device)


def _warnings(reserved: Sequence[ReservedPool]) -> list[str]:
    return [f"pool {pool.pool.pool} overlaps {route}" for pool in reserved for route in pool.routes]


def _allocated(reserved: ReservedPool) -> AllocatedPool:
    return AllocatedPool(
        pool_id=reserved.pool.id,
        subnet=reserved.pool.pool,
        range=reserved.pool.sub_pool,
        gateway=reserved.gateway,
        aux_addresses=dict(reserved.aux_addresses),
    )


def _interface(pool: AddressPool, address: Address) -> Interface:
    return parse_interface(f"{address}/{pool.pool.prefixlen}")


def _check_request(command: RequestPool) -> None:
    wish_of(command)


def _check_options(command: RequestAddress) -> None:
    serial_option(options_text(command.options), "options")


def routes(pools: Pools, predefined: Predefined) -> tuple[Route, ...]:
    """Return which function answers which command; what an owner makes idempotent needs no kept reply.

    What an owner asks of one worker goes in order: a release does not overtake the request, given up by then, that it
    undoes.
    """

    def route(command: type[Command[Any]], handler: Callable[..., Awaitable[Any]], **more: Any) -> Route:
        return Route(command=command, handler=partial(handler, pools=pools), **more)

    def owner(command: AllocatePools | AllocateAddresses | ReleaseOwned | ReconcileOwner) -> str:
        return command.owner

    def node(command: ReportRoutes) -> str:
        return f"node {command.node}"

    return (
        route(ListSpaces, list_spaces),
        route(RequestPool, partial(request_pool, predefined=predefined), once=True, check=_check_request),
        route(ReleasePool, release_pool, once=True),
        route(GetPool, get_pool),
        route(ListPools, list_pools),
        route(CountPools, count_pools),
        route(RequestAddress, request_address, once=True, check=_check_options),
        route(ReleaseAddress, release_address, once=True),
        route(ListAddresses, list_addresses),
        route(AllocatePools, partial(allocate_pools, predefined=predefined), order_by=owner),
        route(AllocateAddresses, allocate_addresses, order_by=owner),
        route(ReleaseOwned, release_owned, order_by=owner),
        route(ReconcileOwner, reconcile_owner, order_by=owner),
        route(ListLeases, list_leases),
        route(ReportRoutes, report_routes, order_by=node),
    )
