"""Spans of a trace in the order in which they are drawn."""

from cnm.spans import SpanRecord, by_tree


def span(id, parent, begin=0):
    return SpanRecord(trace_id="1", span_id=id, parent_id=parent, service="s", name=id, start_ns=begin, end_ns=begin)


def drawn(*spans):
    return [(span.span_id, depth) for span, depth in by_tree(spans)]


def test_children_follow_their_parents_as_they_began():
    spans = (span("d", "b", 4), span("b", "a", 3), span("c", "a", 1), span("a", "client"), span("e", "c", 2))
    assert drawn(*spans) == [("a", 0), ("c", 1), ("e", 2), ("b", 1), ("d", 2)]


def test_whoever_has_no_parent_there_stands_at_the_edge():
    assert drawn(span("b", "gone", 2), span("a", None, 1)) == [("a", 0), ("b", 0)]


def test_chain_however_long_is_followed():
    chain = [span(str(number), str(number - 1), number) for number in range(5000)]
    assert drawn(*chain)[-1] == ("4999", 4999)


def test_spans_that_name_each_other_end_nothing():
    assert drawn(span("a", "b"), span("b", "a"), span("c", None)) == [("c", 0)]
