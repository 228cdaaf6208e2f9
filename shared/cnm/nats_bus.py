"""The bus on NATS: request/reply through nats.micro services, a task a message, errors as ADR-32 headers.

nats-py runs a subscription's callbacks one after another, so each request gets a task of its own in a bounded
group; and it buffers what is sent while the server is away, so nothing is buffered here: a command that could run
after its caller gave up is never sent.
"""

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import msgspec
import nats
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service, ServiceConfig

from cnm import telemetry
from cnm.bus import (
    DEADLINE_MS,
    DEFAULT_DEADLINE_MS,
    ERROR,
    ERROR_CODE,
    MESSAGE_ID,
    REQUEST_ID,
    Call,
    KeyedOrder,
    Route,
    current_call,
    parse_deadline_ms,
    set_current_call,
)
from cnm.errors import (
    CnmError,
    Conflict,
    ErrorReply,
    Internal,
    Invalid,
    Timeout,
    Unavailable,
    Undelivered,
    from_reply,
    to_reply,
)
from cnm.messages.message import Command, decode, decode_trusted, encode, schema
from cnm.store import OutgoingEvent
from cnm.types import node_token

R = TypeVar("R")

ORIGIN_ID = "Cnm-Origin-Request-Id"
"""Tells a worker which client's request it works for; unlike ``Cnm-Request-Id`` it makes nothing idempotent."""

STREAM = "CNM_EVENTS"
RETRY_FIRST_S = 0.02
RETRY_LAST_S = 0.25
RETRY_FOR_S = 3.0
RESEND_S = 1.5
KEPT_REPLY_S = 600
MAX_REQUEST_ID = 256

log = structlog.get_logger()


async def connect(url: str, *, name: str, wait_s: float | None = None) -> Client:
    """Connect and stay so for ever; ``url`` may list several servers.

    Raises:
        Unavailable: no server answered within ``wait_s`` (None tries on without end).
    """
    began = time.monotonic()
    while True:
        try:
            return await nats.connect(
                servers=[part.strip() for part in url.split(",")],
                name=name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.1,
                connect_timeout=2,
                ping_interval=10,
                pending_size=0,
                allow_reconnect=True,
                error_cb=_on_error,
            )
        except (TimeoutError, OSError, NatsError) as error:
            if wait_s is not None and time.monotonic() - began >= wait_s:
                raise Unavailable(f"NATS at {url} cannot be reached: {error}") from None
            await asyncio.sleep(0.05)


async def _on_error(error: Exception) -> None:
    log.warning("nats.error", error=repr(error))


class Replies(Protocol):
    """Keeps the replies of requests that carry an id, so that a repeat does nothing twice."""

    async def claim(self, key: str, digest: str, *, lease_ms: int) -> tuple[str, bytes]:
        """Claim a request: ``new``, ``pending``, ``other`` (the id came with another body) or ``done`` with it."""
        ...

    async def keep(self, key: str, digest: str, reply: bytes, *, for_s: int) -> None:
        """Keep the reply of a claimed request."""
        ...

    async def drop(self, key: str) -> None:
        """Forget a claimed request: it may be tried again."""
        ...


class KeptReply(msgspec.Struct, frozen=True):
    """A reply as kept: its body, and the headers of its error."""

    body: bytes
    headers: dict[str, str]


