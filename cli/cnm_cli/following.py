"""Follows events for ever: where a line was lost, wherever the installation is when it comes back."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import datetime

from cnm.client import PATIENCE_S, PAUSE_S, Heard
from cnm.errors import Unavailable
from cnm_cli.client import connect
from cnm_cli.runtime import find_nats_url
from cnm_cli.settings import Settings


async def follow(settings: Settings, *, since: datetime | None = None) -> AsyncIterator[Heard]:
    """Yield events for ever: those since a moment, or those from now on.

    Raises:
        Unavailable: NATS cannot be reached, or there is no stream.
    """
    last: int | None = None
    lost_at: float | None = time.monotonic() - PATIENCE_S  # what cannot be reached at first is not waited for
    while True:
        try:
            async with (
                connect(find_nats_url(settings)) as client,
                client.events(since=since, after=last) as events,
            ):
                last, lost_at = events.sequence, None
                async for event in events:
                    last = event.sequence
                    yield event
        except Unavailable:
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at >= PATIENCE_S:
                raise
            await asyncio.sleep(PAUSE_S)
