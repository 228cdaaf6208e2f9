"""IPAM drivers in Redis: one hash, a field for each and one for the instance that was told what is held."""

from typing import Any

import msgspec
from redis.asyncio import Redis

from cnm.messages.message import decode_trusted, encode
from cnm.redis_access import translated
from cnm.redis_store import PREFIX
from cnm_controller.ports import IpamDriver

DRIVERS = PREFIX + "ipam-drivers"
REPLAYED = PREFIX + "ipam-drivers-replayed"


class RedisIpamDrivers:
    """``IpamDrivers`` on a Redis client."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def note(self, driver: IpamDriver) -> None:
        async with translated("HSET"):
            await self._redis.hset(DRIVERS, driver.name, encode(driver))

    async def forget(self, name: str) -> None:
        async with translated("HDEL"):
            await self._redis.hdel(DRIVERS, name)

    async def note_replayed(self, name: str, instance: str) -> None:
        async with translated("HSET"):
            await self._redis.hset(REPLAYED, name, instance)

    async def every(self) -> list[IpamDriver]:
        async with translated():
            found: Any = await self._redis.hgetall(DRIVERS)
            replayed: Any = await self._redis.hgetall(REPLAYED)
        drivers = (decode_trusted(IpamDriver, found[name]) for name in sorted(found))
        return [
            msgspec.structs.replace(driver, replayed=replayed.get(driver.name.encode(), b"").decode())
            for driver in drivers
        ]
