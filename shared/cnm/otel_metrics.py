"""Sends a worker's metrics by OTLP; imported only where that is asked for.

They are those of ``/metrics``, read when it is time to send: names without ``_total``, which is Prometheus' way to
say that something is a counter, labels as attributes, and who sends them as the resource.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from functools import partial

import structlog
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ConsoleMetricExporter,
    Gauge,
    Histogram,
    HistogramDataPoint,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as OtelMetric
from opentelemetry.sdk.resources import Resource

from cnm.aside import aside
from cnm.metrics import Metric, Sample
from cnm.otel_environment import GRPC, otlp_protocol
from cnm.otel_resource import SCOPE, resource_of
from cnm.scrape import Scrape
from cnm.tally import Distribution

CUMULATIVE = AggregationTemporality.CUMULATIVE
EXPORT_MS = 10_000

log = structlog.get_logger()


class OtelMetrics:
    """Sends what a scrape reads, to the exporters of these names."""

    def __init__(self, scrape: Scrape, exporters: Sequence[str], *, node: str | None) -> None:
        self._scrape = scrape
        self._resource = resource_of(scrape.worker, node)
        self._began_ns = time.time_ns()
        self._exporters: list[MetricExporter] = []
        if "console" in exporters:
            self._exporters.append(ConsoleMetricExporter())
        if "otlp" in exporters:
            self._exporters.append(_otlp_exporter())
        self._lost = ""

    async def run(self, period_s: float) -> None:
        """Send for ever, each so many seconds, and a last time at the end."""
        try:
            while True:
                await asyncio.sleep(period_s)
                await self.send()
        finally:
            for exporter in self._exporters:
                exporter.shutdown()

    async def send(self) -> None:
        """Read and send once; what cannot be sent is said once, and counted on in the next."""
        data = metrics_data(await self._scrape.read(), self._resource, self._began_ns, time.time_ns())
        outcomes = [await aside(partial(_export, each, data)) for each in self._exporters]
        lost = "; ".join(filter(None, outcomes))
        if lost and not self._lost:
            log.warning("metrics.unsent", error=lost)
        self._lost = lost


def _export(exporter: MetricExporter, data: MetricsData) -> str:
    """Send, and return what became of it where that is not success."""
    try:
        outcome = exporter.export(data, timeout_millis=EXPORT_MS)
    except Exception as error:  # noqa: BLE001  # an exporter's fault must not end a worker
        return f"{error!r:.300}"
    return "" if outcome is MetricExportResult.SUCCESS else "the exporter failed"


def metrics_data(samples: Iterable[Sample], resource: Resource, began_ns: int, now_ns: int) -> MetricsData:
    """Return samples as the SDK's exporters take them, one metric a name."""
    by_metric: dict[Metric, list[Sample]] = {}
    for sample in samples:
        by_metric.setdefault(sample.metric, []).append(sample)
    metrics = [_metric(metric, found, began_ns, now_ns) for metric, found in by_metric.items()]
    return MetricsData([ResourceMetrics(resource, [ScopeMetrics(SCOPE, metrics, "")], "")])


def _metric(metric: Metric, samples: Sequence[Sample], began_ns: int, now_ns: int) -> OtelMetric:
    data: Sum | Gauge | Histogram
    if metric.kind == "histogram":
        data = Histogram([_distribution(each, began_ns, now_ns) for each in samples], CUMULATIVE)
    else:
        points = [
            NumberDataPoint(_attributes(each), began_ns, now_ns, float(each.value))
            for each in samples
            if not isinstance(each.value, Distribution)
        ]
        data = Gauge(points) if metric.kind == "gauge" else Sum(points, CUMULATIVE, is_monotonic=True)
    return OtelMetric(metric.name.removesuffix("_total"), metric.about, "", data)


def _distribution(sample: Sample, began_ns: int, now_ns: int) -> HistogramDataPoint:
    found = sample.value
    assert isinstance(found, Distribution)
    return HistogramDataPoint(
        attributes=_attributes(sample),
        start_time_unix_nano=began_ns,
        time_unix_nano=now_ns,
        count=sum(found.counts),
        sum=found.total,
        bucket_counts=found.counts,
        explicit_bounds=found.bounds,
        min=float("nan"),
        max=float("nan"),
    )


def _attributes(sample: Sample) -> dict[str, str]:
    return dict(zip(sample.metric.labels, sample.labels, strict=True))


def _otlp_exporter() -> MetricExporter:
    if otlp_protocol("METRICS") == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc import metric_exporter as grpc  # noqa: PLC0415  # 25 MB if asked for

        return grpc.OTLPMetricExporter()
    from opentelemetry.exporter.otlp.proto.http import metric_exporter as http  # noqa: PLC0415  # as above

    return http.OTLPMetricExporter()
