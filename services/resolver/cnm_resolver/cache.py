"""Answers of external servers, kept for as long as they may be (RFC 1035, 2308, 8767).

Only on the way outside: what is ours is never in here. A question is asked once, however many ask it meanwhile. What
has expired is kept for a while, for when no server answers.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import msgspec

from cnm_resolver import wire
from cnm_resolver.config import LIMITS, Limits
from cnm_resolver.ports import External
from cnm_resolver.wire import Query, Reply
from cnm_resolver.zone import Server

OVERHEAD = 500
"""Bytes that an entry takes beside the answer itself, about."""

_AD_CD = 0x0030

Key = tuple[tuple[Server, ...], Path | None, bytes, bytes, int]
"""Who is asked, from where, what (name, type and class in lower case), and how: EDNS and its DO, AD and CD."""


class Kept(msgspec.Struct, gc=False):
    """An answer, and when it was had; ``stale_at`` is when it has expired, ``asked_at`` when that last failed."""

    reply: Reply
    at: float
    stale_at: float
    size: int
    failed_at: float = -1e9


class Cache:
    """The answers of one node; one process's, so bounded by bytes: the least recently used go first."""

    def __init__(
        self, external: External, *, limits: Limits = LIMITS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._external = external
        self._limits = limits
        self._clock = clock
        self._kept: OrderedDict[Key, Kept] = OrderedDict()
        self._size = 0
        self._asking: dict[Key, asyncio.Future[Reply | None]] = {}

    @property
    def size(self) -> int:
        """How many bytes all that is kept takes, about."""
        return self._size

    def __len__(self) -> int:
        """Count the answers."""
        return len(self._kept)

    def recall(self, query: Query, servers: tuple[Server, ...], namespace: Path) -> bytes | None:
        """Return an answer that is fresh, or one that is not while servers do not answer anyway."""
        if not query.portable:
            return None
        key = _key(query, servers, namespace)
        kept = self._kept.get(key)
        if kept is None:
            return None
        now = self._clock()
        if now < kept.stale_at:
            self._kept.move_to_end(key)
            return kept.reply.to(query, int(now - kept.at))
        if now < kept.failed_at + self._limits.recheck_s:
            return self._stale(kept, query)
        return None

    def _stale(self, kept: Kept, query: Query) -> bytes:
        return kept.reply.to(query, ttl_s=self._limits.stale_ttl_s)

    async def ask(self, query: Query, servers: tuple[Server, ...], namespace: Path, *, stream: bool) -> bytes:
        """Return what is known, else what the servers say, else what was known once."""
        known = self.recall(query, servers, namespace)
        if known is not None:
            return known
        if not query.portable:
            return await self._external.ask(query, servers, namespace, stream=stream)
        key = _key(query, servers, namespace)
        asking = self._asking.get(key)
        if asking is None:
            return await self._lead(key, query, servers, namespace, stream=stream)
        reply = await asyncio.shield(asking)
        if reply is not None:
            return reply.to(query, 0)
        # An answer that cannot be shared, such as one that did not fit, or none.
        known = self.recall(query, servers, namespace)
        return known or await self._external.ask(query, servers, namespace, stream=stream)

    async def _lead(
        self, key: Key, query: Query, servers: tuple[Server, ...], namespace: Path, *, stream: bool
    ) -> bytes:
        asking = self._asking[key] = asyncio.get_running_loop().create_future()
        reply: Reply | None = None
        try:
            kept = self._kept.get(key)
            if kept is not None and self._clock() > kept.stale_at + self._limits.stale_s:
                kept = None
            try:
                async with asyncio.timeout(None if kept is None else self._limits.stale_wait_s):
                    packet = await self._external.ask(query, servers, namespace, stream=stream)
            except TimeoutError:
                packet = wire.respond(query, wire.SERVFAIL)
            if wire.code_of(packet) in (wire.NOERROR, wire.NXDOMAIN):
                reply = wire.read_reply(packet, query)
                self._keep(key, reply)
                return packet
            if kept is None:
                return packet
            kept.failed_at = self._clock()
            return self._stale(kept, query)
        finally:
            del self._asking[key]
            asking.set_result(reply)

    def _keep(self, key: Key, reply: Reply | None) -> None:
        if reply is None or not reply.life_s:
            self._drop(key)
            return
        now = self._clock()
        size = len(reply.body) + len(key[2]) + 8 * len(reply.ttls) + OVERHEAD
        self._drop(key)
        if size > self._limits.cache_bytes:
            return
        longest = self._limits.life_s if reply.answered else self._limits.absent_s
        self._kept[key] = Kept(reply, now, now + min(reply.life_s, longest), size)
        self._size += size
        while self._size > self._limits.cache_bytes:
            _, gone = self._kept.popitem(last=False)
            self._size -= gone.size

    def _drop(self, key: Key) -> None:
        gone = self._kept.pop(key, None)
        if gone is not None:
            self._size -= gone.size


def _key(query: Query, servers: tuple[Server, ...], namespace: Path) -> Key:
    inside = namespace if any(server.inside for server in servers) else None
    return servers, inside, query.question.lower(), query.edns, query.flags & _AD_CD
