"""The port mapper of this node, as a worker."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog

from cnm.bus import Route
from cnm.messages.drift import ComparePorts, Difference
from cnm.messages.node import GetPortSlice, PortSlice
from cnm.worker import Converging, Service, Worker, reporting, run
from cnm_port_mapper.config import Settings
from cnm_port_mapper.service import open_port_mapper

log = structlog.get_logger()


@asynccontextmanager
async def build(worker: Worker) -> AsyncIterator[Service]:
    """Wire the port mapper: its kernel first, then make everything stand, then answer."""
    async with open_port_mapper(
        Settings(firewall=worker.settings.firewall, run_dir=worker.settings.run_dir)
    ) as mapper:

        async def fetch(known_clock: int | None) -> PortSlice:
            mapper.asking()
            return await worker.bus.ask(GetPortSlice(node=worker.settings.node, known_clock=known_clock))

        async def apply(wanted: PortSlice) -> Sequence[Difference]:
            done = await mapper.converge(wanted)
            for sandbox_id in done.published:
                log.info("ports.published", sandbox_id=sandbox_id)
            return done.differences(wanted)

        converging = Converging(worker, fetch, apply, look=mapper.compare)
        await converging.first()
        worker.tasks.create_task(converging.keep())
        with mapper.watching(converging.wake):
            async with reporting(worker):
                compare = Route(command=ComparePorts, handler=converging.compare)
                yield Service(routes=[*mapper.routes(), compare], sources=[mapper.source(), converging.source()])


def main() -> None:
    """Run the worker."""
    run("cnm-port-mapper", build, description="host ports, translation and the proxy", on_node=True)


if __name__ == "__main__":
    main()
