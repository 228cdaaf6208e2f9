"""Finished spans as messages: what the ``nats`` exporter sends, and what is read back from the store of spans."""

from collections.abc import Iterable, Iterator

import msgspec

SPANS_SUBJECT = "cnm.v1.telemetry.spans"
"""Followed by the name of the worker that sends."""
STEP, STEP_TEXT = "step", "cnm.step"
"""The event that a step of a plan is, and the attribute with its text."""
ATTACH, DETACH = ("sandbox.connect", "endpoint.join"), ("sandbox.disconnect", "endpoint.leave")
"""The verbs that attach an endpoint, and those that detach one."""

Value = str | int | float | bool


class SpanEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that happened within a span, such as a step of a plan; time in nanoseconds since 1970."""

    name: str
    at_ns: int
    attributes: dict[str, Value] = {}


class SpanLink(msgspec.Struct, frozen=True, kw_only=True):
    """Another span that a span has to do with, and is not below."""

    trace_id: str
    span_id: str


class SpanRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A finished span; times in nanoseconds since 1970, ``kind`` is OpenTelemetry's."""

    trace_id: str
    span_id: str
    parent_id: str | None
    service: str
    name: str
    start_ns: int
    end_ns: int
    kind: str = "internal"
    node: str | None = None
    attributes: dict[str, Value] = {}
    events: list[SpanEvent] = []
    links: list[SpanLink] = []
    error: str | None = None


def encode_spans(spans: list[SpanRecord]) -> bytes:
    """Encode spans as the body of one message."""
    return msgspec.json.encode(spans)


def decode_spans(body: bytes) -> list[SpanRecord]:
    """Decode the body of one message; what a stranger may have sent there instead holds no spans."""
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError:
        return []


def by_tree(spans: Iterable[SpanRecord]) -> Iterator[tuple[SpanRecord, int]]:
    """Yield each span after its parent, siblings as they began, with how deep it stands.

    One whose parent is not among them stands at the edge.
    """
    below: dict[str | None, list[SpanRecord]] = {}
    latest_first = sorted(spans, key=lambda span: (span.start_ns, span.span_id), reverse=True)
    known = {span.span_id for span in latest_first}
    for span in latest_first:
        below.setdefault(span.parent_id if span.parent_id in known else None, []).append(span)
    waiting = [(span, 0) for span in below.pop(None, ())]
    while waiting:
        span, depth = waiting.pop()
        yield span, depth
        waiting += [(each, depth + 1) for each in below.pop(span.span_id, ())]


_decoder = msgspec.json.Decoder(list[SpanRecord])
