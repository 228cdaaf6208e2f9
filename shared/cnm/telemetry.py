"""Spans, recorded only when OpenTelemetry's own variables ask for them.

With ``OTEL_TRACES_EXPORTER`` unset (and no OTLP endpoint) the SDK is not even imported. Exporters, several with
commas between them: ``otlp``, ``console``, ``nats`` (into the installation's own store of recent spans, for
``cnm trace`` and the gateway's page), ``none``. Attributes are named by OpenTelemetry's semantic conventions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from cnm.otel_environment import trace_exporters
from cnm.spans import SpanRecord
from cnm.trace import Trace, current_trace

Attributes = Mapping[str, str | int | float | bool]


class Recorder(Protocol):
    """Records spans."""

    def span(
        self, name: str, kind: str, attributes: Attributes, links: Sequence[Trace], steps: Iterable[object]
    ) -> AbstractContextManager[None]:
        """Record the body as a span under the present one, with the steps of a plan as its events."""

    def past(self, name: str, kind: str, attributes: Attributes, links: Sequence[Trace], took_s: float) -> None:
        """Record what has ended just now, a trace of its own."""

    def note(self, attributes: Attributes) -> None:
        """Add attributes to the present span."""

    def flush(self) -> None:
        """Hand what is finished to the exporters."""

    def close(self) -> None:
        """Send what is still unsent."""


_NOTHING: AbstractContextManager[None] = nullcontext()
_recorder: Recorder | None = None


def span(
    name: str, kind: str = "internal", attributes: Attributes | None = None, *, links: Sequence[Trace] = ()
) -> AbstractContextManager[None]:
    """Record the body as a span under the present one; ids belong in attributes, never in the name.

    ``kind`` is OpenTelemetry's: internal, client, server, producer, consumer.
    """
    if _recorder is None:
        return _NOTHING
    return _recorder.span(name, kind, attributes or {}, links, ())


def detail(name: str, kind: str = "internal", attributes: Attributes | None = None) -> AbstractContextManager[None]:
    """Record the body as a span like `span`, but only within a trace: what is routine begins none."""
    if _recorder is None or current_trace() is None:
        return _NOTHING
    return _recorder.span(name, kind, attributes or {}, (), ())


def steps_span(tool: str, steps: Iterable[object]) -> AbstractContextManager[None]:
    """Record the body as one send of a plan to the kernel, its steps as events; their text is made only then."""
    if _recorder is None:
        return _NOTHING
    return _recorder.span(tool, "client", {}, (), steps)


def past(name: str, kind: str, attributes: Attributes, *, took_s: float, links: Sequence[Trace] = ()) -> None:
    """Record what has ended just now and took so many seconds, a trace of its own."""
    if _recorder is not None:
        _recorder.past(name, kind, attributes, links, took_s)


def note(attributes: Attributes) -> None:
    """Add attributes to the present span, if it is recorded."""
    if _recorder is not None:
        _recorder.note(attributes)


def is_recording() -> bool:
    """Tell whether spans are recorded at all."""
    return _recorder is not None


def flush() -> None:
    """Hand finished spans to the exporters; called some times a second, so that nobody waits for it."""
    if _recorder is not None:
        _recorder.flush()


def _forget(_: list[SpanRecord]) -> None:
    """Keep no span."""


def setup(service: str, *, node: str | None = None, keep: Callable[[list[SpanRecord]], None] = _forget) -> bool:
    """Start recording if the environment asks for it; return whether it does.

    ``keep`` takes finished spans at each `flush`, and is what the ``nats`` exporter uses.

    Raises:
        Invalid: the environment asks for what is not there.
    """
    global _recorder  # noqa: PLW0603  # one recorder a process, as OpenTelemetry has it
    names = trace_exporters()
    if not names:
        return False
    from cnm.otel import OtelRecorder  # noqa: PLC0415  # 270 ms that nobody pays unasked

    _recorder = OtelRecorder(service, node, names, keep)
    return True


def shutdown() -> None:
    """Send what is still unsent and record no more; the end of a process."""
    global _recorder  # as above
    recorder, _recorder = _recorder, None
    if recorder is not None:
        recorder.close()
