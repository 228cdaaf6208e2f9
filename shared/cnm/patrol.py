"""Chooses what one turn of a comparison looks at, so that a turn costs the same however much there is.

Looking closely at an endpoint or a sandbox takes a fraction of a millisecond, which thousands of them would take from
the commands every few seconds. So whatever tells of a change (a notification, a dump of links, a file's time) makes
its owner suspect, suspects are looked at at once, and the others in turn, as many as a budget of time allows.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

BUDGET_S, PERIOD_S = 0.05, 3.0
"""For what nothing tells of, in so long: 2 % of a core. Turns that come sooner have their part of it."""


class Patrol(Generic[T]):
    """Remembers what was looked at, as what, and in which order; whatever it does not remember is suspect."""

    def __init__(self, *, budget_s: float = BUDGET_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._looked: OrderedDict[str, T] = OrderedDict()
        self._budget_s = budget_s
        self._clock = clock
        self._turned = clock() - PERIOD_S

    def suspect(self, *keys: str) -> None:
        """Have these looked at in the next turn, whatever it costs."""
        for key in keys:
            self._looked.pop(key, None)

    def suspect_all(self) -> None:
        """Have everything looked at in the next turn: nobody knows what changed."""
        self._looked.clear()

    def turn(self, wanted: Mapping[str, T]) -> Iterator[str]:
        """Yield the keys to look at now.

        First those that are suspect, new, or wanted otherwise than when last looked at; then the others, those first
        that were not looked at for longest, until the budget is spent. A key counts as looked at once it is yielded;
        ``suspect`` it where the look failed. What is not wanted is forgotten, and suspect when it is wanted again.
        """
        for key in [key for key in self._looked if key not in wanted]:
            del self._looked[key]
        due = [key for key, value in wanted.items() if key not in self._looked or self._looked[key] != value]
        self.suspect(*due)
        others = list(self._looked)
        for key in due:
            yield self._look(key, wanted)
        now = self._clock()
        until = now + self._budget_s * min(1.0, (now - self._turned) / PERIOD_S)
        self._turned = now
        for key in others:
            if self._clock() >= until:
                return
            yield self._look(key, wanted)

    def _look(self, key: str, wanted: Mapping[str, T]) -> str:
        self._looked[key] = wanted[key]
        self._looked.move_to_end(key)
        return key
