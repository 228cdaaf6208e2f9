"""Replies kept in Redis under the caller's request id, for ten minutes."""

from redis.asyncio import Redis

from cnm.redis_store import translated

_CLAIM = """
local found = redis.call('HMGET', KEYS[1], 'digest', 'reply')
if not found[1] then
  redis.call('HSET', KEYS[1], 'digest', ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {'new'}
end
if found[1] ~= ARGV[1] then return {'other'} end
if found[2] then return {'done', found[2]} end
return {'pending'}
"""


class RedisReplies:
    """``Replies`` on a Redis client; each request stands under a key of its own."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._claim = redis.register_script(_CLAIM)

    async def claim(self, key: str, digest: str, *, lease_ms: int) -> tuple[str, bytes]:
        async with translated():
            row = await self._claim(keys=[_key(key)], args=[digest, lease_ms])
        return row[0].decode(), row[1] if len(row) > 1 else b""

    async def keep(self, key: str, digest: str, reply: bytes, *, for_s: int) -> None:
        async with translated(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(_key(key), mapping={"digest": digest, "reply": reply})
            pipe.expire(_key(key), for_s)
            await pipe.execute()

    async def drop(self, key: str) -> None:
        async with translated():
            await self._redis.delete(_key(key))


def _key(key: str) -> str:
    return "cnm:request:" + key
