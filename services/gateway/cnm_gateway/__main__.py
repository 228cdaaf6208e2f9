"""Wires the gateway."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from cnm.metrics import Check
from cnm.nats_spans import SpanStore
from cnm.worker import Service, Worker, run
from cnm_gateway import config
from cnm_gateway.aiohttp_server import Server, serving
from cnm_gateway.live import Live
from cnm_gateway.nats_events import NatsEvents


@asynccontextmanager
async def gateway(worker: Worker) -> AsyncIterator[Service]:
    """Make the gateway's service, which answers browsers and nobody on the bus."""
    place = config.place(os.environ)
    live = Live(bus=worker.bus, events=NatsEvents(worker.bus.client))

    async def fault() -> str | None:
        return None if live.health.live else live.health.why

    async def faults() -> Sequence[str]:
        found = await fault()
        return () if found is None else (found,)

    worker.tasks.create_task(live.follow())
    worker.tasks.create_task(live.keep_asking())
    spans = SpanStore(worker.bus.client)
    server = Server(live=live, spans=spans, bus=worker.bus, names=place.names, faults=faults)
    async with serving(server, place):
        yield Service(routes=(), checks=[Check("events", fault)])


def main() -> None:
    """Run the worker."""
    run("cnm-gateway", gateway, description="the live page")


if __name__ == "__main__":
    main()
