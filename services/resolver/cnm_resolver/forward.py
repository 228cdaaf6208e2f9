"""Asking external servers: in order, the next one joining when those before are silent or fail."""

import asyncio
import time
from collections import deque
from pathlib import Path

from cnm.types import parse_address
from cnm_resolver import wire
from cnm_resolver.config import LIMITS, Limits
from cnm_resolver.counters import Counters
from cnm_resolver.ports import Upstream
from cnm_resolver.wire import Query
from cnm_resolver.zone import Server, usable


class Forwarder:
    """Races the servers of a question. NOERROR and NXDOMAIN are answers; whatever else lets the next one try."""

    def __init__(self, upstream: Upstream, *, limits: Limits = LIMITS, counters: Counters | None = None) -> None:
        self._upstream = upstream
        self._limits = limits
        self._counters = counters or Counters()

    def recall(self, query: Query, servers: tuple[Server, ...], namespace: Path) -> bytes | None:  # noqa: ARG002
        """Remember nothing."""
        return None

    async def ask(self, query: Query, servers: tuple[Server, ...], namespace: Path, *, stream: bool) -> bytes:
        """Return the first answer; else the last error a server gave; else SERVFAIL, never nothing."""
        failures: list[bytes] = []
        try:
            async with asyncio.timeout(self._limits.overall_s):
                reply = await self._race(query, servers, namespace, failures, stream=stream)
        except TimeoutError:
            reply = None
        if reply is not None:
            return reply
        return failures[-1] if failures else wire.respond(query, wire.SERVFAIL)

    async def _race(
        self,
        query: Query,
        servers: tuple[Server, ...],
        namespace: Path,
        failures: list[bytes],
        *,
        stream: bool,
    ) -> bytes | None:
        waiting = deque(servers)
        running: set[asyncio.Task[bytes | None]] = set()
        async with asyncio.TaskGroup() as group:
            try:
                while waiting or running:
                    if waiting:
                        attempt = self._attempt(waiting.popleft(), query, namespace, stream=stream)
                        running.add(group.create_task(attempt))
                    done, running = await asyncio.wait(
                        running,
                        timeout=self._limits.backoff_s if waiting else None,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    replies = [reply for task in done if (reply := task.result()) is not None]
                    for reply in replies:
                        if wire.code_of(reply) in (wire.NOERROR, wire.NXDOMAIN):
                            return reply
                    failures += replies
            finally:
                for task in running:
                    task.cancel()
        return None

    async def _attempt(self, server: Server, query: Query, namespace: Path, *, stream: bool) -> bytes | None:
        health, began = self._counters.server(server), time.perf_counter()
        health.asked += 1
        try:
            async with asyncio.timeout(self._limits.attempt_s):
                reply = await self._upstream.exchange(server, query, namespace, stream=stream)
        except TimeoutError:
            health.silent += 1
            return None
        except OSError:
            health.failed += 1
            return None
        except asyncio.CancelledError:  # another was quicker, or nobody waits any more
            if time.perf_counter() - began > self._limits.backoff_s:
                health.silent += 1
            raise
        health.last_s = time.perf_counter() - began
        if wire.code_of(reply) in (wire.NOERROR, wire.NXDOMAIN):
            health.answered += 1
        else:
            health.failed += 1
        return reply


def resolv_conf_servers(text: str) -> tuple[Server, ...]:
    """Read the servers of a resolv.conf; lines that make no sense are passed over, as resolv.conf(5) has it."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            try:
                found.append(Server(parse_address(words[1])))
            except ValueError:
                continue
    return usable(tuple(found))
