"""Asks IPAM for the pools of networks, and how full they are."""

from collections.abc import Sequence

from cnm.bus import Bus
from cnm.messages.ipam import AllocatePools, CountPools, PoolUsage, PoolWanted
from cnm_controller.documents import NetworkBody
from cnm_controller.network import wanted_versions
from cnm_controller.ports import NodeState
from cnm_controller.sagas import Saga, Step


async def with_pools(network: NetworkBody, nodes: Sequence[NodeState], saga: Saga) -> NetworkBody:
    """Reserve a network's pools, none of them one that a node has a route to, and return the network with them."""
    versions = wanted_versions(network)
    (allocated,) = await saga.run(
        Step(
            command=AllocatePools(
                owner=network.id,
                owner_label=f"network {network.name!r}",
                space=network.address_space,
                pools=[
                    PoolWanted(request=request, ipv6=version == 6)
                    for request, version in zip(network.wanted, versions, strict=True)
                ],
                exclude=[prefix for node in nodes for prefix in node.taken],
                options=network.ipam_options,
            )
        )
    )
    return network.with_pools(allocated.pools)


async def count_pools(bus: Bus, networks: Sequence[NetworkBody]) -> dict[str, PoolUsage]:
    """Count the pools of networks; by pool id."""
    pool_ids = [pool.pool_id for network in networks for pool in network.pools]
    if not pool_ids:
        return {}
    counted = await bus.ask(CountPools(pool_ids=pool_ids))
    return {usage.pool_id: usage for usage in counted.usages}
