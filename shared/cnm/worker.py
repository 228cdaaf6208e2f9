"""The life of a worker: connect, converge, register, be ready, drain on SIGTERM.

A service's ``__main__`` hands ``run`` its name and an async context manager that wires the service and yields its
routes. Whatever it starts in ``worker.tasks`` ends with it; a background task that dies ends the process, for the
supervisor to start it again.
"""

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import structlog
import uvloop

from cnm import logs, nats_metrics, otel_environment, settings, telemetry
from cnm.aside import aside
from cnm.bus import Route
from cnm.cancelling import end
from cnm.drift import DriftReports
from cnm.errors import CnmError, Unavailable
from cnm.messages.drift import Compare, Comparison, Difference
from cnm.messages.node import Heartbeat
from cnm.metrics import COMPARED, COMPARISON_TIMES, COMPARISONS, Check, Sample, Source
from cnm.nats_bus import NatsBus, connect
from cnm.nats_spans import SpanSender
from cnm.replies import Replies
from cnm.scrape import Scrape
from cnm.settings import WorkerSettings
from cnm.tally import Turns
from cnm.version import VERSION

HEARTBEAT_PERIOD_S = 2.0
HEARTBEAT_AGAIN_S = 0.2
TELEMETRY_STOP_S = 1.0
SPANS_PERIOD_S = 0.2
NUDGE_PERIOD_S = 0.5
"""A worker that is woken all the time converges so often."""
SETTLE_S = 0.02
"""What changes seldom changes alone: all within so long is one turn's."""
FIRST_TRY_S = 0.1

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What a service is given: who it is, how it reaches others, and where its background tasks live."""

    name: str
    settings: WorkerSettings
    bus: NatsBus
    tasks: asyncio.TaskGroup


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a service yields: its routes, and where its kept replies are, if its verbs are a client's.

    ``sources`` are read by whoever looks at its metrics; ``checks`` say whether it has what it needs.
    """

    routes: Sequence[Route]
    replies: Replies | None = None
    sources: Sequence[Source] = ()
    checks: Sequence[Check] = ()


Build = Callable[[Worker], AbstractAsyncContextManager[Service]]


def run(name: str, build: Build, *, description: str = "", on_node: bool = False) -> None:
    """Run a worker until SIGTERM or SIGINT; ``on_node`` workers answer for their node alone."""
    logs.configure(name)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        uvloop.run(_live(name, build, description=description, on_node=on_node))
    except CnmError as refusal:
        log.error("worker.failed", worker=name, error=refusal.message)  # noqa: TRY400  # the sentence says it all
        sys.exit(1)
    except BaseExceptionGroup as group:
        refusals, others = group.split(CnmError)
        if others is not None:
            raise others from None
        log.error("worker.failed", worker=name, error=str(refusals and refusals.exceptions[0]))  # noqa: TRY400  # the sentence says it all
        sys.exit(1)


async def _live(name: str, build: Build, *, description: str, on_node: bool) -> None:
    own = settings.from_environment()
    scrape = Scrape(worker=name, node=own.node)
    async with _shown(scrape, own):
        await _work(name, build, own, scrape, description=description, on_node=on_node)


@asynccontextmanager
async def _shown(scrape: Scrape, own: WorkerSettings) -> AsyncIterator[None]:
    """Serve metrics and health as long as the body runs, where the settings say so."""
    if own.metrics_address is None:
        yield
        return
    from cnm.prometheus import serving  # noqa: PLC0415  # a fifth of a second, for those who want it

    async with serving(scrape, *own.metrics_address):
        yield


