"""The port mapper of one node, put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from cnm.bus import Route
from cnm.deposit import Depositor
from cnm.kernel.thread import NetlinkThread
from cnm.messages.drift import Difference
from cnm.messages.node import PortSlice
from cnm.metrics import PORT_SANDBOXES, PORTS, PROXIED, Sample, Source
from cnm_port_mapper import handlers, reconcile
from cnm_port_mapper.config import Settings
from cnm_port_mapper.mapper import PortMapper
from cnm_port_mapper.nftables import open_firewall
from cnm_port_mapper.no_firewall import open_no_firewall
from cnm_port_mapper.ports import Firewall
from cnm_port_mapper.proxy import Proxy
from cnm_port_mapper.reserve import BoundSockets


class Service:
    """What a worker needs of the port mapper."""

    def __init__(self, mapper: PortMapper, firewall: Firewall) -> None:
        self._mapper = mapper
        self.watching = firewall.watching
        self._clock: int | None = None
        self._since = 0
        self._asked = 0
        self._inherited = False

    def routes(self) -> tuple[Route, ...]:
        """Return which handler answers which command."""
        return handlers.routes(self._mapper)

    def asking(self) -> None:
        """Note that a slice is asked for now: what is commanded from here on is newer than it."""
        self._asked = self._mapper.moment

    async def converge(self, slice: PortSlice) -> reconcile.Convergence:
        """Make the node's ports as a slice tells, but for what was commanded since it was asked for.

        A slice counts as asked for when its clock was first seen: while that stands still, whatever was commanded
        is not committed yet. Without ``asking`` it counts from the convergence before.
        """
        began = self._mapper.moment
        if not self._inherited:
            await self._mapper.inherit(slice.published)
            self._inherited = True
        done = await reconcile.converge(self._mapper, slice, since=self._since_slice(slice))
        await self._mapper.let_go([each for each in slice.published if each.sandbox_id in slice.busy])
        self._asked = began
        return done

    async def compare(self, slice: PortSlice) -> list[Difference]:
        """Return what ``converge`` would do; nothing is changed."""
        return await reconcile.compare(self._mapper, slice, since=self._since_slice(slice))

    def source(self) -> Source:
        """Return what is told of ports and of the proxy."""

        async def read() -> list[Sample]:
            return [
                *(PORTS(count, protocol) for protocol, count in self._mapper.counts().items()),
                PORT_SANDBOXES(len(self._mapper.sandboxes())),
                *(PROXIED(count, protocol) for protocol, count in self._mapper.relayed().items()),
            ]

        return Source("ports", read)

    def _since_slice(self, slice: PortSlice) -> int:
        if slice.clock != self._clock:
            self._clock, self._since = slice.clock, self._asked
            self._mapper.forget_commands(self._since)
        return self._since


@asynccontextmanager
async def open_port_mapper(settings: Settings | None = None) -> AsyncIterator[Service]:
    """Open the port mapper of the process's network namespace; on leaving, sockets close and translations stay.

    First thing in the process: libnftables needs a low descriptor.
    """
    settings = settings or Settings()
    opening: AbstractAsyncContextManager[Firewall] = (
        open_firewall(settings.memory) if settings.firewall else open_no_firewall()
    )
    async with (
        opening as firewall,
        NetlinkThread("deposit") as thread,
        asyncio.TaskGroup() as tasks,
        AsyncExitStack() as stack,
    ):
        relay = Proxy(tasks, settings)
        depositor = None if settings.deposit is None else Depositor(settings.deposit, "port-mapper")
        if depositor is not None:
            stack.callback(depositor.close)
        sockets = BoundSockets(depositor, thread)
        mapper = PortMapper(sockets=sockets, firewall=firewall, relay=relay, settings=settings)
        await mapper.take_over()
        try:
            yield Service(mapper, firewall)
        finally:
            mapper.close()
            relay.close()
