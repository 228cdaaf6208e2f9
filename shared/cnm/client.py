"""The client for programs: requests with typed replies, events as they happen, and who is there, over one connection.

    async with connect() as client:
        network = await client.ask(CreateNetwork(name="web"))

What is refused comes as an error of ``cnm.errors``. Where the program uses OpenTelemetry, what it asks for joins the
trace that it is in.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar, overload

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.client import Client as NatsConnection
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext

from cnm.bus import DEADLINE_MS, ERROR, ERROR_CODE, REQUEST_ID
from cnm.errors import CnmError, ErrorReply, Internal, Invalid, Timeout, Unavailable, Undelivered, from_reply
from cnm.messages.message import Command, decode_trusted, encode
from cnm.nats_access import access, without_secrets

Body = dict[str, Any]
R = TypeVar("R")

DEFAULT_URL = "nats://127.0.0.1:4222"
STREAM = "CNM_EVENTS"
EVENTS = "cnm.v1.event."
CONNECT_TIMEOUT_S = 2
RECONNECT_PAUSE_S = 0.1
STREAM_TIMEOUT_S = 5.0
GRACE_S = 1.0
"""How much longer than the deadline we wait for the worker to say that it passed."""
PATIENCE_S = 30.0
"""So long the events wait for a line that was lost."""
PAUSE_S = 0.25
QUIET_S = 1.0
"""So often we look whether the line is still the same while nothing happens."""
PING_PERIOD_S = 5
"""Of NATS: a line on which two answers are missing is lost."""


class Lost(Unavailable):
    """The line to NATS broke: whether the request was carried out is not known."""


class Service(msgspec.Struct, frozen=True):
    """One running worker, as its answer to ``$SRV.PING`` tells (ADR-32)."""

    name: str
    id: str
    version: str
    metadata: dict[str, str] | None = None

    def serves(self, node: str) -> bool:
        """Tell whether it serves a node; one that belongs to none serves all."""
        return (self.metadata or {}).get("node", node) == node


class Heard(NamedTuple):
    """An event as it came; ``sequence`` is its place in the stream."""

    subject: str
    body: Body
    sequence: int

    @property
    def kind(self) -> str:
        """What happened, such as ``network.created``."""
        return self.subject.removeprefix(EVENTS).rpartition(".")[0]

    @property
    def about(self) -> str:
        """The id that its subject ends with: the object's; of a port the sandbox's, of an address the pool's."""
        return self.subject.rpartition(".")[2]

    @property
    def object(self) -> Body:
        """What it happened to, as ``get`` shows it."""
        found: Body = self.body["object"]
        return found


