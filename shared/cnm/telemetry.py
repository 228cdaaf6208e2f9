"""Traces: W3C context everywhere, spans only when OpenTelemetry's own variables ask for them.

A trace's identity travels whether or not anybody records it, since errors and events name it. With
``OTEL_TRACES_EXPORTER`` unset (and no OTLP endpoint) the SDK is not even imported. Exporters: ``otlp``, ``console``,
``nats`` (spans as JSON on ``cnm.v1.telemetry.spans.<service>``, for ``cnm demo`` and ``cnm trace``), ``none``.
"""

import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.trace import Span, Tracer

SPANS_SUBJECT = "cnm.v1.telemetry.spans"

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Where we are in a trace; ``state`` and ``baggage`` are passed on unread."""

    trace_id: str
    span_id: str
    flags: str = "01"
    state: str | None = None
    baggage: str | None = None

    def headers(self) -> dict[str, str]:
        """Return the W3C headers that carry this on."""
        found = {"traceparent": f"00-{self.trace_id}-{self.span_id}-{self.flags}"}
        if self.state:
            found["tracestate"] = self.state
        if self.baggage:
            found["baggage"] = self.baggage
        return found

    def is_unrecorded(self) -> bool:
        """Tell whether this is where we began a trace that nobody has recorded anything of."""
        return self.span_id == self.trace_id[:16]


class SpanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A finished span as the ``nats`` exporter ships it; times in nanoseconds since 1970."""

    trace_id: str
    span_id: str
    parent_id: str | None
    service: str
    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, str | int | float | bool] = {}
    error: str | None = None


_trace: ContextVar[Trace | None] = ContextVar("cnm_trace", default=None)
_root_of: ContextVar[int] = ContextVar("cnm_root_of")
_tracer: "Tracer | None" = None
_provider: "TracerProvider | None" = None


def new_trace() -> Trace:
    """Begin a trace of our own.

    W3C wants a span id even where no span is recorded; it is the trace id's first half then.
    """
    trace_id = f"{secrets.randbits(128) | 1 << 64 | 1:032x}"
    return Trace(trace_id=trace_id, span_id=trace_id[:16])


def extract(headers: Mapping[str, str] | None) -> Trace:
    """Read the caller's trace from message headers, or begin one; malformed context is as none.

    Versions above 00 may hold more than we know of (W3C Trace Context, 3.2.4).
    """
    found = _TRACEPARENT.fullmatch((headers or {}).get("traceparent", ""))
    if headers is None or found is None or found[2] == "0" * 32 or found[3] == "0" * 16:
        return new_trace()
    if found[1] == "ff" or (found[1] == "00" and found[5]):
        return new_trace()
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
def span(name: str, *, kind: str = "internal", **attributes: str | float | bool) -> Iterator[None]:
    """Record the body as a span under the present one; ids belong in attributes, never in the name.

    ``kind`` is OpenTelemetry's: internal, client, server, producer, consumer.
    """
    if _tracer is None:
        yield
        return
    parent = _trace.get() or new_trace()
    recording = _start(_tracer, name, kind, parent, attributes)
    context = recording.get_span_context()
    flags = format(context.trace_flags, "02x")
    token = _trace.set(replace(parent, span_id=format(context.span_id, "016x"), flags=flags))
    try:
        yield
    except BaseException as error:
        _mark_failed(recording, error)
        raise
    finally:
        _trace.reset(token)
        recording.end()


def steps_span(tool: str, steps: Iterable[object]) -> AbstractContextManager[None]:
    """Record the body as one send of steps to the kernel; their text is made only when somebody records."""
    if _tracer is None:
        return nullcontext()
    return span(tool, kind="client", steps="\n".join(map(str, steps)))


