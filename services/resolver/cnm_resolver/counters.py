"""What is asked, what comes of it, and how the external servers do. Counting a question is a step of a dictionary."""

import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import structlog

from cnm.trace import Trace
from cnm_resolver import wire
from cnm_resolver.zone import Server, View

Source = Literal["own", "kept", "outside", "dropped"]
"""Where an answer is from: what is known here, what servers said before, what they say now; or there is none."""

BOUNDS_S = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
"""Upper bounds of the histogram of times."""
MEASURE_EACH = 64
"""Of one's own answers one in so many is timed: a look at the clock takes as long as counting."""
SERVERS = 256
FAILURES = (wire.FORMERR, wire.SERVFAIL, wire.REFUSED)

log = structlog.get_logger()


@dataclass
class Health:
    """An external server: how often it was asked, and what it did."""

    asked: int = 0
    answered: int = 0
    failed: int = 0
    silent: int = 0
    last_s: float | None = None


class Told(NamedTuple):
    """A question that was timed, its reply's code (-1 for none), and what changed names last before it."""

    source: Source
    packet: bytes
    kind: int
    code: int
    view: View
    took_s: float
    cause: Trace | None


@dataclass
class Counters:
    """Of one process, since it began. With ``log_every`` each so many questions is logged, and every failure."""

    log_every: int = 0
    questions: dict[tuple[Source, int, int], int] = field(default_factory=dict)
    """By source, type of record, and response code; -1 where there is no reply."""
    times: dict[Source, list[int]] = field(default_factory=dict)
    seconds: dict[Source, float] = field(default_factory=dict)
    """What the answers in ``times`` took together."""
    servers: OrderedDict[Server, Health] = field(default_factory=OrderedDict)
    told: Callable[[Told], None] | None = None
    """Hears of the questions that are timed, where somebody records spans."""
    cause: Trace | None = None
    """What changed names last."""
    _until_timed: int = MEASURE_EACH
    _until_logged: int = 0

    def begin(self) -> float | None:
        """Return the time now and then, for ``count``."""
        self._until_timed -= 1
        if self._until_timed:
            return None
        self._until_timed = MEASURE_EACH
        return time.perf_counter()

    def count(
        self, source: Source, packet: bytes, reply: bytes | None, view: View, *, began: float | None = None
    ) -> None:
        """Count a question, and how long it took since ``begin``."""
        end = packet.find(0, 12) + 1
        kind = int.from_bytes(packet[end : end + 2]) if end else 0
        code = -1 if reply is None else reply[3] & 0x0F
        key = source, kind, code
        self.questions[key] = self.questions.get(key, 0) + 1
        if began is not None:
            took_s = time.perf_counter() - began
            self._time(source, took_s)
            if self.told is not None:
                self.told(Told(source, packet, kind, code, view, took_s, self.cause))
        if self.log_every:
            self._log(source, packet, code, kind, view)

    def change(self, cause: Trace | None) -> None:
        """Note what changed names; the next question is told of, so that one sees when it was answered by them."""
        if self.told is not None:
            self.cause = cause
            self._until_timed = 1

    def _time(self, source: Source, took_s: float) -> None:
        found = self.times.get(source)
        if found is None:
            found = self.times[source] = [0] * (len(BOUNDS_S) + 1)
        found[bisect_left(BOUNDS_S, took_s)] += 1
        self.seconds[source] = self.seconds.get(source, 0.0) + took_s

    def _log(self, source: Source, packet: bytes, code: int, kind: int, view: View) -> None:
        self._until_logged -= 1
        if self._until_logged > 0 and code not in FAILURES:
            return
        if self._until_logged <= 0:
            self._until_logged = self.log_every
        asked = wire.parse(packet)
        name = wire.text_of(asked.name) if isinstance(asked, wire.Query) else ""
        log.debug("dns.question", sandbox_id=view.settings.sandbox_id, name=name, kind=kind, source=source, code=code)

    def server(self, server: Server) -> Health:
        """Return what is counted of a server; of too many the one that was asked longest ago is forgotten."""
        found = self.servers.get(server)
        if found is None:
            found = self.servers[server] = Health()
            if len(self.servers) > SERVERS:
                self.servers.popitem(last=False)
        self.servers.move_to_end(server)
        return found
