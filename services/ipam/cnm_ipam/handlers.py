"""What each message of IPAM does."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cnm.bus import Route
from cnm.errors import Unavailable
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
    ListPools,
    ListSpaces,
    Pool,
    PoolUsages,
    ReleaseAddress,
    ReleaseOwned,
    ReleasePool,
    RequestAddress,
    RequestedPool,
    RequestPool,
)
from cnm.messages.ipam import Pools as ShownPools
from cnm.messages.message import Command, Empty
from cnm.types import Address, Interface, Prefix, parse_interface
from cnm_ipam.pool import GLOBAL_DEFAULT, LOCAL_DEFAULT, AddressPool
from cnm_ipam.ports import AddressAsk, Holder, Pools, ReservedPool
from cnm_ipam.predefined import Predefined
from cnm_ipam.wish import PoolWish, options_text, plan, serial_option, wish_of, wishes_of

ATTEMPTS = 50


async def list_spaces(_: ListSpaces, *, pools: Pools) -> AddressSpaces:
    """Show the default spaces, which always exist, and every other one that holds a pool."""
    counts = {LOCAL_DEFAULT: 0, GLOBAL_DEFAULT: 0, **dict(sorted((await pools.spaces()).items()))}
    return AddressSpaces(spaces=[AddressSpace(name=name, pools=count) for name, count in counts.items()])


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
        options=options,
        fields=["pool"],
    )
    return RequestedPool(pool_id=reserved.pool.id, pool=reserved.pool.pool, options=options)


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
    """Show the pools of a space, or of all, in the order of their request."""
    return ShownPools(pools=list(await pools.list_pools(command.space)))


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
        AddressAsk(pool_id=command.pool_id, address=command.address),
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
        options=command.options,
        fields=[f"ipam.pools[{index}].subnet" for index in range(len(wishes))],
    )
    return AllocatedPools(pools=[_allocated(pool) for pool in reserved])


async def allocate_addresses(command: AllocateAddresses, *, pools: Pools) -> AllocatedAddresses:
    """Reserve all addresses of an endpoint, or none.

    Raises:
        NotFound, Invalid, Conflict, Exhausted: as ``request_address``.

    """
    serial = serial_option(command.options, "ipam.options")
    if not command.addresses:
        return AllocatedAddresses(addresses=[])
    allocated = await pools.allocate(
        [AddressAsk(pool_id=wanted.pool_id, address=wanted.address) for wanted in command.addresses],
        holder=Holder(id=command.owner, label=command.owner_label),
        serial=serial,
    )
    return AllocatedAddresses(addresses=[_interface(pool, address) for pool, address in allocated])


async def release_owned(command: ReleaseOwned, *, pools: Pools) -> Empty:
    """Give back all pools and addresses of an owner; one that holds nothing is as good."""
    await pools.release_owned(command.owner)
    return Empty()


async def _reserve(
    wishes: Sequence[PoolWish],
    *,
    pools: Pools,
    predefined: Predefined,
    exclude: Sequence[Prefix],
    holder: Holder,
    options: Mapping[str, str],
    fields: Sequence[str],
) -> tuple[ReservedPool, ...]:
    """Choose pools and reserve them, again while others are faster."""
    if not wishes:
        return ()
    serial = serial_option(options, "options")
    named = [wish.pool for wish in wishes if wish.pool is not None]
    for _ in range(ATTEMPTS):
        survey = await pools.survey(wishes[0].space) if len(named) < len(wishes) else None
        plans = [
            plan(wish, survey, predefined=predefined, exclude=[*exclude, *named], field=field)
            for wish, field in zip(wishes, fields, strict=True)
        ]
        reserved = await pools.reserve(plans, holder=holder, options=options, serial=serial)
        if reserved is not None:
            return reserved
    raise Unavailable(f"others took every pool that was chosen, {ATTEMPTS} times over")


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


def routes(pools: Pools, predefined: Predefined) -> tuple[Route, ...]:
    """Return which function answers which command; what an owner makes idempotent needs no kept reply.

    What an owner asks for goes in order: a release never overtakes the request, given up by then, that it undoes.
    """

    def route(command: type[Command[Any]], handler: Callable[..., Awaitable[Any]], **more: Any) -> Route:
        return Route(command=command, handler=handler, **more)

    def owner(command: AllocatePools | AllocateAddresses | ReleaseOwned) -> str:
        return command.owner

    return (
        route(ListSpaces, partial(list_spaces, pools=pools)),
        route(RequestPool, partial(request_pool, pools=pools, predefined=predefined), once=True),
        route(ReleasePool, partial(release_pool, pools=pools), once=True),
        route(GetPool, partial(get_pool, pools=pools)),
        route(ListPools, partial(list_pools, pools=pools)),
        route(CountPools, partial(count_pools, pools=pools)),
        route(RequestAddress, partial(request_address, pools=pools), once=True),
        route(ReleaseAddress, partial(release_address, pools=pools), once=True),
        route(AllocatePools, partial(allocate_pools, pools=pools, predefined=predefined), order_by=owner),
        route(AllocateAddresses, partial(allocate_addresses, pools=pools), order_by=owner),
        route(ReleaseOwned, partial(release_owned, pools=pools), order_by=owner),
    )
