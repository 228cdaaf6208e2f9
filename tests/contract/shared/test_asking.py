"""What asking promises, of the bus in memory and of NATS alike."""

import asyncio
import time
from contextlib import asynccontextmanager
from typing import ClassVar

import msgspec
import pytest

from cnm.bus import Call, Route, current_call, set_current_call
from cnm.errors import Conflict, Invalid, Timeout, Undelivered
from cnm.messages.message import Command, Empty
from cnm.nats_bus import NatsBus
from cnm.testing import MemoryBus


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer."""

    text: str


class Question(Command[Answer], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question."""

    subject: ClassVar[str] = "cnm.v1.question.ask"

    text: str = ""


class Errand(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An errand on a node."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.errand.run"


@pytest.fixture(params=["fake", "real"])
async def side(request, line):
    """Return a bus to ask, and a way to serve routes."""
    if request.param == "fake":
        bus = MemoryBus()

        @asynccontextmanager
        async def serve(*routes, node=None):
            bus.serve(routes, node=node)
            yield
            await bus.settled()

        return bus, serve
    server = NatsBus(await line())

    @asynccontextmanager
    async def serve_really(*routes, node=None):
        async with server.serve("cnm-question", routes, version="1.0.0", node=node):
            yield

    return NatsBus(await line()), serve_really


@pytest.fixture(autouse=True)
def no_call():
    yield
    set_current_call(None)


def calling(seconds):
    set_current_call(
        Call(request_id="r", trace_id="0af7651916cd43dd8448eb211c80319c", deadline=time.monotonic() + seconds)
    )


async def test_reply_comes_back_as_a_value(side):
    bus, serve = side

    async def answer(question):
        return Answer(text=question.text)

    async with serve(Route(command=Question, handler=answer)):
        assert await bus.ask(Question(text="é")) == Answer(text="é")
        assert msgspec.json.decode(await bus.ask_raw(Question.subject, b"")) == {"text": ""}


async def test_refusal_comes_back_as_its_error(side):
    bus, serve = side

    async def refuse(question):
        raise Conflict("taken", holder="h")

    async with serve(Route(command=Question, handler=refuse)):
        with pytest.raises(Conflict, match="taken") as refused:
            await bus.ask(Question())
    assert refused.value.details == {"holder": "h"}


async def test_nobody_there_is_undelivered(side):
    bus, _ = side
    calling(0.1)
    with pytest.raises(Undelivered):
        await bus.ask(Errand(), node="nowhere")


async def test_node_is_part_of_the_address(side):
    bus, serve = side
    ran = []

    async def run(errand):
        ran.append(errand)
        return Empty()

    async with serve(Route(command=Errand, handler=run), node="a.b"):
        await bus.ask(Errand(), node="a.b")
        calling(0.1)
        with pytest.raises(Undelivered):
            await bus.ask(Errand(), node="c")
    assert len(ran) == 1


async def test_wrong_body_is_invalid_and_runs_nothing(side):
    bus, serve = side
    ran = []

    async def answer(question):
        ran.append(question)

    async with serve(Route(command=Question, handler=answer)):
        with pytest.raises(Invalid) as refused:
            await bus.ask_raw(Question.subject, b'{"text": 3, "more": 1}')
    assert [each["field"] for each in refused.value.details["fields"]] == ["text", "more"]
    assert not ran


async def test_passed_deadline_is_a_timeout_and_the_handler_cleans_up(side):
    bus, serve = side
    undone = []

    async def hang(question):
        try:
            await asyncio.Event().wait()
        finally:
            undone.append(True)

    async with serve(Route(command=Question, handler=hang)):
        calling(0.05)
        with pytest.raises(Timeout):
            await bus.ask(Question())
    assert undone == [True]


async def test_call_passes_on_its_request_and_trace(side):
    bus, serve = side
    seen = []

    async def answer(question):
        seen.append(current_call())
        return Answer(text="")

    async with serve(Route(command=Question, handler=answer)):
        calling(5)
        await bus.ask(Question())
    assert seen[0].request_id == "r"
    assert 4 < seen[0].left_s() <= 5


async def test_handler_goes_on_when_whoever_asked_is_cancelled(side):
    bus, serve = side
    begun, go, ended = asyncio.Event(), asyncio.Event(), []

    async def work(question):
        begun.set()
        await go.wait()
        ended.append(True)
        return Answer(text="")

    async with serve(Route(command=Question, handler=work)):
        asking = asyncio.create_task(bus.ask(Question()))
        await begun.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        go.set()
    assert ended == [True]


async def test_commands_of_one_key_keep_their_order(side):
    bus, serve = side
    order = []

    async def work(question):
        order.append(("begins", question.text))
        await asyncio.sleep(0)
        order.append(("ends", question.text))
        return Answer(text="")

    async with serve(Route(command=Question, handler=work, order_by=lambda _: "k")):
        await asyncio.gather(*(bus.ask(Question(text=str(number))) for number in range(5)))
    assert order == [(what, str(number)) for number in range(5) for what in ("begins", "ends")]
