"""Trace context as the W3C has it, and spans that cost nothing until asked for."""

import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm import telemetry
from cnm.telemetry import SpanRecord, Trace, extract, new_trace

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(autouse=True)
def outside():
    """Leave no trace and no recorder to the next test."""
    telemetry.set_current_trace(None)
    yield
    telemetry.set_current_trace(None)
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
    telemetry.set_current_trace(new_trace())
    before = telemetry.current_trace()
    with telemetry.span("x", kind="client", more=1):
        assert telemetry.current_trace() is before
    with telemetry.steps_span("tool", ["step"]):
        assert telemetry.current_trace() is before


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


@pytest.fixture
def recorded(monkeypatch):
    """Record spans, and return what was shipped."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nats")
    shipped = []

    def ship(body):
        shipped.extend(msgspec.json.decode(body, type=list[SpanRecord]))

    assert telemetry.setup("cnm-test", ship=ship)
    return shipped


def test_spans_are_shipped_with_their_parents(recorded):
    telemetry.set_current_trace(extract({"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1"}))
    with telemetry.span("outer", kind="server", number=3):
        outer = telemetry.current_trace()
        with telemetry.span("inner", kind="client"):
            inner = telemetry.current_trace()
        assert telemetry.current_trace() == outer
    assert telemetry.current_trace().span_id == SPAN
    first, second = recorded
    assert (first.name, first.parent_id, first.span_id) == ("inner", outer.span_id, inner.span_id)
    assert (second.name, second.parent_id, second.span_id) == ("outer", SPAN, outer.span_id)
    assert {first.trace_id, second.trace_id} == {TRACE}
    assert second.attributes == {"number": 3}
    assert second.service == "cnm-test"
    assert second.start_ns <= first.start_ns <= first.end_ns <= second.end_ns
    assert outer.state == "a=1"


def test_trace_that_we_began_has_a_root_under_the_id_that_was_told(recorded):
    told = new_trace()
    telemetry.set_current_trace(extract(told.headers()))
    with telemetry.span("root"):
        pass
    (root,) = recorded
    assert (root.trace_id, root.parent_id) == (told.trace_id, None)


def test_span_outside_of_any_trace_is_a_root(recorded):
    with telemetry.span("root"):
        inside = telemetry.current_trace()
    assert telemetry.current_trace() is None
    assert recorded[0].parent_id is None
    assert recorded[0].trace_id == inside.trace_id


def test_failed_span_says_so(recorded):
    for error in (ValueError("broken"), ValueError()):
        with pytest.raises(ValueError), telemetry.span("x"):
            raise error
    assert [each.error for each in recorded] == ["broken", "failed"]
    assert recorded[0].attributes["error.type"] == "ValueError"


def test_callers_choice_not_to_sample_is_kept(recorded):
    telemetry.set_current_trace(extract({"traceparent": f"00-{TRACE}-{SPAN}-00"}))
    with telemetry.span("x"):
        assert telemetry.current_trace().headers()["traceparent"].endswith("-00")
    assert recorded == []


def test_sampling_is_a_setting(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nats")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    shipped = []
    telemetry.setup("cnm-test", ship=shipped.append)
    telemetry.set_current_trace(new_trace())
    with telemetry.span("x"):
        assert int(telemetry.current_trace().flags, 16) & 1 == 0
    assert shipped == []


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


def test_unknown_exporter_is_refused(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "carrier-pigeon")
    with pytest.raises(ValueError, match="carrier-pigeon"):
        telemetry.setup("x")