async def _work(
    name: str, build: Build, own: WorkerSettings, scrape: Scrape, *, description: str, on_node: bool
) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    client = await _until(stopping, connect(own.nats_url, name=name))
    if client is None:
        return
    bus = NatsBus(client)
    scrape.sources += nats_metrics.sources(bus)
    scrape.checks.append(nats_metrics.check(bus))
    node = own.node if on_node else None
    spans = SpanSender(client, name)
    recording = telemetry.setup(name, node=node, keep=spans.take)
    try:
        async with asyncio.TaskGroup() as tasks:
            worker = Worker(name=name, settings=own, bus=bus, tasks=tasks)
            if recording:
                tasks.create_task(_tell_spans(spans))
            if exporters := otel_environment.metric_exporters():
                tasks.create_task(_send_metrics(scrape, exporters, node))
            up = asyncio.Event()
            main = tasks.create_task(_serve(worker, build, scrape, description, node, stopping, up))
            tasks.create_task(_give_up(main, stopping, up))
            with contextlib.suppress(asyncio.CancelledError):
                await main
            await end(tasks._tasks)
    finally:
        await _end_telemetry()
        with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):  # nats-py cancels itself
            await client.close()


async def _tell_spans(spans: SpanSender) -> None:
    try:
        while True:
            await asyncio.sleep(SPANS_PERIOD_S)
            telemetry.flush()
            await spans.send()
    finally:
        telemetry.flush()
        await spans.send()


async def _send_metrics(scrape: Scrape, exporters: Sequence[str], node: str | None) -> None:
    from cnm.otel_metrics import OtelMetrics  # noqa: PLC0415  # a quarter of a second, for those who want it

    await OtelMetrics(scrape, exporters, node=node).run(otel_environment.export_interval_s())


