"""Endpoints: a sandbox's place on a network."""

from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from cnm.messages.message import Command, Empty
from cnm.messages.network import Filters
from cnm.types import Id, InterfaceName, Key, MacAddress, Name

GatewayPriority = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]


class ServiceBackend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The service that an endpoint is a backend of."""

    name: Name
    task_name: Name | None = None
    weight: Annotated[int, Meta(ge=0)] = 1


class DriverInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver tells of an endpoint."""

    host_ifname: str | None = None


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint as shown; the address fields carry the prefix length."""

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
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """The endpoints that a list found, by creation, then id."""

    endpoints: list[Endpoint]


class CreateEndpoint(Command[Endpoint], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reserve an endpoint's addresses on a network, with or without a sandbox to join later."""

    subject: ClassVar[str] = "cnm.v1.endpoint.create"

    network: Key
    name: Name
    aliases: list[Name] = []
    ipv4_address: IPv4Address | None = None
    ipv6_address: IPv6Address | None = None
    mac_address: MacAddress | None = None
    options: dict[str, str | int | bool] = {}
    labels: dict[str, str] = {}
    service: ServiceBackend | None = None


class GetEndpoint(Command[Endpoint], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show one endpoint; ``network`` may be left out beside a full endpoint id."""

    subject: ClassVar[str] = "cnm.v1.endpoint.get"

    endpoint: Key
    network: Key | None = None


class ListEndpoints(Command[Endpoints], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show endpoints, of one network or of all."""

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


ENDPOINT_COMMANDS: tuple[type[Command[Any]], ...] = (
    CreateEndpoint,
    GetEndpoint,
    ListEndpoints,
    DeleteEndpoint,
    JoinEndpoint,
    LeaveEndpoint,
)