def _start(tracer: "Tracer", name: str, kind: str, parent: Trace, attributes: Mapping[str, Any]) -> "Span":
    from opentelemetry.context import Context  # noqa: PLC0415  # only when somebody records
    from opentelemetry.trace import (  # noqa: PLC0415  # as above
        NonRecordingSpan,
        SpanContext,
        SpanKind,
        TraceFlags,
        set_span_in_context,
    )

    above = SpanContext(
        trace_id=int(parent.trace_id, 16),
        span_id=int(parent.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(parent.flags, 16)),
    )
    nothing = Context()
    token = _root_of.set(int(parent.trace_id, 16))
    try:
        return tracer.start_span(
            name,
            context=nothing if parent.is_unrecorded() else set_span_in_context(NonRecordingSpan(above), nothing),
            kind=SpanKind[kind.upper()],
            attributes=dict(attributes),
        )
    finally:
        _root_of.reset(token)


def _mark_failed(recording: "Span", error: BaseException) -> None:
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415  # only when somebody records

    code = getattr(error, "code", type(error).__name__)
    recording.set_attribute("error.type", str(code))
    recording.set_status(Status(StatusCode.ERROR, str(error)))


def setup(service: str, *, node: str | None = None, ship: Callable[[bytes], None] | None = None) -> bool:
    """Start recording if the environment asks for it; return whether it does.

    ``ship`` sends a JSON list of ``SpanRecord`` and is what the ``nats`` exporter uses.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    if not exporter and os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        exporter = "otlp"
    if exporter in ("", "none") or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # 270 ms that nobody pays unasked
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    global _tracer, _provider  # noqa: PLW0603  # one recorder a process, as OpenTelemetry has it
    names = {"service.name": service, "service.namespace": "cnm"} | ({"host.name": node} if node else {})
    _provider = TracerProvider(resource=Resource.create(names), shutdown_on_exit=False, id_generator=_ids())
    for name in exporter.split(","):
        _add_exporter(_provider, name.strip(), service, ship)
    _tracer = _provider.get_tracer("cnm")
    return True


def _add_exporter(provider: "TracerProvider", name: str, service: str, ship: Callable[[bytes], None] | None) -> None:
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415  # as above
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SimpleSpanProcessor,
    )

    if name == "nats" and ship is not None:
        provider.add_span_processor(_shipping(service, ship))
    elif name == "console":
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    elif name == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415  # as above
            OTLPSpanExporter,
        )

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    elif name not in ("none", "nats"):
        raise ValueError(f"OTEL_TRACES_EXPORTER: {name!r} is none of otlp, console, nats, none")


def _ids() -> Any:
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: PLC0415  # as above

    class Ids(RandomIdGenerator):
        """Gives a trace's first span the trace id that messages, errors and events already carry."""

        def generate_trace_id(self) -> int:
            return _root_of.get()

    return Ids()


def _shipping(service: str, ship: Callable[[bytes], None]) -> Any:
    from opentelemetry.sdk.trace import SpanProcessor  # noqa: PLC0415  # as above

    class Shipping(SpanProcessor):
        """Hands each finished span to ``ship`` at once; spans are few where this exporter is used."""

        def on_end(self, span: "ReadableSpan") -> None:
            ship(msgspec.json.encode([_record(service, span)]))

    return Shipping()


def _record(service: str, span: "ReadableSpan") -> SpanRecord:
    context = span.get_span_context()
    attributes = {name: value for name, value in (span.attributes or {}).items() if not isinstance(value, tuple)}
    return SpanRecord(
        trace_id=format(context.trace_id, "032x") if context else "",
        span_id=format(context.span_id, "016x") if context else "",
        parent_id=format(span.parent.span_id, "016x") if span.parent else None,
        service=service,
        name=span.name,
        start_ns=span.start_time or 0,
        end_ns=span.end_time or 0,
        attributes={name: value for name, value in attributes.items() if isinstance(value, (str, int, float, bool))},
        error=None if span.status.is_ok or span.status.is_unset else span.status.description or "failed",
    )


def shutdown() -> None:
    """Send what is still unsent and record no more; the end of a process."""
    global _tracer, _provider
    provider, _tracer, _provider = _provider, None, None
    if provider is not None:
        provider.shutdown()
