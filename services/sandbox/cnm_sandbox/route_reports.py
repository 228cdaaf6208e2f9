"""Tells IPAM which prefixes the node uses: at once when they change, and now and then besides."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from cnm.errors import CnmError
from cnm.kernel.route import Route
from cnm.messages.ipam import NodeRoute
from cnm.types import Address
from cnm_sandbox.node_routes import counts

LOOK_PERIOD_S = 2.0
READ_PERIOD_S = 30.0
"""Routes are read that often though nothing told of a change; name servers at every look."""
REFRESH_S = 3600.0
"""IPAM forgets a node that it did not hear of for a day."""
SETTLE_S = 0.2
"""Routes seldom change alone; they are read once for all that change within so long."""

log = structlog.get_logger()


class Uses(Protocol):
    """What the node uses."""

    async def used(self) -> Sequence[NodeRoute]:
        """Return all prefixes that the node uses."""
        ...

    async def servers(self) -> Sequence[Address]:
        """Return the node's name servers."""
        ...

    async def has_stranger(self, indices: Collection[int]) -> bool:
        """Say whether one of these links is not one that we made."""
        ...

    def carries(self, index: int) -> bool:
        """Say whether a prefix in use, as last read, is on a link."""
        ...


@dataclass
class RouteReports:
    """Tells IPAM what ``uses`` says; our own bridges come and go without anything being read."""

    uses: Uses
    tell: Callable[[Sequence[NodeRoute]], Awaitable[None]]
    clock: Callable[[], float] = time.monotonic
    _heard: asyncio.Event = field(default_factory=asyncio.Event)
    _indices: set[int] = field(default_factory=set)
    _servers: Sequence[Address] = ()
    _read: bool = True
    _read_at: float = 0.0
    _told: Sequence[NodeRoute] | None = None
    _told_at: float = 0.0

    def note(self, routes: Sequence[Route] | None, links: Sequence[int]) -> None:
        """Note that routes came or went, None when it is not known which, and that links changed."""
        self._indices |= {route.index for route in routes or () if counts(route)}
        self._read = self._read or routes is None or any(map(self.uses.carries, links))
        if self._indices or self._read:
            self._heard.set()

    async def once(self) -> None:
        """Look, and tell what is not told yet; what cannot be told now is told later."""
        try:
            if not await self._is_due():
                return
            found = await self.uses.used()
            self._read, self._read_at = False, self.clock()
            if found == self._told and self.clock() - self._told_at < REFRESH_S:
                return
            await self.tell(found)
        except (CnmError, OSError) as error:  # such as a dump that was disturbed
            log.warning("routes.untold", error=str(error))
            self._read, self._told = True, None
        else:
            self._told, self._told_at = found, self.clock()

    async def _is_due(self) -> bool:
        """Say whether something may have changed, without reading all routes."""
        indices, self._indices = self._indices, set()
        servers = await self.uses.servers()
        moved, self._servers = servers != self._servers, servers
        if moved or self._read or self.clock() - self._read_at >= READ_PERIOD_S:
            return True
        return bool(indices) and await self.uses.has_stranger(indices)

    async def keep(self) -> None:
        """Look whenever routes change, and by a timer for what the kernel does not tell of, for ever."""
        while True:
            try:
                async with asyncio.timeout(LOOK_PERIOD_S):
                    await self._heard.wait()
                await asyncio.sleep(SETTLE_S)
            except TimeoutError:
                pass
            self._heard.clear()
            await self.once()
