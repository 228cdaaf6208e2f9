"""What is measured: CNM, a peer, or the kernel itself."""

from typing import Protocol

from bench.peers.room import Room

LANES = 8
"""So many clients at once, each with a sandbox of its own."""
PORT = 22000


def plain(number: int) -> str:
    """Name the lane of a client."""
    return f"plain{number}"


PUBLISHED = "published"
"""The lane that publishes a port with each attach."""


class Contender(Protocol):
    """Attaches what is there already, one sandbox a lane."""

    name: str
    room: Room

    async def prepare(self, present: int) -> None:
        """Start it; have a network, so many endpoints on it, and a sandbox for each lane."""
        ...

    async def attach(self, lane: str) -> float:
        """Attach; return the milliseconds. Raise ``Refused`` when it fails."""
        ...

    async def detach(self, lane: str) -> float:
        """Detach; return the milliseconds. Raise ``Refused`` when it fails."""
        ...

    async def recover(self, lane: str) -> None:
        """Have a lane detached after a failure."""
        ...

    async def end(self) -> None:
        """Stop it."""
        ...
