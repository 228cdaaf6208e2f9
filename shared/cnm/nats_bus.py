"""The bus on NATS: request/reply through nats.micro services, a task a message, errors as ADR-32 headers.

nats-py runs a subscription's callbacks one after another, so each request gets a task of its own in a bounded
group; and it buffers what is sent while the server is away, so nothing is buffered here: a command that could run
after its caller gave up is never sent. A reply waits for the server to come back, for as long as its caller does.
"""

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
import structlog
from nats.aio.client import NO_RESPONDERS_STATUS, Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, Header, StreamConfig
from nats.js.errors import NoStreamResponseError, NotFoundError
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service, ServiceConfig

from cnm import telemetry, trace
from cnm.bus import (
    DEADLINE_AT,
    DEADLINE_MS,
    DEFAULT_DEADLINE_MS,
    ERROR,
    ERROR_CODE,
    MESSAGE_ID,
    ORIGIN_ID,
    REQUEST_ID,
    Route,
    current_call,
    subject_class,
    waiting_for,
)
from cnm.cancelling import end
from cnm.errors import (
    CnmError,
    ErrorReply,
    Forbidden,
    Internal,
    Invalid,
    Timeout,
    Unavailable,
    Undelivered,
    Unsupported,
    from_reply,
)
from cnm.messages.message import Command, decode_trusted, encode, schema
from cnm.nats_access import access, is_refusal, without_secrets
from cnm.nats_answerer import Answerer, messaging
from cnm.replies import Replies
from cnm.store import OutgoingEvent, RecalledEvent
from cnm.tally import Requests
from cnm.types import node_token

R = TypeVar("R")

STREAM = "CNM_EVENTS"
EVENTS = "cnm.v1.event.>"
RETRY_FIRST_S = 0.02
RETRY_LAST_S = 0.25
RETRY_FOR_S = 3.0
GRACE_S = 0.25
"""How much longer a client waits than it says, so that it hears of its deadline from the worker."""
RESEND_S = 1.5
STREAM_READY_S = 10.0
RECALL_TIMEOUT_S = 5.0
STOP_S = 5.0
CLOSED_PERIOD_S = 1.0

log = structlog.get_logger()


async def connect(url: str, *, name: str, wait_s: float | None = None) -> Client:
    """Connect and stay so for ever; ``url`` may list several servers, and the environment says who we are.

    Raises:
        Unavailable: no server answered within ``wait_s`` (None tries on without end).
        Forbidden: a server does not let us in, or is not the one whom we trust.
        Invalid: what the environment says of credentials is at fault.
    """
    client = Client()
    servers = [part.strip() for part in url.split(",")]
    options = access(os.environ, servers)
    told = ""
    refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def on_error(error: Exception) -> None:
        nonlocal told
        if is_refusal(error) and not refused.done():
            refused.set_result(str(error).removeprefix("nats: "))
        if repr(error) != told:  # ten tries a second fail alike while a server is away
            told = repr(error)
            log.warning("nats.error", error=told)

    async def on_disconnected() -> None:
        client._pending.clear()  # what a stalled line left unsent must not be sent after its sender gave up
        client._pending_data_size = 0

    async def on_reconnected() -> None:
        nonlocal told
        told = ""
        log.info("nats.reconnected")

    connecting = asyncio.ensure_future(
        client.connect(
            servers=servers,
            name=name,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.1,  # type: ignore[arg-type]  # seconds, as floats everywhere in nats-py
            connect_timeout=2,
            ping_interval=10,
            pending_size=0,
            allow_reconnect=True,
            error_cb=on_error,
            disconnected_cb=on_disconnected,
            reconnected_cb=on_reconnected,
            **options,
        )
    )
    try:
        async with asyncio.timeout(wait_s):
            await asyncio.wait((connecting, refused), return_when=asyncio.FIRST_COMPLETED)
        if not connecting.done():
            raise Forbidden(f"NATS at {without_secrets(url)} and we do not trust each other: {refused.result()}")
        await connecting
    except TimeoutError:
        await _abandon(client, connecting)
        raise Unavailable(f"NATS at {without_secrets(url)} cannot be reached within {wait_s} s: {told}") from None
    except BaseException:
        await _abandon(client, connecting)
        raise
    return client


