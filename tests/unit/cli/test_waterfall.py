"""Is a trace drawn so that one sees what waited for what?"""

import textwrap

from cnm.spans import SpanEvent, SpanRecord
from cnm_cli.waterfall import waterfall

STEPS = ["ip link add veth1 type veth peer eth0", "ip link set veth1 up", "a", "b", "c", "d"]
EVENTS = [SpanEvent(name="step", at_ns=5, attributes={"cnm.step": each}) for each in STEPS]


def make_span(id, parent, service, name, begin_us, end_us, **more):
    return SpanRecord(
        trace_id="1" * 32,
        span_id=id,
        parent_id=parent,
        service=service,
        name=name,
        start_ns=1_700_000_000_000_000_000 + begin_us * 1000,
        end_ns=1_700_000_000_000_000_000 + end_us * 1000,
        **more,
    )


SPANS = (
    make_span("d", "c", "cnm-driver-bridge", "rtnetlink", 5000, 7000, events=EVENTS),
    make_span("c", "a", "cnm-driver-bridge", "process plug", 4000, 8000),
    make_span(
        "b",
        "a",
        "cnm-ipam",
        "process allocate",
        1000,
        3000,
        error="full",
        attributes={"error.type": "exhausted"},
    ),
    make_span("a", "caller", "cnm-controller", "process connect", 0, 10000),
)

GOLDEN = """\
trace 11111111111111111111111111111111, 2023-11-14T22:13:20.000000Z
service            span                                                    at ms       ms
cnm-controller     process connect                                           0.0     10.0  ========================
cnm-ipam             process allocate                                        1.0      2.0    =====  exhausted: full
cnm-driver-bridge    process plug                                            4.0      4.0           ==========
cnm-driver-bridge      rtnetlink                                             5.0      2.0              =====
                         · ip link add veth1 type veth peer eth0
                         · ip link set veth1 up
                         · a
                         · b
                         · and 2 more
"""


def test_children_stand_below_their_parents_with_their_steps():
    assert waterfall(SPANS) == textwrap.dedent(GOLDEN).rstrip("\n")


def test_steps_may_be_left_out():
    assert "·" not in waterfall(SPANS, steps=False)


def test_span_without_its_parent_stands_at_the_edge():
    lines = waterfall([SPANS[0], SPANS[2]], steps=False).splitlines()
    assert [line.split()[1:3] for line in lines[2:]] == [["process", "allocate"], ["rtnetlink", "4.0"]]


def test_span_of_no_length_has_a_bar():
    assert waterfall([make_span("a", None, "s", "n", 0, 0)]).endswith("0.0  =")


def test_nothing_is_drawn_of_nothing():
    assert waterfall([]) == ""
