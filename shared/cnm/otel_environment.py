"""What OpenTelemetry's own variables ask for: which exporters of traces and of metrics, and how OTLP is spoken.

Endpoints, headers, sampling, limits and intervals are read by the SDK itself.
"""

import os
from typing import Literal

from cnm.errors import Invalid

Signal = Literal["TRACES", "METRICS"]

TRACE_EXPORTERS = ("otlp", "console", "nats", "none")
METRIC_EXPORTERS = ("otlp", "console", "none")
GRPC = "grpc"
HTTP = "http/protobuf"
INTERVAL = "OTEL_METRIC_EXPORT_INTERVAL"
INTERVAL_MS = 60_000


def trace_exporters() -> list[str]:
    """Return the exporters of spans; an OTLP endpoint alone asks for that of OTLP.

    Raises:
        Invalid: there is none of that name, or none that speaks the protocol.
    """
    assumed = "otlp" if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") else ""
    return _exporters("TRACES", TRACE_EXPORTERS, assumed)


def metric_exporters() -> list[str]:
    """Return the exporters of metrics; an endpoint that takes traces asks for none, since many take nothing else.

    Raises:
        Invalid: there is none of that name, or none that speaks the protocol.
    """
    return _exporters("METRICS", METRIC_EXPORTERS, "")


def _exporters(signal: Signal, known: tuple[str, ...], assumed: str) -> list[str]:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    variable = f"OTEL_{signal}_EXPORTER"
    if os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"):
        assumed = "otlp"
    asked = os.environ.get(variable, "").strip() or assumed
    names = [name.strip() for name in asked.split(",") if name.strip()]
    for name in names:
        if name not in known:
            hint = "; CNM_METRICS_ADDRESS serves Prometheus" if name == "prometheus" else ""
            raise Invalid.at(variable, name, f"{variable}: {name!r} is none of {', '.join(known)}{hint}")
    if "otlp" in names:
        otlp_protocol(signal)
    return [] if "none" in names else list(dict.fromkeys(names))


def otlp_protocol(signal: Signal) -> str:
    """Return how OTLP is spoken: ``grpc``, or ``http/protobuf``, the default.

    Raises:
        Invalid: the environment asks for another.
    """
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if asked := os.environ.get(variable):
            if asked not in (GRPC, HTTP):
                raise Invalid.at(variable, asked, f"{variable}: {asked!r} is neither {GRPC} nor {HTTP}")
            return asked
    return HTTP


def export_interval_s() -> float:
    """Return how often metrics are sent, in seconds.

    Raises:
        Invalid: it is no number of milliseconds above 0.
    """
    text = os.environ.get(INTERVAL) or str(INTERVAL_MS)
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise Invalid.at(INTERVAL, text, f"{INTERVAL} is {text!r}, expected milliseconds above 0")
    return int(text) / 1000


def check() -> None:
    """Refuse what no worker could do.

    Raises:
        Invalid: a variable asks for it.
    """
    trace_exporters()
    metric_exporters()
    export_interval_s()
