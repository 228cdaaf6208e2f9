"""What the client for programs promises, of a real NATS and a service that this test answers for."""

import asyncio
import json
import secrets
import shutil
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from nats.js.api import AckPolicy, ConsumerConfig
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from cnm.bus import Route
from cnm.client import connect, open_client
from cnm.errors import Conflict, Forbidden, Internal, Invalid, Timeout, Unavailable, Undelivered
from cnm.messages.network import CreateNetwork, DeleteNetwork, GetNetwork, ListNetworks, Networks
from cnm.nats_bus import NatsBus
from cnm.store import OutgoingEvent


def event(kind, name, about):
    body = {"id": secrets.token_hex(16), "time": "2026-11-27T10:00:00Z", "object": {"name": name}}
    return OutgoingEvent(id=body["id"], subject=f"cnm.v1.event.{kind}.{about}", body=json.dumps(body))


@pytest.fixture
async def controller(line):
    """Serve handlers on a bus of the service's own; gives the bus."""

    @asynccontextmanager
    async def serve(**handlers):
        kinds = {"list": ListNetworks, "get": GetNetwork, "create": CreateNetwork, "delete": DeleteNetwork}
        bus = NatsBus(await line())
        routes = [Route(command=kinds[verb], handler=handler) for verb, handler in handlers.items()]
        async with bus.serve("cnm-controller", routes, version="1.0.0"):
            yield bus

    return serve


@pytest.fixture
async def client(nats_running):
    async with connect(nats_running.url) as client:
        yield client


async def test_reply_has_the_type_that_the_command_names_and_a_bare_subject_gets_the_body(controller, client):
    async def networks(command):
        return Networks(networks=[])

    async with controller(list=networks):
        assert await client.ask(ListNetworks()) == Networks(networks=[])
        assert await client.ask("cnm.v1.network.list") == {"networks": []}
        assert await client.ask("cnm.v1.network.list", {"limit": 3}) == {"networks": []}


async def test_refusal_is_the_error_of_its_code_with_its_details(controller, client):
    async def taken(command):
        raise Conflict(f"{command.name} is taken", holder="another")

    async def in_use(command):
        raise Forbidden("in use")

    async with controller(create=taken, delete=in_use):
        with pytest.raises(Conflict, match="web is taken") as caught:
            await client.ask(CreateNetwork(name="web"))
        assert caught.value.details == {"holder": "another"}
        with pytest.raises(Forbidden, match="in use"):
            await client.ask(DeleteNetwork(network="web"))
        with pytest.raises(Invalid) as found:
            await client.ask("cnm.v1.network.create", {"name": 7, "colour": "red"})
        assert {fault["field"] for fault in found.value.details["fields"]} == {"name", "colour"}


async def test_what_nobody_answers_was_surely_not_carried_out(client):
    with pytest.raises(Undelivered, match=r"nobody answers cnm\.v1\.network\.list"):
        await client.ask(ListNetworks())


async def test_late_answer_is_a_timeout(controller, client, wait_for):
    asked = asyncio.Event()

    async def never(command):
        asked.set()
        await asyncio.Event().wait()

    async with controller(list=never):
        with pytest.raises(Timeout):
            await client.ask(ListNetworks(), deadline_s=0.2)
    assert asked.is_set()


async def test_body_that_nats_does_not_take_is_refused_at_once(small_nats):
    async with connect(small_nats.url) as client:
        with pytest.raises(Invalid, match="NATS takes 65536"):
            await client.ask("cnm.v1.network.create", {"name": "w" * 70_000})


async def test_headers_carry_the_request_id_the_deadline_and_the_callers_own_span(client):
    heard = await client.connection.subscribe("cnm.v1.network.list")
    asking = asyncio.create_task(client.ask(ListNetworks(), request_id="r1", deadline_s=2))
    bare = await heard.next_msg(timeout=5)
    await bare.respond(b'{"networks": []}')
    await asking

    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("mine") as span:
        asking = asyncio.create_task(client.ask(ListNetworks(), headers={"Cnm-Note": "n"}))
        traced = await heard.next_msg(timeout=5)
        await traced.respond(b"")
        with pytest.raises(Internal, match=r"is no reply to it: .*networks"):
            await asking
        context = span.get_span_context()

    assert bare.headers == {"Cnm-Deadline-Ms": "2000", "Cnm-Request-Id": "r1"}
    assert traced.headers["traceparent"].startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")
    assert traced.headers.keys() == {"Cnm-Deadline-Ms", "Cnm-Note", "traceparent"}
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_events_come_from_now_on_after_a_place_or_since_a_moment(controller, client):
    async with controller() as bus:
        await bus.ensure_stream()
        await bus.publish_event(event("network.created", "before", "a"))
        async with client.events("cnm.v1.event.network.>") as events:
            await bus.publish_event(event("network.created", "first", "b"))
            await bus.publish_event(event("sandbox.created", "of another noun", "c"))
            await bus.publish_event(event("network.deleted", "second", "b"))
            heard = [await anext(events), await anext(events)]
            assert [(each.kind, each.object["name"]) for each in heard] == [
                ("network.created", "first"),
                ("network.deleted", "second"),
            ]
            assert events.sequence == heard[-1].sequence == 4
        async with client.events(after=heard[0].sequence) as events:
            assert (await anext(events)).object["name"] == "of another noun"
        async with client.events(since=datetime(2020, 1, 1, tzinfo=UTC)) as events:
            assert (await anext(events)).object["name"] == "before"


