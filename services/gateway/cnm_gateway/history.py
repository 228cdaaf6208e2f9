"""The last things that were told to browsers: bounded in number and bytes, so that a slow one costs nothing.

A browser is a place in it. Whoever falls behind what is still kept has to begin anew.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice


class Behind(Exception):
    """What comes after a place is not kept any more."""


@dataclass(frozen=True, slots=True)
class Told:
    """A message as it is sent; ``sequence`` is its event's in the stream, None of what no event tells.

    An empty ``body`` stands for the whole state, which whoever is told is to be given anew.
    """

    number: int
    sequence: int | None
    body: bytes


@dataclass
class History:
    """Messages by number, counted from 1."""

    most: int
    most_bytes: int
    last: int = 0
    _told: deque[Told] = field(default_factory=deque)
    _bytes: int = 0

    def add(self, body: bytes, *, sequence: int | None = None) -> None:
        """Add a message, and let go of the oldest when there are too many."""
        self.last += 1
        self._told.append(Told(self.last, sequence, body))
        self._bytes += len(body)
        while len(self._told) > self.most or (self._bytes > self.most_bytes and len(self._told) > 1):
            self._bytes -= len(self._told.popleft().body)

    def forget(self) -> None:
        """Let go of everything: what comes is of another stream."""
        self._told.clear()
        self._bytes = 0
        self.last += 1

    def after(self, number: int) -> list[Told]:
        """Return what was told after a number.

        Raises:
            Behind: not all of it is kept.
        """
        missing = self.last - number
        if not 0 <= missing <= len(self._told):
            raise Behind
        return list(islice(self._told, len(self._told) - missing, None))

    def place_of(self, sequence: int) -> int:
        """Return after which number stand the events that came after one of the stream's.

        Raises:
            Behind: not all of them are kept, or they are of another stream.
        """
        for each in reversed(self._told):
            if each.sequence == sequence:
                return each.number
        raise Behind

    def events(self, limit: int) -> list[bytes]:
        """Return the bodies of the last events, oldest first."""
        found = list(islice(self._of_events(), limit))
        return found[::-1]

    def _of_events(self) -> Iterator[bytes]:
        return (each.body for each in reversed(self._told) if each.sequence is not None)
