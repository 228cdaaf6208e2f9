"""What processes take."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """Megabytes: ``pss`` counts a page shared by n processes as an nth, ``rss`` counts it whole in each."""

    processes: int
    pss: float
    rss: float

    def __str__(self) -> str:
        return f"{self.pss:.0f} MB ({self.processes} processes, RSS {self.rss:.0f})"


def of_processes(pids: Iterable[int]) -> Memory:
    """Add up what they take."""
    pss = rss = count = 0
    for pid in pids:
        count += 1
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            words = line.split()
            if words[0] == "Pss:":
                pss += int(words[1])
            elif words[0] == "Rss:":
                rss += int(words[1])
    return Memory(processes=count, pss=pss / 1024, rss=rss / 1024)


def family(pid: int) -> set[int]:
    """Return a process and all that descend from it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def processor_s(pid: int) -> float:
    """Return the processor seconds that a process has had."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def busy(seconds: float) -> str:
    """Look for so long, doing nothing, and say how much of the machine's processors others had."""

    def look() -> tuple[int, int]:
        words = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(words), words[3] + words[4]

    (all_before, idle_before) = look()
    time.sleep(seconds)
    (all_after, idle_after) = look()
    return f"{100 * (1 - (idle_after - idle_before) / max(1, all_after - all_before)):.0f} %"
