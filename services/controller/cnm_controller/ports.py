"""What the controller needs beyond bus and store."""

from datetime import datetime
from typing import Protocol

import msgspec

from cnm.messages.node import Heartbeat, NodeWorker
from cnm.store import OutgoingEvent
from cnm.types import Prefix


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """A node as its workers last reported it."""

    name: str
    address: str | None = None
    run_dir: str = ""
    kernel: dict[str, bool] = {}
    taken: list[Prefix] = []
    workers: list[NodeWorker] = []


class Nodes(Protocol):
    """The nodes that ever reported."""

    async def report(
        self,
        heartbeat: Heartbeat,
        *,
        now: datetime,
        dead_before: datetime,
        joined: OutgoingEvent,
        left: OutgoingEvent,
    ) -> bool:
        """Note a heartbeat; publish ``joined`` with a node's first worker and ``left`` with its last.

        Workers that were last heard of before ``dead_before`` do not count.

        Returns whether an event was written.
        """
        ...

    async def every(self) -> list[NodeState]:
        """Return every node, by name."""
        ...