async def _abandon(client: Client, connecting: asyncio.Future[None]) -> None:
    await end((connecting,))
    await client.close()


class NatsBus:
    """Asks and answers over one NATS connection."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.requests = Requests()
        self._inbox = _Inbox(client)

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
        about = subject_class(subject)
        span = telemetry.detail(f"send {about}", "client", messaging("send", subject, about))
        with self.requests.asking(about), span:
            headers = trace.outgoing_headers()
            if call is not None:
                headers[ORIGIN_ID] = call.request_id
            if request_id is not None:
                headers[REQUEST_ID] = request_id
            grace_s = 0 if call else GRACE_S
            with waiting_for(subject):
                reply = await self._request(subject, body, headers, left_s, grace_s=grace_s, resend=resend)
            if reply.headers and ERROR_CODE in reply.headers:
                raise _error_of(reply, subject)
            return reply.data

    async def _request(
        self, subject: str, body: bytes, headers: dict[str, str], left_s: float, *, grace_s: float, resend: bool
    ) -> Msg:
        until = time.monotonic() + left_s
        give_up = min(until, time.monotonic() + RETRY_FOR_S)
        pause_s = RETRY_FIRST_S
        taken = False
        async with self._inbox.open() as (reply_to, arriving):
            while True:
                left_s_now = max(0.001, until - time.monotonic())
                headers[DEADLINE_MS] = str(max(1, int(left_s_now * 1000)))
                headers[DEADLINE_AT] = str(int((time.time() + left_s_now) * 1000))
                try:
                    self._require_line()
                    await self.client.publish(subject, body, reply=reply_to, headers=headers)
                    again = resend and left_s_now > RESEND_S
                    reply = await _next(arriving, RESEND_S if again else left_s_now + grace_s)
                    if reply is None and not again:
                        raise Timeout(f"no reply on {subject} within {left_s:.1f} s")
                    if reply is None:
                        log.warning("request.resent", subject=subject, after_s=RESEND_S)
                        taken = True
                        give_up = min(until, time.monotonic() + RETRY_FOR_S)
                        continue
                    if not _nobody(reply):
                        return reply
                    reason = f"nobody answers on {subject}"
                except MaxPayloadError:
                    limit = self.client.max_payload
                    raise Invalid.at("", len(body), f"the body has {len(body)} bytes, NATS takes {limit}") from None
                except (NatsError, OSError) as error:
                    reason = f"NATS cannot be reached: {error}"
                if time.monotonic() + pause_s >= give_up:
                    raise Unavailable(reason) if taken else Undelivered(reason)
                early = await _next(arriving, pause_s)
                if early is not None and not _nobody(early):
                    return early
                pause_s = min(RETRY_LAST_S, pause_s * 2)

    def _require_line(self) -> None:
        """Refuse while NATS is away: nats-py would keep what waits for a request that it could not send.

        Raises:
            NatsError: there is no connection now.
        """
        if not self.client.is_connected:
            raise NatsError(f"not connected ({self.client.last_error or 'reconnecting'})")

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

        ``limit`` bounds how many requests are answered at once; more wait, and are refused when their deadline has
        passed before their turn came, or at once when too many wait.

        Raises:
            Unavailable: the connection was closed for good, so that no reconnecting will help.
        """
        metadata = {"node": node} if node else {}
        config = ServiceConfig(name=name, version=version, description=description, metadata=metadata)
        async with asyncio.TaskGroup() as tasks:
            answerer = Answerer(self.client, tasks, replies, limit, self.requests)
            service = Service(self.client, config)
            watching = tasks.create_task(self._watch_line())
            try:
                await service.start()
                for route in routes:
                    await service.add_endpoint(_endpoint(route, answerer, queue=name, node=node))
                await _settled(self.client)
                yield
            finally:
                watching.cancel()
                await _stop(service)
                answerer.stopping = True

    async def _watch_line(self) -> None:
        while not self.client.is_closed:  # noqa: ASYNC110  # nats-py tells it only to who opened the connection
            await asyncio.sleep(CLOSED_PERIOD_S)
        raise Unavailable(f"NATS closed the connection: {self.client.last_error}")

    async def publish_event(self, event: OutgoingEvent) -> None:
        """Put an event into the stream; one that it has seen is dropped there.

        Raises:
            Unavailable: the stream cannot be reached.
            Unsupported: the event is larger than what NATS takes.
        """
        try:
            try:
                await self._publish(event)
            except NoStreamResponseError:  # the server came back without its files
                await self.ensure_stream()
                await self._publish(event)
        except MaxPayloadError:
            size, limit = len(event.body.encode()), self.client.max_payload
            raise Unsupported(f"event {event.subject} has {size} bytes, NATS takes {limit}") from None
        except (NatsError, OSError, TimeoutError) as error:
            raise Unavailable(f"the event stream cannot be reached: {error!r}") from None

    async def _publish(self, event: OutgoingEvent) -> None:
        self._require_line()
        headers = {MESSAGE_ID: event.id}
        if not event.traceparent:
            await self._into_stream(event, headers)
            return
        about = event.subject.rpartition(".")[0]
        cause = trace.extract({trace.TRACEPARENT: event.traceparent})
        span = telemetry.span(f"publish {about}", "producer", messaging("publish", event.subject, about))
        with trace.within(cause), span:
            await self._into_stream(event, headers | trace.outgoing_headers())

    async def _into_stream(self, event: OutgoingEvent, headers: dict[str, str]) -> None:
        await self.client.jetstream().publish(event.subject, event.body.encode(), headers=headers, timeout=5)

    async def recall(self, limit: int) -> list[RecalledEvent]:
        """Return the last events of the stream, so many at most, oldest first.

        Raises:
            Unavailable: the stream cannot be reached.
        """
        found: list[RecalledEvent] = []
        stream = self.client.jetstream()
        try:
            self._require_line()
            state = (await stream.stream_info(STREAM)).state
            where = ConsumerConfig(
                ack_policy=AckPolicy.NONE,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=max(state.first_seq, state.last_seq - limit + 1, 1),
            )
            if not state.messages:
                return []
            consumer = await stream.subscribe(EVENTS, stream=STREAM, ordered_consumer=True, config=where)
            try:
                while not found or found[-1].sequence < state.last_seq:
                    message = await consumer.next_msg(timeout=RECALL_TIMEOUT_S)
                    sequence = message.metadata.sequence.stream
                    found.append(RecalledEvent(sequence=sequence, subject=message.subject, body=message.data))
            finally:
                await consumer.unsubscribe()
        except NotFoundError:
            return []
        except (NatsError, OSError, TimeoutError) as error:
            raise Unavailable(f"the event stream cannot be read: {error!r}") from None
        return found

    async def nudge(self, node: str) -> None:
        """Tell the workers of a node that one mended something: what leans on it may have to be mended now."""
        await self.client.publish(_mended(node))

    async def on_nudge(self, node: str, heard: Callable[[], None]) -> None:
        """Call back whenever a worker of a node mended something, for as long as the connection lasts."""

        async def hear(_: Msg) -> None:
            heard()

        await self.client.subscribe(_mended(node), cb=hear)

    async def ensure_stream(self) -> None:
        """Make the stream of events, unless it is there: on disk, a week, duplicates known for two minutes.

        Raises:
            Unavailable: JetStream is off, or did not come up in time.
        """
        stream = self.client.jetstream()
        config = StreamConfig(
            name=STREAM,
            subjects=[EVENTS],
            max_age=7 * 24 * 3600,
            max_bytes=512 * 1024 * 1024,
            duplicate_window=120,
        )
        give_up = time.monotonic() + STREAM_READY_S
        while True:
            try:
                self._require_line()
                try:
                    await stream.stream_info(STREAM)
                except NotFoundError:
                    await stream.add_stream(config)
            except (NatsError, OSError, TimeoutError) as error:  # a server listens before its JetStream is up
                if time.monotonic() >= give_up:
                    raise Unavailable(f"the event stream cannot be made: {error!r}") from None
                await asyncio.sleep(RETRY_LAST_S)
            else:
                return


