"""Wires the resolver of a node."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cnm.kernel.thread import NetlinkThread
from cnm.messages.node import GetNameSlice, NameSlice
from cnm.worker import Converging, Service, Worker, reporting, run
from cnm_resolver.directory import Directory
from cnm_resolver.forward import Forwarder
from cnm_resolver.handlers import routes
from cnm_resolver.listener import Listeners
from cnm_resolver.names import Names
from cnm_resolver.namespaces import KernelNamespaces
from cnm_resolver.node_servers import node_servers
from cnm_resolver.upstream import SocketUpstream


@asynccontextmanager
async def resolver(worker: Worker) -> AsyncIterator[Service]:
    """Make the resolver's service: every sandbox is answered before the first command is."""
    async with NetlinkThread() as thread:
        namespaces = KernelNamespaces(thread)
        external = Forwarder(SocketUpstream(namespaces, secrets.token_bytes))
        names = Names(Directory(node_servers()), Listeners(namespaces, external, worker.tasks))

        async def fetch(clock: int | None) -> NameSlice:
            names.directory.set_node_servers(node_servers())
            names.asking()
            return await worker.bus.ask(GetNameSlice(node=worker.settings.node, known_clock=clock))

        async def apply(wanted: NameSlice) -> Sequence[str]:
            return await names.converge(wanted)

        converging = Converging(fetch=fetch, apply=apply)
        await converging.first()
        worker.tasks.create_task(converging.keep())
        async with reporting(worker):
            yield Service(routes=routes(names))
        names.listeners.close_all()


def main() -> None:
    """Run the worker."""
    run("cnm-resolver", resolver, description="the embedded DNS", on_node=True)


if __name__ == "__main__":
    main()
