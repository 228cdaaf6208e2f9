"""Is a trace laid out as the tree that it is?"""

from cnm.spans import SpanEvent, SpanRecord
from cnm_gateway.waterfall import waterfall


def span(id, parent, start_ms, end_ms, *, name="span", service="cnm-controller", **more):
    return SpanRecord(
        trace_id="t", span_id=id, parent_id=parent, service=service, name=name, start_ns=int(start_ms * 1e6),
        end_ns=int(end_ms * 1e6), **more,
    )  # fmt: skip


def test_each_span_stands_below_its_parent_with_its_place_in_time():
    shown = waterfall(
        [
            span("c", "b", 12, 13, service="cnm-ipam"),
            span("b", "a", 11, 14),
            span("d", "a", 15, 16.5),
            span("a", "outside", 10, 20, name="process cnm.v1.sandbox.connect"),
        ],
        about="web on demo",
    )
    assert (shown.operation, shown.about, shown.took_ms) == ("sandbox.connect", "web on demo", 10)
    assert (shown.spans, shown.services, shown.error) == (4, 2, None)
    found = [(bar.span_id, bar.depth, bar.at_ms, bar.took_ms) for bar in shown.bars]
    assert found == [("a", 0, 0, 10), ("b", 1, 1, 3), ("c", 2, 2, 1), ("d", 1, 5, 1.5)]


def test_steps_and_errors_are_told():
    step = SpanEvent(name="step", at_ns=0, attributes={"cnm.step": "ip link set eth0 up"})
    shown = waterfall([span("a", None, 0, 1), span("b", "a", 0, 1, events=[step] * 60, error="no device")])
    assert shown.error == "no device"
    assert shown.bars[1].steps[0] == "ip link set eth0 up"
    assert shown.bars[1].steps[-1] == "and 10 more"
    assert len(shown.bars[1].steps) == 51
