"""What the driver needs of a node, as its handlers and its reconciliation see it."""

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from cnm.kernel.rtnl import Link
from cnm.messages.bridge import Attachment, BridgeNetwork


class Node(Protocol):
    """The node's kernel; every call may be made twice."""

    async def ensure(self, network: BridgeNetwork) -> None:
        """Make a network's bridge and rules stand."""
        ...

    async def remove(self, network: BridgeNetwork) -> None:
        """Remove a network's bridge, if we made it, and its rules."""
        ...

    async def plug(self, attachment: Attachment) -> str:
        """Plug an endpoint into its sandbox, its network's bridge first; return the host's interface."""
        ...

    async def unplug(self, endpoint_id: str) -> None:
        """Remove an endpoint's link; it is gone from the sandbox on return."""
        ...


class Observed(Protocol):
    """The same kernel, as reconciliation sees it: what there is, and changes that tell what they did."""

    async def links(self) -> Sequence[Link]:
        """Return every link of the host."""
        ...

    async def mend_rules(self, networks: Sequence[BridgeNetwork], keep: Collection[str]) -> Sequence[str]:
        """Make exactly the rules of these networks stand, but leave alone those of the ids to keep."""
        ...

    async def mend_bridge(self, network: BridgeNetwork) -> Sequence[str]:
        """Make a bridge stand."""
        ...

    async def mend_endpoint(self, attachment: Attachment) -> Sequence[str]:
        """Make an endpoint's link stand; where its namespace is not there yet, only say so."""
        ...

    async def delete_link(self, identity: str, index: int) -> None:
        """Delete a link of ours, made for this network or endpoint."""
        ...


class Rules(Protocol):
    """The firewall of one node, blocking."""

    def ensure(self, network: BridgeNetwork) -> Sequence[str]:
        """Make a network's rules stand; return the steps that it took."""
        ...

    def remove(self, network_id: str) -> Sequence[str]:
        """Remove a network's rules; return the steps that it took."""
        ...

    def converge(self, networks: Iterable[BridgeNetwork], keep: Collection[str]) -> Sequence[str]:
        """Make exactly the rules of these networks stand, but leave alone those of the ids to keep."""
        ...