class NatsBus:
    """Asks and answers over one NATS connection."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def ask(self, command: Command[R], *, node: str | None = None) -> R:
        """Send a command to its owner and return the reply; see ``cnm.bus.Bus.ask``."""
        subject = command.subject_on(node)
        reply = await self.ask_raw(subject, encode(command), resend=True)
        return decode_trusted(command.reply_type(), reply)  # type: ignore[no-any-return]  # it is R by declaration

    async def ask_raw(
        self,
        subject: str,
        body: bytes,
        *,
        request_id: str | None = None,
        deadline_ms: int | None = None,
        resend: bool = False,
    ) -> bytes:
        """Send a body to a subject and return the reply's.

        With ``resend`` a command that may be said twice is said again when no reply has come for a while: whoever
        took it may have died.

        Raises:
            CnmError: what the owner refused with; ``Unavailable`` when nobody answers.
        """
        call = current_call()
        left_s = call.left_s() if call else (deadline_ms or DEFAULT_DEADLINE_MS) / 1000
        with telemetry.span(f"send {subject_class(subject)}", kind="client", **{"messaging.system": "nats"}):
            headers = {DEADLINE_MS: str(max(1, int(left_s * 1000)))}
            trace = telemetry.current_trace()
            if trace is not None:
                headers |= trace.headers()
            if call is not None:
                headers[ORIGIN_ID] = call.request_id
            if request_id is not None:
                headers[REQUEST_ID] = request_id
            wait_s = left_s + (0 if call else 0.25)
            reply = await self._request(subject, body, headers, wait_s, resend_s=RESEND_S if resend else wait_s)
            if reply.headers and ERROR_CODE in reply.headers:
                raise _error_of(reply)
            return reply.data

    async def _request(
        self, subject: str, body: bytes, headers: dict[str, str], left_s: float, *, resend_s: float
    ) -> Msg:
        until = time.monotonic() + left_s
        give_up = time.monotonic() + min(RETRY_FOR_S, left_s)
        pause_s = RETRY_FIRST_S
        taken = False
        while True:
            now = time.monotonic()
            try:
                wait_s = max(0.001, min(resend_s, until - now))
                return await self.client.request(subject, body, timeout=wait_s, headers=headers)
            except NatsTimeoutError:
                if now + resend_s >= until:
                    raise Timeout(f"no reply on {subject} within {left_s:.1f} s") from None
                taken = True
                give_up = min(until, time.monotonic() + RETRY_FOR_S)
                continue
            except NoRespondersError:
                reason = f"nobody answers on {subject}"
                refusal = Unavailable(reason) if taken else Undelivered(reason)
            except (NatsError, OSError) as error:
                refusal = Unavailable(f"NATS cannot be reached: {error}")
            if time.monotonic() + pause_s >= give_up:
                raise refusal
            await asyncio.sleep(pause_s)
            pause_s = min(RETRY_LAST_S, pause_s * 2)

    @asynccontextmanager
    async def serve(
        self,
        name: str,
        routes: Sequence[Route],
        *,
        version: str,
        description: str = "",
        node: str | None = None,
        replies: Replies | None = None,
        limit: int = 256,
    ) -> AsyncIterator[None]:
        """Answer for a service as long as the body runs; then finish what was begun.

        ``limit`` bounds how many requests are answered at once; more wait in the subscription.
        """
        metadata = {"node": node} if node else {}
        config = ServiceConfig(name=name, version=version, description=description, metadata=metadata)
        async with asyncio.TaskGroup() as tasks:
            answerer = _Answerer(self.client, tasks, asyncio.Semaphore(limit), replies)
            service = Service(self.client, config)
            await service.start()
            try:
                for route in routes:
                    await service.add_endpoint(_endpoint(route, answerer, queue=name, node=node))
                await self.client.flush()
                yield
            finally:
                await _stop(service)

    async def publish_event(self, event: OutgoingEvent) -> None:
        """Put an event into the stream; one that it has seen is dropped there.

        Raises:
            Unavailable: the stream cannot be reached.
        """
        try:
            await self.client.jetstream().publish(
                event.subject, event.body.encode(), headers={MESSAGE_ID: event.id}, timeout=5
            )
        except (NatsError, OSError, TimeoutError) as error:
            raise Unavailable(f"the event stream cannot be reached: {error!r}") from None

    async def ensure_stream(self) -> None:
        """Make the stream of events, unless it is there: on disk, a week, duplicates known for two minutes."""
        stream = self.client.jetstream()
        config = StreamConfig(
            name=STREAM,
            subjects=["cnm.v1.event.>"],
            max_age=7 * 24 * 3600,
            max_bytes=512 * 1024 * 1024,
            duplicate_window=120,
        )
        try:
            await stream.stream_info(STREAM)
        except NotFoundError:
            await stream.add_stream(config)


async def _stop(service: Service) -> None:
    """Answer what has arrived, take nothing more, and leave."""
    try:
        for endpoint in service._endpoints:
            if endpoint._subscription is not None:
                await endpoint._subscription.drain()
        service._endpoints.clear()
        await service.stop()
    except (NatsError, OSError) as error:
        log.info("service.stop", error=repr(error))


def _endpoint(route: Route, answerer: "_Answerer", *, queue: str, node: str | None) -> EndpointConfig:
    subject = route.command.subject_on(node)
    short = subject.removeprefix("cnm.v1.").removeprefix(f"on.{node_token(node)}." if node else "")

    async def spawn(request: Request) -> None:
        await answerer.spawn(route, request)

    return EndpointConfig(
        name=short.replace(".", "-"),
        subject=subject,
        queue_group=queue,
        handler=spawn,
        metadata={
            "request_schema": msgspec.json.encode(schema(route.command)).decode(),
            "response_schema": msgspec.json.encode(schema(route.command.reply_type())).decode(),
        },
    )


def subject_class(subject: str) -> str:
    """Write a subject without the node in it, for span names."""
    return re.sub(r"^cnm\.v1\.on\.[^.]+\.", "cnm.v1.on.", subject)


def _error_of(reply: Msg) -> CnmError:
    try:
        return from_reply(msgspec.json.decode(reply.data, type=ErrorReply))
    except msgspec.DecodeError:
        return Internal((reply.headers or {}).get(ERROR, "an error without a body"))


class _Answerer:
    """Answers requests, each in a task of its own."""

    def __init__(
        self, client: Client, tasks: asyncio.TaskGroup, room: asyncio.Semaphore, replies: Replies | None
    ) -> None:
        self._client = client
        self._tasks = tasks
        self._room = room
        self._replies = replies
        self._order = KeyedOrder()

    async def spawn(self, route: Route, request: Request) -> None:
        await self._room.acquire()
        self._tasks.create_task(self._answer(route, request))

    async def _answer(self, route: Route, request: Request) -> None:
        try:
            body, headers = await self._outcome(route, request)
            if request._msg.reply:
                await self._client.publish(request._msg.reply, body, headers=headers or None)
        except (NatsError, OSError) as error:
            log.warning("reply.lost", subject=request.subject, error=repr(error))
        finally:
            self._room.release()

    async def _outcome(self, route: Route, request: Request) -> tuple[bytes, dict[str, str]]:
        headers = request.headers or {}
        trace = telemetry.extract(headers)
        telemetry.set_current_trace(trace)
        try:
            deadline_ms = parse_deadline_ms(headers.get(DEADLINE_MS))
            request_id = headers.get(REQUEST_ID)
            if request_id is not None and not 0 < len(request_id) <= MAX_REQUEST_ID:
                raise Invalid.at(REQUEST_ID, request_id, f"expected 1 to {MAX_REQUEST_ID} characters")
            origin = request_id or headers.get(ORIGIN_ID) or secrets.token_hex(16)
            set_current_call(
                Call(
                    request_id=origin,
                    trace_id=trace.trace_id,
                    deadline=time.monotonic() + deadline_ms / 1000,
                )
            )
            with telemetry.span(f"process {subject_class(request.subject)}", kind="server"):
                if route.once and request_id is not None and self._replies is not None:
                    return await self._once(route, request, request_id, deadline_ms, self._replies)
                return await self._handle(route, request.data, deadline_ms)
        except CnmError as error:
            return _refusal(error)
        except Exception:
            log.exception("handler.failed", subject=request.subject, trace_id=trace.trace_id)
            return _refusal(Internal(f"internal error, trace {trace.trace_id}", trace_id=trace.trace_id))

    async def _handle(self, route: Route, data: bytes, deadline_ms: int) -> tuple[bytes, dict[str, str]]:
        command = decode(route.command, data)
        try:
            async with asyncio.timeout(deadline_ms / 1000) as scope:
                if route.order_by is None:
                    return encode(await route.handler(command)), {}
                async with self._order.turn(route.order_by(command)):
                    return encode(await route.handler(command)), {}
        except TimeoutError:
            if not scope.expired():
                raise
            raise Timeout(f"not finished within {deadline_ms} ms; what had been done was undone") from None

    async def _once(
        self, route: Route, request: Request, request_id: str, deadline_ms: int, replies: Replies
    ) -> tuple[bytes, dict[str, str]]:
        key = f"{request.subject}:{request_id}"
        digest = hashlib.sha256(request.data).hexdigest()
        until = time.monotonic() + deadline_ms / 1000
        while True:
            state, kept = await replies.claim(key, digest, lease_ms=deadline_ms + 5000)
            match state:
                case "new":
                    break
                case "other":
                    raise Conflict(f"request id {request_id!r} came before with another body")
                case "done":
                    found = msgspec.msgpack.decode(kept, type=KeptReply)
                    return found.body, found.headers
            if time.monotonic() > until:
                raise Timeout(f"request {request_id!r} is still being answered")
            await asyncio.sleep(RETRY_FIRST_S)
        return await self._keeping(replies, key, digest, route, request.data, deadline_ms)

    async def _keeping(
        self, replies: Replies, key: str, digest: str, route: Route, data: bytes, deadline_ms: int
    ) -> tuple[bytes, dict[str, str]]:
        try:
            outcome = await self._handle(route, data, deadline_ms)
        except (Unavailable, Timeout, Internal):
            await replies.drop(key)
            raise
        except CnmError as error:
            outcome = _refusal(error)
        except BaseException:
            await replies.drop(key)
            raise
        await replies.keep(key, digest, msgspec.msgpack.encode(KeptReply(*outcome)), for_s=KEPT_REPLY_S)
        return outcome


def _refusal(error: CnmError) -> tuple[bytes, dict[str, str]]:
    sentence = " ".join(error.message.split())
    headers = {ERROR_CODE: str(error.status), ERROR: sentence.encode("ascii", "replace").decode()[:1000]}
    return encode(to_reply(error)), headers
