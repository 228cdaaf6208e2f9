"""What IPAM tells of its pools."""

from cnm.metrics import LEFT_OUT, POOL_AVAILABLE, POOL_IN_USE, POOLS, Sample, Source
from cnm_ipam.ports import Pools


def source(pools: Pools, most: int) -> Source:
    """Return how full pools are: at most so many one by one, those requested first."""

    async def read() -> list[Sample]:
        count = sum((await pools.spaces()).values())
        shown = await pools.list_pools(None, after=None, limit=most) if most else ()
        return [
            POOLS(count),
            *(POOL_IN_USE(int(each.in_use), each.pool_id, (each.owner or "")[:12]) for each in shown),
            *(POOL_AVAILABLE(int(each.available), each.pool_id, (each.owner or "")[:12]) for each in shown),
            LEFT_OUT(max(0, count - len(shown)), "pool"),
        ]

    return Source("pools", read)
