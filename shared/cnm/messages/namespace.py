"""What the controller tells a node's sandbox worker: namespaces, their files and their default routes."""

from typing import Any, ClassVar

import msgspec

from cnm.messages.message import Command, Empty
from cnm.types import Address, Id, Port, Protocol


class HostsEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a hosts file."""

    address: Address
    names: list[str]


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """A default route of a sandbox: out of which interface, and over which next hop."""

    ifname: str
    address: Address


class SandboxSpec(msgspec.Struct, frozen=True, kw_only=True):
    """All that the sandbox worker needs to know of a sandbox.

    ``namespace`` is the path of its namespace, or ``host``. An ``adopted`` one is mounted there from ``source``, made
    by somebody else, and lives on without us; of a ``pending`` one there is none yet. ``servers``, ``search`` and
    ``options`` replace the node's in resolv.conf when not empty; without ``embedded`` no server of ours is in it.
    ``gateways`` are the default routes that should stand, at most one a family.
    """

    sandbox_id: Id
    name: str
    namespace: str
    adopted: bool = False
    source: str | None = None
    pending: bool = False
    hostname: str = ""
    domainname: str = ""
    hosts_path: str
    resolv_conf_path: str
    hosts: list[HostsEntry] = []
    enable_ipv6: bool = False
    servers: list[Address] = []
    search: list[str] = []
    options: list[str] = []
    embedded: bool = True
    sysctls: dict[str, str] = {}
    gateways: list[Gateway] = []


class EnsureSandbox(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a sandbox's namespace and files stand as told; ``gateways`` are not looked at."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.sandbox.ensure"

    sandbox: SandboxSpec


class RouteSandbox(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make the sandbox's default routes those of ``gateways``: others go, missing ones come."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.sandbox.route"

    namespace: str
    gateways: list[Gateway]


class RemoveSandbox(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Remove a sandbox's files, and its namespace unless it was adopted or is the host's."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.sandbox.remove"

    sandbox: SandboxSpec


class InterfaceCounters(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of one interface."""

    ifname: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int


class NamespaceCounters(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of a namespace's interfaces but the loopback, by name."""

    interfaces: list[InterfaceCounters]


class CountNamespace(Command[NamespaceCounters], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read the counters of a namespace's interfaces."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.sandbox.count"

    namespace: str


class PortSight(msgspec.Struct, frozen=True, kw_only=True):
    """A namespace's own addresses, and those at which a socket takes what comes to a port.

    ``holder`` is the process that has one, where it can be seen.
    """

    addresses: list[Address]
    listening: list[Address]
    holder: str | None = None


class LookAtPort(Command[PortSight], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Look who listens on a port of a namespace, the node's being ``host``."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.sandbox.look"

    namespace: str
    protocol: Protocol
    port: Port


NAMESPACE_COMMANDS: tuple[type[Command[Any]], ...] = (
    EnsureSandbox,
    RouteSandbox,
    RemoveSandbox,
    CountNamespace,
    LookAtPort,
)
