"""What the handlers of the controller work with."""

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cnm.bus import Bus, current_call
from cnm.drift import DriftCounts
from cnm.errors import NotFound, Unavailable
from cnm_controller.ledger import Ledger
from cnm_controller.ports import IpamDrivers, Nodes, NodeState
from cnm_controller.sagas import Sagas

SEEN_WITHIN = timedelta(seconds=6)
"""A worker that was not heard of for so long (three heartbeats) is taken for dead."""
NODE_WAIT_S = 3.0
NODE_LOOK_S = 0.1


def _new_id() -> str:
    return secrets.token_hex(32)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Controller:
    """The collaborators of the controller's handlers; time and ids come from here."""

    ledger: Ledger
    sagas: Sagas
    bus: Bus
    nodes: Nodes
    ipam_drivers: IpamDrivers
    now: Callable[[], datetime] = _now
    new_id: Callable[[], str] = _new_id
    node_wait_s: float = NODE_WAIT_S
    drift: DriftCounts = field(default_factory=lambda: DriftCounts("cnm-ipam"))
    """Of IPAM's books, which the controller keeps."""

    def bridging(self, nodes: Sequence[NodeState]) -> list[NodeState]:
        """Return those of some nodes whose bridge driver is alive."""
        return [node for node in nodes if "cnm-driver-bridge" in alive(node, self.now())]

    def is_heard(self, last_seen: datetime) -> bool:
        """Say whether who was heard of then is taken to be there."""
        return self.now() - last_seen <= SEEN_WITHIN

    async def node_for(self, name: str | None) -> NodeState:
        """Choose the node for a sandbox: the one named, else the first that is ready.

        Waits a moment for a node of which a worker is just started again, or slow to report.

        Raises:
            NotFound: no node of that name ever reported.
            Unavailable: it is down, or none is ready.
        """
        call = current_call()
        wait_s = min(self.node_wait_s, call.left_s() / 2) if call is not None else self.node_wait_s
        give_up = time.monotonic() + wait_s
        while True:
            nodes = await self.nodes.every()
            if name is not None:
                nodes = [node for node in nodes if node.name == name]
                if not nodes:
                    raise NotFound(f"no node {name!r}")
            for node in nodes:
                if is_ready(node, self.now()):
                    return node
            if time.monotonic() >= give_up:
                raise Unavailable(f"node {name!r} is down" if name is not None else "no node is ready")
            await asyncio.sleep(NODE_LOOK_S)


def alive(node: NodeState, now: datetime) -> set[str]:
    """Return the names of a node's workers that were heard of lately."""
    return {worker.name for worker in node.workers if now - worker.last_seen <= SEEN_WITHIN}


def is_ready(node: NodeState, now: datetime) -> bool:
    """Say whether a node can take sandboxes."""
    return bool(node.run_dir) and {"cnm-sandbox", "cnm-driver-bridge"} <= alive(node, now)
