"""Wires IPAM."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cnm import redis_metrics, redis_store
from cnm.redis_outbox import RedisOutbox
from cnm.redis_replies import RedisReplies
from cnm.relay import Relay
from cnm.worker import Service, Worker, run
from cnm_ipam import config, metrics
from cnm_ipam.redis_script import OUTBOX
from cnm_ipam.wiring import service


@asynccontextmanager
async def ipam(worker: Worker) -> AsyncIterator[Service]:
    """Make the service."""
    url = worker.settings.redis_url
    settings = config.from_environment(os.environ, machine_id=config.read_machine_id(), node=worker.settings.node)
    async with redis_store.connect(url) as redis, service(url, settings) as (routes, pools):
        await worker.bus.ensure_stream()
        relay = Relay(RedisOutbox(redis, OUTBOX), worker.bus.publish_event)
        worker.tasks.create_task(relay.run())
        sources = [
            metrics.source(pools, worker.settings.metrics_objects),
            *redis_metrics.sources(redis, OUTBOX),
        ]
        checks = [redis_metrics.check(redis)]
        yield Service(routes=routes, replies=RedisReplies(redis), sources=sources, checks=checks)


def main() -> None:
    """Run the worker."""
    run("cnm-ipam", ipam, description="address spaces, pools and addresses")


if __name__ == "__main__":
    main()
