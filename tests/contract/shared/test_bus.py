"""The bus on a real NATS server, as a stranger's client sees it; sections 1 and 12 of the public contract."""

import asyncio
import json
import re
import time
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import msgspec
import pytest
from nats.errors import NoRespondersError

from cnm import errors
from cnm.bus import Call, Route, current_call, set_current_call
from cnm.errors import (
    Conflict,
    Exhausted,
    Forbidden,
    Internal,
    Invalid,
    NotFound,
    Timeout,
    Unavailable,
    Undelivered,
    Unsupported,
)
from cnm.messages.message import Command
from cnm.nats_bus import NatsBus, _settled, connect
from cnm.store import OutgoingEvent
from cnm.testing import MemoryReplies

CODES = {
    "invalid": "400",
    "forbidden": "403",
    "not_found": "404",
    "conflict": "409",
    "exhausted": "507",
    "unavailable": "503",
    "unsupported": "501",
    "timeout": "504",
    "internal": "500",
}
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Echoed(msgspec.Struct, frozen=True, kw_only=True):
    """What came."""

    text: str
    times: int = 1


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part."""

    size: int = 0


class Echo(Command[Echoed], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say it again."""

    subject: ClassVar[str] = "cnm.v1.echo.say"

    text: str = ""
    count: int = 0
    parts: list[Part] = []


