"""The bus as services see it: ask another service, answer for one's own, tell what has become true.

The adapter to NATS is ``nats_bus``; the one inside a process, for tests, is in ``testing``.
"""

import asyncio
import dataclasses
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from cnm.errors import Invalid, Timeout
from cnm.messages.message import Command
from cnm.replies import Claimed

DEFAULT_DEADLINE_MS = 10_000
UNDO_SHARE, UNDO_MOST_S = 0.1, 0.5
"""Work ends so much before its deadline, so that it is undone, and the caller told, in time."""
MAX_DEADLINE_MS = 600_000

TRACE_ID = "Cnm-Trace-Id"
"""Of a refusal: the trace in which it was refused."""
REQUEST_ID = "Cnm-Request-Id"
DEADLINE_MS = "Cnm-Deadline-Ms"
DEADLINE_AT = "Cnm-Deadline-At"
"""The same on the clock of the sender, in milliseconds since 1970: what was delayed on its way must not be done."""
ORIGIN_ID = "Cnm-Origin-Request-Id"
"""Tells a worker which client's request it works for; unlike ``Cnm-Request-Id`` it makes nothing idempotent."""
LONGEST_MOMENT = 15
"""Digits of a moment in milliseconds, for some thirty thousand years."""
LONGEST_DELAY_MS = 60_000
"""A line is given up earlier than that: what seems to have been on its way for longer comes from another clock."""
ERROR = "Nats-Service-Error"
ERROR_CODE = "Nats-Service-Error-Code"
MESSAGE_ID = "Nats-Msg-Id"

R = TypeVar("R")


class Bus(Protocol):
    """Asks other services."""

    async def ask(self, command: Command[R], *, node: str | None = None) -> R:
        """Send a command to its owner, on a node when it is one for a node's worker, and return the reply.

        The time left of the call that is being answered bounds it.

        Raises:
            CnmError: what the owner refused with; ``Unavailable`` when nobody answers.

        """
        ...


@dataclass(frozen=True, kw_only=True)
class Route:
    """Which handler answers a command.

    ``order_by`` gives a key: commands of one key are answered one after another, across all routes of a
    service. ``once`` marks commands whose replies are kept under the caller's request id, so that a repeat does
    nothing twice. ``check`` raises ``Invalid`` for what a command's own fields contradict; what it finds is told
    together with the faults of a body that does not decode. ``urgent`` ones do not wait behind others when more come
    than can be answered at once.
    """

    command: type[Command[Any]]
    handler: Callable[[Any], Awaitable[Any]]
    order_by: Callable[[Any], str] | None = None
    once: bool = False
    urgent: bool = False
    check: Callable[[Any], None] | None = None


@dataclass(kw_only=True)
class Progress:
    """What a call waits for, and whether what it had done is still being undone."""

    waiting_for: list[str] = field(default_factory=list)
    undoing: bool = False


@dataclass(frozen=True, kw_only=True)
class Call:
    """The call that is being answered.

    Work ends at ``deadline``, on the clock of ``time.monotonic``; ``reply_by`` is when the caller gives up, a little
    later, so that what was done can be undone in time.
    """

    request_id: str
    trace_id: str
    deadline: float
    reply_by: float | None = None
    claimed: Claimed | None = None
    progress: Progress = field(default_factory=Progress)

    def left_s(self) -> float:
        """Return the seconds left for work, at least 1 ms."""
        return max(0.001, self.deadline - time.monotonic())

    def wait_s(self) -> float:
        """Return for how many seconds the caller will still wait, at least 1 ms."""
        until = self.deadline if self.reply_by is None else self.reply_by
        return max(0.001, until - time.monotonic())


_call: ContextVar[Call | None] = ContextVar("cnm_call", default=None)


def current_call() -> Call | None:
    """Return the call that is being answered here, or None outside of one."""
    return _call.get()


def set_current_call(call: Call | None) -> None:
    """Say which call the present task answers."""
    _call.set(call)


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Note what the present call waits for in the body; what was cancelled there, or took too long, stays noted."""
    call = current_call()
    if call is None:
        yield
        return
    call.progress.waiting_for.append(what)
    try:
        yield
    except (asyncio.CancelledError, Timeout):
        raise
    except BaseException:
        call.progress.waiting_for.remove(what)
        raise
    else:
        call.progress.waiting_for.remove(what)


async def written(work: asyncio.Future[R]) -> R:
    """Wait for a write, which cannot be stopped half-way: beyond the time to work, but not beyond the deadline.

    Raises:
        Timeout: it goes on, and nobody knows yet what comes of it.

    """
    call = current_call()
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait((work,), timeout=call.wait_s() if call is not None else None)
        if work.done():
            return work.result()
        work.add_done_callback(_seen)
        raise Timeout("Redis did not say before the deadline whether the change was written: ask again") from None


def _seen(done: asyncio.Future[Any]) -> None:
    """Look at how something ended that nobody waits for any more, so that asyncio does not complain."""
    if not done.cancelled():
        done.exception()


@contextmanager
def in_passing() -> Iterator[None]:
    """Say that the body does a part of what the present call asks for: what it commits is not yet the reply to it."""
    call = current_call()
    if call is not None:
        set_current_call(dataclasses.replace(call, claimed=None))
    try:
        yield
    finally:
        set_current_call(call)


@lru_cache(maxsize=1024)
def subject_class(subject: str) -> str:
    """Write a subject without the node or the IPAM driver in it, for the names of spans and metrics."""
    return re.sub(r"^(cnm\.v1\.(?:on|ipam\.driver))\.[^.]+\.", r"\1.", subject)


def parse_deadline_ms(text: str | None) -> int:
    """Read the deadline header.

    Raises:
        Invalid: it is no whole number of milliseconds above 0.

    """
    if text is None:
        return DEFAULT_DEADLINE_MS
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) == 0:
        raise Invalid.at(DEADLINE_MS, text, f"expected whole milliseconds above 0, got {text!r}")
    return min(int(text), MAX_DEADLINE_MS)


def check_delay(text: str | None, *, now_ms: int) -> None:
    """Refuse a command that comes after its sender gave up; ``text`` is its header, if it has one.

    Raises:
        Timeout: nothing was done.

    """
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > LONGEST_MOMENT:
        return
    late_ms = now_ms - int(text)
    if 0 < late_ms <= LONGEST_DELAY_MS:
        raise Timeout(
            f"this came {late_ms} ms after its deadline, and nothing was done: it was held up on its way, or the "
            "clocks of this node and its sender's differ"
        )


@dataclass
class KeyedOrder:
    """Lets holders of one key through one after another, in the order they came; others do not wait."""

    _tails: dict[str, asyncio.Future[None]] = field(default_factory=dict)

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Wait for the turn of this key, and hold it for the body."""
        before = self._tails.get(key)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tails[key] = mine

        def release(_: object = None) -> None:
            if not mine.done():
                mine.set_result(None)
            if self._tails.get(key) is mine:
                del self._tails[key]

        try:
            if before is not None:
                await asyncio.shield(before)
            yield
        finally:
            if before is not None and not before.done():
                before.add_done_callback(release)
            else:
                release()
