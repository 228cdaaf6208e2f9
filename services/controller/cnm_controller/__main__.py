"""Wires the controller."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cnm import nats_metrics, redis_metrics, redis_store
from cnm.redis_outbox import RedisOutbox
from cnm.redis_replies import RedisReplies
from cnm.relay import Relay
from cnm.worker import Service, Worker, run
from cnm_controller import bookkeeping, metrics
from cnm_controller.controller import Controller
from cnm_controller.founding import found
from cnm_controller.handlers import routes
from cnm_controller.ledger import Ledger
from cnm_controller.losses import Losses
from cnm_controller.redis_census import RedisCensus
from cnm_controller.redis_ipam_drivers import RedisIpamDrivers
from cnm_controller.redis_nodes import RedisNodes
from cnm_controller.sagas import Sagas


@asynccontextmanager
async def controller(worker: Worker) -> AsyncIterator[Service]:
    """Make the controller's service."""
    async with redis_store.connect(worker.settings.redis_url) as redis:
        store = redis_store.RedisStore(redis)
        relay = Relay(RedisOutbox(redis, redis_store.OUTBOX), worker.bus.publish_event)
        sagas = Sagas(store, worker.bus)
        parts = Controller(
            ledger=Ledger(store),
            sagas=sagas,
            bus=worker.bus,
            nodes=RedisNodes(redis),
            ipam_drivers=RedisIpamDrivers(redis),
        )
        await worker.bus.ensure_stream()
        for task in (relay.run(), sagas.keep_leases(), sagas.recover()):
            worker.tasks.create_task(task)
        await found(sagas)
        lost = Losses(store, RedisOutbox(redis, redis_store.OUTBOX), worker.bus.recall, sagas)
        for task in (bookkeeping.keep(parts), bookkeeping.keep_replaying(parts), lost.watch()):
            worker.tasks.create_task(task)
        most = worker.settings.metrics_objects
        sources = [
            *metrics.sources(parts, RedisCensus(redis), most),
            nats_metrics.stream_source(worker.bus, most),
            *redis_metrics.sources(redis, redis_store.OUTBOX),
        ]
        yield Service(
            routes=routes(parts), replies=RedisReplies(redis), sources=sources, checks=[redis_metrics.check(redis)]
        )


def main() -> None:
    """Run the worker."""
    run("cnm-controller", controller, description="networks, sandboxes and endpoints: the API")


if __name__ == "__main__":
    main()
