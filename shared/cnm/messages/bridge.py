"""What the controller tells a node's bridge driver.

A command carries the slice it is about, so the driver asks nobody. Each may be said twice; unplugging or removing
what is gone succeeds.
"""

from ipaddress import IPv4Address, IPv6Address
from typing import Any, ClassVar, Literal

import msgspec

from cnm.messages.endpoint import StaticRoute
from cnm.messages.message import Command, Empty
from cnm.types import Address, Id, Interface, Prefix, Protocol

GatewayMode = Literal["nat", "nat-unprotected", "routed", "isolated"]


class BridgeNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """All that a bridge driver needs to know of a network; addresses are the bridge's own, with prefix length.

    ``icc`` is whether endpoints of the network may talk to one another. ``ipv4_mode`` and ``ipv6_mode`` say how it is
    reached from outside; ``snat_*`` is what its endpoints are seen as there, instead of the node's own address.
    Neighbours of the links that are ``trusted`` may reach published ports at an endpoint's own address. Addresses are
    announced ``announcements`` times, every ``announcement_ms``; null means once, where another MAC had them.
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
    ipv4_mode: GatewayMode = "nat"
    ipv6_mode: GatewayMode = "nat"
    snat_ipv4: IPv4Address | None = None
    snat_ipv6: IPv6Address | None = None
    trusted: list[str] = []
    announcements: int | None = None
    announcement_ms: int = 1000


class OpenPort(msgspec.Struct, frozen=True, kw_only=True):
    """Ports of an endpoint that are reached at its own addresses: the first to the last, of one family or both."""

    protocol: Protocol
    first: int
    last: int
    version: Literal[4, 6] | None = None


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """All that a bridge driver needs to plug an endpoint into a sandbox.

    ``default_via`` holds the next hops for which this endpoint is the sandbox's default route, at most one a
    family; they replace a default route that is there. ``sysctls`` are names under ``net.`` with IFNAME in the
    interface's place. ``open_ports`` are let in where the network is routed, or trusts a link. ``check_routes`` says
    that the namespace may have routes of its own, which the endpoint's addresses must not overlap. ``name`` is the
    endpoint's.
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
    open_ports: list[OpenPort] = []
    routes: list[StaticRoute] = []
    check_routes: bool = False
    name: str = ""


class EnsuredBridge(msgspec.Struct, frozen=True, kw_only=True):
    """What of the node itself was set so that the network works, such as ``net.ipv4.ip_forward=1``."""

    settings: list[str] = []
    warnings: list[str] = []


class EnsureBridge(Command[EnsuredBridge], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a network's bridge and rules stand on a node; ``gone`` are addresses that its bridge had and loses."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.bridge.ensure"

    network: BridgeNetwork
    gone: list[Interface] = []


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


class Drops(msgspec.Struct, frozen=True, kw_only=True):
    """Packets and bytes of a network that were refused or dropped for one reason, which ``about`` explains."""

    reason: str
    about: str
    packets: int
    bytes: int


class NetworkDrops(msgspec.Struct, frozen=True, kw_only=True):
    """What was refused or dropped of a network, by reason."""

    drops: list[Drops]


class CountDrops(Command[NetworkDrops], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Count what was refused or dropped of a network on a node since its rules were made."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.bridge.drops"

    network_id: Id


BRIDGE_COMMANDS: tuple[type[Command[Any]], ...] = (
    EnsureBridge,
    RemoveBridge,
    PlugEndpoint,
    UnplugEndpoint,
    CountDrops,
)
