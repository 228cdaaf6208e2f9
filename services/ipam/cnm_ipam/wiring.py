"""The service put together: its routes over pools in Redis."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cnm.bus import Route
from cnm_ipam.config import Settings
from cnm_ipam.handlers import routes
from cnm_ipam.redis_pools import RedisPools
from cnm_ipam.redis_script import Script, connect


@asynccontextmanager
async def service(redis_url: str, settings: Settings) -> AsyncIterator[tuple[tuple[Route, ...], RedisPools]]:
    """Yield the routes of the service, and the pools behind them; its connections to Redis close when it ends."""
    redis = connect(redis_url, connections=settings.redis_connections, timeout_s=settings.redis_timeout_s)
    try:
        pools = RedisPools(
            script=Script(redis=redis, rest_s=settings.rest_s), proposed_id=settings.proposed_installation
        )
        yield routes(pools, settings.predefined), pools
    finally:
        await redis.aclose()
