"""Tells IPAM which prefixes the node uses: at once when they change, and now and then besides."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from cnm.errors import CnmError
from cnm.messages.ipam import NodeRoute

LOOK_PERIOD_S = 5.0
REFRESH_S = 3600.0
"""IPAM forgets a node that it did not hear of for a day."""
SETTLE_S = 0.2
"""Routes seldom change alone; they are read once for all that change within so long."""

log = structlog.get_logger()


@dataclass
class RouteReports:
    """``read`` returns what the node uses, ``tell`` reports it."""

    read: Callable[[], Awaitable[Sequence[NodeRoute]]]
    tell: Callable[[Sequence[NodeRoute]], Awaitable[None]]
    clock: Callable[[], float] = time.monotonic
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _told: Sequence[NodeRoute] | None = None
    _told_at: float = 0.0

    def nudge(self) -> None:
        """Say that routes have changed."""
        self._changed.set()

    async def once(self) -> None:
        """Look, and tell what is not told yet; what cannot be told now is told later."""
        try:
            found = await self.read()
            if found == self._told and self.clock() - self._told_at < REFRESH_S:
                return
            await self.tell(found)
        except (CnmError, OSError) as error:  # such as a dump that was disturbed
            log.warning("routes.untold", error=str(error))
            self._told = None
        else:
            self._told, self._told_at = found, self.clock()

    async def keep(self) -> None:
        """Look whenever routes change, and by a timer for what the kernel does not tell of, for ever."""
        while True:
            try:
                async with asyncio.timeout(LOOK_PERIOD_S):
                    await self._changed.wait()
                await asyncio.sleep(SETTLE_S)
            except TimeoutError:
                pass
            self._changed.clear()
            await self.once()
