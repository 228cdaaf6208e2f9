"""Answers requests that come over NATS: each in a task of its own, in time, once, and within bounds."""

import asyncio
import dataclasses
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.micro.request import Request

from cnm import telemetry, trace
from cnm.admission import Admission
from cnm.bus import (
    DEADLINE_AT,
    DEADLINE_MS,
    ERROR,
    ERROR_CODE,
    ORIGIN_ID,
    REQUEST_ID,
    TRACE_ID,
    UNDO_MOST_S,
    UNDO_SHARE,
    Call,
    KeyedOrder,
    Route,
    check_delay,
    current_call,
    parse_deadline_ms,
    set_current_call,
    subject_class,
    waiting_for,
)
from cnm.errors import CnmError, Conflict, Internal, Invalid, Timeout, Unavailable, Unsupported, to_reply
from cnm.messages.message import check_size, decode, encode
from cnm.replies import KEPT_REPLY_S, MOST_KEPT, Claimed, KeptReply, Replies, kept
from cnm.tally import Requests

CLAIM_LEASE_S = 5.0
CLAIM_RENEW_S = 1.5
MAX_REQUEST_ID = 256
WAITING_PER_ANSWERED = 32
MOST_WAITING_BYTES = 64 * 1024 * 1024
TAKE_FOR_S = 0.004
RETRY_S = 0.02

log = structlog.get_logger()


def _client_of(request: Request) -> str:
    """Return the inbox that a request came with, without what tells one request of the client from another."""
    return request._msg.reply.rpartition(".")[0]


