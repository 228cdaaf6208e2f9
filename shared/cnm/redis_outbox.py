"""The outbox of a service in Redis: a stream that its changes write to, and a key beside it that says who relays."""

from collections.abc import Mapping, Sequence
from typing import Any

from redis.asyncio import Redis

from cnm.redis_access import translated
from cnm.store import OutgoingEvent

_TAKE = """
if #ARGV > 3 then redis.call('XDEL', KEYS[2], unpack(ARGV, 4)) end
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then return false end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', ARGV[3])
"""

_RESIGN = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""


class RedisOutbox:
    """``Outbox`` on a Redis stream, and a key beside it that says who relays."""

    def __init__(self, redis: Redis, key: str) -> None:
        self._redis = redis
        self._key = key
        self._seen = "0-0"
        self._take = redis.register_script(_TAKE)
        self._resign = redis.register_script(_RESIGN)

    async def wait(self, timeout_s: float) -> None:
        async with translated():
            await self._redis.xread({self._key: self._seen}, count=1, block=max(1, round(timeout_s * 1000)))

    async def take(
        self, name: str, *, lease_ms: int, limit: int, dropped: Sequence[str] = ()
    ) -> list[tuple[str, OutgoingEvent]] | None:
        keys = [f"{self._key}:leader", self._key]
        async with translated():
            rows: Any = await self._take(keys=keys, args=[name, lease_ms, limit, *dropped])
        return None if rows is None else self._events([(place, _fields_of(flat)) for place, flat in rows])

    async def resign(self, name: str) -> None:
        async with translated():
            await self._resign(keys=[f"{self._key}:leader"], args=[name])

    async def read(self, limit: int) -> list[tuple[str, OutgoingEvent]]:
        async with translated():
            rows: Any = await self._redis.xrange(self._key, count=limit)
        return self._events(rows)

    def _events(self, rows: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[tuple[str, OutgoingEvent]]:
        if rows:
            self._seen = rows[-1][0].decode()
        return [
            (
                position.decode(),
                OutgoingEvent(
                    id=fields[b"id"].decode(),
                    subject=fields[b"subject"].decode(),
                    body=fields[b"body"].decode(),
                    traceparent=fields.get(b"traceparent", b"").decode(),
                ),
            )
            for position, fields in rows
        ]

    async def drop(self, positions: Sequence[str]) -> None:
        if not positions:
            return
        async with translated():
            await self._redis.xdel(self._key, *positions)


def _fields_of(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Pair the names and values of a stream's entry, which a script returns in one row."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
