"""Decides which requests are taken, so that no flood fills the memory or keeps others out."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from cnm.errors import Unavailable


@dataclass(kw_only=True)
class Admission:
    """Counts what is answered or waits for its turn: in all, of each client, and in bytes of bodies.

    Of one client no more than ``at_once`` are answered at a time, so that others find a place beside it.

    A client is known by its inbox, of which one connection has one. Whoever wants more than a share is refused at
    once, and may try again: what waits here for longer than it is asked for would be refused later.
    """

    most: int
    most_of_one: int
    most_bytes: int
    at_once: int
    _turns: dict[str, asyncio.Semaphore] = field(default_factory=dict)
    _of_each: Counter[str] = field(default_factory=Counter)
    _count: int = 0
    _bytes: int = 0

    def take(self, client: str, size: int) -> None:
        """Take a request of so many bytes.

        Raises:
            Unavailable: there is no room for it now.
        """
        if self._of_each[client] >= self.most_of_one:
            raise Unavailable(f"{self.most_of_one} requests of this client are under way already: try again")
        if self._count >= self.most:
            raise Unavailable(f"{self.most} requests are under way already: try again")
        if self._bytes and self._bytes + size > self.most_bytes:
            raise Unavailable(f"requests of {self.most_bytes} bytes in all are under way already: try again")
        self._of_each[client] += 1
        self._count += 1
        self._bytes += size

    def turn(self, client: str) -> asyncio.Semaphore:
        """Return what a request that was taken holds while it is answered."""
        return self._turns.setdefault(client, asyncio.Semaphore(self.at_once))

    def give_back(self, client: str, size: int) -> None:
        """Let go of a request that was answered."""
        self._of_each[client] -= 1
        if not self._of_each[client]:
            del self._of_each[client]
            self._turns.pop(client, None)
        self._count -= 1
        self._bytes -= size