class Answerer:
    """Answers requests, each in a task of its own."""

    def __init__(
        self, client: Client, tasks: asyncio.TaskGroup, replies: Replies | None, limit: int, requests: Requests
    ) -> None:
        self.stopping = False
        self._requests = requests
        self._client = client
        self._tasks = tasks
        self._replies = replies
        self._room = {urgent: asyncio.Semaphore(limit) for urgent in (False, True)}
        most = limit * WAITING_PER_ANSWERED
        self._admission = {
            urgent: Admission(
                most=most, most_of_one=most // 8, most_bytes=MOST_WAITING_BYTES, at_once=max(1, limit // 8)
            )
            for urgent in (False, True)
        }
        self._order = KeyedOrder()
        self._paused = 0.0

    async def spawn(self, route: Route, request: Request) -> None:
        try:
            check_size(request.data)
            self._admission[route.urgent].take(_client_of(request), len(request.data))
        except CnmError as error:
            self._requests.answer(subject_class(route.command.subject), str(error.status), 0.0)
            if request._msg.reply:
                await self._reply(request, *_refusal(error))
        else:
            self._tasks.create_task(self._answer(route, request))
        await self._pause()

    async def _pause(self) -> None:
        """Let others have a turn now and then: nats-py goes through all that has come without a pause."""
        if time.monotonic() - self._paused > TAKE_FOR_S:
            await asyncio.sleep(0)
            self._paused = time.monotonic()

    async def _answer(self, route: Route, request: Request) -> None:
        arrived = time.monotonic()
        self._requests.open += 1
        try:
            body, headers = await self._outcome(route, request, arrived)
            subject = subject_class(route.command.subject)
            self._requests.answer(subject, headers.get(ERROR_CODE), time.monotonic() - arrived)
            if request._msg.reply:
                await self._reply(request, body, headers)
        finally:
            self._requests.open -= 1
            self._admission[route.urgent].give_back(_client_of(request), len(request.data))

    async def _reply(self, request: Request, body: bytes, headers: dict[str, str]) -> None:
        """Send a reply; while NATS is away, try on for as long as the caller waits."""
        call = current_call()
        until = time.monotonic() + call.wait_s() if call is not None else 0.0
        while True:
            try:
                await self._client.publish(request._msg.reply, body, headers=headers or None)
            except MaxPayloadError:
                limit = self._client.max_payload
                reason = f"the reply has {len(body)} bytes, NATS takes {limit}; ask for less with filters or limit"
                body, headers = _refusal(Unsupported(reason))
            except (NatsError, OSError) as error:
                if self.stopping or self._client.is_closed or time.monotonic() >= until:
                    log.warning("reply.lost", subject=request.subject, error=repr(error))
                    return
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _outcome(self, route: Route, request: Request, arrived: float) -> tuple[bytes, dict[str, str]]:
        headers = {name.lower(): value for name, value in (request.headers or {}).items()}
        asked = trace.extract(headers)
        trace.set_current_trace(asked)
        about = subject_class(request.subject)
        try:
            with telemetry.span(f"process {about}", "server", messaging("process", request.subject, about)):
                call = _call_of(headers, asked.trace_id, arrived)
                set_current_call(call)
                telemetry.note({"cnm.request_id": call.request_id})
                if route.once and REQUEST_ID.lower() in headers and self._replies is not None:
                    return await self._once(route, request, call, self._replies)
                return await self._handle(route, request, call)
        except Exception as error:  # noqa: BLE001  # whatever it was, the caller is told
            return _refusal(_told(error, request.subject, asked.trace_id), asked.trace_id)

    async def _handle(self, route: Route, request: Request, call: Call) -> tuple[bytes, dict[str, str]]:
        async with _in_time(call), AsyncExitStack() as held:
            with waiting_for("requests that came before it"):
                await held.enter_async_context(self._admission[route.urgent].turn(_client_of(request)))
                command = decode(route.command, request.data, check=route.check)
                if route.order_by is not None:
                    await held.enter_async_context(self._order.turn(route.order_by(command)))
                await held.enter_async_context(self._room[route.urgent])
            return encode(await route.handler(command)), {}

    async def _once(
        self, route: Route, request: Request, call: Call, replies: Replies
    ) -> tuple[bytes, dict[str, str]]:
        key = f"{request.subject}:{call.request_id}"
        digest = hashlib.sha256(request.data).hexdigest()
        claim = secrets.token_hex(8)
        async with _in_time(call):
            former = await _former(replies, key, digest, claim, call.request_id)
        if former is not None:
            return former.body, former.headers
        renewing = self._tasks.create_task(_renew(replies, key, claim))
        claimed = Claimed(key=key, digest=digest, claim=claim)
        set_current_call(dataclasses.replace(call, claimed=claimed))
        try:
            outcome = await self._handle(route, request, call)
        except Exception as error:
            refused = _told(error, request.subject, call.trace_id)
            if refused.code in NEVER_REPLAYED:
                self._tasks.create_task(_quietly(replies.drop(key, claim)))
            else:
                await self._keep(replies, claimed, _refusal(refused, call.trace_id), call)
            raise refused from error
        except BaseException:  # no time is left to wait for a store that may be what took it
            self._tasks.create_task(_quietly(replies.drop(key, claim)))
            raise
        else:
            if not claimed.answered:
                await self._keep(replies, claimed, outcome, call)
            return outcome
        finally:
            renewing.cancel()

    async def _keep(
        self, replies: Replies, claimed: Claimed, outcome: tuple[bytes, dict[str, str]], call: Call
    ) -> None:
        """Keep a reply, and wait for that no longer than the caller does: what was done is told in any case."""
        keeping = replies.keep(claimed.key, claimed.digest, claimed.claim, kept(*outcome), for_s=KEPT_REPLY_S)
        await asyncio.wait((self._tasks.create_task(_quietly(keeping)),), timeout=call.wait_s())


async def _former(replies: Replies, key: str, digest: str, claim: str, request_id: str) -> KeptReply | None:
    """Return the reply that a request has already; None when this try of it is to carry it out.

    Raises:
        Conflict: the id came with another body.
        Unavailable: too many ids are remembered.
    """
    while True:
        state, found = await replies.claim(key, digest, claim, lease_ms=int(CLAIM_LEASE_S * 1000))
        match state:
            case "new":
                return None
            case "done":
                return msgspec.msgpack.decode(found, type=KeptReply)
            case "other":
                raise Conflict(f"request id {request_id!r} came before with another body")
            case "full":
                raise Unavailable(f"more than {MOST_KEPT} request ids came within ten minutes: try again later")
        with waiting_for(f"the first answer to request {request_id!r}"):
            await asyncio.sleep(RETRY_S)


