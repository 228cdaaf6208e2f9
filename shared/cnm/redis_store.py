"""The store on Redis: one script a method, all keys under one hash tag.

Every document, index, claim and entry of the controller stands in one slot, since a saga touches documents of
several kinds at once (docs/adr/0002). A document is a hash of ``b`` body, ``r`` revision, ``m`` name, scope, indexes.
Every script may run twice, for redis-py sends a command again when the line broke before its answer.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff

from cnm.redis_access import open_redis, translated
from cnm.store import (
    Busy,
    Changes,
    Claims,
    Document,
    Entry,
    Found,
    LeaseLost,
    Lookup,
    NameTaken,
    Snapshot,
    Stale,
)

PREFIX = "cnm:{cnm}:"
OUTBOX = PREFIX + "outbox"
MAX_CONNECTIONS = 4096  # a pool that is full refuses at once; as many requests are answered side by side
REMEMBER_COMMIT_MS = 60_000

COUNTED = PREFIX + "requests"
REQUESTS = PREFIX + "request:"
"""Kept replies stand in the controller's slot: a commit writes the one of its request."""

KEEP_REPLY = """
local function in_ms(ms)
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000) + ms
end
local function keep_reply(key, digest, claim, reply, for_s, counted)
  local found = redis.call('HMGET', key, 'digest', 'claim')
  if found[1] and found[2] ~= claim then return 0 end
  redis.call('HSET', key, 'digest', digest, 'reply', reply)
  redis.call('HDEL', key, 'claim')
  redis.call('EXPIRE', key, for_s)
  redis.call('ZADD', counted, in_ms(for_s * 1000), key)
  return 1
end
"""

_COMMON = """
local P = KEYS[1]
local A = cjson.decode(ARGV[1])
local function load(kind, id)
  local r = redis.call('HMGET', P .. kind .. ':' .. id, 'b', 'r', 'm')
  if not r[1] then return nil end
  return {kind, id, r[1], r[2], r[3]}
end
local function drop_held(saga)
  local held = redis.call('SMEMBERS', P .. 'held:' .. saga)
  for _, key in ipairs(held) do
    local mode, name = string.sub(key, 1, 1), string.sub(key, 3)
    if mode == 'x' then
      if redis.call('HGET', P .. 'claims', name) == saga then redis.call('HDEL', P .. 'claims', name) end
    else
      redis.call('SREM', P .. 'shared:' .. name, saga)
    end
  end
  redis.call('DEL', P .. 'held:' .. saga)
end
local function drop_claims(saga)
  drop_held(saga)
  redis.call('HDEL', P .. 'journal', saga)
  redis.call('ZREM', P .. 'leases', saga)
end
local function move_clock()  -- by the time: what a server lost and counts anew is no moment that anybody knows
  local t = redis.call('TIME')
  local next = math.max(t[1] * 1000000 + t[2], (tonumber(redis.call('GET', P .. 'clock')) or 0) + 1)
  redis.call('SET', P .. 'clock', string.format('%.0f', next))
end
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
"""

_FIND = (
    _COMMON
    + """
local out = {}
for i, q in ipairs(A) do
  local kind, key, scope = q[1], q[2], q[3]
  local doc = load(kind, key)
  local state = 'none'
  if doc and scope ~= '' and cjson.decode(doc[5])['scope'] ~= scope then doc = nil end
  if not doc then
    local id = redis.call('HGET', P .. 'names:' .. kind, scope .. '/' .. key)
    if id then doc = load(kind, id) end
  end
  if not doc then
    local ids = redis.call('ZRANGEBYLEX', P .. 'ids:' .. kind .. ':' .. scope, '[' .. key, '[' .. key .. '~',
      'LIMIT', 0, 2)
    if #ids == 1 then doc = load(kind, ids[1]) elseif #ids > 1 then state = 'many' end
  end
  local children = {}
  if doc then
    state = 'one'
    if q[5] ~= '' then
      for j, id in ipairs(redis.call('ZRANGE', P .. 'index:' .. q[5] .. ':' .. doc[2], 0, -1)) do
        children[#children + 1] = load(q[4], id)
      end
    end
  end
  out[i] = {state, doc or {}, children}
end
return out
"""
)

