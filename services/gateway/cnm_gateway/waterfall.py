"""A trace as a waterfall: its spans in the order of the tree, each with its place in time."""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from cnm.spans import STEP_TEXT, SpanRecord, by_tree

MOST_STEPS = 50
STEP_LENGTH = 300


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """A span: how deep in the tree, when it began after the first one and how long it took, in milliseconds.

    ``steps`` are what it changed in the kernel, as ``ip`` and ``nft`` would say it.
    """

    span_id: str
    depth: int
    service: str
    name: str
    at_ms: float
    took_ms: float
    error: str | None = None
    steps: list[str] = []
    attributes: dict[str, str | int | float | bool] = {}


class Waterfall(msgspec.Struct, frozen=True, kw_only=True):
    """A trace: what was asked for, about what, when, how long it took, and the first error in it."""

    trace_id: str
    operation: str
    about: str | None
    began: datetime
    took_ms: float
    services: int
    spans: int
    error: str | None
    bars: list[Bar]


def waterfall(spans: Sequence[SpanRecord], *, about: str | None = None) -> Waterfall:
    """Lay out the spans of one trace, of which there is at least one."""
    first = min(span.start_ns for span in spans)
    last = max(span.end_ns for span in spans)
    bars = [_bar(span, depth, first) for span, depth in by_tree(spans)]
    return Waterfall(
        trace_id=spans[0].trace_id,
        operation=_operation(bars[0].name),
        about=about,
        began=datetime.fromtimestamp(first / 1e9, UTC),
        took_ms=_ms(last - first),
        services=len({span.service for span in spans}),
        spans=len(spans),
        error=next((bar.error for bar in bars if bar.error), None),
        bars=bars,
    )


def _bar(span: SpanRecord, depth: int, first: int) -> Bar:
    steps = [str(event.attributes.get(STEP_TEXT, event.name))[:STEP_LENGTH] for event in span.events]
    more = [f"and {len(steps) - MOST_STEPS} more"] if len(steps) > MOST_STEPS else []
    return Bar(
        span_id=span.span_id,
        depth=depth,
        service=span.service,
        name=span.name,
        at_ms=_ms(span.start_ns - first),
        took_ms=_ms(span.end_ns - span.start_ns),
        error=span.error,
        steps=steps[:MOST_STEPS] + more,
        attributes=span.attributes,
    )


def _operation(name: str) -> str:
    """Return the verb that a span's name tells of: ``process cnm.v1.sandbox.connect`` is ``sandbox.connect``."""
    return name.rpartition(" ")[2].removeprefix("cnm.v1.")


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)
