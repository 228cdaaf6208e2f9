"""Moves events from a service's outbox to the stream, in order, each once.

An event is written to the outbox in the transaction of the change it tells of. Any number of relays may read one
outbox: each publishes in order and waits for the stream, which drops what it has seen (``Nats-Msg-Id``).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import structlog

from cnm.bus import Route
from cnm.errors import CnmError, Unavailable
from cnm.store import Outbox, OutgoingEvent

PERIOD_S = 0.5
BATCH = 64

log = structlog.get_logger()


class Relay:
    """Relays one outbox; ``publish`` returns when the stream has the event."""

    def __init__(self, outbox: Outbox, publish: Callable[[OutgoingEvent], Awaitable[None]]) -> None:
        self._outbox = outbox
        self._publish = publish
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Say that something was written: it is relayed at once."""
        self._nudged.set()

    async def run(self) -> None:
        """Relay for ever; what cannot be done now is done later."""
        while True:
            try:
                async with asyncio.timeout(PERIOD_S):
                    await self._nudged.wait()
            except TimeoutError:
                pass
            self._nudged.clear()
            try:
                await self.drain()
            except Unavailable as error:
                log.warning("relay.waiting", error=error.message)

    async def drain(self) -> None:
        """Publish everything that is in the outbox now.

        Raises:
            Unavailable: the store or the stream cannot be reached; what is left stays in the outbox.
        """
        while rows := await self._outbox.read(BATCH):
            sent: list[str] = []
            try:
                for position, event in rows:
                    await self._send(event)
                    sent.append(position)
            finally:  # the stream knows duplicates for two minutes only, and may be away for longer
                await self._outbox.drop(sent)

    async def _send(self, event: OutgoingEvent) -> None:
        try:
            await self._publish(event)
        except Unavailable:
            raise
        except CnmError as error:  # it would be refused for ever, and bar all that come after it
            log.error("relay.refused", subject=event.subject, id=event.id, error=error.message)  # noqa: TRY400  # the sentence says it all


def nudging(relay: Relay, routes: Sequence[Route]) -> tuple[Route, ...]:
    """Return the routes with a nudge to the relay after each answer, for a service whose every verb may write."""
    return tuple(replace(route, handler=_nudging(relay, route.handler)) for route in routes)


def _nudging(relay: Relay, handler: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    async def handle(command: Any) -> Any:
        try:
            return await handler(command)
        finally:
            relay.nudge()

    return handle
