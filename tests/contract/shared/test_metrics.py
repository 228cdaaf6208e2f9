"""What is told of NATS, the stream and Redis, read from real servers."""

import pytest
from nats.js.api import ConsumerConfig

from cnm import nats_metrics, redis_metrics
from cnm.errors import CnmError, Unavailable
from cnm.nats_bus import STREAM, NatsBus
from cnm.redis_store import OUTBOX, RedisStore, connect
from cnm.store import Changes, Claims, Document, Entry, OutgoingEvent
from cnm_controller.redis_census import RedisCensus


async def told(sources):
    found = {}
    for source in sources:
        found |= {(each.metric.name.removeprefix("cnm_"), *each.labels): each.value for each in await source.read()}
    return found


@pytest.fixture
async def bus(line):
    return NatsBus(await line())


async def test_line_is_told(bus, line):
    found = await told(nats_metrics.sources(bus))
    assert found["nats_connected",] == 1
    assert found["nats_reconnects_total",] == 0
    assert 0 < found["nats_round_trip_seconds",] < 5
    assert await nats_metrics.check(bus).find() is None


async def test_lost_and_renewed_line_is_told(own_nats, line, wait_for):
    bus = NatsBus(await line(own_nats.url))
    own_nats.kill()
    await wait_for(lambda: not bus.client.is_connected)
    found = await told(nats_metrics.sources(bus))
    assert found["nats_connected",] == 0
    assert ("nats_round_trip_seconds",) not in found
    assert await nats_metrics.check(bus).find() == "no connection"
    own_nats.start()
    await wait_for(lambda: bus.client.is_connected)
    assert (await told(nats_metrics.sources(bus)))["nats_reconnects_total",] == 1


async def test_what_a_consumer_has_not_got_yet_is_told(bus):
    source = nats_metrics.stream_source(bus, 1)
    with pytest.raises(Unavailable, match=STREAM):
        await source.read()
    await bus.ensure_stream()
    stream = bus.client.jetstream()
    for name in ("audit", "mirror"):
        await stream.add_consumer(STREAM, ConsumerConfig(durable_name=name))
    passing = await stream.subscribe("cnm.v1.event.>", ordered_consumer=True)
    for number in range(3):
        event = OutgoingEvent(id=f"e{number}", subject="cnm.v1.event.network.created.x", body="{}")
        await bus.publish_event(event)
    found = await told([source])
    assert (found["stream_messages",], found["stream_last_sequence",]) == (3, 3)
    assert found["stream_bytes",] > 0
    assert {key: value for key, value in found.items() if "consumer" in str(key)} == {
        ("consumer_pending", "audit"): 3,
        ("consumer_unacknowledged", "audit"): 0,
        ("scrape_left_out", "consumer"): 1,
    }
    await passing.unsubscribe()


async def test_redis_is_told(redis):
    found = await told(redis_metrics.sources(redis, OUTBOX))
    assert found["redis_up",] == 1
    assert 0 < found["redis_round_trip_seconds",] < 5
    assert found["redis_memory_bytes",] > 1000
    assert found["redis_clients",] >= 1
    assert found["redis_connections_accepted_total",] >= 1
    assert found["redis_last_write_ok",] == 1
    assert await redis_metrics.check(redis).find() is None


async def test_lost_redis_is_told(own_redis):
    async with connect(own_redis.url) as redis:
        await redis.ping()
        own_redis.kill()
        server, information, waiting = redis_metrics.sources(redis, OUTBOX)
        assert await told([server]) == {("redis_up",): 0}
        for source in (information, waiting):
            with pytest.raises(CnmError):
                await source.read()
        assert "cannot be reached" in await redis_metrics.check(redis).find()


async def test_waiting_events_and_their_age_are_told(redis):
    sources = redis_metrics.sources(redis, OUTBOX)[2:]
    assert await told(sources) == {("outbox_events",): 0, ("outbox_oldest_seconds",): 0}
    seconds, _ = await redis.time()
    for age_s in (90, 30):
        await redis.xadd(OUTBOX, {"id": "x"}, id=f"{(seconds - age_s) * 1000}-0")
    found = await told(sources)
    assert found["outbox_events",] == 2
    assert 90 <= found["outbox_oldest_seconds",] < 120


async def test_census_counts_all_and_looks_at_some(redis):
    store = RedisStore(redis)
    entry = Entry(id="saga", kind="x", owner="o", rounds=())
    networks = [
        Document(kind="network", id=f"n{number}", name=f"net{number}", created_ms=number, body="{}")
        for number in range(3)
    ]
    endpoints = [
        Document(
            kind="endpoint", id=f"e{number}", name=f"ep{number}", scope="n1", created_ms=number,
            indexes=("endpoint:network:n1",), body="{}",
        )
        for number in range(5)
    ]  # fmt: skip
    await store.begin(entry, Claims(), lease_ms=2000)
    await store.commit(entry, Changes(puts=(*networks, *endpoints)))
    await store.begin(Entry(id="other", kind="x", owner="o", rounds=()), Claims(), lease_ms=2000)
    found = await RedisCensus(redis).take(2)
    assert (found.networks, found.sandboxes, found.endpoints, found.sagas) == (3, 0, 5, 1)
    assert found.by_network == [("n0", "net0", 0), ("n1", "net1", 5)]
    assert (await RedisCensus(redis).take(0)).by_network == []
