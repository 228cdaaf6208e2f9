"""Wires the resolver of a node."""

import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from cnm import telemetry
from cnm.bus import Route
from cnm.deposit import DEPOSIT, Depositor
from cnm.kernel.thread import NetlinkThread
from cnm.messages.drift import CompareNames, Difference
from cnm.messages.node import GetNameSlice, NameSlice
from cnm.worker import Converging, Service, Worker, reporting, run
from cnm_resolver import metrics, traced
from cnm_resolver.cache import Cache
from cnm_resolver.config import log_every
from cnm_resolver.counters import Counters
from cnm_resolver.directory import Directory
from cnm_resolver.forward import Forwarder
from cnm_resolver.handlers import routes
from cnm_resolver.listener import Listeners
from cnm_resolver.memory import Memory
from cnm_resolver.names import Names
from cnm_resolver.namespaces import KernelNamespaces
from cnm_resolver.node_servers import ResolvConf
from cnm_resolver.upstream import SocketUpstream

log = structlog.get_logger()


@asynccontextmanager
async def resolver(worker: Worker) -> AsyncIterator[Service]:
    """Make the resolver's service: every sandbox is answered before the first command is."""
    async with NetlinkThread() as thread, AsyncExitStack() as stack:
        depositor = Depositor(worker.settings.run_dir / DEPOSIT, "resolver")
        stack.callback(depositor.close)
        namespaces = KernelNamespaces(thread, depositor)
        counters = Counters(log_every=log_every(os.environ), told=traced.tell if telemetry.is_recording() else None)
        cache = Cache(Forwarder(SocketUpstream(namespaces, secrets.token_bytes), counters=counters))
        names = Names(Directory(ResolvConf()), Listeners(namespaces, cache, worker.tasks, counters=counters))

        async def ask(clock: int | None) -> NameSlice:
            names.asking()
            return await worker.bus.ask(GetNameSlice(node=worker.settings.node, known_clock=clock))

        async def apply(wanted: NameSlice) -> Sequence[Difference]:
            for line in await names.converge(wanted):
                log.info("converged", change=line)
            return await names.mend(wanted)

        memory = Memory(worker.settings.run_dir / "names.json", ask)
        converging = Converging(worker, memory.fetch, apply, look=names.compare, suspect_all=names.suspect_all)
        await converging.first()
        await namespaces.forget_all_but(names.directory.sandboxes())
        worker.tasks.create_task(converging.keep())
        async with reporting(worker):
            compare = Route(command=CompareNames, handler=converging.compare)
            sources = [metrics.source(names, cache, worker.settings.metrics_objects), converging.source()]
            yield Service(routes=[*routes(names, cache), compare], sources=sources)
        await names.listeners.drain()
        names.listeners.close_all()


def main() -> None:
    """Run the worker."""
    run("cnm-resolver", resolver, description="the embedded DNS", on_node=True)


if __name__ == "__main__":
    main()