class EchoThere(Command[Echoed], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say it again on a node."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.echo.say"

    text: str = ""


async def echo(command):
    return Echoed(text=command.text)


@pytest.fixture
async def client(line):
    return await line()


@pytest.fixture
def served(line):
    """Serve a handler over a connection of its own."""

    @asynccontextmanager
    async def serve(handler=echo, *, replies=None, url=None, command=Echo, node=None, limit=256, **route):
        bus = NatsBus(await line(url))
        routes = [Route(command=command, handler=handler, **route)]
        async with bus.serve("cnm-echo", routes, version="1.2.3", node=node, replies=replies, limit=limit):
            yield bus

    return serve


async def ask(client, body: Any = b"", *, timeout=5, subject=Echo.subject, **headers):
    """Ask as a stranger would; names of headers are written with _ for -."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.request(subject, data, timeout=timeout, headers=given or None)


def refusal(reply):
    """Return the error of a refused reply, after comparing its headers and its body."""
    error = json.loads(reply.data)["error"]
    assert set(error) == {"code", "message", "details"}
    assert reply.headers["Nats-Service-Error-Code"] == CODES[error["code"]]
    assert reply.headers["Nats-Service-Error"]
    assert "\n" not in reply.headers["Nats-Service-Error"]
    return error


def faults(reply):
    error = refusal(reply)
    assert error["code"] == "invalid"
    for each in error["details"]["fields"]:
        assert set(each) == {"field", "value", "reason"}
    return [each["field"] for each in error["details"]["fields"]]


async def test_last_events_are_recalled_in_order(line):
    bus = NatsBus(await line())
    assert await bus.recall(10) == []
    await bus.ensure_stream()
    assert await bus.recall(10) == []
    for number in range(5):
        await bus.publish_event(OutgoingEvent(id=f"{number}", subject=f"cnm.v1.event.x.made.{number}", body="{}"))
    recalled = await bus.recall(3)
    assert [(each.sequence, each.subject[-1], each.body) for each in recalled] == [
        (3, "2", b"{}"),
        (4, "3", b"{}"),
        (5, "4", b"{}"),
    ]
    assert len(await bus.recall(10)) == 5


async def test_request_is_answered_without_error_headers(served, client):
    async with served():
        reply = await ask(client, {"text": "é"})
        assert json.loads(reply.data) == {"text": "é", "times": 1}
        assert not reply.headers or "Nats-Service-Error-Code" not in reply.headers


async def test_bus_asks_and_reads_the_reply(served, client):
    async with served():
        assert await NatsBus(client).ask(Echo(text="hello")) == Echoed(text="hello")


async def test_commands_for_a_node_go_to_that_node_alone(served, client):
    async with served(command=EchoThere, node="one.example"):
        bus = NatsBus(client)
        assert (await bus.ask(EchoThere(text="x"), node="one.example")).text == "x"
        with pytest.raises(NoRespondersError):
            await ask(client, {}, subject=EchoThere(text="x").subject_on("two"))


@pytest.mark.parametrize(
    "error",
    [
        Invalid.at("a.b", 3, "wrong"),
        Forbidden("no"),
        NotFound("network 'x'", key="x"),
        Conflict("taken", holder="y"),
        Exhausted("none left"),
        Unavailable("away"),
        Undelivered("away"),
        Unsupported("no ipvs"),
        Timeout("late"),
        Internal("bug"),
    ],
)
async def test_every_code_has_its_header_and_comes_back_as_its_error(served, client, error):
    async def refuse(command):
        raise error

    async with served(refuse):
        told = refusal(await ask(client))
        assert (told["code"], told["message"], told["details"]) == (error.code, error.message, error.details)
        expected = Unavailable if isinstance(error, Undelivered) else type(error)
        with pytest.raises(expected) as raised:
            await NatsBus(client).ask(Echo())
        assert type(raised.value) is expected
        assert (raised.value.message, raised.value.details) == (error.message, error.details)


def test_every_error_has_its_code():
    assert {code: str(kind.status) for code, kind in errors.BY_CODE.items()} == CODES


async def test_error_of_several_lines_and_alphabets_fits_a_header(served, client):
    async def refuse(command):
        raise Conflict("first\r\nNats-Service-Error-Code: 200\n" + "é" * 3000)

    async with served(refuse):
        reply = await ask(client)
        assert refusal(reply)["message"].startswith("first\r\n")
        assert len(reply.headers["Nats-Service-Error"]) <= 1000


async def test_empty_body_is_an_empty_object(served, client):
    async with served():
        assert json.loads((await ask(client, b"")).data)["text"] == ""


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"3",
        b"null",
        b'"text"',
        b"{",
        b"nonsense",
        b" ",
        b"\xff\xfe",
        b'{"text": "\xff"}',
        b'{"count": "x", "text": "\xff"}',
        b'{"count": "x", ',
        b'{"count": 1e999}',
        b'{"text": "\\ud800"}',
        b"[" * 200_000,
        b'{"text":' + b"[" * 200_000,
        b'{"text":' * 100_000,
        b'{"text": "' + b"x" * (1024 * 1024) + b'"}',
    ],
    ids=range(17),
)
async def test_what_is_no_json_object_is_invalid(served, client, body):
    async with served():
        assert faults(await ask(client, body)) != []


async def test_body_of_one_mebibyte_is_taken_and_one_byte_more_is_not(served, client):
    frame = len(b'{"text":""}')
    async with served():
        fits = b'{"text":"' + b"x" * (1024 * 1024 - frame) + b'"}'
        assert json.loads((await ask(client, fits)).data)["times"] == 1
        assert "1048576" in refusal(await ask(client, fits[:-2] + b'x"}'))["message"]


async def test_every_fault_is_listed(served, client):
    body = {"text": 3, "count": "x", "parts": [{"size": 1}, {"size": "x", "color": 1}, 3], "colour": "red"}
    async with served():
        found = faults(await ask(client, body))
    assert sorted(found) == ["colour", "count", "parts[1].color", "parts[1].size", "parts[2]", "text"]


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "soon", "", "1e3", "٣", "9" * 13])
async def test_malformed_deadline_is_invalid(served, client, text):
    async with served():
        assert faults(await ask(client, Cnm_Deadline_Ms=text)) == ["Cnm-Deadline-Ms"]


async def test_header_names_count_in_any_case(served, client):
    async with served():
        assert faults(await ask(client, cnm_deadline_ms="soon")) == ["Cnm-Deadline-Ms"]


async def test_passed_deadline_is_timeout_after_the_handler_cleaned_up(served, client):
    undone = []

    async def hang(command):
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            undone.append(command.text)

    async with served(hang):
        error = refusal(await ask(client, {"text": "x"}, Cnm_Deadline_Ms="50"))
        assert error["code"] == "timeout"
        assert undone == ["x"]


async def test_passed_deadline_names_what_was_waited_for(served, client):
    async def hang(command):
        await asyncio.Event().wait()

    async def pass_on(command):
        return await bus.ask(Echo())

    async with served(hang), served(pass_on, command=EchoThere, node="n") as bus:
        error = refusal(await ask(client, subject="cnm.v1.on.n.echo.say", Cnm_Deadline_Ms="200"))
    assert error["code"] == "timeout"
    assert Echo.subject in error["message"]


async def test_passed_deadline_is_told_though_the_replies_are_not_to_be_had(served, client):
    silent = asyncio.Event()

    class Silent(MemoryReplies):
        async def claim(self, *args, **more):
            if args[0].endswith("r2"):
                await silent.wait()
            return await super().claim(*args, **more)

        async def drop(self, *args, **more):
            await silent.wait()

    async def hang(command):
        await asyncio.Event().wait()

    async with served(hang, replies=Silent(), once=True):
        for number in "r1", "r2":
            error = refusal(await ask(client, Cnm_Request_Id=number, Cnm_Deadline_Ms="50"))
            assert error["code"] == "timeout"
        silent.set()


async def test_what_was_done_in_time_is_told_so_though_its_reply_takes_too_long_to_keep(served, client):
    kept = asyncio.Event()

    class Slow(MemoryReplies):
        async def keep(self, *args, **more):
            await kept.wait()

    async def work(command):
        return Echoed(text="done")

    async with served(work, replies=Slow(), once=True):
        reply = await ask(client, Cnm_Request_Id="r1", Cnm_Deadline_Ms="200")
        kept.set()
    assert json.loads(reply.data)["text"] == "done"


async def test_request_whose_turn_comes_after_its_deadline_is_never_begun(served, client, wait_for):
    begun, go = [], asyncio.Event()

    async def wait(command):
        begun.append(command.text)
        await go.wait()
        return Echoed(text="")

    async with served(wait, limit=1):
        first = asyncio.create_task(ask(client, {"text": "first"}))
        await wait_for(lambda: begun)
        late = await ask(client, {"text": "late"}, Cnm_Deadline_Ms="50")
        assert refusal(late)["code"] == "timeout"
        go.set()
        await first
    assert begun == ["first"]


async def test_deadline_reaches_the_handler_and_what_it_asks(served, client):
    seen = []

    async def look(command):
        seen.append(current_call().left_s())
        return Echoed(text="")

    async with served(look):
        await ask(client, Cnm_Deadline_Ms="2000")
        await ask(client)
        set_current_call(Call(request_id="r", trace_id=TRACE, deadline=time.monotonic() + 3))
        await NatsBus(client).ask(Echo())
        set_current_call(None)
    assert [round(each, 1) for each in seen] == [1.8, 9.5, 2.7]


@pytest.mark.parametrize("text", ["", "soon", "-1", "²", "٣", "9" * 5000])
async def test_malformed_moment_of_a_deadline_counts_as_none(served, client, text):
    async with served():
        assert "text" in json.loads((await ask(client, Cnm_Deadline_At=text)).data)


@pytest.mark.parametrize(("late_ms", "code"), [(1500, "timeout"), (-2000, None), (120_000, None)])
async def test_command_that_was_held_up_until_its_sender_gave_up_is_never_begun(served, client, late_ms, code):
    """A clock that is minutes ahead is no delay."""
    begun = []

    async def note(command):
        begun.append(command)
        return Echoed(text="")

    async with served(note):
        reply = await ask(client, Cnm_Deadline_At=str(int(time.time() * 1000) - late_ms))
    assert len(begun) == (code is None)
    if code is not None:
        assert refusal(reply)["code"] == code
        assert "after its deadline" in refusal(reply)["message"]


async def test_commands_tell_until_when_they_may_be_begun(served, line):
    subscription = await (await line()).subscribe(Echo.subject)
    await subscription._conn.flush()
    bus = NatsBus(await line())
    set_current_call(Call(request_id="r", trace_id=TRACE, deadline=time.monotonic() + 0.5))
    with pytest.raises(Timeout):
        await bus.ask(Echo())
    message = await subscription.next_msg()
    assert abs(int(message.headers["Cnm-Deadline-At"]) / 1000 - time.time()) < 60


class Counting:
    """A handler that counts how often it runs."""

    def __init__(self, error=None):
        self.times = 0
        self.error = error
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, command):
        self.times += 1
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return Echoed(text=command.text, times=self.times)


@pytest.fixture(params=["fake", "real"])
def kept(request):
    if request.param == "fake":
        return MemoryReplies()
    from cnm.redis_replies import RedisReplies

    return RedisReplies(request.getfixturevalue("redis"))


async def test_repeated_request_gets_the_first_reply_and_nothing_runs_twice(served, client, kept):
    handler = Counting()
    async with served(handler, replies=kept, once=True):
        replies = [(await ask(client, {"text": "x"}, Cnm_Request_Id="r1")).data for _ in range(3)]
        assert handler.times == 1
        assert len(set(replies)) == 1
        await ask(client, {"text": "x"}, Cnm_Request_Id="r2")
        await ask(client, {"text": "x"})
        await ask(client, {"text": "x"})
    assert handler.times == 4


async def test_requests_of_one_id_side_by_side_run_once(served, client, kept):
    handler = Counting()
    handler.go.clear()
    async with served(handler, replies=kept, once=True), served(handler, replies=kept, once=True):
        asked = [asyncio.create_task(ask(client, {"text": "x"}, Cnm_Request_Id="r1")) for _ in range(10)]
        await asyncio.wait(asked, timeout=0.1)
        handler.go.set()
        replies = {reply.data for reply in await asyncio.gather(*asked)}
    assert handler.times == 1
    assert len(replies) == 1


async def test_same_id_with_another_body_is_a_conflict(served, client, kept):
    async with served(replies=kept, once=True):
        await ask(client, {"text": "x"}, Cnm_Request_Id="r1")
        assert refusal(await ask(client, {"text": "y"}, Cnm_Request_Id="r1"))["code"] == "conflict"


async def test_same_id_on_another_subject_is_another_request(served, client, kept):
    here, there = Counting(), Counting()
    async with (
        served(here, replies=kept, once=True),
        served(there, replies=kept, once=True, command=EchoThere, node="n"),
    ):
        await ask(client, {"text": "x"}, Cnm_Request_Id="r1")
        await ask(client, {"text": "x"}, Cnm_Request_Id="r1", subject="cnm.v1.on.n.echo.say")
    assert (here.times, there.times) == (1, 1)


@pytest.mark.parametrize(
    ("error", "times"),
    [
        (Conflict("taken"), 1),
        (NotFound("gone"), 1),
        (ValueError("bug"), 1),
        (Unavailable("away"), 2),
        (Timeout("late"), 2),
        (Undelivered("away"), 2),
    ],
)
async def test_refusals_are_replayed_except_unavailable_and_timeout(served, client, kept, error, times):
    handler = Counting(error)
    async with served(handler, replies=kept, once=True):
        first = refusal(await ask(client, Cnm_Request_Id="r1"))
        second = refusal(await ask(client, Cnm_Request_Id="r1"))
    assert handler.times == times
    assert first == second or times == 2


async def test_passed_deadline_is_not_replayed(served, client, kept):
    handler = Counting()
    handler.go.clear()
    async with served(handler, replies=kept, once=True):
        late = await ask(client, Cnm_Request_Id="r1", Cnm_Deadline_Ms="50")
        assert refusal(late)["code"] == "timeout"
        handler.go.set()
        assert json.loads((await ask(client, Cnm_Request_Id="r1")).data)["times"] == 2


@pytest.mark.parametrize("text", ["", "x" * 257])
async def test_malformed_request_id_is_invalid(served, client, text):
    async with served(replies=MemoryReplies(), once=True):
        assert faults(await ask(client, Cnm_Request_Id=text)) == ["Cnm-Request-Id"]


async def test_work_that_was_done_is_told_though_its_reply_cannot_be_kept(served, client):
    replies = MemoryReplies()

    async def work(command):
        replies.down = True
        return Echoed(text="done")

    async with served(work, replies=replies, once=True):
        assert json.loads((await ask(client, Cnm_Request_Id="r1")).data)["text"] == "done"
        assert refusal(await ask(client, Cnm_Request_Id="r2"))["code"] == "unavailable"


async def test_trace_reaches_handler_error_and_what_it_asks(served, client):
    seen = []

    async def look(command):
        seen.append(current_call())
        raise ValueError("a bug")

    async def pass_on(command):
        return await bus.ask(Echo())

    parent = f"00-{TRACE}-b7ad6b7169203331-01"
    async with served(look) as bus, served(pass_on, command=EchoThere, node="n"):
        error = refusal(await ask(client, traceparent=parent, Cnm_Request_Id="r1"))
        assert error["code"] == "internal"
        assert TRACE in error["message"]
        await ask(client, subject="cnm.v1.on.n.echo.say", traceparent=parent, Cnm_Request_Id="r2")
        await ask(client, traceparent="nonsense")
    assert [each.trace_id for each in seen[:2]] == [TRACE, TRACE]
    assert [each.request_id for each in seen[:2]] == ["r1", "r2"]
    assert re.fullmatch("[0-9a-f]{32}", seen[2].trace_id)
    assert seen[2].request_id


async def test_bug_is_internal_with_the_trace_id_and_no_stack_trace(served, client):
    async def bug(command):
        return 1 // len(command.text)

    async with served(bug):
        reply = await ask(client)
        text = reply.data.decode() + reply.headers["Nats-Service-Error"]
        assert refusal(reply)["details"]["trace_id"] in refusal(reply)["message"]
    for word in ("Traceback", "ZeroDivisionError", "division", ".py"):
        assert word not in text


async def test_group_of_refusals_is_told_as_one(served, client):
    async def fail(command):
        raise ExceptionGroup("undoing", [Conflict("first", holder="h"), ExceptionGroup("more", [NotFound("second")])])

    async def fail_worse(command):
        raise ExceptionGroup("undoing", [Conflict("first"), OSError("disk")])

    async with served(fail), served(fail_worse, command=EchoThere, node="n"):
        error = refusal(await ask(client))
        assert (error["code"], error["message"], error["details"]) == ("conflict", "first; second", {"holder": "h"})
        assert refusal(await ask(client, subject="cnm.v1.on.n.echo.say"))["code"] == "internal"


async def test_nobody_there_is_undelivered_after_bounded_retries(client):
    began = time.monotonic()
    set_current_call(Call(request_id="r", trace_id=TRACE, deadline=began + 0.3))
    with pytest.raises(Undelivered, match=r"nobody answers on cnm\.v1\.echo\.say"):
        await NatsBus(client).ask(Echo())
    set_current_call(None)
    assert time.monotonic() - began < 1


async def test_service_that_comes_up_meanwhile_answers(served, client):
    asking = asyncio.create_task(NatsBus(client).ask(Echo(text="x")))
    await asyncio.wait([asking], timeout=0.1)
    assert not asking.done()
    async with served():
        assert (await asking).text == "x"


async def test_command_is_said_again_when_its_taker_died(served, line, client, monkeypatch):
    monkeypatch.setattr("cnm.nats_bus.RESEND_S", 0.1)
    dead = await line()
    taken = asyncio.Event()

    async def take(message):
        taken.set()

    subscription = await dead.subscribe(Echo.subject, queue="cnm-echo", cb=take)
    await dead.flush()
    asking = asyncio.create_task(NatsBus(client).ask(Echo(text="x")))
    await taken.wait()
    await subscription.unsubscribe()
    await dead.flush()
    async with served():
        assert (await asking).text == "x"


async def test_slow_reply_counts_though_the_command_was_said_again(served, client, monkeypatch):
    monkeypatch.setattr("cnm.nats_bus.RESEND_S", 0.05)
    times = []

    async def slow(command):
        times.append(1)
        while len(times) < 3:
            await asyncio.sleep(0.002)
        if len(times) == 3:
            return Echoed(text="x")
        return await asyncio.Event().wait()

    set_current_call(Call(request_id="r", trace_id=TRACE, deadline=time.monotonic() + 2))
    async with served(slow):
        assert (await NatsBus(client).ask(Echo())).text == "x"
    set_current_call(None)


async def test_no_reply_in_time_is_a_timeout(line, client):
    async def swallow(message):
        pass

    await (await line()).subscribe(Echo.subject, cb=swallow)
    bus = NatsBus(client)
    set_current_call(Call(request_id="r", trace_id=TRACE, deadline=time.monotonic() + 0.2))
    with pytest.raises((Timeout, Unavailable)):
        await bus.ask(Echo())
    set_current_call(None)
    assert bus._inbox._arriving == {}


async def test_handlers_run_side_by_side(served, client):
    together = asyncio.Barrier(20)

    async def meet(command):
        async with asyncio.timeout(3):
            await together.wait()
        return Echoed(text="")

    async with served(meet):
        replies = await asyncio.gather(*(ask(client) for _ in range(20)))
        assert all(not reply.headers for reply in replies)


async def test_commands_of_one_key_run_one_after_another_in_order(served, client):
    running, order = {}, []

    async def work(command):
        key = command.text
        assert not running.get(key)
        running[key] = True
        order.append((key, command.count))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        running[key] = False
        return Echoed(text="")

    async with served(work, order_by=lambda command: command.text):
        asked = [ask(client, {"text": key, "count": number}) for number in range(20) for key in "ab"]
        assert all(not reply.headers for reply in await asyncio.gather(*asked))
    for key in "ab":
        assert [number for of, number in order if of == key] == list(range(20))


async def test_stop_answers_what_was_begun_and_takes_nothing_more(served, client, wait_for):
    handler = Counting()
    handler.go.clear()
    stopping = asyncio.Event()

    async def serve():
        async with served(handler):
            ready.set()
            await stopping.wait()

    ready = asyncio.Event()
    serving = asyncio.create_task(serve())
    await ready.wait()
    asked = [asyncio.create_task(ask(client, {"text": str(number)})) for number in range(5)]
    await wait_for(lambda: handler.times == 5)
    stopping.set()

    async def gone():
        try:
            await ask(client, b"[", timeout=0.2)
        except NoRespondersError:
            return True
        return False

    await wait_for(gone)
    assert not serving.done()
    handler.go.set()
    replies = await asyncio.gather(*asked)
    await serving
    assert sorted(json.loads(reply.data)["text"] for reply in replies) == ["0", "1", "2", "3", "4"]


async def test_workers_that_come_and_go_lose_no_request(served, client, wait_for):
    handler = Counting()
    done = asyncio.Event()
    replies = []

    async def keep_asking():
        while not done.is_set():
            replies.append(await ask(client, {"text": "x"}, timeout=3))

    async with served(handler):
        asking = [asyncio.create_task(keep_asking()) for _ in range(8)]
        for turn in range(8):
            async with served(handler):
                await wait_for(lambda at_least=(turn + 1) * 40: len(replies) >= at_least)
        done.set()
        await asyncio.gather(*asking)
    assert all(not reply.headers for reply in replies)


async def test_service_is_discovered_with_its_schemas(served, client):
    async with served(), served(command=EchoThere, node="one.example"):
        ping = json.loads((await client.request("$SRV.PING.cnm-echo", timeout=2)).data)
        assert ping["type"] == "io.nats.micro.v1.ping_response"
        assert (ping["name"], ping["version"]) == ("cnm-echo", "1.2.3")
        info = json.loads((await client.request(f"$SRV.INFO.cnm-echo.{ping['id']}", timeout=2)).data)
        (endpoint,) = info["endpoints"]
        assert endpoint["queue_group"] == "cnm-echo"
        assert endpoint["subject"] in ("cnm.v1.echo.say", "cnm.v1.on.one_example.echo.say")
        for name in ("request_schema", "response_schema"):
            schema = json.loads(endpoint["metadata"][name])
            assert schema["$ref"].removeprefix("#/$defs/") in schema["$defs"]
        stats = json.loads((await client.request(f"$SRV.STATS.cnm-echo.{ping['id']}", timeout=2)).data)
        assert stats["endpoints"][0]["num_errors"] == 0


async def test_request_without_reply_subject_is_carried_out(served, client, wait_for):
    handler = Counting()
    async with served(handler):
        await client.publish(Echo.subject, b"{}")
        await wait_for(lambda: handler.times == 1)


async def test_two_workers_of_a_service_share_its_requests(served, client):
    one, two = Counting(), Counting()
    async with served(one), served(two):
        await asyncio.gather(*(ask(client) for _ in range(60)))
    assert one.times + two.times == 60
    assert one.times
    assert two.times


async def test_reply_and_request_larger_than_the_server_takes_are_told(small_nats, served, line):
    async def long(command):
        return Echoed(text="x" * 100_000)

    async with served(long, url=small_nats.url):
        client = await line(small_nats.url)
        error = refusal(await ask(client))
        assert error["code"] == "unsupported"
        assert "65536" in error["message"]
        with pytest.raises(Invalid, match="65536"):
            await NatsBus(client).ask(Echo(text="x" * 100_000))


async def test_connecting_to_nobody_ends_in_time():
    began = time.monotonic()
    with pytest.raises(Unavailable, match="cannot be reached"):
        await connect("nats://127.0.0.1:1", name="test", wait_s=0.3)
    assert time.monotonic() - began < 2


async def test_request_made_while_nats_is_down_is_refused_and_never_run_later(own_nats, served, line, wait_for):
    handler = Counting()
    async with served(handler, url=own_nats.url):
        client = await line(own_nats.url)
        bus = NatsBus(client)
        await bus.ask(Echo(text="before"))
        own_nats.kill()
        await wait_for(lambda: not client.is_connected)
        set_current_call(Call(request_id="r", trace_id=TRACE, deadline=time.monotonic() + 0.3))
        refused = await asyncio.gather(*(bus.ask(Echo(text="down")) for _ in range(20)), return_exceptions=True)
        set_current_call(None)
        assert all(isinstance(each, Unavailable) for each in refused)
        assert client._pending == []
        own_nats.start()
        assert (await bus.ask(Echo(text="after"))).times == 2
        assert handler.times == 2
        assert client._resp_map in (None, {})


async def test_request_that_waits_for_nats_is_answered_when_it_is_back(own_nats, served, line, wait_for):
    async with served(url=own_nats.url):
        client = await line(own_nats.url)
        bus = NatsBus(client)
        own_nats.kill()
        await wait_for(lambda: not client.is_connected)
        asking = asyncio.create_task(bus.ask(Echo(text="x")))
        await asyncio.wait([asking], timeout=0.05)
        own_nats.start()
        assert (await asking).text == "x"


async def test_reply_waits_for_nats_to_come_back(own_nats, served, line, wait_for):
    handler = Counting()
    handler.go.clear()
    async with served(handler, url=own_nats.url) as server:
        client = await line(own_nats.url)
        asking = asyncio.create_task(NatsBus(client).ask_raw(Echo.subject, b'{"text": "x"}'))
        await wait_for(lambda: handler.times == 1)
        own_nats.kill()
        await wait_for(lambda: not server.client.is_connected and not client.is_connected)
        own_nats.start()
        await wait_for(lambda: client.is_connected)
        await _settled(client)  # its inbox is heard again
        handler.go.set()
        assert json.loads(await asking)["text"] == "x"
    assert handler.times == 1


async def test_what_a_broken_line_left_unsent_is_not_sent_later(own_nats, line, served, wait_for):
    handler = Counting()
    async with served(handler, url=own_nats.url):
        client = await line(own_nats.url)
        client._pending.append(b"PUB cnm.v1.echo.say 2\r\n{}\r\n")  # as a flusher that hangs in drain leaves it
        client._pending_data_size += 28
        own_nats.kill()
        await wait_for(lambda: not client.is_connected)
        own_nats.start()
        await wait_for(lambda: client.is_connected)
        await NatsBus(client).ask(Echo())
    assert handler.times == 1


async def test_service_stops_at_once_while_nats_is_down(own_nats, served, wait_for):
    async with served(url=own_nats.url) as bus:
        own_nats.kill()
        await wait_for(lambda: not bus.client.is_connected)
        began = time.monotonic()
    assert time.monotonic() - began < 1
    assert not [each for each in bus.client._subs.values() if "cnm" in each.subject or "SRV" in each.subject]


async def test_service_ends_when_its_connection_is_closed_for_good(line, monkeypatch):
    monkeypatch.setattr("cnm.nats_bus.CLOSED_PERIOD_S", 0.01)
    bus = NatsBus(await line())

    async def serve():
        async with bus.serve("cnm-echo", [Route(command=Echo, handler=echo)], version="1.0.0"):
            await bus.client.close()
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as ended:
        await serve()
    assert ended.group_contains(Unavailable, match="NATS closed the connection")
