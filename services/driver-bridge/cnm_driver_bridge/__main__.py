"""The bridge driver of this node, as a worker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cnm.messages.node import BridgeSlice, GetBridgeSlice
from cnm.worker import Converging, Service, Worker, reporting, run
from cnm_driver_bridge.driver import open_driver


@asynccontextmanager
async def build(worker: Worker) -> AsyncIterator[Service]:
    """Wire the driver: its kernel first, then make everything stand, then answer."""
    async with open_driver() as driver:

        async def fetch(known_clock: int | None) -> BridgeSlice:
            driver.asking()
            return await worker.bus.ask(GetBridgeSlice(node=worker.settings.node, known_clock=known_clock))

        converging = Converging(fetch=fetch, apply=driver.converge)
        await converging.first()
        worker.tasks.create_task(converging.keep())
        async with reporting(worker):
            yield Service(routes=driver.routes())


def main() -> None:
    """Run the worker."""
    run("cnm-driver-bridge", build, description="bridges, veths, isolation, masquerade", on_node=True)


if __name__ == "__main__":
    main()