def _mended(node: str) -> str:
    return f"cnm.v1.on.{node_token(node)}.mended"


async def _stop(service: Service) -> None:
    """Answer what has arrived, take nothing more, and leave."""
    mine = [each._subscription for each in service._endpoints if each._subscription is not None]
    mine += service._subscriptions.values()
    service._endpoints.clear()
    service._subscriptions.clear()
    await asyncio.gather(*map(_leave, mine))
    await service.stop()


async def _settled(client: Client) -> None:
    """Wait until the server has done what was sent; nats-py's flush alone pings ahead of what is still pending."""
    await client._flush_pending(force_flush=True)
    await client.flush()


async def _leave(subscription: Subscription) -> None:
    """Drain a subscription; without a line, or when it breaks meanwhile, forget it lest it be renewed later."""
    client: Client = subscription._conn
    try:
        if client.is_connected:
            async with asyncio.timeout(STOP_S):
                await client._send_unsubscribe(subscription._id)
                await _settled(client)
                await subscription.drain()  # type: ignore[no-untyped-call]  # nats-py leaves it untyped
    except (NatsError, OSError, TimeoutError) as error:
        log.info("service.stop", subject=subscription.subject, error=repr(error))
    if subscription._id in client._subs:
        client._remove_sub(subscription._id)
        subscription._stop_processing()


