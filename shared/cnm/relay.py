"""Moves events from a service's outbox to the stream, in order, each once.

An event is written to the outbox in the transaction of the change it tells of. Of all relays of one outbox one leads
and publishes, waiting for the stream each time; the others stand by until its lease runs out. What it published and
could not drop is published again, and the stream drops what it has seen (``Nats-Msg-Id``).
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from cnm.errors import CnmError, Unavailable
from cnm.store import Outbox, OutgoingEvent

LEASE_MS = 1000
PERIOD_S = 0.4
BATCH = 64

log = structlog.get_logger()


class Relay:
    """Relays one outbox; ``publish`` returns when the stream has the event."""

    def __init__(self, outbox: Outbox, publish: Callable[[OutgoingEvent], Awaitable[None]]) -> None:
        self._outbox = outbox
        self._publish = publish
        self._name = secrets.token_hex(8)

    async def run(self) -> None:
        """Relay for ever whenever it leads; what cannot be done now is done later, perhaps by another."""
        try:
            while True:
                try:
                    if await self.drain():
                        await self._outbox.wait(PERIOD_S)
                    else:
                        await asyncio.sleep(PERIOD_S)
                except Unavailable as error:
                    log.warning("relay.waiting", error=error.message)
                    await self._resign()
                    await asyncio.sleep(2 * PERIOD_S)  # who stands by comes first
        finally:
            await self._resign()

    async def _resign(self) -> None:
        """Let another lead at once: it may reach what this one does not."""
        with suppress(CnmError):
            await self._outbox.resign(self._name)

    async def drain(self) -> bool:
        """Publish everything that is in the outbox now, for as long as it leads; tell whether it still does.

        Raises:
            Unavailable: the store or the stream cannot be reached; what is left stays in the outbox.
        """
        sent: list[str] = []
        try:
            while rows := await self._outbox.take(self._name, lease_ms=LEASE_MS, limit=BATCH, dropped=sent):
                sent = []
                for position, event in rows:
                    await self._send(event)
                    sent.append(position)
        except BaseException:  # the stream knows duplicates for two minutes only, and may be away for longer
            await self._outbox.drop(sent)
            raise
        return rows is not None

    async def _send(self, event: OutgoingEvent) -> None:
        try:
            await self._publish(event)
        except Unavailable:
            raise
        except CnmError as error:  # it would be refused for ever, and bar all that come after it
            log.error("relay.refused", subject=event.subject, id=event.id, error=error.message)  # noqa: TRY400  # the sentence says it all
