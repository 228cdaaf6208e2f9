"""Turns: one contender after the other, round by round, and ratios within a round, for the machine is noisy."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from bench.peers.contender import LANES, Contender, plain
from bench.peers.room import Refused
from bench.report import percentile

Came = TypeVar("Came")


class Named(Protocol):
    """Who has turns."""

    @property
    def name(self) -> str: ...


Side = TypeVar("Side", bound=Named)


@dataclass
class Pairs:
    """What one turn of attaches and detaches came to: milliseconds, pairs a second, and how many calls failed."""

    attached: list[float] = field(default_factory=list)
    detached: list[float] = field(default_factory=list)
    failed: int = 0
    said: str = ""
    rate: float = 0.0

    @property
    def p50(self) -> float:
        return statistics.median(self.attached)

    @property
    def tail(self) -> float:
        """How many times longer than the median the slowest hundredth takes at the least."""
        return percentile(self.attached, 0.99) / self.p50


@dataclass(frozen=True)
class Ratio:
    """The ratios of all rounds."""

    each: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.each)

    def __str__(self) -> str:
        shown = [f"{value:.2f}" if value < 10 else f"{value:.1f}" for value in (self.median, *_ends(self.each))]
        return f"{shown[0]} ({shown[1]} - {shown[2]})"


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


async def in_turn(
    sides: Sequence[Side], rounds: int, turn: Callable[[Side], Awaitable[Came]], failures: list[list[str]]
) -> dict[str, list[Came]]:
    """Give each side a turn in each round, another one first every time; return by name what its turns came to.

    A peer that fails a turn altogether is left out, and ``failures`` are told of it.
    """
    came: dict[str, list[Came]] = {side.name: [] for side in sides}
    for number in range(rounds):
        first = number % len(sides)
        for side in (*sides[first:], *sides[:first]):
            if side.name not in came:
                continue
            try:
                came[side.name].append(await turn(side))
            except Refused as refused:
                failures.append([side.name, str(refused)])
                del came[side.name]
    return came


async def one_client(side: Contender, lane: str, pairs: int) -> Pairs:
    """Attach and detach so often, one after the other."""
    done = Pairs()

    async def work() -> None:
        for _ in range(pairs):
            await _pair(side, lane, done)

    await side.room.run(work())
    return _some(side, done)


async def clients(side: Contender, seconds: float) -> Pairs:
    """Attach and detach for so long with a client for each lane."""
    done = Pairs()
    began = time.perf_counter()

    async def loop(lane: str) -> None:
        while time.perf_counter() < began + seconds:
            await _pair(side, lane, done)

    async def work() -> None:
        await asyncio.gather(*(loop(plain(number)) for number in range(LANES)))

    await side.room.run(work())
    done.rate = len(done.detached) / (time.perf_counter() - began)
    return _some(side, done)


def _some(side: Contender, done: Pairs) -> Pairs:
    if not done.attached:
        raise Refused(f"{side.name}: all of {done.failed} attaches failed: {done.said}")
    return done


async def _pair(side: Contender, lane: str, done: Pairs) -> None:
    try:
        attached = await side.attach(lane)
        detached = await side.detach(lane)
    except Refused as refused:
        done.failed += 1
        done.said = str(refused)
        await side.recover(lane)
    else:
        done.attached.append(attached)
        done.detached.append(detached)
