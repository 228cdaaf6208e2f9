"""Trace context as the W3C has it, and spans that cost nothing until asked for."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm import otel_environment, telemetry
from cnm.errors import Conflict, Invalid
from cnm.trace import (
    Trace,
    current_trace,
    extract,
    new_trace,
    outgoing_headers,
    present_parent,
    set_current_trace,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def outside():
    """Leave no trace and no recorder to the next test."""
    set_current_trace(None)
    yield
    set_current_trace(None)
    telemetry.shutdown()


def test_headers_are_passed_on():
    given_headers = {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "a=1", "baggage": "b=2"}
    found = extract(given_headers)
    assert found == Trace(trace_id=TRACE, span_id=SPAN, flags="00", state="a=1", baggage="b=2")
    assert found.headers() == given_headers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f"cc-{TRACE}-{SPAN}-01more",
    ],
)
def test_malformed_context_begins_a_trace(text):
    found = extract({"traceparent": text, "tracestate": "a=1"})
    assert found.trace_id != TRACE
    assert found.state is None
    assert found.is_unrecorded()


@pytest.mark.parametrize("text", [f"cc-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-comes-later"])
def test_later_versions_are_understood(text):
    assert extract({"traceparent": text}).trace_id == TRACE


@given(st.text())
def test_any_text_gives_a_trace(text):
    found = extract({"traceparent": text})
    assert extract(found.headers()).trace_id == found.trace_id


def test_no_headers_begin_a_trace():
    assert extract(None).trace_id != extract(None).trace_id


def test_new_traces_are_valid_and_differ():
    traces = [new_trace() for _ in range(100)]
    assert len({each.trace_id for each in traces}) == 100
    assert all(extract(each.headers()) == each for each in traces)


def test_span_without_a_recorder_changes_nothing():
    set_current_trace(new_trace())
    before = current_trace()
    with telemetry.span("x", "client", {"more": 1}):
        assert current_trace() is before
    with telemetry.steps_span("tool", ["step"]):
        assert current_trace() is before


def test_nothing_is_imported_unasked():
    script = (
        "import sys\n"
        "from cnm import telemetry, nats_bus\n"
        "assert telemetry.setup('x') is False\n"
        "with telemetry.span('x'): pass\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env={})
    assert done.stdout == "[]\n"


class Kept(list):
    """What was kept, once it was handed over."""

    def now(self):
        telemetry.flush()
        return self


@pytest.fixture
def recorded(monkeypatch):
    """Record spans, and return what is kept."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nats")
    kept = Kept()
    assert telemetry.setup("cnm-test", node="n1", keep=kept.extend)
    return kept


def test_spans_are_kept_with_their_parents(recorded):
    set_current_trace(extract({"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1"}))
    with telemetry.span("outer", "server", {"number": 3}):
        outer = current_trace()
        with telemetry.span("inner", "client"):
            inner = current_trace()
        assert current_trace() == outer
    assert current_trace().span_id == SPAN
    first, second = recorded.now()
    assert (first.name, first.parent_id, first.span_id) == ("inner", outer.span_id, inner.span_id)
    assert (second.name, second.parent_id, second.span_id) == ("outer", SPAN, outer.span_id)
    assert {first.trace_id, second.trace_id} == {TRACE}
    assert (second.kind, second.attributes) == ("server", {"number": 3})
    assert (second.service, second.node) == ("cnm-test", "n1")
    assert second.start_ns <= first.start_ns <= first.end_ns <= second.end_ns
    assert outer.state == "a=1"


def test_trace_that_we_began_has_a_root_under_the_id_that_was_told(recorded):
    told = new_trace()
    set_current_trace(extract(told.headers()))
    with telemetry.span("root"):
        pass
    (root,) = recorded.now()
    assert (root.trace_id, root.parent_id) == (told.trace_id, None)


def test_span_outside_of_any_trace_is_a_root(recorded):
    with telemetry.span("root"):
        inside = current_trace()
    assert current_trace() is None
    assert recorded.now()[0].parent_id is None
    assert recorded[0].trace_id == inside.trace_id


def test_detail_begins_no_trace_and_is_a_part_of_one(recorded):
    with telemetry.detail("alone"):
        assert current_trace() is None
    with telemetry.span("root"), telemetry.detail("within"):
        pass
    assert [span.name for span in recorded.now()] == ["within", "root"]


def test_steps_are_events_in_their_order(recorded):
    with telemetry.steps_span("tool", ["one", " two "]):
        pass
    (span,) = recorded.now()
    assert [event.attributes for event in span.events] == [{"cnm.step": "one"}, {"cnm.step": "two"}]
    assert all(event.at_ns == span.start_ns for event in span.events)


def test_very_long_plan_is_cut(recorded):
    with telemetry.steps_span("tool", map(str, range(1000))):
        pass
    assert len(recorded.now()[0].events) == 128