async def _end_telemetry() -> None:
    """Let exporters send what they have, but not for longer than a stop may take."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TELEMETRY_STOP_S):
            await aside(telemetry.shutdown)


async def _give_up(main: asyncio.Task[None], stopping: asyncio.Event, up: asyncio.Event) -> None:
    """End a worker that is told to stop before it is up: it may be waiting for somebody who never comes."""
    await stopping.wait()
    if not up.is_set():
        main.cancel()


async def _serve(
    worker: Worker,
    build: Build,
    scrape: Scrape,
    description: str,
    node: str | None,
    stopping: asyncio.Event,
    up: asyncio.Event,
) -> None:
    async with build(worker) as service:
        up.set()
        scrape.sources += service.sources
        scrape.checks += service.checks
        serving = worker.bus.serve(
            worker.name, service.routes, version=VERSION, description=description, node=node, replies=service.replies
        )
        async with serving:
            log.info("worker.ready", worker=worker.name, node=worker.settings.node)
            scrape.serving = True
            await stopping.wait()
            scrape.serving = False
            log.info("worker.draining", worker=worker.name)


async def _until(stopping: asyncio.Event, work: Awaitable[Any]) -> Any:
    """Wait for work, or for the signal to stop (then None)."""
    task = asyncio.ensure_future(work)
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((task, stop), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for each in (task, stop):
            if not each.done():
                each.cancel()


@asynccontextmanager
async def reporting(
    worker: Worker, describe: Callable[[], Awaitable[dict[str, Any]]] | None = None
) -> AsyncIterator[None]:
    """Tell the controller that this worker is there as long as the body runs, and that it left afterwards.

    ``describe`` adds what else the heartbeat says.
    """
    described: dict[str, Any] = {}

    async def beat(*, leaving: bool) -> bool:
        nonlocal described
        if describe is not None and not leaving:
            try:
                described = await describe()
            except OSError as error:  # such as a dump that was disturbed: what was known is still true enough
                log.warning("heartbeat.undescribed", error=str(error))
        heartbeat = Heartbeat(
            node=worker.settings.node,
            worker=worker.name,
            version=VERSION,
            pid=os.getpid(),
            run_dir=str(worker.settings.run_dir),
            leaving=leaving,
            **({} if leaving else described),
        )
        try:
            await worker.bus.ask(heartbeat)
        except CnmError as error:
            log.debug("heartbeat.lost", error=str(error))
            return False
        return True

    async def keep_beating(*, heard: bool) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_PERIOD_S if heard else HEARTBEAT_AGAIN_S)
            heard = await beat(leaving=False)

    heard = await beat(leaving=False)  # a worker that answers is one that the controller knows
    task = worker.tasks.create_task(keep_beating(heard=heard))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await beat(leaving=True)


@dataclass
class Converging:
    """Makes what should be there stand: at once, then when woken, by a slow timer, or when asked to compare.

    ``fetch`` asks for the slice, given the clock of the last one, and ``apply`` makes it stand and returns what it
    mended. A slice that is unchanged is applied again, for it is the kernel that may have changed. What differed is
    told to the controller, which publishes it.
    """

    worker: Worker
    fetch: Callable[[int | None], Awaitable[Any]]
    apply: Callable[[Any], Awaitable[Sequence[Difference]]]
    look: Callable[[Any], Awaitable[Sequence[Difference]]] | None = None
    """Compares everything, and changes nothing."""
    suspect_all: Callable[[], None] = lambda: None
    """Has everything compared in the next turn."""
    _last: Any = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _mending: bool = False
    _heard: bool = False
    _turns: Turns = field(default_factory=Turns)

    def __post_init__(self) -> None:
        self._reports = DriftReports(self.worker.bus.ask, node=self.worker.settings.node, worker=self.worker.name)

    def source(self) -> Source:
        """Return what there is to tell of the comparisons."""
        return Source("comparisons", self._samples)

    async def _samples(self) -> list[Sample]:
        turns = self._turns
        return [
            *COMPARISONS.each(turns.ended),
            *COMPARISON_TIMES.each_of(turns.times),
            COMPARED(turns.last),
            *self._reports.samples(),
        ]

    async def once(self) -> Sequence[Difference]:
        """Fetch and apply one time; return what was mended, or could not be."""
        with self._turns.turn():
            async with self._turn:
                await self._refresh()
                self._mending, self._heard = True, False
                try:
                    found = self._placed(await self.apply(self._last))
                finally:
                    self._mending = False
        # What was heard while something was mended is that; a repair has another turn follow in any case.
        if self._heard and not found:
            self._woken.set()
        for each in found:
            log.info("converged", change=str(each))
        self._reports.note(found)
        if any(each.repaired for each in found):
            await self.worker.bus.nudge(self.worker.settings.node)
        return found

    async def _refresh(self) -> None:
        clock = None if self._last is None else self._last.clock
        found = await self.fetch(clock)
        if not found.unchanged:
            self._last = found

    def _placed(self, found: Sequence[Difference]) -> list[Difference]:
        node = self.worker.settings.node
        return [
            msgspec.structs.replace(each, worker=self.worker.name, node=node, id=each.id or node) for each in found
        ]

    async def compare(self, command: Compare) -> Comparison:
        """Answer what differs now, after mending it when the command says so.

        Raises:
            Unavailable: the controller cannot be asked, or the kernel does not tell.
        """
        assert self.look is not None
        try:
            if command.repair:
                self.suspect_all()
                found = await self.once()
                await self._reports.tell()
                return Comparison(differences=list(found))
            async with self._turn:
                await self._refresh()
                return Comparison(differences=self._placed(await self.look(self._last)))
        except OSError as error:  # such as a dump that was disturbed
            raise Unavailable(f"{self.worker.name} cannot compare: {error}") from error

    async def first(self) -> None:
        """Converge for the first time, however long the controller takes to come up."""
        while True:
            try:
                await self.once()
            except (CnmError, OSError) as error:  # the kernel's refusals are OSErrors
                log.info("converge.waiting", error=str(error))
                await asyncio.sleep(FIRST_TRY_S)
            else:
                return

    def wake(self) -> None:
        """Converge soon: something tells that what stands has changed."""
        if self._mending:
            self._heard = True
        else:
            self._woken.set()

    async def keep(self) -> None:
        """Converge when woken, when a worker of the node mended what this one's may lean on, and by the timer."""
        await self.worker.bus.on_nudge(self.worker.settings.node, self._woken.set)
        loop = asyncio.get_running_loop()
        turned = loop.time()
        while True:
            await self._reports.tell()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.worker.settings.converge_period_s):
                    await self._woken.wait()
                    await asyncio.sleep(max(SETTLE_S, turned + NUDGE_PERIOD_S - loop.time()))
            self._woken.clear()
            turned = loop.time()
            try:
                await self.once()
            except (CnmError, OSError) as error:  # such as a dump that was disturbed: the next turn mends it
                log.warning("converge.failed", error=str(error))