_LIST = (
    _COMMON
    + """
local out = {}
for i, id in ipairs(redis.call('ZRANGE', P .. A[2], 0, -1)) do out[#out + 1] = load(A[1], id) end
return out
"""
)

_SNAPSHOT = (
    _COMMON
    + """
local clock = redis.call('GET', P .. 'clock') or '0'
if A['known'] == tonumber(clock) then return {clock, {}, {}, {}} end
local out = {}
for i, kind in ipairs(A['kinds']) do
  local docs = {}
  for j, id in ipairs(redis.call('ZRANGE', P .. 'all:' .. kind, 0, -1)) do docs[#docs + 1] = load(kind, id) end
  out[i] = docs
end
return {clock, out, redis.call('HKEYS', P .. 'claims'), A['journal'] and redis.call('HVALS', P .. 'journal') or {}}
"""
)

_BEGIN = (
    _COMMON
    + """
if redis.call('HEXISTS', P .. 'journal', A['id']) == 1 then return {'ok'} end  -- begun, and the answer lost
for _, key in ipairs(A['exclusive']) do
  if redis.call('HEXISTS', P .. 'claims', key) == 1 or redis.call('EXISTS', P .. 'shared:' .. key) == 1 then
    return {'busy', key}
  end
end
for _, key in ipairs(A['shared']) do
  if redis.call('HEXISTS', P .. 'claims', key) == 1 then return {'busy', key} end
end
for _, d in ipairs(A['unchanged']) do
  if redis.call('HGET', P .. d[1] .. ':' .. d[2], 'r') ~= tostring(d[3]) then return {'stale', d[1], d[2]} end
end
for _, u in ipairs(A['unique']) do
  local id = redis.call('HGET', P .. 'names:' .. u[1], u[2] .. '/' .. u[3])
  if id then return {'taken', u[1], u[3], id} end
end
local saga = A['id']
for _, key in ipairs(A['exclusive']) do
  redis.call('HSET', P .. 'claims', key, saga)
  redis.call('SADD', P .. 'held:' .. saga, 'x ' .. key)
end
for _, key in ipairs(A['shared']) do
  redis.call('SADD', P .. 'shared:' .. key, saga)
  redis.call('SADD', P .. 'held:' .. saga, 's ' .. key)
end
redis.call('HSET', P .. 'journal', saga, ARGV[2])
redis.call('ZADD', P .. 'leases', now_ms() + A['lease_ms'], saga)
move_clock()
return {'ok'}
"""
)

_COMMIT = (
    _COMMON
    + KEEP_REPLY
    + """
local saga = A['id']
local before = redis.call('GET', P .. 'committed:' .. saga)
if before then return {'ok', cjson.decode(before)} end  -- committed, and the answer lost
local entry = redis.call('HGET', P .. 'journal', saga)
if not entry or cjson.decode(entry)['owner'] ~= A['owner'] then return {'lost'} end
local function unindex(kind, id, meta)
  local name = meta['scope'] .. '/' .. meta['name']
  if redis.call('HGET', P .. 'names:' .. kind, name) == id then redis.call('HDEL', P .. 'names:' .. kind, name) end
  redis.call('ZREM', P .. 'ids:' .. kind .. ':' .. meta['scope'], id)
  for _, index in ipairs(meta['indexes']) do redis.call('ZREM', P .. 'index:' .. index, id) end
end
local revisions = {}
for i, d in ipairs(A['puts']) do
  local key = P .. d['kind'] .. ':' .. d['id']
  local old = redis.call('HGET', key, 'm')
  if old then unindex(d['kind'], d['id'], cjson.decode(old)) end
  redis.call('HSET', key, 'b', d['body'], 'm', d['meta'])
  revisions[i] = redis.call('HINCRBY', key, 'r', 1)
  redis.call('HSET', P .. 'names:' .. d['kind'], d['scope'] .. '/' .. d['name'], d['id'])
  redis.call('ZADD', P .. 'ids:' .. d['kind'] .. ':' .. d['scope'], 0, d['id'])
  redis.call('ZADD', P .. 'all:' .. d['kind'], d['created_ms'], d['id'])
  for _, index in ipairs(d['indexes']) do redis.call('ZADD', P .. 'index:' .. index, d['created_ms'], d['id']) end
end
for _, d in ipairs(A['deletes']) do
  local key = P .. d[1] .. ':' .. d[2]
  local old = redis.call('HGET', key, 'm')
  if old then unindex(d[1], d[2], cjson.decode(old)) end
  redis.call('DEL', key)
  redis.call('ZREM', P .. 'all:' .. d[1], d[2])
end
for _, e in ipairs(A['events']) do
  redis.call('XADD', P .. 'outbox', '*', 'id', e['id'], 'subject', e['subject'], 'body', e['body'],
    'traceparent', e['traceparent'])
end
local r = A['reply']
if r then keep_reply(P .. 'request:' .. r[1], r[2], r[3], ARGV[3], r[4], P .. 'requests') end
move_clock()
redis.call('SET', P .. 'committed:' .. saga, cjson.encode(revisions), 'PX', A['remember_ms'])
if A['after'] then
  drop_held(saga)
  redis.call('HSET', P .. 'journal', saga, ARGV[2])
else
  drop_claims(saga)
end
return {'ok', revisions}
"""
)

