"""Is a trace drawn so that one sees what waited for what?"""

import textwrap

from cnm.telemetry import SpanRecord
from cnm_cli.trace import is_routine
from cnm_cli.waterfall import waterfall

STEPS = "ip link add veth1 type veth peer eth0\nip link set veth1 up\na\nb\nc\nd"


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
    make_span("d", "c", "cnm-driver-bridge", "rtnetlink", 5000, 7000, attributes={"steps": STEPS}),
    make_span("c", "a", "cnm-driver-bridge", "process plug", 4000, 8000),
    make_span("b", "a", "cnm-ipam", "process allocate", 1000, 3000, error="none free"),
    make_span("a", "caller", "cnm-controller", "process connect", 0, 10000),
)

GOLDEN = """\
service            span                                                    at ms       ms
cnm-controller     process connect                                           0.0     10.0  ========================
cnm-ipam             process allocate                                        1.0      2.0    =====  failed: none free
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
    assert [line.split()[1:3] for line in lines[1:]] == [["process", "allocate"], ["rtnetlink", "4.0"]]


def test_span_of_no_length_has_a_bar():
    assert waterfall([make_span("a", None, "s", "n", 0, 0)]).endswith("0.0  =")


def test_nothing_is_drawn_of_nothing():
    assert waterfall([]) == ""


def test_heartbeats_are_routine_and_requests_are_not():
    assert is_routine(["send cnm.v1.node.heartbeat", "process cnm.v1.node.slice.ports"])
    assert not is_routine(["process cnm.v1.sandbox.connect", "send cnm.v1.node.heartbeat"])
