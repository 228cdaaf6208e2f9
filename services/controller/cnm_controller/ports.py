"""What the controller needs beyond bus and store."""

from datetime import datetime
from typing import Protocol

import msgspec

from cnm.messages.node import Heartbeat, NodeWorker
from cnm.store import OutgoingEvent


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """A node as its workers last reported it."""

    name: str
    address: str | None = None
    run_dir: str = ""
    kernel: dict[str, bool] = {}
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
    ) -> None:
        """Note a heartbeat; publish ``joined`` with a node's first worker and ``left`` with its last.

        Workers that were last heard of before ``dead_before`` do not count.
        """
        ...

    async def every(self) -> list[NodeState]:
        """Return every node, by name."""
        ...


class IpamDriver(msgspec.Struct, frozen=True, kw_only=True):
    """An IPAM driver that announced itself; ``replayed`` is the instance that was told what is held already."""

    name: str
    instance: str
    requires_mac_address: bool = False
    requires_request_replay: bool = False
    last_seen: datetime
    replayed: str = ""


class IpamDrivers(Protocol):
    """The IPAM drivers besides the built-in ones."""

    async def note(self, driver: IpamDriver) -> None:
        """Note that a driver is there; what it was told already stays known."""
        ...

    async def forget(self, name: str) -> None:
        """Forget a driver that left."""
        ...

    async def note_replayed(self, name: str, instance: str) -> None:
        """Note that an instance of a driver was told what is held."""
        ...

    async def every(self) -> list[IpamDriver]:
        """Return every driver that is known, by name."""
        ...