_FINISH = (
    _COMMON
    + """
local entry = redis.call('HGET', P .. 'journal', A['id'])
if entry and cjson.decode(entry)['owner'] == A['owner'] then
  drop_claims(A['id'])
  move_clock()
end
return 1
"""
)

_RENEW = (
    _COMMON
    + """
for _, saga in ipairs(A['ids']) do
  redis.call('ZADD', P .. 'leases', 'XX', 'GT', now_ms() + A['lease_ms'], saga)
end
return 1
"""
)

_EXPIRED = (
    _COMMON
    + """
local out = {}
for _, saga in ipairs(redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', now_ms(), 'LIMIT', 0, A['limit'])) do
  local entry = redis.call('HGET', P .. 'journal', saga)
  if entry then
    local owner = A['owner'] .. '#' .. redis.call('INCR', P .. 'takeovers')
    local found = string.gsub(entry, '"owner":"[^"]*"', '"owner":"' .. owner .. '"', 1)
    redis.call('HSET', P .. 'journal', saga, found)
    redis.call('ZADD', P .. 'leases', now_ms() + A['lease_ms'], saga)
    out[#out + 1] = found
  else
    redis.call('ZREM', P .. 'leases', saga)
  end
end
return out
"""
)


def connect(url: str) -> Redis:
    """Make a client, which says a command again when the line broke; see ``open_redis`` for URLs."""
    retry = Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.25), 3)
    return open_redis(url, connections=MAX_CONNECTIONS, timeout_s=5.0, retry=retry)


_SCRIPTS = {
    "find": _FIND,
    "list": _LIST,
    "snapshot": _SNAPSHOT,
    "begin": _BEGIN,
    "commit": _COMMIT,
    "finish": _FINISH,
    "renew": _RENEW,
    "expired": _EXPIRED,
}