def test_text_of_steps_is_not_made_while_a_span_is_open(recorded):
    class Step:
        def __str__(self):
            made.append(self)
            return "step"

    made = []
    with telemetry.steps_span("tool", [Step()]):
        pass
    assert made == []
    recorded.now()
    assert len(made) == 1


def test_attributes_can_be_noted_while_a_span_is_open(recorded):
    with telemetry.span("outer", attributes={"a": 1}), telemetry.span("inner"):
        telemetry.note({"b": 2})
    inner, outer = recorded.now()
    assert (inner.attributes, outer.attributes) == ({"b": 2}, {"a": 1})


def test_links_lead_to_other_traces(recorded):
    other = Trace(trace_id=TRACE, span_id=SPAN)
    with telemetry.span("x", links=(other,)):
        pass
    (link,) = recorded.now()[0].links
    assert (link.trace_id, link.span_id) == (TRACE, SPAN)


@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (ValueError("broken"), "broken", "ValueError"),
        (ValueError(), "failed", "ValueError"),
        (Conflict("taken by web"), "taken by web", "conflict"),
    ],
)
def test_failed_span_says_so_with_our_code(recorded, error, told, code):
    with pytest.raises(type(error)), telemetry.span("x", attributes={"a": 1}):
        raise error
    (span,) = recorded.now()
    assert (span.error, span.attributes) == (told, {"a": 1, "error.type": code})


def test_callers_choice_not_to_sample_is_kept(recorded):
    set_current_trace(extract({"traceparent": f"00-{TRACE}-{SPAN}-00"}))
    with telemetry.span("x"):
        assert current_trace().headers()["traceparent"].endswith("-00")
        with telemetry.span("y"):
            pass
    assert recorded.now() == []


def test_what_is_routine_is_sent_as_not_sampled_and_recorded_by_nobody(recorded):
    set_current_trace(extract(outgoing_headers()))
    with telemetry.span("process heartbeat"):
        pass
    assert recorded.now() == []


def test_sampling_is_a_setting(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nats")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    kept = Kept()
    telemetry.setup("cnm-test", keep=kept.extend)
    flags = []
    for _ in range(200):
        set_current_trace(new_trace())
        with telemetry.span("x"):
            flags.append(current_trace().flags)
            with telemetry.span("y"):
                assert current_trace().flags == flags[-1]
    assert 0 < flags.count("01") < 200
    assert len(kept.now()) == 2 * flags.count("01")


def test_a_cause_is_named_only_where_somebody_records(recorded):
    assert present_parent() == ""
    set_current_trace(new_trace())
    assert present_parent() == ""
    set_current_trace(extract({"traceparent": f"00-{TRACE}-{SPAN}-01"}))
    assert present_parent() == f"00-{TRACE}-{SPAN}-01"
    with telemetry.span("x"):
        assert present_parent() == f"00-{TRACE}-{current_trace().span_id}-01"


@pytest.mark.parametrize(
    "environment",
    [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_TRACES_EXPORTER": "nats", "OTEL_SDK_DISABLED": "TRUE"}],
)
def test_recording_is_off_unless_asked_for(monkeypatch, environment):
    for name in ("OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert telemetry.setup("x") is False


@pytest.mark.parametrize(
    ("environment", "names", "protocol"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}, ["otlp"], "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h"}, ["otlp"], "http/protobuf"),
        ({"OTEL_TRACES_EXPORTER": "otlp, nats", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ["otlp", "nats"], "grpc"),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            [],
            "http/protobuf",
        ),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h"}, [], "http/protobuf"),
    ],
)
def test_opentelemetrys_own_variables_decide(monkeypatch, environment, names, protocol):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (otel_environment.trace_exporters(), otel_environment.otlp_protocol("TRACES")) == (names, protocol)
    assert otel_environment.metric_exporters() == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OTEL_TRACES_EXPORTER", "carrier-pigeon"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")],
)
def test_what_is_not_there_is_refused_by_name(monkeypatch, variable, value):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv(variable, value)
    with pytest.raises(Invalid, match=value):
        telemetry.setup("x")


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, []),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://h"}, ["otlp"]),
        ({"OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://h"}, []),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, []),
    ],
)
def test_metrics_are_sent_where_they_are_asked_for(monkeypatch, environment, names):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert otel_environment.metric_exporters() == names


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_METRICS_EXPORTER", "prometheus", "CNM_METRICS_ADDRESS serves Prometheus"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "milliseconds above 0"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1m", "milliseconds above 0"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "none of otlp"),
    ],
)
def test_what_no_worker_could_do_is_refused_before_one_starts(monkeypatch, variable, value, said):
    monkeypatch.setenv(variable, value)
    with pytest.raises(Invalid, match=said):
        otel_environment.check()
