"""What the controller tells a node's sandbox worker: namespaces, their files and their default routes."""

from typing import Any, ClassVar

import msgspec

from cnm.messages.message import Command, Empty
from cnm.types import Address, Id


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

    ``namespace`` is the path of its namespace, or ``host``; ``adopted`` ones were made by somebody else and are
    never removed. ``servers``, ``search`` and ``options`` replace the node's in resolv.conf when not empty.
    ``gateways`` are the default routes that should stand, at most one a family.
    """

    sandbox_id: Id
    name: str
    namespace: str
    adopted: bool = False
    hostname: str = ""
    domainname: str = ""
    hosts_path: str
    resolv_conf_path: str
    hosts: list[HostsEntry] = []
    enable_ipv6: bool = False
    servers: list[Address] = []
    search: list[str] = []
    options: list[str] = []
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


NAMESPACE_COMMANDS: tuple[type[Command[Any]], ...] = (EnsureSandbox, RouteSandbox, RemoveSandbox)