@asynccontextmanager
async def _in_time(call: Call) -> AsyncIterator[None]:
    """End the body when the time to work is over.

    Raises:
        Timeout: it was; the message says what was waited for.
    """
    try:
        async with asyncio.timeout(call.left_s()) as scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise _too_late(call) from None


def _too_late(call: Call) -> Timeout:
    about = call.progress
    waited = f"; it waited for {', '.join(dict.fromkeys(about.waiting_for))}" if about.waiting_for else ""
    end = "is being undone" if about.undoing else "was undone"
    return Timeout(f"not finished before the deadline{waited}; what had been done {end}")


NEVER_REPLAYED = (Unavailable.code, Timeout.code)


async def _renew(replies: Replies, key: str, claim: str) -> None:
    while True:
        await asyncio.sleep(CLAIM_RENEW_S)
        await _quietly(replies.renew(key, claim, lease_ms=int(CLAIM_LEASE_S * 1000)))


async def _quietly(work: Awaitable[None]) -> None:
    """Let what was done, or refused, be told even when the store of replies is gone by then."""
    try:
        await work
    except CnmError as error:
        log.warning("replies.unreachable", error=error.message)


def _call_of(headers: Mapping[str, str], trace_id: str, arrived: float) -> Call:
    """Read what a request's headers say of the call.

    Raises:
        Invalid: the deadline or the request id is malformed.
        Timeout: the deadline passed while it was on its way.
    """
    wait_s = parse_deadline_ms(headers.get(DEADLINE_MS.lower())) / 1000
    check_delay(headers.get(DEADLINE_AT.lower()), now_ms=int(time.time() * 1000))
    request_id = headers.get(REQUEST_ID.lower())
    if request_id is not None and not 0 < len(request_id) <= MAX_REQUEST_ID:
        raise Invalid.at(REQUEST_ID, request_id[:MAX_REQUEST_ID], f"expected 1 to {MAX_REQUEST_ID} characters")
    origin = request_id or headers.get(ORIGIN_ID.lower()) or secrets.token_hex(16)
    work_s = wait_s - min(UNDO_MOST_S, wait_s * UNDO_SHARE)
    return Call(request_id=origin, trace_id=trace_id, deadline=arrived + work_s, reply_by=arrived + wait_s)


def _told(error: Exception, subject: str, trace_id: str) -> CnmError:
    """Say an error the way that a caller is told; what is no refusal is our bug, and is logged."""
    if isinstance(error, CnmError):
        return error
    if isinstance(error, ExceptionGroup) and error.split(CnmError)[1] is None:
        leaves = list(_leaves(error))
        return type(leaves[0])("; ".join(leaf.message for leaf in leaves), **leaves[0].details)
    log.error("handler.failed", subject=subject, trace_id=trace_id, exc_info=error)
    return Internal(f"internal error, trace {trace_id}", trace_id=trace_id)


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[CnmError]:
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            yield from _leaves(each)
        else:
            yield each


def _refusal(error: CnmError, trace_id: str | None = None) -> tuple[bytes, dict[str, str]]:
    sentence = " ".join(error.message.split())
    headers = {ERROR_CODE: str(error.status), ERROR: sentence.encode("ascii", "replace").decode()[:1000]}
    if trace_id is not None:
        headers[TRACE_ID] = trace_id
    return encode(to_reply(error)), headers


def messaging(operation: str, subject: str, about: str) -> dict[str, str]:
    """Return what the semantic conventions for messaging ask of a span, ``about`` being the subject's class."""
    return {
        "messaging.system": "nats",
        "messaging.operation.name": operation,
        "messaging.operation.type": "send" if operation == "publish" else operation,
        "messaging.destination.name": subject,
        "messaging.destination.template": about,
    }
