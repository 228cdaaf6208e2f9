"""A worker's metrics as OTLP has them: what Prometheus is told, in the other one's words."""

import asyncio

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import MetricExportResult

from cnm.metrics import METRICS, Sample
from cnm.otel_metrics import OtelMetrics, metrics_data
from cnm.otel_resource import resource_of
from cnm.scrape import Scrape
from cnm.tally import Distribution

EVERY = {metric.name: metric for group in METRICS.values() for metric in group}.values()


def test_every_metric_can_be_encoded_with_its_labels_and_kind():
    samples = [
        Sample(
            metric,
            tuple(f"{label}-value" for label in metric.labels),
            Distribution((0.1, 1.0), (1, 2, 3), 4.5) if metric.kind == "histogram" else True,
        )
        for metric in EVERY
    ]
    sent = encode_metrics(metrics_data(samples, resource_of("cnm-test", "n1"), 5, 7))
    found = {each.name: each for each in sent.resource_metrics[0].scope_metrics[0].metrics}
    assert len(found) == len(EVERY)
    for metric in EVERY:
        told = found[metric.name.removesuffix("_total")]
        kind = told.WhichOneof("data")
        assert kind == {"counter": "sum", "gauge": "gauge", "histogram": "histogram"}[metric.kind]
        (point,) = getattr(told, kind).data_points
        assert {each.key: each.value.string_value for each in point.attributes} == {
            label: f"{label}-value" for label in metric.labels
        }
        if metric.kind == "histogram":
            assert (point.count, point.sum, list(point.bucket_counts)) == (6, 4.5, [1, 2, 3])
            assert list(point.explicit_bounds) == [0.1, 1.0]
        else:
            assert point.as_double == 1
    told = found["cnm_requests"].sum
    assert (told.is_monotonic, told.aggregation_temporality) == (True, 2)
    assert (told.data_points[0].start_time_unix_nano, told.data_points[0].time_unix_nano) == (5, 7)


class Exporter:
    """Does what it is told to."""

    def __init__(self, *outcomes):
        self._outcomes = list(outcomes)
        self.ended = False

    def export(self, _, timeout_millis):
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def shutdown(self):
        self.ended = True


async def test_exporter_that_fails_is_tried_again_and_told_of_once(capsys):
    sender = OtelMetrics(Scrape(worker="cnm-test", node="n1"), [], node=None)
    exporter = Exporter(
        MetricExportResult.FAILURE, ValueError("broken"), MetricExportResult.SUCCESS, ValueError("again")
    )
    sender._exporters.append(exporter)
    for _ in range(4):
        await sender.send()
    told = capsys.readouterr().out
    assert told.count("metrics.unsent") == 2
    assert "again" in told
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await sender.run(period_s=60)
    assert exporter.ended
