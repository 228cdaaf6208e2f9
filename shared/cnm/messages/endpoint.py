"""Endpoints: a sandbox's place on a network."""

from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from cnm.messages.message import Command, Empty
from cnm.messages.network import Filters
from cnm.types import Address, Alias, Id, InterfaceName, Key, MacAddress, Name, Prefix, Protocol

GatewayPriority = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class StaticRoute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A route that a sandbox has by an endpoint; without ``gateway`` its destination is on the network itself."""

    destination: Prefix
    gateway: Address | None = None


class ServiceBackend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The service that an endpoint is a backend of."""

    name: Name
    task_name: Name | None = None
    weight: Annotated[int, Meta(ge=0)] = 1


class PortBinding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A port as really bound, one entry a binding and address family."""

    container_port: int
    protocol: Protocol
    host_ip: Address
    host_port: int | None
    container_ip: Address
    container_port_end: int | msgspec.UnsetType = msgspec.UNSET
    host_port_end: int | msgspec.UnsetType = msgspec.UNSET
    allow: list[Prefix] | msgspec.UnsetType = msgspec.UNSET


class DriverInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver tells of an endpoint: the ports as bound that lead to it, and which its sandbox exposes."""

    host_ifname: str | None = None
    exposed_ports: list[str] | msgspec.UnsetType = msgspec.UNSET
    ports: list[PortBinding] | msgspec.UnsetType = msgspec.UNSET


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as shown; the address fields carry the prefix length, ``link_local_addresses`` none."""

    id: Id
    name: str
    network: Id
    sandbox: Id | None
    node: str | None
    ipv4_address: str | None
    ipv6_address: str | None
    mac_address: str
    ifname: str | None
    ready: bool
    gateway_ipv4: str | None
    gateway_ipv6: str | None
    aliases: list[str]
    dns_names: list[str]
    state: Literal["created", "joined"]
    driver_info: DriverInfo
    labels: dict[str, str]
    revision: int
    link_local_addresses: list[Address] | msgspec.UnsetType = msgspec.UNSET
    routes: list[StaticRoute] | msgspec.UnsetType = msgspec.UNSET
    links: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """The endpoints that a list found, by creation, then id."""

    endpoints: list[Endpoint]


class CreateEndpoint(Command[Endpoint], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reserve an endpoint's addresses on a network, with or without a sandbox to join later.

    An alias may be a wildcard, ``*.app``. ``links`` are names on the network by aliases that its sandbox alone
    knows. One that is not ``ready`` is not answered by DNS until an update says so.
    """

    subject: ClassVar[str] = "cnm.v1.endpoint.create"

    network: Key
    name: Name
    aliases: list[Alias] = []
    ipv4_address: IPv4Address | None = None
    ipv6_address: IPv6Address | None = None
    mac_address: MacAddress | None = None
    options: dict[str, str | int | bool] = {}
    labels: dict[str, str] = {}
    service: ServiceBackend | None = None
    link_local_addresses: list[Address] = []
    routes: list[StaticRoute] = []
    links: dict[Name, Name] = {}
    ready: bool = True


class GetEndpoint(Command[Endpoint], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show one endpoint; ``network`` may be left out beside a full endpoint id."""

    subject: ClassVar[str] = "cnm.v1.endpoint.get"

    endpoint: Key
    network: Key | None = None


class ListEndpoints(Command[Endpoints], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show endpoints, of one network or of all.

    ``name`` is a part of a name, ``id`` the beginning of an id, ``label`` is ``key`` or ``key=value``; ``network``.
    ``after`` is the id of one, those that follow it are shown.
    """

    subject: ClassVar[str] = "cnm.v1.endpoint.list"

    network: Key | None = None
    filters: Filters = {}
    limit: Annotated[int, Meta(ge=1)] | None = None
    after: Id | None = None


class DeleteEndpoint(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give up an endpoint and its addresses; with ``force`` it leaves its sandbox first."""

    subject: ClassVar[str] = "cnm.v1.endpoint.delete"

    endpoint: Key
    network: Key | None = None
    force: bool = False


class JoinEndpoint(Command[Endpoint], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Put an endpoint into a sandbox; afterwards it carries traffic and its names resolve."""

    subject: ClassVar[str] = "cnm.v1.endpoint.join"

    endpoint: Key
    sandbox: Key
    network: Key | None = None
    ifname: InterfaceName | None = None
    gw_priority: GatewayPriority = 0
    sysctls: dict[str, str] = {}


class LeaveEndpoint(Command[Endpoint], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Take an endpoint out of its sandbox; it keeps its addresses."""

    subject: ClassVar[str] = "cnm.v1.endpoint.leave"

    endpoint: Key
    sandbox: Key
    network: Key | None = None


class UpdateEndpoint(Command[Endpoint], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change an endpoint, joined or not; what is left out stays, and a list or a dictionary is replaced whole.

    One that is not ``ready`` is not answered by DNS.
    """

    subject: ClassVar[str] = "cnm.v1.endpoint.update"

    endpoint: Key
    network: Key | None = None
    aliases: list[Alias] | None = None
    ready: bool | None = None
    labels: dict[str, str] | None = None
    links: dict[Name, Name] | None = None


ENDPOINT_COMMANDS: tuple[type[Command[Any]], ...] = (
    CreateEndpoint,
    GetEndpoint,
    ListEndpoints,
    DeleteEndpoint,
    JoinEndpoint,
    LeaveEndpoint,
    UpdateEndpoint,
)
