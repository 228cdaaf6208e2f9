"""A worker tells the controller what it found to differ, so that it is published."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

import structlog

from cnm.errors import CnmError
from cnm.messages.drift import DRIFT_KINDS, Difference, ReportDrift
from cnm.metrics import DRIFT_FOUND, DRIFT_LEFT, DRIFT_REPAIRED, Sample
from cnm.tally import Counts

SHOWN = 50
AT_ONCE = 200
KEPT = 5000
"""So many differences wait at most while the controller is away; the oldest are dropped then, and logged."""

log = structlog.get_logger()


def shortened(steps: Sequence[str]) -> list[str]:
    """Return the steps of one repair, the first of them where there are very many."""
    rest = len(steps) - SHOWN
    return [*steps] if rest <= 0 else [*steps[:SHOWN], f"and {rest} more"]


class DriftCounts:
    """How often what differed was found, and mended, by what it was; what a worker can find begins with 0."""

    def __init__(self, worker: str) -> None:
        self._found = Counts({(kind,): 0 for kind in DRIFT_KINDS.get(worker, ())})
        self._repaired = Counts(self._found)

    def add(self, differences: Iterable[Difference]) -> None:
        """Count differences."""
        for each in differences:
            self._found.add(each.what)
            if each.repaired:
                self._repaired.add(each.what)

    def samples(self) -> list[Sample]:
        """Return what was counted."""
        return [*DRIFT_FOUND.each(self._found), *DRIFT_REPAIRED.each(self._repaired)]


class DriftReports:
    """Keeps what is to be told until the controller has taken it.

    What was mended is told each time. What could not be is told when it was found twice in a row, and once: until it
    is another, or gone in between.
    """

    def __init__(self, send: Callable[[ReportDrift], Awaitable[object]], *, node: str, worker: str = "") -> None:
        self.counts = DriftCounts(worker)
        self._known = DRIFT_KINDS.get(worker, ())
        self._send = send
        self._node = node
        self._waiting: list[ReportDrift] = []
        self._telling = asyncio.Lock()
        self._unrepaired: dict[Difference, int] = {}

    def samples(self) -> list[Sample]:
        """Return what was counted, and what the last comparison could not mend."""
        kinds = [each.what for each in self._unrepaired]
        return [*self.counts.samples(), *(DRIFT_LEFT(kinds.count(kind), kind) for kind in self._known)]

    def note(self, differences: Sequence[Difference]) -> None:
        """Take down what one comparison found; ``tell`` sends it."""
        told = [each for each in differences if each.repaired]
        seen: dict[Difference, int] = {}
        for each in differences:
            if not each.repaired:
                seen[each] = self._unrepaired.get(each, 0) + 1
                if seen[each] == 2:
                    told.append(each)
        self._unrepaired = seen
        self.counts.add(told)
        for start in range(0, len(told), AT_ONCE):
            report = ReportDrift(id=secrets.token_hex(16), node=self._node, differences=told[start : start + AT_ONCE])
            self._waiting.append(report)
        while len(self._waiting) > max(1, KEPT // AT_ONCE):
            lost = self._waiting.pop(0)
            log.warning("drift.untold", count=len(lost.differences))

    async def tell(self) -> None:
        """Send what waits, oldest first, one after another; what the controller does not take now waits on."""
        async with self._telling:
            while self._waiting:
                report = self._waiting[0]
                try:
                    await self._send(report)
                except CnmError as error:
                    log.debug("drift.waiting", error=str(error))
                    return
                with suppress(ValueError):  # too many came meanwhile, and it went as the oldest
                    self._waiting.remove(report)
