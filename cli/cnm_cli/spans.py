"""Collects the spans that traced workers tell of on NATS."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from cnm.spans import SPANS_SUBJECT, SpanRecord, decode_spans
from cnm_cli.client import Client

QUIET_S = 0.6
"""Longer than the workers keep spans to themselves."""


def is_complete(spans: Sequence[SpanRecord], *, root: str | None = None) -> bool:
    """Tell whether a trace's spans are all there: no parent is missing but ``root``, and what was sent was answered.

    Without ``root`` one parent may be missing, the client's own span. An IPAM driver of somebody else's that records
    nothing leaves a trace incomplete for ever.
    """
    known = {span.span_id for span in spans}
    above = {span.parent_id for span in spans}
    missing = above - known - {root}
    sent = {span.span_id for span in spans if span.name.startswith("send ")}
    return bool(spans) and len(missing) <= (root is None) and (root is None or root in above) and sent <= above


class Spans:
    """The spans heard so far, by trace."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._traces: dict[str, list[SpanRecord]] = {}
        self._heard_at: dict[str, float] = {}
        self._news = asyncio.Event()

    def hear(self, message: bytes) -> None:
        """Take in a message of a worker's."""
        for span in decode_spans(message):
            self._traces.setdefault(span.trace_id, []).append(span)
            self._heard_at[span.trace_id] = self._clock()
        self._news.set()

    async def complete(self, trace_id: str, *, root: str, timeout_s: float) -> list[SpanRecord]:
        """Wait until a trace below ``root`` is complete; return what there is when time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                while not is_complete(self._traces.get(trace_id, ()), root=root):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass
        return self._traces.get(trace_id, [])

    def take_finished(self) -> list[list[SpanRecord]]:
        """Remove and return the traces of which nothing new was heard for a while."""
        now = self._clock()
        finished = [trace_id for trace_id, heard in self._heard_at.items() if now - heard >= QUIET_S]
        for trace_id in finished:
            del self._heard_at[trace_id]
        return [self._traces.pop(trace_id) for trace_id in finished]


@asynccontextmanager
async def listening(client: Client) -> AsyncIterator[Spans]:
    """Collect spans as long as the body runs."""
    spans = Spans()

    async def take(message: object) -> None:
        spans.hear(message.data)  # type: ignore[attr-defined]  # a message of NATS, which only adapters know

    subscription = await client.connection.subscribe(f"{SPANS_SUBJECT}.>", cb=take)
    await client.connection.flush()
    try:
        yield spans
    finally:
        await subscription.unsubscribe()
