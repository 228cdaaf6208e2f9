"""Records spans for OpenTelemetry's SDK; imported only where spans are asked for.

The SDK samples, knows the resource and exports. What it would do while a span is open, we do leaner, and make its
spans afterwards, many at once: an attach has some forty spans on its way, and the SDK's own cost it a third more time
(docs/adr/0035).
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from contextvars import Token
from random import getrandbits
from types import TracebackType

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
)
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from cnm.otel_environment import GRPC, otlp_protocol
from cnm.otel_resource import SCOPE, resource_of
from cnm.spans import STEP, STEP_TEXT, SpanEvent, SpanLink, SpanRecord, Value
from cnm.telemetry import Attributes
from cnm.trace import SAMPLED, UNSAMPLED, Trace, _trace, new_trace

MOST_WAITING = 8192
"""More finished spans than these are dropped, the oldest first."""
MOST_STEPS = 128
"""Of a longer plan the first steps are told."""

_KINDS = {kind.name.lower(): kind for kind in SpanKind}
_NOWHERE = Context()


class OtelRecorder:
    """Records spans for the exporters of these names; see ``cnm.telemetry.setup``."""

    def __init__(
        self, service: str, node: str | None, exporters: Sequence[str], keep: Callable[[list[SpanRecord]], None]
    ) -> None:
        self._resource = resource_of(service, node)
        self._service, self._node = service, node
        self._sampler: Sampler = TracerProvider(resource=self._resource, shutdown_on_exit=False).sampler
        self._processors: list[SpanProcessor] = []
        self._keep = keep if "nats" in exporters else None
        if "console" in exporters:
            self._processors.append(SimpleSpanProcessor(ConsoleSpanExporter()))
        if "otlp" in exporters:
            self._processors.append(BatchSpanProcessor(_otlp_exporter()))
        self._finished: deque[_Recording] = deque(maxlen=MOST_WAITING)

    def span(
        self, name: str, kind: str, attributes: Attributes, links: Sequence[Trace], steps: Iterable[object]
    ) -> AbstractContextManager[None]:
        """Record the body as a span; see ``cnm.telemetry.Recorder``."""
        return _Recording(self._sampler, self._finished, name, kind, attributes, links, steps)

    def past(self, name: str, kind: str, attributes: Attributes, links: Sequence[Trace], took_s: float) -> None:
        """Record what has ended just now, a trace of its own."""
        token = _trace.set(None)
        recording = _Recording(self._sampler, self._finished, name, kind, attributes, links, ())
        with recording:
            recording.start_ns -= int(took_s * 1e9)
        _trace.reset(token)

    def note(self, attributes: Attributes) -> None:
        """Add attributes to the present span."""
        trace = _trace.get()
        if trace is not None and isinstance(trace.recorded, _Recording):
            trace.recorded.attributes = {**trace.recorded.attributes, **attributes}

    def flush(self) -> None:
        """Hand what is finished to the exporters."""
        finished: list[_Recording] = []
        while self._finished:
            finished.append(self._finished.popleft())
        if self._keep is not None and finished:
            self._keep([each.told(self._service, self._node) for each in finished])
        for processor in self._processors:
            for each in finished:
                processor.on_end(each.readable(self._resource))

    def close(self) -> None:
        """Send what is still unsent, for as long as the exporters' own time limits let them."""
        self.flush()
        for processor in self._processors:
            processor.shutdown()


