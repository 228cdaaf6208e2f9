"""The store of recent spans: a stream of NATS in memory, bounded, to look at a trace with no other server.

Workers send what they recorded some times a second, many spans a message; nobody waits, and what is lost is lost.
"""

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Collection

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from cnm.errors import Unavailable
from cnm.spans import SPANS_SUBJECT, SpanRecord, decode_spans, encode_spans

STREAM = "CNM_SPANS"
STORED_BYTES = 32 * 1024 * 1024
STORED_FOR_S = 6 * 3600
MOST_WAITING = 4096
"""More spans than these are dropped, the oldest first."""
PER_MESSAGE = 128
WINDOW = 256
"""So many messages are read at once, looking backwards."""
READ_TIMEOUT_S = 5.0

log = structlog.get_logger()


class SpanSender:
    """Sends a worker's finished spans to the store."""

    def __init__(self, client: Client, service: str) -> None:
        self._client = client
        self._subject = f"{SPANS_SUBJECT}.{service}"
        self._waiting: deque[SpanRecord] = deque(maxlen=MOST_WAITING)
        self._made = False

    def take(self, spans: list[SpanRecord]) -> None:
        """Take finished spans, to be sent soon."""
        self._waiting.extend(spans)

    async def send(self) -> None:
        """Send what waits, while there is a line and a store."""
        if not self._client.is_connected:
            self._made = False  # a server that comes back may have lost what was in its memory
        elif self._waiting and await self._ensured():
            while self._waiting:
                count = min(PER_MESSAGE, len(self._waiting))
                await self._send([self._waiting.popleft() for _ in range(count)])

    async def _send(self, spans: list[SpanRecord]) -> None:
        """Send spans in as many messages as NATS wants for them."""
        body = encode_spans(spans)
        if len(body) <= self._client.max_payload:
            with contextlib.suppress(NatsError, OSError):
                await self._client.publish(self._subject, body)
        elif len(spans) > 1:
            half = len(spans) // 2
            await self._send(spans[:half])
            await self._send(spans[half:])
        else:
            log.debug("span.too_large", name=spans[0].name, bytes=len(body), limit=self._client.max_payload)

    async def _ensured(self) -> bool:
        if not self._made:
            try:
                await SpanStore(self._client).ensure()
            except Unavailable as error:  # JetStream comes up after its server
                log.debug("spans.waiting", error=error.message)
            else:
                self._made = True
        return self._made


class SpanStore:
    """Reads the store."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stream = client.jetstream()

    async def ensure(self) -> None:
        """Make the store unless it is there.

        Raises:
            Unavailable: JetStream cannot be reached.
        """
        config = StreamConfig(
            name=STREAM,
            subjects=[f"{SPANS_SUBJECT}.>"],
            storage=StorageType.MEMORY,
            discard=DiscardPolicy.OLD,
            max_bytes=STORED_BYTES,
            max_age=STORED_FOR_S,
            no_ack=True,
        )
        try:
            try:
                await self._stream.stream_info(STREAM)
            except NotFoundError:
                await self._stream.add_stream(config)
        except (NatsError, OSError, TimeoutError) as error:
            raise Unavailable(f"the store of spans cannot be made: {error!r}") from None

    async def trace(self, trace_id: str) -> list[SpanRecord]:
        """Return the spans of one trace as they began; of a trace that is not kept, none.

        ``trace_id`` may be the beginning of one: of several that begin so, the newest counts.

        Raises:
            Unavailable: NATS cannot be reached.
        """
        begins = f'"trace_id":"{trace_id}'.encode()
        found: list[SpanRecord] = []
        async for _, window in self._backwards():
            for body in window:
                if begins in body:
                    found += [span for span in decode_spans(body) if span.trace_id.startswith(trace_id)]
        if not found:
            return []
        newest = max(found, key=lambda span: span.start_ns).trace_id
        return _in_order([span for span in found if span.trace_id == newest])

    async def last(self, operations: Collection[str], *, limit: int) -> list[list[SpanRecord]]:
        """Return the last traces in which one of these verbs was answered to its end, newest first.

        A verb is a subject without ``cnm.v1``, such as ``sandbox.connect``; without any, all that clients asked
        count. Each trace's spans stand as they began.

        Raises:
            Unavailable: NATS cannot be reached.
        """
        spans: dict[str, list[SpanRecord]] = {}
        began: dict[str, int] = {}
        beyond = False
        async for _, window in self._backwards():
            for body in window:
                for span in decode_spans(body):
                    spans.setdefault(span.trace_id, []).append(span)
                    if _answers(span, operations):
                        began[span.trace_id] = min(span.start_ns, began.get(span.trace_id, span.start_ns))
            if beyond:  # what its workers told a moment before stands in the window before
                break
            beyond = len(began) >= limit
        newest = sorted(began, key=lambda trace: began[trace], reverse=True)[:limit]
        return [_in_order(spans[trace]) for trace in newest]

    async def _backwards(self) -> AsyncIterator[tuple[int, list[bytes]]]:
        """Yield windows of messages, the newest window first, with the number of its first message."""
        try:
            state = (await self._stream.stream_info(STREAM)).state
        except NotFoundError:
            return
        except (NatsError, OSError, TimeoutError) as error:
            raise Unavailable(f"the store of spans cannot be read: {error!r}") from None
        end = state.last_seq
        while end >= max(state.first_seq, 1) and state.messages:
            first = max(state.first_seq, end - WINDOW + 1, 1)
            yield first, await self._read(first, end)
            end = first - 1

    async def _read(self, first: int, last: int) -> list[bytes]:
        """Read messages by their numbers; those that were dropped meanwhile are left out."""
        where = ConsumerConfig(
            ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=first
        )
        found: list[bytes] = []
        try:
            consumer = await self._stream.subscribe(
                f"{SPANS_SUBJECT}.>", stream=STREAM, ordered_consumer=True, config=where
            )
            try:
                while True:
                    message = await consumer.next_msg(timeout=READ_TIMEOUT_S)
                    number = message.metadata.sequence.stream
                    if number <= last:
                        found.append(message.data)
                    if number >= last:
                        return found
            finally:
                await consumer.unsubscribe()
        except (NatsError, OSError, TimeoutError) as error:
            raise Unavailable(f"the store of spans cannot be read: {error!r}") from None


def _answers(span: SpanRecord, operations: Collection[str]) -> bool:
    """Tell whether a span is a worker's answer to one of these verbs."""
    verb = span.name.removeprefix("process cnm.v1.")
    if span.kind != "server" or verb == span.name:
        return False
    return verb in operations if operations else not verb.startswith(("on.", "node.", "driver."))


def _in_order(spans: list[SpanRecord]) -> list[SpanRecord]:
    return sorted(spans, key=lambda span: (span.start_ns, span.span_id))
