"""Nodes in Redis: one hash, a field for each node and one for each of its workers."""

from datetime import datetime
from typing import Any

import msgspec
from redis.asyncio import Redis

from cnm.messages.message import decode_trusted, encode, to_builtins
from cnm.messages.node import Heartbeat, NodeWorker
from cnm.redis_access import translated
from cnm.redis_store import OUTBOX, PREFIX
from cnm.store import OutgoingEvent
from cnm_controller.ports import NodeState

NODES = PREFIX + "nodes"

_REPORT = """
local workers = 0
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local alive = string.sub(fields[i], 1, #ARGV[1] + 1) == ARGV[1] .. '/'
    and cjson.decode(fields[i + 1])['last_seen'] >= ARGV[11]
  if alive then workers = workers + 1 end
end
local event = nil
if ARGV[4] == 'leaving' then
  local gone = redis.call('HDEL', KEYS[1], ARGV[1] .. '/' .. ARGV[2])
  if gone == 1 and workers == 1 then event = {ARGV[8], ARGV[9], ARGV[10]} end
else
  redis.call('HSET', KEYS[1], ARGV[1] .. '/' .. ARGV[2], ARGV[3])
  if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], ARGV[1], ARGV[4]) end
  if workers == 0 then event = {ARGV[5], ARGV[6], ARGV[7]} end
end
if not event then return 0 end
redis.call('XADD', KEYS[2], '*', 'id', event[1], 'subject', event[2], 'body', event[3])
return 1
"""


class RedisNodes:
    """``Nodes`` on a Redis client; a node's name must not hold a slash, which hosts' names never do."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._report = redis.register_script(_REPORT)

    async def report(
        self,
        heartbeat: Heartbeat,
        *,
        now: datetime,
        dead_before: datetime,
        joined: OutgoingEvent,
        left: OutgoingEvent,
    ) -> None:
        worker = NodeWorker(
            name=heartbeat.worker, state="ready", version=heartbeat.version, pid=heartbeat.pid, last_seen=now
        )
        described = b"leaving" if heartbeat.leaving else b""
        if heartbeat.kernel is not None:
            described = encode(
                NodeState(
                    name=heartbeat.node,
                    address=heartbeat.address,
                    run_dir=heartbeat.run_dir,
                    kernel=heartbeat.kernel,
                )
            )
        events = [part for event in (joined, left) for part in (event.id, event.subject, event.body)]
        async with translated():
            arguments: list[Any] = [
                heartbeat.node,
                heartbeat.worker,
                encode(worker),
                described,
                *events,
                to_builtins(dead_before),
            ]
            await self._report(keys=[NODES, OUTBOX], args=arguments)

    async def every(self) -> list[NodeState]:
        async with translated():
            fields: Any = await self._redis.hgetall(NODES)
        workers: dict[str, list[NodeWorker]] = {}
        states: dict[str, NodeState] = {}
        for field, value in fields.items():
            name, slash, _ = field.decode().partition("/")
            if slash:
                workers.setdefault(name, []).append(decode_trusted(NodeWorker, value))
            else:
                states[name] = decode_trusted(NodeState, value)
        names = sorted(states.keys() | workers.keys())
        return [
            msgspec.structs.replace(
                states.get(name, NodeState(name=name)), workers=sorted(workers.get(name, []), key=lambda w: w.name)
            )
            for name in names
        ]
