"""Counts what is stored, without reading it."""

from collections.abc import Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from cnm.redis_access import translated
from cnm.redis_store import PREFIX
from cnm_controller.ports import Census


class _Meta(msgspec.Struct):
    name: str


class RedisCensus:
    """``Censuses`` on a Redis client."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def take(self, most: int) -> Census:
        async with translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                for kind in ("network", "sandbox", "endpoint"):
                    pipe.zcard(f"{PREFIX}all:{kind}")
                pipe.hlen(f"{PREFIX}journal")
                pipe.zrangebyscore(f"{PREFIX}all:network", "-inf", "+inf", start=0, num=most)
                networks, sandboxes, endpoints, sagas, ids = await pipe.execute()
            by_network = await self._networks([each.decode() for each in ids])
        return Census(networks=networks, sandboxes=sandboxes, endpoints=endpoints, sagas=sagas, by_network=by_network)

    async def _networks(self, ids: Sequence[str]) -> list[tuple[str, str, int]]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for each in ids:
                pipe.hget(f"{PREFIX}network:{each}", "m")
                pipe.zcard(f"{PREFIX}index:endpoint:network:{each}")
            told: list[Any] = await pipe.execute()
        found = zip(ids, told[::2], told[1::2], strict=True)
        return [
            (each, msgspec.json.decode(meta, type=_Meta).name, count)
            for each, meta, count in found
            if meta is not None  # it was deleted meanwhile
        ]