class _Recording:
    """Records its body as a span."""

    __slots__ = (
        "_above",
        "_finished",
        "_sampler",
        "_token",
        "attributes",
        "end_ns",
        "error",
        "kind",
        "links",
        "name",
        "span_id",
        "start_ns",
        "steps",
    )

    _above: Trace
    _token: Token[Trace | None]
    span_id: str
    start_ns: int
    end_ns: int

    def __init__(
        self,
        sampler: Sampler,
        finished: "deque[_Recording]",
        name: str,
        kind: str,
        attributes: Attributes,
        links: Sequence[Trace],
        steps: Iterable[object],
    ) -> None:
        self._sampler = sampler
        self._finished = finished
        self.name = name
        self.kind = kind
        self.attributes = attributes
        self.links = links
        self.steps = steps
        self.error: str | None = None

    def __enter__(self) -> None:
        above = self._above = _trace.get() or new_trace()
        if above.recorded is not None:
            sampled, state = above.flags == SAMPLED, above.state
        else:
            sampled, state = self._sample(above)
        self.span_id = f"{getrandbits(64) or 1:016x}"
        here = Trace(
            trace_id=above.trace_id,
            span_id=self.span_id,
            flags=SAMPLED if sampled else UNSAMPLED,
            state=state,
            baggage=above.baggage,
            recorded=self,
        )
        self._token = _trace.set(here)
        if not sampled:
            self._finished = _UNWANTED
        elif self.steps:
            self.steps = tuple(self.steps)
        self.start_ns = time.time_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_ns = time.time_ns()
        _trace.reset(self._token)
        if error is not None:
            self.error = str(error) or "failed"
            self.attributes = {**self.attributes, "error.type": str(getattr(error, "code", type(error).__name__))}
        self._finished.append(self)

    def _sample(self, above: Trace) -> tuple[bool, str | None]:
        """Ask the SDK's sampler, as for each span that has no parent in this process."""
        outcome = self._sampler.should_sample(
            _NOWHERE if _is_root(above) else set_span_in_context(NonRecordingSpan(_context(above)), _NOWHERE),
            int(above.trace_id, 16),
            self.name,
            _KINDS[self.kind],
            dict(self.attributes),
        )
        state = outcome.trace_state.to_header() if outcome.trace_state else above.state
        return outcome.decision is Decision.RECORD_AND_SAMPLE, state

    def _steps(self) -> list[str]:
        return [str(step).strip() for step, _ in zip(self.steps, range(MOST_STEPS), strict=False)]

    def told(self, service: str, node: str | None) -> SpanRecord:
        """Return the finished span as a message's."""
        above = self._above
        return SpanRecord(
            trace_id=above.trace_id,
            span_id=self.span_id,
            parent_id=None if _is_root(above) else above.span_id,
            service=service,
            node=node,
            name=self.name,
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            kind=self.kind,
            attributes=dict(self.attributes),
            events=[
                SpanEvent(name=STEP, at_ns=self.start_ns, attributes={STEP_TEXT: step}) for step in self._steps()
            ],
            links=[SpanLink(trace_id=each.trace_id, span_id=each.span_id) for each in self.links],
            error=self.error,
        )

    def readable(self, resource: Resource) -> ReadableSpan:
        """Return the finished span as the SDK's exporters take it."""
        above = self._above
        attributes: dict[str, Value] = dict(self.attributes)
        return ReadableSpan(
            name=self.name,
            context=SpanContext(
                trace_id=int(above.trace_id, 16),
                span_id=int(self.span_id, 16),
                is_remote=False,
                trace_flags=TraceFlags(TraceFlags.SAMPLED),
                trace_state=_state(above),
            ),
            parent=None if _is_root(above) else _context(above),
            resource=resource,
            attributes=attributes,
            events=[Event(STEP, {STEP_TEXT: step}, self.start_ns) for step in self._steps()],
            links=[Link(_context(each)) for each in self.links],
            kind=_KINDS[self.kind],
            status=Status(StatusCode.ERROR, self.error) if self.error else Status(),
            start_time=self.start_ns,
            end_time=self.end_ns,
            instrumentation_scope=SCOPE,
        )


_UNWANTED: deque[_Recording] = deque(maxlen=0)


def _is_root(above: Trace) -> bool:
    """Tell whether a span begins its trace; what its sender would not have recorded has a parent all the same."""
    return above.is_unrecorded() and above.recorded is None and above.flags != UNSAMPLED


def _context(trace: Trace) -> SpanContext:
    return SpanContext(
        trace_id=int(trace.trace_id, 16),
        span_id=int(trace.span_id, 16),
        is_remote=trace.recorded is None,
        trace_flags=TraceFlags(int(trace.flags, 16)),
        trace_state=_state(trace),
    )


def _state(trace: Trace) -> TraceState | None:
    return TraceState.from_header([trace.state]) if trace.state else None


def _otlp_exporter() -> SpanExporter:
    if otlp_protocol("TRACES") == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter as grpc  # noqa: PLC0415  # 25 MB if asked for

        return grpc.OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http import trace_exporter as http  # noqa: PLC0415  # as above

    return http.OTLPSpanExporter()
