"""The bridge driver of this node, as a worker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cnm.bus import Route
from cnm.messages.drift import CompareBridges
from cnm.messages.node import BridgeSlice, GetBridgeSlice
from cnm.worker import Converging, Service, Worker, reporting, run
from cnm_driver_bridge.config import Config
from cnm_driver_bridge.driver import open_driver


@asynccontextmanager
async def build(worker: Worker) -> AsyncIterator[Service]:
    """Wire the driver: its kernel first, then make everything stand, then answer."""
    async with open_driver(Config(firewall=worker.settings.firewall)) as driver:

        async def fetch(known_clock: int | None) -> BridgeSlice:
            driver.asking()
            return await worker.bus.ask(GetBridgeSlice(node=worker.settings.node, known_clock=known_clock))

        converging = Converging(worker, fetch, driver.converge, look=driver.compare, suspect_all=driver.suspect_all)
        driver.listen(converging.wake)
        await converging.first()
        worker.tasks.create_task(converging.keep())
        async with reporting(worker):
            compare = Route(command=CompareBridges, handler=converging.compare)
            sources = [driver.source(worker.settings.metrics_objects), converging.source()]
            yield Service(routes=[*driver.routes(), compare], sources=sources)


def main() -> None:
    """Run the worker."""
    run("cnm-driver-bridge", build, description="bridges, veths, isolation, masquerade", on_node=True)


if __name__ == "__main__":
    main()
