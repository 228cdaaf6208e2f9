"""What the controller tells a node's bridge driver.

A command carries the slice it is about, so the driver asks nobody. Each may be said twice; unplugging or removing
what is gone succeeds.
"""

from typing import Any, ClassVar

import msgspec

from cnm.messages.message import Command, Empty
from cnm.types import Address, Id, Interface, Prefix


class BridgeNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """All that a bridge driver needs to know of a network; addresses are the bridge's own, with prefix length.

    ``adopted`` says that the device was there before us and stays when the network goes; null means that the
    driver finds out. ``icc`` is whether endpoints of the network may talk to one another.
    """

    network_id: Id
    name: str
    bridge: str
    subnets: list[Prefix] = []
    bridge_addresses: list[Interface] = []
    enable_ipv6: bool = False
    internal: bool = False
    icc: bool = True
    masquerade: bool = True
    mtu: int | None = None


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """All that a bridge driver needs to plug an endpoint into a sandbox.

    ``default_via`` holds the next hops for which this endpoint is the sandbox's default route, at most one a
    family; they replace a default route that is there. ``sysctls`` are names under ``net.`` with IFNAME in the
    interface's place.
    """

    endpoint_id: Id
    sandbox_id: Id
    network: BridgeNetwork
    namespace: str
    ifname: str
    mac_address: str
    addresses: list[Interface]
    default_via: list[Address] = []
    sysctls: dict[str, str] = {}


class EnsureBridge(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a network's bridge and rules stand on a node."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.bridge.ensure"

    network: BridgeNetwork


class RemoveBridge(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Remove a network's bridge and rules from a node; a bridge that was there before the network stays."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.bridge.remove"

    network: BridgeNetwork


class Plugged(msgspec.Struct, frozen=True, kw_only=True):
    """The host end of a plugged endpoint."""

    host_ifname: str


class PlugEndpoint(Command[Plugged], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Plug an endpoint into its sandbox: its interface is up with its addresses and routes when this replies."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.bridge.plug"

    attachment: Attachment


class UnplugEndpoint(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Remove an endpoint's link; it is gone from the sandbox when this replies."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.bridge.unplug"

    endpoint_id: Id


BRIDGE_COMMANDS: tuple[type[Command[Any]], ...] = (EnsureBridge, RemoveBridge, PlugEndpoint, UnplugEndpoint)
