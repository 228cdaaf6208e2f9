"""Asks the IPAM drivers of networks for pools, and how full they are."""

import asyncio
from collections.abc import Sequence

from cnm.errors import CnmError, Unavailable, Unsupported
from cnm.messages.ipam import AllocatedPools, CountPools, PoolUsage
from cnm_controller.addressing import NULL, check_pools, pools_step
from cnm_controller.controller import Controller
from cnm_controller.documents import NetworkBody
from cnm_controller.drivers import IPAM_DRIVERS
from cnm_controller.ports import IpamDriver
from cnm_controller.sagas import BUILT_IN, Saga, Step

COUNT_PATIENCE_S = 1.0
"""How long networks are not shown for want of a stranger's counts."""


async def driver_of(network: NetworkBody, controller: Controller) -> IpamDriver | None:
    """Return the driver that a network takes its addresses from; None for those that need no announcement.

    Raises:
        Unsupported: there is none of that name.
        Unavailable: it was not heard of lately.
    """
    name = network.ipam_driver
    if name in IPAM_DRIVERS:
        return None
    drivers = {driver.name: driver for driver in await controller.ipam_drivers.every()}
    if name not in drivers:
        raise Unsupported(f"no IPAM driver {name!r}; there are {', '.join(sorted({*IPAM_DRIVERS, *drivers}))}")
    if not controller.is_heard(drivers[name].last_seen):
        raise Unavailable(f"IPAM driver {name!r} was last heard of at {drivers[name].last_seen:%Y-%m-%dT%H:%M:%SZ}")
    return drivers[name]


async def with_pools(network: NetworkBody, saga: Saga) -> tuple[NetworkBody, list[str]]:
    """Reserve a network's pools and return the network with them, and what of them has to be warned of."""
    if network.ipam_driver == NULL:
        await saga.run()
        return network, []
    allocated: AllocatedPools
    (allocated,) = await saga.run(pools_step(network))
    check_pools(network, allocated.pools)
    return network.with_pools(allocated.pools), allocated.warnings


async def count_pools(controller: Controller, networks: Sequence[NetworkBody]) -> dict[str, PoolUsage]:
    """Count the pools of networks; by pool id. What a stranger's driver does not say, or not soon, is left out."""
    by_driver: dict[str, list[str]] = {}
    for network in networks:
        if network.pools:
            by_driver.setdefault(network.ipam_driver, []).extend(pool.pool_id for pool in network.pools)
    counted = await asyncio.gather(*(_count(controller, *each) for each in by_driver.items()))
    return {usage.pool_id: usage for usages in counted for usage in usages}


async def _count(controller: Controller, driver: str, pool_ids: list[str]) -> Sequence[PoolUsage]:
    asking = controller.sagas.send(Step(command=CountPools(pool_ids=pool_ids), ipam_driver=driver))
    if driver == BUILT_IN:
        return (await asking).usages  # type: ignore[no-any-return]  # it is PoolUsages by declaration
    try:
        async with asyncio.timeout(COUNT_PATIENCE_S):
            return (await asking).usages  # type: ignore[no-any-return]  # as above
    except (CnmError, TimeoutError):
        return ()
