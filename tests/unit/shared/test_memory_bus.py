"""What a test can do to the bus in memory."""

import asyncio
import time
from typing import ClassVar

import pytest

from cnm.bus import Call, Route, set_current_call
from cnm.errors import Exhausted, Timeout, Undelivered
from cnm.messages.message import Command, Empty
from cnm.testing import MemoryBus


class Work(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Work."""

    subject: ClassVar[str] = "cnm.v1.work.begin"

    number: int = 0


@pytest.fixture
def done():
    return []


@pytest.fixture
def bus(done):
    async def work(command):
        done.append(command.number)
        return Empty()

    bus = MemoryBus()
    bus.serve([Route(command=Work, handler=work)])
    return bus


@pytest.fixture
def brief():
    """Give each call 0.05 s, so that what hangs ends."""
    set_current_call(Call(request_id="r", trace_id="t", deadline=time.monotonic() + 0.05))
    yield
    set_current_call(None)


async def test_what_was_sent_is_remembered(bus, done):
    await bus.ask(Work(number=1))
    await bus.ask_raw(Work.subject, b'{"number": 2}', request_id="x")
    assert bus.commands(Work) == [Work(number=1), Work(number=2)]
    assert [each.request_id for each in bus.sent] == [None, "x"]
    assert done == [1, 2]


async def test_refused_as_often_as_asked(bus, done):
    bus.refuse(Work, Exhausted("full"), times=2)
    for _ in range(2):
        with pytest.raises(Exhausted):
            await bus.ask(Work())
    await bus.ask(Work(number=3))
    assert done == [3]


async def test_vanished_until_healed(bus, done):
    bus.vanish(Work)
    for _ in range(3):
        with pytest.raises(Undelivered):
            await bus.ask(Work())
    bus.heal(Work)
    await bus.ask(Work())
    assert done == [0]


async def test_hanging_command_is_not_carried_out(bus, done, brief):
    bus.hang(Work, times=1)
    with pytest.raises(Timeout):
        await bus.ask(Work())
    assert done == []


async def test_command_whose_reply_is_lost_is_carried_out(bus, done, brief):
    bus.lose_reply(Work, times=1)
    with pytest.raises(Timeout):
        await bus.ask(Work())
    assert done == [0]


async def test_bug_of_a_handler_is_seen_by_the_test():
    async def bug(command):
        raise ZeroDivisionError

    bus = MemoryBus()
    bus.serve([Route(command=Work, handler=bug)])
    with pytest.raises(ZeroDivisionError):
        await bus.ask(Work())
    await asyncio.sleep(0)
