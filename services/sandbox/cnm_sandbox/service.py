"""The sandbox worker's parts, put together."""

import heapq
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from cnm.bus import Route
from cnm.kernel.thread import NetlinkThread
from cnm.kernel.watch import NamespaceWatch, watching_namespaces
from cnm.messages.ipam import NodeRoute
from cnm.messages.node import SandboxSlice
from cnm.metrics import DIRECTORIES, NAMESPACES, Sample, Source
from cnm.patrol import Patrol
from cnm.touched import Touched
from cnm.types import Address
from cnm_sandbox import handlers, node_routes, reconcile, resolv
from cnm_sandbox.alarm import Alarm, listening
from cnm_sandbox.config import Settings
from cnm_sandbox.files import SandboxFiles, read
from cnm_sandbox.node import LinuxNode, Onlooker
from cnm_sandbox.probe import probe
from cnm_sandbox.reconcile import Converged
from cnm_sandbox.rounds import Rounds

MOST_LINKS = 10_000
"""So many links that were found to be ours are remembered."""


class SandboxService:
    """Answers commands, converges, and tells what the node is like."""

    def __init__(
        self, settings: Settings, thread: NetlinkThread, watch: NamespaceWatch, touched: Touched, alarm: Alarm
    ) -> None:
        self._settings = settings
        self._watch = watch
        self._rounds = Rounds(Patrol(budget_s=settings.patrol_budget_s))
        self._thread = thread
        self._alarm = alarm
        self._node = LinuxNode(thread, settings, alarm.know)
        self._onlooker = Onlooker(thread, settings)
        self._touched = touched
        self._asked = 0
        self._kernel: Mapping[str, bool] | None = None
        self._ours: set[int] = set()
        self._carrying: frozenset[int] = frozenset()

    def routes(self) -> Sequence[Route]:
        """Say who answers what."""
        return handlers.routes(node=self._node, touched=self._touched)

    async def fetch(self, ask: Callable[[int | None], Awaitable[SandboxSlice]], clock: int | None) -> SandboxSlice:
        """Ask for the slice, and remember when: what a command touches from now on is newer than it.

        An unchanged slice is applied with the ids that were busy when it was new, so for such a one the moment
        stays where the last comparison began.
        """
        moment = self._touched.now()
        found = await ask(clock)
        if not found.unchanged:
            self._asked = moment
        return found

    async def converge(self, wanted: SandboxSlice) -> Converged:
        """Make what a slice says stand, but for what a command touched since it was asked for.

        A slice that `fetch` did not bring counts as asked for when the last comparison began.
        """
        since = self._since()
        self._rounds.note(self._watch.take())
        return await reconcile.converge(
            wanted, node=self._node, touched=self._touched, asked=since, rounds=self._rounds
        )

    async def compare(self, wanted: SandboxSlice) -> Converged:
        """Tell what `converge` would do if it looked at everything; nothing is changed."""
        rounds = Rounds(Patrol(budget_s=0.0))  # to which everything is new
        return await reconcile.converge(
            wanted, node=self._onlooker, touched=self._touched, asked=self._since(), rounds=rounds
        )

    def _since(self) -> int:
        since, self._asked = self._asked, self._touched.now()
        return since

    def listen(self, ring: Callable[[], None]) -> None:
        """Have it told from now on when others change what this worker keeps."""
        self._alarm.ring = ring

    def suspect_all(self) -> None:
        """Have everything looked at in the next `converge`."""
        self._rounds.suspect_all()

    async def kernel(self) -> Mapping[str, bool]:
        """Return what the node's kernel can do; it is found out once."""
        if self._kernel is None:
            self._kernel = await self._thread.run(probe)
        return self._kernel

    async def used(self) -> list[NodeRoute]:
        """Return the prefixes that no pool may overlap: the node's routes and its name servers."""
        found, self._carrying = await self._thread.run(lambda: node_routes.read_used(self._read_servers()))
        return found

    def carries(self, index: int) -> bool:
        """Say whether a prefix in use, as last read, is on a link."""
        return index in self._carrying

    async def servers(self) -> tuple[Address, ...]:
        """Return the node's name servers."""
        return await self._thread.run(self._read_servers)

    def _read_servers(self) -> tuple[Address, ...]:
        return resolv.parse(read(SandboxFiles(self._settings).origin())).servers

    async def has_stranger(self, indices: Collection[int]) -> bool:
        """Say whether one of these links is not ours; one that was ours and is gone is no stranger."""
        unknown = set(indices) - self._ours
        if not unknown:
            return False
        strangers = await self._thread.run(node_routes.read_strangers, unknown)
        self._ours |= unknown - strangers
        if len(self._ours) > MOST_LINKS:  # the newest have the highest numbers
            self._ours = set(heapq.nlargest(MOST_LINKS // 2, self._ours))
        return bool(strangers)

    async def address(self) -> Address | None:
        """Return where other nodes reach this one: as told, else by its default route, if it has one."""
        return self._settings.node_address or await self._thread.run(node_routes.read_address)

    async def describe(self) -> dict[str, Any]:
        """Return what the node's heartbeat says of it."""
        address = await self.address()
        return {
            "kernel": dict(await self.kernel()),
            "address": None if address is None else str(address),
        }

    def source(self) -> Source:
        """Return what is told of the sandboxes that stand."""

        async def read() -> list[Sample]:
            found = await self._node.list_ours()
            return [NAMESPACES(len(found.namespaces)), DIRECTORIES(len(found.directories))]

        return Source("sandboxes", read)


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[SandboxService]:
    """Start the netlink thread and put the service on it; leaving waits for what the thread is doing."""
    async with NetlinkThread("sandbox") as thread:
        touched = Touched()
        with watching_namespaces() as watch, listening(settings, touched.lately) as alarm:
            yield SandboxService(settings, thread, watch, touched, alarm)
