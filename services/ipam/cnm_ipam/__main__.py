"""Wires IPAM."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cnm import redis_store
from cnm.redis_replies import RedisReplies
from cnm.relay import Relay
from cnm.worker import Service, Worker, run
from cnm_ipam import config
from cnm_ipam.redis_pools import OUTBOX
from cnm_ipam.wiring import service


@asynccontextmanager
async def ipam(worker: Worker) -> AsyncIterator[Service]:
    """Make the service."""
    own = worker.settings
    async with redis_store.connect(own.redis_url) as redis, service(own.redis_url, config.from_environment(os.environ)) as routes:
        await worker.bus.ensure_stream()
        relay = Relay(redis_store.RedisOutbox(redis, OUTBOX), worker.bus.publish_event)
        worker.tasks.create_task(relay.run())
        yield Service(routes=routes, replies=RedisReplies(redis))


def main() -> None:
    """Run the worker."""
    run("cnm-ipam", ipam, description="address spaces, pools and addresses")


if __name__ == "__main__":
    main()
