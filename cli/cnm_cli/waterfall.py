"""Draws a trace: who did what, when, and how long it took."""

from collections.abc import Sequence
from datetime import UTC, datetime

from cnm.spans import STEP_TEXT, SpanRecord, by_tree

BAR = 24
"""The width of the bar that shows a span's place in the whole."""
NAME = 52
STEP = 96
STEPS_SHOWN = 4


def waterfall(spans: Sequence[SpanRecord], *, steps: bool = True) -> str:
    """Draw the tree of one trace, a line a span: service, name below its parent's, when it began, how long it took.

    Times are milliseconds, beginnings counted from the first span's. Below a span that changed the kernel stand its
    steps, as ``ip`` and ``nft`` would say them. A span whose parent is not among the spans stands at the edge.
    """
    if not spans:
        return ""
    first = min(span.start_ns for span in spans)
    whole_ns = max(1, max(span.end_ns for span in spans) - first)
    width = max(len("service"), *(len(span.service) for span in spans))
    lines = [
        f"trace {spans[0].trace_id}, {_moment(first)}",
        f"{'service':{width}}  {'span':{NAME}} {'at ms':>8} {'ms':>8}",
    ]
    for span, depth in by_tree(spans):
        indent = "  " * depth
        name = _cut(f"{indent}{span.name}", NAME)
        at_ms, took_ms = (span.start_ns - first) / 1e6, (span.end_ns - span.start_ns) / 1e6
        failed = f"  {span.attributes.get('error.type', 'failed')}: {span.error}" if span.error else ""
        line = f"{span.service:{width}}  {name:{NAME}} {at_ms:8.1f} {took_ms:8.1f}  {_bar(span, first, whole_ns)}"
        lines.append(f"{line}{failed}".rstrip())
        if steps:
            blank = " " * (width + 2 + len(indent) + 2)
            lines += [f"{blank}{step}" for step in _steps(span)]
    return "\n".join(lines)


def _moment(nanoseconds: int) -> str:
    return f"{datetime.fromtimestamp(nanoseconds / 1e9, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def _bar(span: SpanRecord, first: int, whole_ns: int) -> str:
    begin = (span.start_ns - first) * BAR // whole_ns
    length = max(1, round((span.end_ns - span.start_ns) * BAR / whole_ns))
    begin = min(begin, BAR - 1)
    return " " * begin + "=" * min(length, BAR - begin)


def _steps(span: SpanRecord) -> list[str]:
    found = [str(event.attributes.get(STEP_TEXT, event.name)) for event in span.events]
    shown = [f"· {_cut(step, STEP)}" for step in found[:STEPS_SHOWN]]
    return shown + ([f"· and {len(found) - STEPS_SHOWN} more"] if len(found) > STEPS_SHOWN else [])


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
