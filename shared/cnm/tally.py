"""What a process counts of itself as it goes: a step of a dictionary each, whether or not anybody reads it."""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from cnm.errors import BY_CODE, CnmError

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of histograms of times."""
OK = "ok"
CODE_OF_STATUS: Mapping[str, str] = {str(error.status): code for code, error in BY_CODE.items()}

Key = tuple[str, ...]


class Counts(dict[Key, int]):
    """How often things happened, by their labels."""

    def add(self, *key: str, times: int = 1) -> None:
        """Count something."""
        self[key] = self.get(key, 0) + times


@dataclass(frozen=True)
class Distribution:
    """How many took up to each bound, but longer than the one before; the last of ``counts`` has no bound."""

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float


@dataclass
class Times:
    """How long things took, in seconds, by their labels."""

    bounds: Sequence[float] = BOUNDS_S
    _counts: dict[Key, list[int]] = field(default_factory=dict)
    _totals: dict[Key, float] = field(default_factory=dict)

    def add(self, took_s: float, *key: str) -> None:
        """Count something that took so long."""
        found = self._counts.get(key)
        if found is None:
            found = self._counts[key] = [0] * (len(self.bounds) + 1)
        found[bisect_left(self.bounds, took_s)] += 1
        self._totals[key] = self._totals.get(key, 0.0) + took_s

    def distributions(self) -> dict[Key, Distribution]:
        """Return what was counted, as it is now."""
        return {
            key: Distribution(self.bounds, tuple(counts), self._totals[key]) for key, counts in self._counts.items()
        }


@dataclass
class Requests:
    """What a bus answered and asked; subjects are without nodes and drivers, codes are `OK` or an error's."""

    answered: Counts = field(default_factory=Counts)
    asked: Counts = field(default_factory=Counts)
    times: Times = field(default_factory=Times)
    open: int = 0

    def answer(self, subject: str, status: str | None, took_s: float) -> None:
        """Count a request that was answered, with the status that its reply's header says, if any."""
        self.answered.add(subject, OK if status is None else CODE_OF_STATUS.get(status, "internal"))
        self.times.add(took_s, subject)

    @contextmanager
    def asking(self, subject: str) -> Iterator[None]:
        """Count a command that is sent in the body, by how that ends."""
        code = OK
        try:
            yield
        except CnmError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = "timeout"
            raise
        finally:
            self.asked.add(subject, code)


@dataclass
class Turns:
    """How a node's worker compared what should stand with what does; ``last`` is seconds since 1970."""

    ended: Counts = field(default_factory=lambda: Counts({("done",): 0, ("failed",): 0}))
    times: Times = field(default_factory=Times)
    last: float = 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Count the body."""
        began = time.monotonic()
        try:
            yield
        except BaseException:
            self.ended.add("failed")
            raise
        self.ended.add("done")
        self.times.add(time.monotonic() - began)
        self.last = time.time()
