"""Sandboxes: network namespaces with their files and their published ports, as clients ask for them."""

from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from cnm.messages.endpoint import Endpoint, GatewayPriority, StaticRoute
from cnm.messages.endpoint import PortBinding as PortBinding  # noqa: PLC0414  # a sandbox's, which endpoints show too
from cnm.messages.message import Command, Empty
from cnm.messages.namespace import InterfaceCounters
from cnm.messages.network import DnsDomain, Filters
from cnm.types import END, Address, Alias, HostPort, Id, InterfaceName, Key, MacAddress, Name, Port, Prefix, Protocol

NamespacePath = Annotated[str, Meta(min_length=1, max_length=4096)]
ProcessId = Annotated[int, Meta(ge=1, le=2**22)]
Hostname = Annotated[str, Meta(pattern=r"^([a-zA-Z0-9_]([a-zA-Z0-9_.-]*[a-zA-Z0-9_])?)?" + END, max_length=253)]
ExposedPort = Annotated[str, Meta(pattern=r"^[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp|sctp))?" + END)]


class ExtraHost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line for the hosts file; ``ip`` is an address, or ``host-gateway`` for the node as the sandbox sees it."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9]([a-zA-Z0-9_.-]*[a-zA-Z0-9])?" + END, max_length=253)]
    ip: str


class SandboxDns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sandbox's own DNS settings; each list that is given replaces the node's.

    Without the ``embedded`` server, its resolv.conf names external servers, and no names of networks resolve.
    """

    servers: list[Address] = []
    search: list[DnsDomain] = []
    options: list[Annotated[str, Meta(pattern=r"^\S+" + END)]] = []
    embedded: bool | msgspec.UnsetType = msgspec.UNSET


class PortRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A port to publish; ``host_port`` 0 or absent lets CNM choose; the ``_end`` fields make ranges.

    ``allow`` are the only sources that may connect; null lets everybody.
    """

    container_port: Port
    container_port_end: Port | None = None
    protocol: Protocol = "tcp"
    host_ip: Address | None = None
    host_port: HostPort | None = None
    host_port_end: HostPort | None = None
    allow: list[Prefix] | None = None


class PortSelection(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Published ports that are meant: all bindings of a container port, or those on a host address or port alone.

    A range is meant by the container port that it begins with.
    """

    container_port: Port
    protocol: Protocol = "tcp"
    host_ip: Address | None = None
    host_port: HostPort | None = None


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
    """Make a sandbox, or adopt the namespace at ``netns``, or of the process ``pid``.

    ``use_default_sandbox`` is the node's own namespace. With ``netns_later`` it has none until ``sandbox.adopt``
    brings one: what joins it gets its addresses, and its interface then.
    """

    subject: ClassVar[str] = "cnm.v1.sandbox.create"

    name: Name
    node: str | None = None
    netns: NamespacePath | None = None
    pid: ProcessId | None = None
    netns_later: bool = False
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
    """Show the sandboxes that match all filters; of each filter any value.

    ``name`` is a part of a name, ``id`` the beginning of an id, ``label`` is ``key`` or ``key=value``; ``node``.
    ``after`` is the id of one, those that follow it are shown.
    """

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
    """Create an endpoint and join it in one step; its name defaults to the sandbox's.

    ``aliases``, ``links`` and ``ready`` are as in ``endpoint.create``.
    """

    subject: ClassVar[str] = "cnm.v1.sandbox.connect"

    sandbox: Key
    network: Key
    name: Name | None = None
    aliases: list[Alias] = []
    ipv4_address: IPv4Address | None = None
    ipv6_address: IPv6Address | None = None
    mac_address: MacAddress | None = None
    ifname: InterfaceName | None = None
    gw_priority: GatewayPriority = 0
    sysctls: dict[str, str] = {}
    options: dict[str, str | int | bool] = {}
    link_local_addresses: list[Address] = []
    routes: list[StaticRoute] = []
    links: dict[Name, Name] = {}
    ready: bool = True


class DisconnectSandbox(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take a sandbox off a network: its endpoint leaves and is deleted."""

    subject: ClassVar[str] = "cnm.v1.sandbox.disconnect"

    sandbox: Key
    network: Key
    force: bool = False


class AdoptNamespace(Command[Sandbox], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give a sandbox that was made with ``netns_later`` its namespace: all its endpoints move in."""

    subject: ClassVar[str] = "cnm.v1.sandbox.adopt"

    sandbox: Key
    netns: NamespacePath | None = None
    pid: ProcessId | None = None


class UpdateSandbox(Command[Sandbox], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change what a sandbox's files say, and its labels; what is left out stays, the rest is replaced whole."""

    subject: ClassVar[str] = "cnm.v1.sandbox.update"

    sandbox: Key
    hostname: Hostname | None = None
    domainname: Hostname | None = None
    extra_hosts: list[ExtraHost] | None = None
    dns: SandboxDns | None = None
    labels: dict[str, str] | None = None


class PublishOnSandbox(Command[Sandbox], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Publish more ports of a sandbox that runs: all of them, or none when one cannot be had."""

    subject: ClassVar[str] = "cnm.v1.sandbox.publish"

    sandbox: Key
    ports: list[PortRequest]


class UnpublishFromSandbox(Command[Sandbox], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Close published ports of a sandbox that runs: all of them, or none when one is not published."""

    subject: ClassVar[str] = "cnm.v1.sandbox.unpublish"

    sandbox: Key
    ports: list[PortSelection]


class InterfaceStatistics(InterfaceCounters, frozen=True, kw_only=True):
    """Counters of one interface of a sandbox since it was made; ``endpoint`` is null of one that is not ours."""

    endpoint: Id | None
    network: Id | None


class SandboxStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of a sandbox's interfaces, by name; the loopback is left out."""

    id: Id
    name: str
    time: datetime
    interfaces: list[InterfaceStatistics]


class CountSandbox(Command[SandboxStatistics], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Read the counters of a sandbox's interfaces; of one in the node's own namespace, none."""

    subject: ClassVar[str] = "cnm.v1.sandbox.stats"

    sandbox: Key


SANDBOX_COMMANDS: tuple[type[Command[Any]], ...] = (
    CreateSandbox,
    GetSandbox,
    ListSandboxes,
    DeleteSandbox,
    ConnectSandbox,
    DisconnectSandbox,
    AdoptNamespace,
    UpdateSandbox,
    CountSandbox,
    PublishOnSandbox,
    UnpublishFromSandbox,
)
