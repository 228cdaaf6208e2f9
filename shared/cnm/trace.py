"""Where we are in a trace: W3C Trace Context, which travels whether or not anybody records spans.

Errors and events name the trace of what they tell of.
"""

import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import msgspec

TRACEPARENT = "traceparent"
SAMPLED = "01"
UNSAMPLED = "00"

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """Where we are in a trace; ``state`` and ``baggage`` are passed on unread."""

    trace_id: str
    span_id: str
    flags: str = SAMPLED
    state: str | None = None
    baggage: str | None = None
    recorded: Any = None
    """What the recorder of this process knows the span by."""

    def headers(self) -> dict[str, str]:
        """Return the W3C headers that carry this on."""
        found = {TRACEPARENT: self.parent()}
        if self.state:
            found["tracestate"] = self.state
        if self.baggage:
            found["baggage"] = self.baggage
        return found

    def parent(self) -> str:
        """Return the header that names the present span."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"

    def is_unrecorded(self) -> bool:
        """Tell whether this is where we began a trace that nobody has recorded anything of."""
        return self.span_id == self.trace_id[:16]


_trace: ContextVar[Trace | None] = ContextVar("cnm_trace", default=None)


def new_trace(trace_id: str | None = None, *, flags: str = SAMPLED) -> Trace:
    """Begin a trace of our own, or go on with one of which only the id is known.

    W3C wants a span id even where no span is recorded; it is the trace id's first half then.
    """
    trace_id = trace_id or f"{secrets.randbits(128) | 1 << 64 | 1:032x}"
    return Trace(trace_id=trace_id, span_id=trace_id[:16], flags=flags)


def extract(headers: Mapping[str, str] | None) -> Trace:
    """Read the caller's trace from message headers, or begin one; malformed context is as none."""
    return _read(headers or {}) or new_trace()


def _read(headers: Mapping[str, str]) -> Trace | None:
    """Read a trace; versions above 00 may hold more than we know of (W3C Trace Context, 3.2.4)."""
    found = _TRACEPARENT.fullmatch(headers.get(TRACEPARENT, ""))
    if found is None or found[2] == "0" * 32 or found[3] == "0" * 16:
        return None
    if found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    return Trace(
        trace_id=found[2],
        span_id=found[3],
        flags=found[4],
        state=headers.get("tracestate"),
        baggage=headers.get("baggage"),
    )


def current_trace() -> Trace | None:
    """Return where we are in a trace, or None outside of any."""
    return _trace.get()


def set_current_trace(trace: Trace | None) -> None:
    """Say which trace the present task works for."""
    _trace.set(trace)


@contextmanager
def within(trace: Trace) -> Iterator[Trace]:
    """Work for a trace in the body."""
    token = _trace.set(trace)
    try:
        yield trace
    finally:
        _trace.reset(token)


def outgoing_headers() -> dict[str, str]:
    """Return the headers of a message that the present task sends; routine outside of any trace is not recorded."""
    return (_trace.get() or new_trace(flags=UNSAMPLED)).headers()


def present_parent() -> str:
    """Return what names the present span to those who come later, empty where nobody records."""
    trace = _trace.get()
    return "" if trace is None or trace.is_unrecorded() else trace.parent()
