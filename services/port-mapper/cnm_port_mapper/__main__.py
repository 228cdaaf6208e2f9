"""The port mapper of this node, as a worker."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cnm.messages.node import GetPortSlice, PortSlice
from cnm.worker import Converging, Service, Worker, reporting, run
from cnm_port_mapper.service import open_port_mapper


@asynccontextmanager
async def build(worker: Worker) -> AsyncIterator[Service]:
    """Wire the port mapper: its kernel first, then make everything stand, then answer."""
    async with open_port_mapper() as mapper:

        async def fetch(known_clock: int | None) -> PortSlice:
            mapper.asking()
            return await worker.bus.ask(GetPortSlice(node=worker.settings.node, known_clock=known_clock))

        async def apply(wanted: PortSlice) -> Sequence[str]:
            return (await mapper.converge(wanted)).lines()

        converging = Converging(fetch=fetch, apply=apply)
        await converging.first()
        worker.tasks.create_task(converging.keep())
        async with reporting(worker):
            yield Service(routes=mapper.routes())


def main() -> None:
    """Run the worker."""
    run("cnm-port-mapper", build, description="host ports, translation and the proxy", on_node=True)


if __name__ == "__main__":
    main()
