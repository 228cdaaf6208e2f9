"""How sagas ended, and at which step those failed that did not come to their commit."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from cnm.errors import CnmError
from cnm.metrics import SAGA_FAILURES, SAGA_TIMES, SAGAS, SAGAS_RECOVERED, Sample
from cnm.store import Stale
from cnm.tally import Counts, Times

BEGIN, DEADLINE, CONTROLLER = "begin", "deadline", "controller"


@dataclass
class SagaCounts:
    """Of one process, since it began."""

    ended: Counts = field(default_factory=Counts)
    failures: Counts = field(default_factory=Counts)
    recovered: Counts = field(default_factory=lambda: Counts({("finished",): 0, ("unfinished",): 0}))
    times: Times = field(default_factory=Times)

    def saga(self, kind: str) -> "SagaCount":
        """Return what counts a saga that begins now."""
        return SagaCount(self, kind, time.monotonic())

    def samples(self) -> list[Sample]:
        """Return what was counted."""
        return [
            *SAGAS.each(self.ended),
            *SAGA_FAILURES.each(self.failures),
            *SAGA_TIMES.each_of(self.times),
            *SAGAS_RECOVERED.each(self.recovered),
        ]


@dataclass(frozen=True)
class SagaCount:
    """Counts one saga."""

    counts: SagaCounts
    kind: str
    began: float

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """Count the saga as refused when the body, which begins it, fails."""
        try:
            yield
        except BaseException as error:
            self.ended("refused")
            self.counts.failures.add(self.kind, BEGIN, _code(error))
            raise

    def ended(self, outcome: str) -> None:
        """Count how it ended."""
        self.counts.ended.add(self.kind, outcome)
        self.counts.times.add(time.monotonic() - self.began, self.kind)

    def failed(self, step: str, error: BaseException) -> None:
        """Count what it failed at: a command's subject; "" where it was none."""
        if not step:
            step = DEADLINE if isinstance(error, asyncio.CancelledError) else CONTROLLER
        self.counts.failures.add(self.kind, step, _code(error))


def _code(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "timeout"
    if isinstance(error, Stale):
        return "stale"
    return error.code if isinstance(error, CnmError) else "internal"
