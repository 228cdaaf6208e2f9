"""The kernel alone as a contender, with one lane."""

from contextlib import ExitStack
from pathlib import Path

from bench.floor import floor
from bench.peers.room import Room


class Bare:
    """One netlink batch on the node, one in the namespace."""

    name = "the kernel's floor"

    def __init__(self, folder: Path) -> None:
        self.room = Room(folder / "room")
        self._open = ExitStack()

    async def prepare(self, present: int) -> None:  # noqa: ARG002 - as every contender
        self._floor = self._open.enter_context(floor())

    async def attach(self, lane: str) -> float:  # noqa: ARG002
        return self._floor.attach()

    async def detach(self, lane: str) -> float:  # noqa: ARG002
        return self._floor.detach()

    async def recover(self, lane: str) -> None:
        raise AssertionError(f"the kernel failed at {lane}")

    async def end(self) -> None:
        self._open.close()