def _endpoint(route: Route, answerer: Answerer, *, queue: str, node: str | None) -> EndpointConfig:
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


class _Inbox:
    """Where replies arrive: one subscription, and a queue a request, since a command may be sent more than once."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._prefix = ""
        self._numbers = itertools.count()
        self._arriving: dict[str, asyncio.Queue[Msg]] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[str, asyncio.Queue[Msg]]]:
        """Give a subject for replies, and what arrives there while the body runs."""
        await self._listen()
        subject = f"{self._prefix}.{next(self._numbers)}"
        arriving = self._arriving[subject] = asyncio.Queue()
        try:
            yield subject, arriving
        finally:
            del self._arriving[subject]

    async def _listen(self) -> None:
        if self._prefix:
            return
        self._prefix = self._client.new_inbox()
        try:
            await self._client.subscribe(f"{self._prefix}.*", cb=self._take)
        except (NatsError, OSError) as error:
            self._prefix = ""
            raise Undelivered(f"NATS cannot be reached: {error}") from None

    async def _take(self, reply: Msg) -> None:
        if (waiting := self._arriving.get(reply.subject)) is not None:
            waiting.put_nowait(reply)


async def _next(arriving: asyncio.Queue[Msg], within_s: float) -> Msg | None:
    try:
        async with asyncio.timeout(within_s):
            return await arriving.get()
    except TimeoutError:
        return None


def _nobody(reply: Msg) -> bool:
    """Tell whether the server says that nobody listens there."""
    return not reply.data and (reply.headers or {}).get(Header.STATUS) == NO_RESPONDERS_STATUS


def _error_of(reply: Msg, subject: str) -> CnmError:
    try:
        error = from_reply(msgspec.json.decode(reply.data, type=ErrorReply))
    except msgspec.DecodeError:
        return Internal((reply.headers or {}).get(ERROR, "an error without a body"))
    if isinstance(error, Timeout) and current_call() is not None:  # whoever is answered wants to know who was late
        return Timeout(f"{subject}: {error.message}", **error.details)
    return error