async def test_events_need_a_stream(controller, client):
    async with controller():
        with pytest.raises(Unavailable, match="there is no stream CNM_EVENTS"):
            async with client.events():
                pass


async def test_connection_is_made_again_and_events_go_on_where_they_were(own_nats, line, wait_for):
    bus = NatsBus(await line(own_nats.url))
    await bus.ensure_stream()
    async with connect(own_nats.url) as client, client.events() as events:
        await bus.publish_event(event("network.created", "before", "a"))
        assert (await anext(events)).object["name"] == "before"
        own_nats.kill()
        await wait_for(lambda: client.connection.is_reconnecting)
        with pytest.raises(Undelivered, match="no connection"):
            await client.ask(ListNetworks())
        own_nats.start()
        await wait_for(lambda: client.connection.is_connected and bus.client.is_connected)
        await wait_for(lambda: publishes(bus, event("network.created", "after", "b")))
        assert (await anext(events)).object["name"] == "after"


async def test_server_that_lost_its_events_is_heard_from_its_first_on(own_nats, line, wait_for, tmp_path):
    bus = NatsBus(await line(own_nats.url))
    await bus.ensure_stream()
    async with connect(own_nats.url) as client, client.events() as events:
        for name in ("one", "two"):
            await bus.publish_event(event("network.created", name, "a"))
            assert (await anext(events)).object["name"] == name
        own_nats.kill()
        await wait_for(lambda: client.connection.is_reconnecting)
        shutil.rmtree(tmp_path / "store")
        own_nats.start()
        await wait_for(lambda: client.connection.is_connected and bus.client.is_connected)
        await wait_for(lambda: publishes(bus, event("network.created", "three", "b")))
        assert (await anext(events)).object["name"] == "three"
        assert events.sequence == 1


READERS_MAY = """publish: ["$JS.API.STREAM.INFO.CNM_EVENTS", "$JS.API.CONSUMER.CREATE.CNM_EVENTS", \
"$JS.API.CONSUMER.CREATE.CNM_EVENTS.>", "$JS.FC.>"], subscribe: ["_INBOX.>"]"""


DURABLE_MAY = """publish: ["$JS.API.CONSUMER.*.CNM_EVENTS.>", "$JS.API.CONSUMER.MSG.NEXT.CNM_EVENTS.>", \
"$JS.API.CONSUMER.DURABLE.CREATE.CNM_EVENTS.>", "$JS.ACK.CNM_EVENTS.>"], subscribe: ["_INBOX.>"]"""


async def test_events_need_no_more_rights_than_the_docs_say(own_nats, line, tmp_path, monkeypatch):
    own_nats.kill()
    with (tmp_path / "nats.conf").open("a") as config:
        config.write(
            "authorization { users = [ { user: all, password: x }, "
            f"{{ user: reader, password: x, permissions {{ {READERS_MAY} }} }}, "
            f"{{ user: durable, password: x, permissions {{ {DURABLE_MAY} }} }}, "
            '{ user: stranger, password: x, permissions { publish: ["cnm.>"], subscribe: ["_INBOX.>"] } } ] }'
        )
    own_nats.start()
    bus = NatsBus(await line(own_nats.url.replace("//", "//all:x@")))
    await bus.ensure_stream()
    async with connect(own_nats.url.replace("//", "//reader:x@")) as client:
        async with client.events() as events:
            await bus.publish_event(event("network.created", "one", "a"))
            assert (await anext(events)).object["name"] == "one"
        assert client.connection.last_error is None
    async with connect(own_nats.url.replace("//", "//durable:x@")) as client:
        stream = client.connection.jetstream()
        await stream.add_consumer("CNM_EVENTS", ConsumerConfig(durable_name="d", ack_policy=AckPolicy.EXPLICIT))
        consumer = await stream.pull_subscribe_bind("d", "CNM_EVENTS")
        (message,) = await consumer.fetch(1, timeout=5)
        await message.ack_sync(timeout=5)
        assert (await stream.consumer_info("CNM_EVENTS", "d")).num_ack_pending == 0
        await stream.delete_consumer("CNM_EVENTS", "d")
    monkeypatch.setattr("cnm.client.STREAM_TIMEOUT_S", 0.3)
    async with connect(own_nats.url.replace("//", "//stranger:x@")) as client:
        with pytest.raises(Unavailable, match=r"(?i)permissions violation .*STREAM\.INFO"):
            async with client.events():
                pass


async def publishes(bus, event):
    try:
        await bus.publish_event(event)
    except Unavailable:
        return False
    return True


async def test_line_that_stays_lost_is_told(own_nats, wait_for):
    client = await open_client(own_nats.url, reconnect=False)
    own_nats.kill()
    await wait_for(lambda: client.connection.is_closed)
    with pytest.raises(Unavailable):
        await client.ask(ListNetworks())
    await client.close()


async def test_no_server_is_told_at_once(monkeypatch):
    monkeypatch.setenv("CNM_NATS_URL", "nats://user:secret@127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"cannot reach NATS at nats://127\.0\.0\.1:9: "):
        async with connect():
            pass
