"""Events go from the outbox to the stream: in order, once, and none is lost."""

import asyncio
import json
import time

import pytest
from nats.js.errors import NotFoundError

from cnm.cancelling import end
from cnm.errors import Unavailable, Unsupported
from cnm.nats_bus import STREAM, NatsBus
from cnm.relay import PERIOD_S, Relay
from cnm.store import OutgoingEvent
from cnm.testing import MemoryBus, MemoryOutbox


def event(number, *, body='{"é": 1}'):
    return OutgoingEvent(id=f"id-{number}", subject=f"cnm.v1.event.network.created.{number}", body=body)


def outbox_of(count):
    outbox = MemoryOutbox()
    outbox.write([event(number) for number in range(count)])
    return outbox


async def stored(bus):
    """Return the ids in the stream, in order."""
    stream = bus.client.jetstream()
    last = (await stream.stream_info(STREAM)).state.last_seq
    messages = [await stream.get_msg(STREAM, seq=number) for number in range(1, last + 1)]
    return [message.headers["Nats-Msg-Id"] for message in messages]


@pytest.fixture
async def bus(line):
    bus = NatsBus(await line())
    await bus.ensure_stream()
    return bus


async def test_stream_is_as_the_contract_says_and_making_it_twice_is_fine(bus):
    await bus.ensure_stream()
    config = (await bus.client.jetstream().stream_info(STREAM)).config
    assert config.name == "CNM_EVENTS"
    assert config.subjects == ["cnm.v1.event.>"]
    assert config.storage == "file"
    assert config.max_age == 7 * 24 * 3600
    assert config.duplicate_window == 120


async def test_stream_answers_no_command(bus):
    with pytest.raises(NotFoundError):
        await bus.client.jetstream().find_stream_name_by_subject("cnm.v1.network.create")


async def test_events_arrive_in_order_and_leave_the_outbox(bus):
    outbox = outbox_of(150)
    await Relay(outbox, bus.publish_event).drain()
    assert await stored(bus) == [f"id-{number}" for number in range(150)]
    assert outbox.rows == []
    message = await bus.client.jetstream().get_msg(STREAM, seq=1)
    assert message.subject == "cnm.v1.event.network.created.0"
    assert json.loads(message.data) == {"é": 1}


async def test_two_relays_on_one_outbox_publish_each_event_once(bus, line):
    outbox = outbox_of(100)
    other = NatsBus(await line())
    await asyncio.gather(*(Relay(outbox, each.publish_event).drain() for each in (bus, other)))
    assert await stored(bus) == [f"id-{number}" for number in range(100)]
    assert outbox.rows == []


async def test_event_is_relayed_as_soon_as_it_is_written(side, wait_for):
    """Over both outboxes: nobody has to say that there is something."""
    bus = MemoryBus()
    running = asyncio.create_task(Relay(side.outbox, bus.publish_event).run())
    slow = 0
    for number in range(20):
        began = time.monotonic()
        await side.write(event(number))
        await wait_for(lambda count=number + 1: len(bus.events) == count)
        slow += time.monotonic() - began > PERIOD_S / 2
    assert slow < 10, "it is the timer that finds them"
    await end([running])


async def test_of_several_relays_one_publishes_and_another_goes_on_when_it_is_gone(side, wait_for):
    sent = []

    def publishing(name):
        async def publish(each):
            sent.append((name, each.id))

        return publish

    relays = {name: Relay(side.outbox, publishing(name)) for name in ("a", "b")}
    running = {name: asyncio.create_task(relay.run()) for name, relay in relays.items()}
    for number in range(10):
        await side.write(event(number))
    await wait_for(lambda: len(sent) == 10)
    assert [id_ for _, id_ in sent] == [f"id-{number}" for number in range(10)]
    (leader,) = {name for name, _ in sent}
    await end([running[leader]])
    await side.write(event(10))
    await wait_for(lambda: len(sent) == 11)
    assert sent[-1] == ({"a": "b", "b": "a"}[leader], "id-10")
    await end(running.values())


async def test_relay_that_cannot_publish_lets_another_do_it(side, wait_for):
    sent = []

    async def cannot(_each):
        raise Unavailable("NATS is away from here")

    async def can(each):
        sent.append(each.id)

    await side.write(event(1))
    running = [asyncio.create_task(Relay(side.outbox, publish).run()) for publish in (cannot, can)]
    await wait_for(lambda: sent == ["id-1"])
    await end(running)


async def test_relay_that_was_killed_is_replaced_when_its_lease_is_over(side, wait_for):
    assert await side.outbox.take("dead", lease_ms=300, limit=1) == []
    bus = MemoryBus()
    await side.write(event(1))
    running = asyncio.create_task(Relay(side.outbox, bus.publish_event).run())
    await asyncio.sleep(0)
    assert bus.events == []
    await side.later(301)
    await wait_for(lambda: len(bus.events) == 1)
    await end([running])


async def test_event_written_before_is_found(wait_for):
    outbox, bus = outbox_of(1), MemoryBus()
    running = asyncio.create_task(Relay(outbox, bus.publish_event).run())
    await wait_for(lambda: bus.events and not outbox.rows)
    await end([running])


async def test_what_was_published_before_a_failure_is_not_published_again():
    outbox, sent = outbox_of(5), []

    async def publish(each):
        if len(sent) == 3:
            raise Unavailable("away")
        sent.append(each.id)

    with pytest.raises(Unavailable):
        await Relay(outbox, publish).drain()
    assert [each.id for _, each in outbox.rows] == ["id-3", "id-4"]


async def test_event_that_is_refused_for_ever_bars_no_other():
    outbox, sent = outbox_of(3), []

    async def publish(each):
        if each.id == "id-1":
            raise Unsupported("too large")
        sent.append(each.id)

    await Relay(outbox, publish).drain()
    assert sent == ["id-0", "id-2"]
    assert outbox.rows == []


async def test_event_larger_than_the_server_takes_is_refused(small_nats, line):
    bus = NatsBus(await line(small_nats.url))
    await bus.ensure_stream()
    with pytest.raises(Unsupported, match="65536"):
        await bus.publish_event(event(1, body="x" * 100_000))


async def test_relay_survives_a_restart_of_nats(own_nats, line, wait_for):
    bus = NatsBus(await line(own_nats.url))
    await bus.ensure_stream()
    outbox = outbox_of(10)
    running = asyncio.create_task(Relay(outbox, bus.publish_event).run())
    await wait_for(lambda: not outbox.rows)
    own_nats.kill()
    await wait_for(lambda: not bus.client.is_connected)
    outbox.write([event(number) for number in range(10, 20)])
    await asyncio.sleep(0)
    own_nats.start()
    await wait_for(lambda: bus.client.is_connected)
    await wait_for(lambda: not outbox.rows)
    assert await stored(bus) == [f"id-{number}" for number in range(20)]
    await end([running])


async def test_stream_that_was_lost_is_made_again(bus):
    await bus.publish_event(event(1))
    await bus.client.jetstream().delete_stream(STREAM)
    await bus.publish_event(event(2))
    assert await stored(bus) == ["id-2"]


async def test_stream_that_cannot_be_made_is_unavailable(own_nats, line, wait_for, monkeypatch):
    monkeypatch.setattr("cnm.nats_bus.STREAM_READY_S", 0.1)
    bus = NatsBus(await line(own_nats.url))
    own_nats.kill()
    await wait_for(lambda: not bus.client.is_connected)
    with pytest.raises(Unavailable):
        await bus.ensure_stream()
    with pytest.raises(Unavailable):
        await bus.publish_event(event(1))
