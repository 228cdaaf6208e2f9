"""Spans, recorded only when OpenTelemetry's own variables ask for them.

With ``OTEL_TRACES_EXPORTER`` unset (and no OTLP endpoint) the SDK is not even imported. Exporters, several with
commas between them: ``otlp``, ``console``, ``nats`` (into the installation's own store of recent spans, for
``cnm trace`` and the gateway's page), ``none``. Attributes are named by OpenTelemetry's semantic conventions.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from cnm.errors import Invalid
from cnm.spans import SpanRecord
from cnm.trace import Trace, current_trace

Attributes = Mapping[str, str | int | float | bool]

EXPORTER = "OTEL_TRACES_EXPORTER"
EXPORTERS = ("otlp", "console", "nats", "none")
OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
OTLP_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
GRPC = "grpc"
HTTP = "http/protobuf"


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


def exporters() -> list[str]:
    """Return the exporters that the environment asks for.

    Raises:
        Invalid: there is none of that name, or none that speaks the protocol.
    """
    asked = os.environ.get(EXPORTER, "").strip()
    if not asked and any(os.environ.get(name) for name in OTLP_ENDPOINTS):
        asked = "otlp"
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    names = [name.strip() for name in asked.split(",") if name.strip()]
    for name in names:
        if name not in EXPORTERS:
            raise Invalid.at(EXPORTER, name, f"{EXPORTER}: {name!r} is none of {', '.join(EXPORTERS)}")
    if "otlp" in names:
        otlp_protocol()
    return [] if "none" in names else list(dict.fromkeys(names))


def otlp_protocol() -> str:
    """Return how OTLP is spoken: ``grpc``, or ``http/protobuf``, the default.

    Raises:
        Invalid: the environment asks for another.
    """
    for variable in OTLP_PROTOCOLS:
        if asked := os.environ.get(variable):
            if asked not in (GRPC, HTTP):
                raise Invalid.at(variable, asked, f"{variable}: {asked!r} is neither {GRPC} nor {HTTP}")
            return asked
    return HTTP


def _forget(_: list[SpanRecord]) -> None:
    """Keep no span."""


def setup(service: str, *, node: str | None = None, keep: Callable[[list[SpanRecord]], None] = _forget) -> bool:
    """Start recording if the environment asks for it; return whether it does.

    ``keep`` takes finished spans at each `flush`, and is what the ``nats`` exporter uses.

    Raises:
        Invalid: the environment asks for what is not there.
    """
    global _recorder  # noqa: PLW0603  # one recorder a process, as OpenTelemetry has it
    names = exporters()
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
