"""What the controller needs beyond bus and store."""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Census:
    """How many documents there are of a kind, how many sagas are open, and of some networks how many endpoints."""

    networks: int
    sandboxes: int
    endpoints: int
    sagas: int
    by_network: Sequence[tuple[str, str, int]]
    """Id, name, and endpoints of each, by creation."""


class Censuses(Protocol):
    """Counts what is stored."""

    async def take(self, most: int) -> Census:
        """Count, and look at the first so many networks.

        Raises:
            Unavailable: the store cannot be reached.
        """
        ...
