"""Sandboxes: network namespaces with their files and their published ports, as clients ask for them."""

from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from cnm.messages.endpoint import Endpoint, GatewayPriority
from cnm.messages.message import Command, Empty
from cnm.messages.network import DnsDomain, Filters
from cnm.types import END, Address, HostPort, Id, InterfaceName, Key, MacAddress, Name, Port, Prefix, Protocol

Hostname = Annotated[str, Meta(pattern=r"^([a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_])?)?" + END, max_length=253)]
ExposedPort = Annotated[str, Meta(pattern=r"^[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp|sctp))?" + END)]


class ExtraHost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line for the hosts file; ``ip`` is an address, or ``host-gateway`` for the node as the sandbox sees it."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?" + END, max_length=253)]
    ip: str


class SandboxDns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sandbox's own DNS settings; each list that is given replaces the node's."""

    servers: list[Address] = []
    search: list[DnsDomain] = []
    options: list[Annotated[str, Meta(pattern=r"^\S+" + END)]] = []


class PortRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A port to publish; ``host_port`` 0 or absent lets CNM choose; the ``_end`` fields make ranges."""

    container_port: Port
    container_port_end: Port | None = None
    protocol: Protocol = "tcp"
    host_ip: Address | None = None
    host_port: HostPort | None = None
    host_port_end: HostPort | None = None
    allow: list[Prefix] | None = None


class PortBinding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A port as really bound, one entry a binding and address family."""

    container_port: int
    protocol: Protocol
    host_ip: Address
    host_port: int | None
    container_ip: Address
    container_port_end: int | msgspec.UnsetType = msgspec.UNSET
    host_port_end: int | msgspec.UnsetType = msgspec.UNSET


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox as shown; ``gateway_*`` are the ids of the endpoints that lead out."""

    id: Id
    name: str
    node: str
    created: datetime
    netns: str | None
    hostname: str
    domainname: str
    extra_hosts: list[ExtraHost]
    dns: SandboxDns
    ports: list[PortBinding]
    exposed_ports: list[str]
    use_default_sandbox: bool
    sysctls: dict[str, str]
    labels: dict[str, str]
    key: str
    hosts_path: str
    resolv_conf_path: str
    endpoints: list[Endpoint]
    gateway_ipv4: Id | None
    gateway_ipv6: Id | None
    revision: int
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class Sandboxes(msgspec.Struct, frozen=True, kw_only=True):
    """The sandboxes that a list found, by creation, then id."""

    sandboxes: list[Sandbox]


class CreateSandbox(Command[Sandbox], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a sandbox, or adopt the namespace at ``netns``; ``use_default_sandbox`` is the node's own."""

    subject: ClassVar[str] = "cnm.v1.sandbox.create"

    name: Name
    node: str | None = None
    netns: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None
    hostname: Hostname | None = None
    domainname: Hostname = ""
    extra_hosts: list[ExtraHost] = []
    dns: SandboxDns = SandboxDns()
    ports: list[PortRequest] = []
    exposed_ports: list[ExposedPort] = []
    use_default_sandbox: bool = False
    sysctls: dict[str, str] = {}
    labels: dict[str, str] = {}


class GetSandbox(Command[Sandbox], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show one sandbox."""

    subject: ClassVar[str] = "cnm.v1.sandbox.get"

    sandbox: Key


class ListSandboxes(Command[Sandboxes], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show the sandboxes that match all filters; of each filter any value."""

    subject: ClassVar[str] = "cnm.v1.sandbox.list"

    filters: Filters = {}
    limit: Annotated[int, Meta(ge=1)] | None = None
    after: Id | None = None


class DeleteSandbox(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Let every endpoint leave, then remove the namespace (unless adopted) and the files."""

    subject: ClassVar[str] = "cnm.v1.sandbox.delete"

    sandbox: Key
    force: bool = False


class ConnectSandbox(Command[Endpoint], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Create an endpoint and join it in one step; its name defaults to the sandbox's."""

    subject: ClassVar[str] = "cnm.v1.sandbox.connect"

    sandbox: Key
    network: Key
    name: Name | None = None
    aliases: list[Name] = []
    ipv4_address: IPv4Address | None = None
    ipv6_address: IPv6Address | None = None
    mac_address: MacAddress | None = None
    ifname: InterfaceName | None = None
    gw_priority: GatewayPriority = 0
    sysctls: dict[str, str] = {}
    options: dict[str, str | int | bool] = {}


class DisconnectSandbox(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take a sandbox off a network: its endpoint leaves and is deleted."""

    subject: ClassVar[str] = "cnm.v1.sandbox.disconnect"

    sandbox: Key
    network: Key
    force: bool = False


SANDBOX_COMMANDS: tuple[type[Command[Any]], ...] = (
    CreateSandbox,
    GetSandbox,
    ListSandboxes,
    DeleteSandbox,
    ConnectSandbox,
    DisconnectSandbox,
)
