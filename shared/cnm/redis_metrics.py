"""What there is to tell of Redis, and of an outbox in it."""

import time
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from cnm.errors import CnmError
from cnm.metrics import (
    OUTBOX_EVENTS,
    OUTBOX_OLDEST,
    REDIS_ACCEPTED,
    REDIS_CLIENTS,
    REDIS_MEMORY,
    REDIS_REFUSED,
    REDIS_ROUND_TRIP,
    REDIS_UP,
    REDIS_WRITES_OK,
    Check,
    Sample,
    Source,
)
from cnm.redis_access import translated


def sources(redis: Redis, outbox: str) -> Sequence[Source]:
    """Return what a worker tells of its Redis server, and of the outbox at a key."""

    async def server() -> list[Sample]:
        began = time.monotonic()
        if (await _find(redis)) is not None:
            return [REDIS_UP(0)]
        return [REDIS_UP(1), REDIS_ROUND_TRIP(time.monotonic() - began)]

    async def information() -> list[Sample]:
        async with translated():
            told: Any = await redis.info("memory", "clients", "stats", "persistence")
        return [
            REDIS_MEMORY(told["used_memory"]),
            REDIS_CLIENTS(told["connected_clients"]),
            REDIS_ACCEPTED(told["total_connections_received"]),
            REDIS_REFUSED(told["rejected_connections"]),
            REDIS_WRITES_OK(told.get("aof_last_write_status") == "ok"),
        ]

    async def waiting() -> list[Sample]:
        async with translated(), redis.pipeline(transaction=False) as pipe:
            pipe.xlen(outbox)
            pipe.xrange(outbox, count=1)
            pipe.time()
            count, oldest, (seconds, micros) = await pipe.execute()
        written_ms = int(oldest[0][0].partition(b"-")[0]) if oldest else None
        now_ms = seconds * 1000 + micros // 1000
        age_s = 0.0 if written_ms is None else max(0, now_ms - written_ms) / 1000
        return [OUTBOX_EVENTS(count), OUTBOX_OLDEST(age_s)]

    return Source("redis", server, timed=True), Source("redis_info", information), Source("outbox", waiting)


def check(redis: Redis) -> Check:
    """Return whether Redis answers."""

    async def find() -> str | None:
        return await _find(redis)

    return Check("Redis", find)


async def _find(redis: Redis) -> str | None:
    try:
        async with translated():
            await redis.ping()
    except CnmError as error:
        return error.message
    return None
