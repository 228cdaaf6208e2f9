"""When is all of a trace there?"""

import pytest

from cnm.spans import SpanRecord
from cnm_cli.spans import is_complete


def span(id, parent, name="process x"):
    return SpanRecord(trace_id="1", span_id=id, parent_id=parent, service="s", name=name, start_ns=0, end_ns=1)


WHOLE = [span("a", "client"), span("b", "a", "send y"), span("c", "b"), span("d", "c", "rtnetlink")]


@pytest.mark.parametrize("root", ["client", None])
def test_trace_with_all_parents_and_answers_is_complete(root):
    assert is_complete(WHOLE, root=root)


@pytest.mark.parametrize("root", ["client", None])
@pytest.mark.parametrize(
    ("without", "why"), [("c", "the answer is missing"), ("b", "a parent is missing"), ("abcd", "nothing is there")]
)
def test_trace_that_lacks_something_is_not(root, without, why):
    assert not is_complete([each for each in WHOLE if each.span_id not in without], root=root), why


def test_what_is_not_below_the_root_is_not_complete():
    assert not is_complete(WHOLE, root="other")
    assert not is_complete([*WHOLE, span("e", "stranger")], root="client")


def test_trace_that_we_began_has_no_parent_above():
    assert is_complete([span("a", None)])