class Client:
    """An open connection to an installation. Make one with `connect`."""

    def __init__(self, connection: NatsConnection) -> None:
        self.connection = connection

    @overload
    async def ask(
        self,
        command: Command[R],
        /,
        *,
        deadline_s: float = 10.0,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> R: ...

    @overload
    async def ask(
        self,
        subject: str,
        body: Mapping[str, Any] | None = None,
        /,
        *,
        deadline_s: float = 10.0,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Body: ...

    async def ask(
        self,
        command: Command[Any] | str,
        body: Mapping[str, Any] | None = None,
        /,
        *,
        deadline_s: float = 10.0,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request and return the reply: a command's own type of reply, or the body beside a bare subject.

        With a request id it may be said again for ten minutes: what was carried out is not done twice. What is not
        done within the deadline is undone.

        Raises:
            CnmError: the owner refused; ``Undelivered`` when it surely was not carried out, since nobody answers the
                subject or there is no line to NATS now; ``Lost`` or ``Timeout`` when that is not known.
            Invalid: the body is larger than what NATS takes.
            Internal: what came is no reply of that type.
        """
        subject = command if isinstance(command, str) else command.subject
        about = {
            **_own_trace(),
            DEADLINE_MS: str(round(deadline_s * 1000)),
            **({REQUEST_ID: request_id} if request_id else {}),
            **(headers or {}),
        }
        sent = encode((body or {}) if isinstance(command, str) else command)
        reply = await self._request(subject, sent, about, deadline_s)
        kind = Body if isinstance(command, str) else command.reply_type()
        try:
            return decode_trusted(kind, reply or b"{}")
        except msgspec.DecodeError as error:
            raise Internal(f"what came from {subject} is no reply to it: {error}") from None

    async def _request(self, subject: str, body: bytes, headers: dict[str, str], deadline_s: float) -> bytes:
        if self.connection.is_reconnecting:  # nats-py would keep what waits for a request that it could not send
            raise Undelivered("there is no connection to NATS now")
        try:
            reply = await self.connection.request(subject, body, timeout=deadline_s + GRACE_S, headers=headers)
        except nats.errors.NoRespondersError:
            raise Undelivered(f"nobody answers {subject}: is its worker running?") from None
        except nats.errors.TimeoutError:
            raise Timeout(f"no answer to {subject} within {deadline_s:g} s") from None
        except nats.errors.MaxPayloadError:
            limit = self.connection.max_payload
            raise Invalid.at("", len(body), f"the body has {len(body)} bytes, NATS takes {limit}") from None
        except nats.errors.Error as error:
            raise Lost(f"the connection to NATS failed: {error}") from error
        if (reply.headers or {}).get(ERROR_CODE):
            raise _refusal(subject, reply)
        return reply.data

    @asynccontextmanager
    async def events(
        self, subject: str = f"{EVENTS}>", *, since: datetime | None = None, after: int | None = None
    ) -> AsyncIterator["Events"]:
        """Follow events for the length of the body: from now on, since a moment, or after a place in the stream.

        ``subject`` may be narrower: ``cnm.v1.event.network.>``.

        Raises:
            Unavailable: NATS cannot be reached, or there is no stream.
        """
        events = Events(self.connection, subject, since=since, after=after)
        try:
            await events.begin()
            yield events
        finally:
            await events.pause()

    async def close(self) -> None:
        """Close the connection; closing a lost one is harmless."""
        with suppress(OSError, nats.errors.Error):
            await self.connection.close()

    async def discover(
        self, name: str | None = None, *, node: str | None = None, wait_s: float = 0.5
    ) -> list[Service]:
        """List the workers that answer within ``wait_s``, those of one name or all.

        With a node it returns the first one that serves it, as soon as that has answered.
        """
        found: list[Service] = []
        try:
            inbox = self.connection.new_inbox()
            answers = await self.connection.subscribe(inbox)
        except nats.errors.Error as error:
            raise Unavailable(f"the connection to NATS failed: {error}") from error
        try:
            await self.connection.publish(f"$SRV.PING.{name}" if name else "$SRV.PING", reply=inbox)
            async with asyncio.timeout(wait_s):
                while True:
                    answer = await answers.next_msg(timeout=None)
                    if answer.headers and answer.headers.get("Status") == "503":  # nobody is there
                        return []
                    service = msgspec.json.decode(answer.data, type=Service)
                    if node is None:
                        found.append(service)
                    elif service.serves(node):
                        return [service]
        except TimeoutError:
            return found
        except nats.errors.Error as error:
            raise Unavailable(f"the connection to NATS failed: {error}") from error
        finally:
            with suppress(nats.errors.Error):
                await answers.unsubscribe()


class Events:
    """Events in order, each once, over a line that may be lost meanwhile: ``async for heard in events``.

    ``sequence`` is the place of the last one; None while only a moment says where they begin. Whoever keeps it can
    go on after it later.
    """

    def __init__(
        self, connection: NatsConnection, subject: str, *, since: datetime | None, after: int | None
    ) -> None:
        self.sequence = after
        self._connection = connection
        self._stream: JetStreamContext = connection.jetstream(timeout=STREAM_TIMEOUT_S)
        self._subject = subject
        self._since = since
        self._consumer: JetStreamContext.PushSubscription | None = None
        self._line = -1

    async def begin(self) -> None:
        """Settle where they begin.

        Raises:
            Unavailable: NATS cannot be reached, or there is no stream.
        """
        try:
            last = await self._last()
        except nats.js.errors.NotFoundError:
            raise Unavailable(f"there is no stream {STREAM}: has cnm up ever been ready?") from None
        except (nats.errors.Error, TimeoutError) as error:
            raise self._lost(error) from None
        if self.sequence is None and self._since is None:
            self.sequence = last

    def __aiter__(self) -> "Events":
        return self

    async def __anext__(self) -> Heard:
        lost_at: float | None = None
        while True:
            try:
                message = await self._next()
            except (nats.errors.Error, TimeoutError) as error:
                lost_at = lost_at or time.monotonic()
                if self._connection.is_closed or time.monotonic() - lost_at >= PATIENCE_S:
                    raise self._lost(error) from None
                await self.pause()
                await asyncio.sleep(PAUSE_S)
            else:
                self.sequence = message.metadata.sequence.stream
                return Heard(message.subject, msgspec.json.decode(message.data), self.sequence)

    async def pause(self) -> None:
        """Let go of the consumer; the next event is read by another."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with suppress(nats.errors.Error):
                await consumer.unsubscribe()

    async def _next(self) -> Msg:
        if self._consumer is None:
            self._line = self._connection.stats["reconnects"]
            self._consumer = await self._open()
        while True:
            try:
                return await self._consumer.next_msg(timeout=QUIET_S)
            except nats.errors.TimeoutError:
                if self._line != self._connection.stats["reconnects"]:  # a server may have forgotten our consumer
                    raise

    async def _open(self) -> JetStreamContext.PushSubscription:
        where = ConsumerConfig(ack_policy=AckPolicy.NONE)
        if self.sequence is None and self._since is not None:
            where.deliver_policy = DeliverPolicy.BY_START_TIME
            where.opt_start_time = self._since.astimezone(UTC)
        else:
            last, after = await self._last(), self.sequence or 0
            where.deliver_policy = DeliverPolicy.BY_START_SEQUENCE
            where.opt_start_seq = (after if after <= last else 0) + 1  # a server that lost its files counts anew
        return await self._stream.subscribe(self._subject, stream=STREAM, ordered_consumer=True, config=where)

    def _lost(self, error: Exception) -> Unavailable:
        """Say why; what NATS does not allow it does not answer either, and tells of it beside."""
        told = self._connection.last_error if isinstance(error, TimeoutError) else None
        return Unavailable(f"the events cannot be followed: {told or error}")

    async def _last(self) -> int:
        return (await self._stream.stream_info(STREAM)).state.last_seq


@asynccontextmanager
async def connect(
    url: str | None = None, *, name: str = "cnm-client", reconnect: bool = True
) -> AsyncIterator[Client]:
    """Hold a connection for the length of the body; see `open_client`."""
    client = await open_client(url, name=name, reconnect=reconnect)
    try:
        yield client
    finally:
        await client.close()


async def open_client(url: str | None = None, *, name: str = "cnm-client", reconnect: bool = True) -> Client:
    """Connect to the servers of ``url``, commas between them; of ``CNM_NATS_URL`` without one.

    ``CNM_NATS_CREDS`` and its like say who we are. A connection that is lost later is made again for as long as the
    program lasts, and requests meanwhile are refused at once; without ``reconnect`` it stays lost.

    Raises:
        Unavailable: no NATS server answers there, or it and we do not trust each other.
        Invalid: what the environment says of credentials is at fault.
    """
    url = url or os.environ.get("CNM_NATS_URL") or DEFAULT_URL
    reasons: list[str] = []
    servers = [server.strip() for server in url.split(",")]
    options = access(os.environ, servers)
    connection = NatsConnection()

    async def remember(error: Exception) -> None:
        """Keep why it failed: what `connect` raises does not say, and nats-py would log it otherwise."""
        reasons[:] = [str(error).removeprefix("nats: ")]

    async def forget_unsent() -> None:
        """Drop what a stalled line left unsent: nobody waits for it any more when there is another."""
        connection._pending.clear()
        connection._pending_data_size = 0

    try:
        await connection.connect(
            servers=servers,
            name=name,
            allow_reconnect=False,
            max_reconnect_attempts=1,  # counts for the first connection too, which would be tried for two minutes
            reconnect_time_wait=0,
            connect_timeout=CONNECT_TIMEOUT_S,
            ping_interval=PING_PERIOD_S,
            pending_size=0,
            error_cb=remember,
            disconnected_cb=forget_unsent,
            **options,
        )
    except (OSError, TimeoutError, nats.errors.Error) as error:
        reason = reasons[-1] if reasons else str(error)
        raise Unavailable(f"cannot reach NATS at {without_secrets(url)}: {reason or 'no answer'}") from None
    if reconnect:
        connection.options |= {
            "allow_reconnect": True,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": RECONNECT_PAUSE_S,
        }
    return Client(connection)


def _own_trace() -> dict[str, str]:
    """Return the headers of the span that the program is in; without OpenTelemetry in use there is none."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry.propagate import inject  # noqa: PLC0415  # only for those who use it already

    carrier: dict[str, str] = {}
    inject(carrier)
    return carrier


def _refusal(subject: str, reply: Msg) -> CnmError:
    try:
        return from_reply(msgspec.json.decode(reply.data, type=ErrorReply))
    except msgspec.DecodeError:
        reason = (reply.headers or {}).get(ERROR) or "without a reason"
        return Internal(f"{subject} was refused: {reason}")