class RedisStore:
    """``Store`` on a Redis client."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._scripts = {name: redis.register_script(text) for name, text in _SCRIPTS.items()}

    async def find(self, *lookups: Lookup) -> list[Found]:
        asked = [[each.kind, each.key, each.scope, each.children_kind, each.children] for each in lookups]
        rows = await self._run("find", asked)
        return [
            Found(
                document=_document(row[1]) if row[0] == b"one" else None,
                ambiguous=row[0] == b"many",
                children=tuple(map(_document, row[2])),
            )
            for row in rows
        ]

    async def every(self, kind: str, *, index: str | None = None) -> list[Document]:
        rows = await self._run("list", [kind, f"index:{index}" if index else f"all:{kind}"])
        return [_document(row) for row in rows]

    async def snapshot(
        self, kinds: Sequence[str], *, known_clock: int | None = None, journal: bool = False
    ) -> Snapshot:
        known = -1 if known_clock is None else known_clock
        asked = {"kinds": kinds, "known": known, "journal": journal}
        clock, rows, claimed, entries = await self._run("snapshot", asked)
        if int(clock) == known:
            return Snapshot(clock=known, documents=None)
        documents = {kind: [_document(row) for row in part] for kind, part in zip(kinds, rows, strict=True)}
        return Snapshot(
            clock=int(clock),
            documents=documents,
            claimed=tuple(key.decode() for key in claimed),
            journal=tuple(msgspec.json.decode(entry, type=Entry) for entry in entries),
        )

    async def begin(self, entry: Entry, claims: Claims, *, lease_ms: int) -> None:
        asked = {
            "id": entry.id,
            "lease_ms": lease_ms,
            "exclusive": claims.exclusive,
            "shared": claims.shared,
            "unchanged": [(each.kind, each.id, each.revision) for each in claims.unchanged],
            "unique": claims.unique,
        }
        row = await self._run("begin", asked, msgspec.json.encode(entry))
        match row[0]:
            case b"busy":
                raise Busy(row[1].decode())
            case b"stale":
                raise Stale(row[2].decode())
            case b"taken":
                raise NameTaken(*(part.decode() for part in row[1:]))

    async def commit(self, entry: Entry, changes: Changes) -> list[Document]:
        after = msgspec.structs.replace(entry, rounds=(changes.after,)) if changes.after else None
        asked = {
            "id": entry.id,
            "owner": entry.owner,
            "puts": [_put(each) for each in changes.puts],
            "deletes": [(each.kind, each.id) for each in changes.deletes],
            "events": changes.events,
            "after": after is not None,
            "remember_ms": REMEMBER_COMMIT_MS,
        }
        reply = changes.reply
        if reply is not None:
            asked["reply"] = (reply.key, reply.digest, reply.claim, reply.for_s)
        row = await self._run("commit", asked, msgspec.json.encode(after), reply.body if reply else b"")
        if row[0] == b"lost":
            raise LeaseLost("the saga outlived its lease and was undone; try again")
        return [
            msgspec.structs.replace(each, revision=revision)
            for each, revision in zip(changes.puts, row[1], strict=True)
        ]

    async def finish(self, entry: Entry) -> None:
        await self._run("finish", {"id": entry.id, "owner": entry.owner})

    async def renew(self, entries: Sequence[str], *, lease_ms: int) -> None:
        await self._run("renew", {"ids": entries, "lease_ms": lease_ms})

    async def expired(self, owner: str, *, lease_ms: int, limit: int = 16) -> list[Entry]:
        rows = await self._run("expired", {"owner": owner, "lease_ms": lease_ms, "limit": limit})
        return [msgspec.json.decode(row, type=Entry) for row in rows]

    async def server(self) -> str:
        async with translated():
            found: Any = await self._redis.info("server")
        return str(found["run_id"])

    async def _run(self, name: str, asked: Any, *more: bytes) -> Any:
        async with translated("EVALSHA", name):
            return await self._scripts[name](keys=[PREFIX], args=[msgspec.json.encode(asked), *more])


def _put(document: Document) -> dict[str, Any]:
    meta = {
        "name": document.name,
        "scope": document.scope,
        "indexes": document.indexes,
        "created_ms": document.created_ms,
    }
    return {
        "kind": document.kind,
        "id": document.id,
        "body": document.body,
        "meta": msgspec.json.encode(meta).decode(),
        **meta,
    }


class _Meta(msgspec.Struct, frozen=True):
    name: str
    scope: str
    indexes: tuple[str, ...]
    created_ms: int


_meta_decoder = msgspec.json.Decoder(_Meta)


def _document(row: list[bytes]) -> Document:
    kind, id_, body, revision, raw = row
    meta = _meta_decoder.decode(raw)
    return Document(
        kind=kind.decode(),
        id=id_.decode(),
        name=meta.name,
        scope=meta.scope,
        created_ms=meta.created_ms,
        indexes=meta.indexes,
        body=body.decode(),
        revision=int(revision),
    )
