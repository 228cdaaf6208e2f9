"""Replies kept in Redis under the caller's request id, for ten minutes."""

from redis.asyncio import Redis

from cnm.redis_access import translated
from cnm.redis_store import COUNTED, KEEP_REPLY, REQUESTS
from cnm.replies import MOST_KEPT

_CLAIM = (
    KEEP_REPLY
    + """
local found = redis.call('HMGET', KEYS[1], 'digest', 'reply', 'claim')
if not found[1] then
  -- What was forgotten meanwhile goes, a little with each new one.
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', in_ms(0), 'LIMIT', 0, 4)) do
    redis.call('ZREM', KEYS[2], old)
  end
  if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[4]) then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', in_ms(0))
    if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[4]) then return {'full'} end
  end
  redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'claim', ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.call('ZADD', KEYS[2], in_ms(ARGV[2]), KEYS[1])
  return {'new'}
end
if found[1] ~= ARGV[1] then return {'other'} end
if found[2] then return {'done', found[2]} end
if found[3] == ARGV[3] then return {'new'} end  -- sent again, since the answer was lost
return {'pending'}
"""
)

_RENEW = """
if redis.call('HGET', KEYS[1], 'claim') == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""

_KEEP = (
    KEEP_REPLY
    + """
return keep_reply(KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], KEYS[2])
"""
)

_DROP = """
if redis.call('HGET', KEYS[1], 'claim') == ARGV[1] then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], KEYS[1])
end
return 1
"""


class RedisReplies:
    """``Replies`` on a Redis client; each request stands under a key of its own.

    At most ``most`` are kept: whoever brings more ids is refused until the first are forgotten.
    """

    def __init__(self, redis: Redis, *, most: int = MOST_KEPT) -> None:
        self._most = most
        self._claim = redis.register_script(_CLAIM)
        self._renew = redis.register_script(_RENEW)
        self._keep = redis.register_script(_KEEP)
        self._drop = redis.register_script(_DROP)

    async def claim(self, key: str, digest: str, claim: str, *, lease_ms: int) -> tuple[str, bytes]:
        async with translated("EVALSHA", "claim request"):
            row = await self._claim(keys=[_key(key), COUNTED], args=[digest, lease_ms, claim, self._most])
        return row[0].decode(), row[1] if len(row) > 1 else b""

    async def renew(self, key: str, claim: str, *, lease_ms: int) -> None:
        async with translated("EVALSHA", "renew request"):
            await self._renew(keys=[_key(key)], args=[claim, lease_ms])

    async def keep(self, key: str, digest: str, claim: str, reply: bytes, *, for_s: int) -> None:
        async with translated("EVALSHA", "keep reply"):
            await self._keep(keys=[_key(key), COUNTED], args=[digest, claim, reply, for_s])

    async def drop(self, key: str, claim: str) -> None:
        async with translated("EVALSHA", "drop reply"):
            await self._drop(keys=[_key(key), COUNTED], args=[claim])


def _key(key: str) -> str:
    return REQUESTS + key
