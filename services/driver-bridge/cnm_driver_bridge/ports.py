"""What the driver needs of a node, as its handlers and its reconciliation see it."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from cnm.kernel.rtnl import Link
from cnm.messages.bridge import Attachment, BridgeNetwork
from cnm.types import Interface


class Node(Protocol):
    """The node's kernel; every call may be made twice."""

    async def ensure(self, network: BridgeNetwork, gone: Sequence[Interface] = ()) -> Sequence[str]:
        """Make a network's bridge and rules stand, without addresses that are gone from it; return the steps."""
        ...

    async def remove(self, network: BridgeNetwork) -> None:
        """Remove a network's bridge, if we made it, and its rules."""
        ...

    async def plug(self, attachment: Attachment) -> str:
        """Plug an endpoint into its sandbox, its network's bridge first; return the host's interface."""
        ...

    async def unplug(self, endpoint_id: str) -> None:
        """Remove an endpoint's link, and close its ports; it is gone from the sandbox on return."""
        ...

    async def drops(self) -> Mapping[str, Mapping[str, tuple[int, int]]]:
        """Return what was refused or dropped, packets and bytes, by the network's short id and the reason."""
        ...


class Observed(Protocol):
    """The same kernel, as reconciliation sees it: what there is, and changes that tell what they did.

    One that does not ``repairs`` only looks on: it tells what it would do.
    """

    repairs: bool

    async def links(self) -> Sequence[Link]:
        """Return every link of the host."""
        ...

    async def mend_rules(
        self, networks: Sequence[BridgeNetwork], attachments: Sequence[Attachment], keep: Collection[str]
    ) -> Sequence[str]:
        """Make exactly the rules of these networks and endpoints stand, but leave alone those of the ids to keep."""
        ...

    async def mend_bridge(self, network: BridgeNetwork) -> Sequence[str]:
        """Make a bridge stand."""
        ...

    async def mend_endpoint(self, attachment: Attachment) -> Sequence[str]:
        """Make an endpoint's link stand; where its namespace is not there yet, leave it."""
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

    def open_ports(self, attachment: Attachment) -> Sequence[str]:
        """Make exactly the ports of an endpoint open that it should have; return the steps that it took."""
        ...

    def close_ports(self, endpoint_id: str) -> Sequence[str]:
        """Close the ports of an endpoint, if it has any open; return the steps that it took."""
        ...

    def close_forwarding(self, versions: Collection[int]) -> Sequence[str]:
        """Keep others' packets from being forwarded, of families for which that was off; return the steps."""
        ...

    def reopen_forwarding(self, versions: Collection[int]) -> Sequence[str]:
        """Leave to others again whether their packets are forwarded, where it was not turned on after all."""
        ...

    def converge(
        self, networks: Iterable[BridgeNetwork], attachments: Iterable[Attachment], keep: Collection[str]
    ) -> Sequence[str]:
        """Make exactly the rules of these networks and endpoints stand, but leave alone those of the ids to keep."""
        ...

    def compare(
        self, networks: Iterable[BridgeNetwork], attachments: Iterable[Attachment], keep: Collection[str]
    ) -> Sequence[str]:
        """Return what ``converge`` would do."""
        ...

    def drops(self) -> Mapping[str, Mapping[str, tuple[int, int]]]:
        """Return what was refused or dropped, packets and bytes, by the network's short id and the reason."""
        ...
