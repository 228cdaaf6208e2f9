"""The store of recent spans on a real NATS server: bounded, looked through from its end, lost with its server."""

import contextlib

import pytest
from nats.js.errors import NotFoundError

from cnm import nats_spans
from cnm.errors import Unavailable
from cnm.nats_spans import STREAM, SpanSender, SpanStore
from cnm.spans import SpanRecord


def span(trace, name, begin, *, parent=None, service="cnm-controller", kind="server"):
    return SpanRecord(
        trace_id=f"{trace:032x}",
        span_id=f"{begin:016x}",
        parent_id=parent,
        service=service,
        name=name,
        kind=kind,
        start_ns=begin,
        end_ns=begin + 1,
    )


@pytest.fixture
async def client(line):
    connected = await line()
    with contextlib.suppress(NotFoundError):
        await connected.jetstream().delete_stream(STREAM)
    return connected


@pytest.fixture
def keep(client, wait_for):
    """Send spans the way that a worker does, one message each, and wait until the store has them."""

    async def send(*spans, before=0):
        sender = SpanSender(client, "cnm-test")
        for each in spans:
            sender.take([each])
            await sender.send()

        async def kept():
            return (await client.jetstream().stream_info(STREAM)).state.last_seq == before + len(spans)

        await wait_for(kept)

    return send


async def test_a_trace_is_found_by_its_id_and_by_how_it_begins(client, keep):
    first, second = span(0xA << 124 | 1, "process cnm.v1.x.y", 5), span(0xA << 124 | 1, "EVALSHA find", 6)
    other = span(0xB << 124, "process cnm.v1.x.y", 7)
    await keep(second, first, other)
    store = SpanStore(client)
    assert await store.trace(first.trace_id) == [first, second]
    assert await store.trace("a00") == [first, second]
    assert await store.trace("c") == []


async def test_of_traces_that_begin_alike_the_newest_is_shown(client, keep):
    old, new = span(0xA1 << 120, "process cnm.v1.x.y", 5), span(0xA2 << 120, "process cnm.v1.x.y", 6)
    await keep(old, new)
    assert await SpanStore(client).trace("a") == [new]


async def test_last_requests_of_a_verb_come_newest_first_with_all_their_spans(client, keep):
    spans = []
    for number in range(1, 6):
        begin = number * 100
        spans.append(span(number, "process cnm.v1.on.bridge.plug", begin + 1, service="cnm-driver-bridge"))
        spans.append(span(number, f"process cnm.v1.sandbox.{'connect' if number % 2 else 'delete'}", begin))
    await keep(*spans)
    store = SpanStore(client)
    found = await store.last(["sandbox.connect"], limit=2)
    assert [[each.start_ns for each in trace] for trace in found] == [[500, 501], [300, 301]]
    assert [trace[0].start_ns for trace in await store.last([], limit=9)] == [500, 400, 300, 200, 100]
    assert await store.last(["network.create"], limit=2) == []


async def test_what_a_client_sent_or_a_worker_asked_is_no_request_of_its_own(client, keep):
    await keep(
        span(1, "send cnm.v1.sandbox.connect", 1, kind="client"),
        span(2, "process cnm.v1.on.bridge.plug", 2),
        span(3, "rtnetlink", 3, kind="client"),
    )
    assert await SpanStore(client).last([], limit=9) == []


async def test_long_store_is_read_from_its_end_in_parts(client, keep, monkeypatch):
    monkeypatch.setattr(nats_spans, "WINDOW", 4)
    store = SpanStore(client)
    read = []
    whole = store._read

    async def counting(first, last):
        read.append((first, last))
        return await whole(first, last)

    monkeypatch.setattr(store, "_read", counting)
    await keep(*(span(number, "process cnm.v1.sandbox.connect", number) for number in range(1, 31)))
    assert [trace[0].start_ns for trace in await store.last(["sandbox.connect"], limit=2)] == [30, 29]
    assert read == [(27, 30), (23, 26)]
    assert len(await store.trace(f"{1:032x}")) == 1


async def test_store_is_bounded_and_drops_its_oldest(client, keep, monkeypatch):
    monkeypatch.setattr(nats_spans, "STORED_BYTES", 8192)
    await keep(*(span(number, "process cnm.v1.sandbox.connect", number) for number in range(1, 101)))
    state = (await client.jetstream().stream_info(STREAM)).state
    assert state.bytes <= 8192
    assert await SpanStore(client).trace(f"{1:032x}") == []
    assert len(await SpanStore(client).trace(f"{100:032x}")) == 1


async def test_nothing_is_found_where_nothing_was_kept(client):
    assert await SpanStore(client).trace("1") == []
    assert await SpanStore(client).last([], limit=1) == []


async def test_more_than_a_message_takes_goes_in_several(client, wait_for):
    sender = SpanSender(client, "cnm-test")
    sender.take([span(7, "EVALSHA find", number) for number in range(1, 500)])
    await sender.send()

    async def kept():
        return (await client.jetstream().stream_info(STREAM)).state.messages == 4

    await wait_for(kept)
    assert len(await SpanStore(client).trace(f"{7:032x}")) == 499


async def test_store_is_made_again_when_its_server_lost_it(line, own_nats, wait_for):
    client = await line(own_nats.url)
    sender = SpanSender(client, "cnm-test")
    sender.take([span(1, "process cnm.v1.x.y", 1)])
    await sender.send()
    own_nats.kill()
    await wait_for(lambda: not client.is_connected)
    sender.take([span(2, "process cnm.v1.x.y", 2)])
    await sender.send()  # waits for the server without a word
    own_nats.start()
    await wait_for(lambda: client.is_connected)

    async def kept():
        await sender.send()
        with contextlib.suppress(Unavailable):
            return await SpanStore(client).trace(f"{2:032x}")

    assert len(await wait_for(kept)) == 1


async def test_what_is_too_much_for_a_message_of_this_server_goes_in_several(line, small_nats, wait_for):
    client = await line(small_nats.url)
    sender = SpanSender(client, "cnm-test")
    large = span(7, "x" * 70_000, 999)
    sender.take([*(span(7, "y" * 1000, number) for number in range(1, 100)), large])
    await sender.send()

    async def kept():
        return len(await SpanStore(client).trace(f"{7:032x}")) == 99

    await wait_for(kept)


async def test_what_strangers_send_there_hides_no_span(client, keep):
    await SpanStore(client).ensure()
    await client.publish("cnm.v1.telemetry.spans.stranger", b'{"trace_id":"00')
    await keep(span(7, "process cnm.v1.sandbox.connect", 1), before=1)
    assert len(await SpanStore(client).last(["sandbox.connect"], limit=3)) == 1
    assert len(await SpanStore(client).trace("0" * 8)) == 1
