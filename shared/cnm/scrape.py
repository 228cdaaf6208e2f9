"""Reads all that a worker tells of itself, when somebody asks for it."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from cnm.errors import CnmError
from cnm.metrics import INFO, LOOP_DELAY, READY, SOURCE_UP, Check, Sample, Source
from cnm.version import VERSION

READ_S = 2.0
"""A source that takes longer is left out of the page."""
NAP_S = 0.005

log = structlog.get_logger()


@dataclass
class Scrape:
    """A worker as it is seen from outside; ``serving`` is whether it answers requests now."""

    worker: str
    node: str
    sources: list[Source] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    serving: bool = False
    _failing: set[str] = field(default_factory=set)

    async def read(self) -> list[Sample]:
        """Read all sources; what cannot be read is left out, and said to be."""
        late = await _lateness()
        timed = [each for each in self.sources if each.timed]
        others = [each for each in self.sources if not each.timed]
        read = [await self._read(each) for each in timed]
        faults, rest = await asyncio.gather(self.faults(), asyncio.gather(*map(self._read, others)))
        samples = [INFO(1, self.worker, self.node, VERSION), READY(not faults), LOOP_DELAY(late)]
        for source, found in zip((*timed, *others), (*read, *rest), strict=True):
            samples.append(SOURCE_UP(found is not None, source.name))
            samples.extend(found or ())
        return samples

    async def faults(self) -> Sequence[str]:
        """Return what keeps the worker from being ready."""
        found = await asyncio.gather(*map(_find, tuple(self.checks)))
        return [*(() if self.serving else ("it does not answer requests",)), *filter(None, found)]

    async def _read(self, source: Source) -> Iterable[Sample] | None:
        try:
            async with asyncio.timeout(READ_S):
                found = list(await source.read())
        except (CnmError, OSError, TimeoutError) as error:
            if source.name not in self._failing:
                self._failing.add(source.name)
                log.warning("metrics.unread", source=source.name, error=str(error) or f"not within {READ_S} s")
            return None
        self._failing.discard(source.name)
        return found


async def _find(check: Check) -> str | None:
    try:
        async with asyncio.timeout(READ_S):
            found = await check.find()
    except TimeoutError:
        found = f"no answer within {READ_S} s"
    return None if found is None else f"{check.name}: {found}"


async def _lateness() -> float:
    """Return by how much a timer of the event loop is late, in seconds."""
    due = time.monotonic() + NAP_S
    await asyncio.sleep(NAP_S)
    return max(0.0, time.monotonic() - due)
