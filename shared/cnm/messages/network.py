"""Networks: what a client asks of the controller, and what it is shown."""

from datetime import datetime
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from cnm.messages.message import Command, Empty
from cnm.types import Address, Id, Key, Name, Prefix

DnsDomain = Annotated[str, Meta(min_length=1, max_length=253)]
Filters = dict[str, list[str | bool]]
MAX_POOLS = 1024


class PoolRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pool that a network asks for; ``subnet`` of 0.0.0.0/24 or ::/120 asks only for the size."""

    subnet: Prefix | None = None
    range: Prefix | None = None
    gateway: Address | None = None
    aux_addresses: dict[str, Address] = {}


class IpamRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a network gets its addresses."""

    driver: str = "default"
    address_space: Name | None = None
    options: dict[str, str | int | bool] = {}
    pools: Annotated[list[PoolRequest], Meta(max_length=MAX_POOLS)] = []


class NetworkDns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network's own DNS settings; ``ttl`` in seconds."""

    servers: list[Address] = []
    search: list[DnsDomain] = []
    ttl: Annotated[int, Meta(ge=0, le=86400)] | None = None
    domains: dict[str, list[Address]] = {}


class NetworkPool(msgspec.Struct, frozen=True, kw_only=True):
    """A pool of a network as shown; counts are text above 2^53."""

    subnet: Prefix
    range: Prefix | None = None
    gateway: Address | None = None
    aux_addresses: dict[str, Address] = {}
    in_use: int | str = 0
    available: int | str = 0


class NetworkIpam(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses of a network as shown."""

    driver: str
    options: dict[str, str] = {}
    pools: list[NetworkPool] = []


class NetworkEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One line about an endpoint, as its network shows it."""

    id: Id
    name: str
    sandbox: Id | None
    mac_address: str
    ipv4_address: str | None
    ipv6_address: str | None


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A network as shown."""

    id: Id
    name: str
    driver: str
    scope: str
    created: datetime
    internal: bool
    attachable: bool
    ingress: bool
    config_only: bool
    config_from: str | None
    enable_ipv4: bool
    enable_ipv6: bool
    ipam: NetworkIpam
    dns: NetworkDns
    options: dict[str, str]
    labels: dict[str, str]
    revision: int
    endpoints: list[NetworkEndpoint]
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class Networks(msgspec.Struct, frozen=True, kw_only=True):
    """The networks that a list found, by creation, then id."""

    networks: list[Network]


class CreateNetwork(Command[Network], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a network: its pools, its gateway and its row; its bridge comes with it or with its first endpoint."""

    subject: ClassVar[str] = "cnm.v1.network.create"

    name: Name
    driver: str = "bridge"
    scope: str | None = None
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: Key | None = None
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    ipam: IpamRequest = IpamRequest()
    dns: NetworkDns = NetworkDns()
    options: dict[str, str | int | bool] = {}
    labels: dict[str, str] = {}


class GetNetwork(Command[Network], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show one network."""

    subject: ClassVar[str] = "cnm.v1.network.get"

    network: Key


class ListNetworks(Command[Networks], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show the networks that match all filters; of each filter any value.

    ``name`` is a part of a name, ``id`` the beginning of an id, ``label`` is ``key`` or ``key=value``; ``driver``,
    ``scope``; ``dangling``: whether nothing uses it. ``after`` is the id of one, those that follow it are shown.
    """

    subject: ClassVar[str] = "cnm.v1.network.list"

    filters: Filters = {}
    limit: Annotated[int, Meta(ge=1)] | None = None
    after: Id | None = None


class UpdateNetwork(Command[Network], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Change a network under its endpoints; what is left out stays as it is.

    ``labels`` and ``dns`` replace what was there. ``options`` changes those named, null takes one away. ``revision``
    is the one that the change was decided on. ``add_pools`` come after those that the network has.
    """

    subject: ClassVar[str] = "cnm.v1.network.update"

    network: Key
    revision: Annotated[int, Meta(ge=1)] | None = None
    labels: dict[str, str] | None = None
    options: dict[str, str | int | bool | None] | None = None
    dns: NetworkDns | None = None
    add_pools: Annotated[list[PoolRequest], Meta(max_length=MAX_POOLS)] = []


class DeleteNetwork(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Delete a network that has no endpoints; with ``force`` its endpoints leave first."""

    subject: ClassVar[str] = "cnm.v1.network.delete"

    network: Key
    force: bool = False


class Pruned(msgspec.Struct, frozen=True, kw_only=True):
    """What a prune deleted; what it could not is warned of."""

    deleted: list[Id]
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class PruneNetworks(Command[Pruned], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Delete the networks that nothing uses.

    ``filters`` are those of ``network.list``.
    """

    subject: ClassVar[str] = "cnm.v1.network.prune"

    filters: Filters = {}


class NodeDrops(msgspec.Struct, frozen=True, kw_only=True):
    """Packets and bytes of a network that were refused or dropped on a node, and why.

    ``reason`` is ``isolation``, ``internal``, ``direct`` or ``icc``; ``about`` says it in words.
    """

    node: str
    reason: str
    about: str
    packets: int
    bytes: int


class ShownDrops(msgspec.Struct, frozen=True, kw_only=True):
    """What was refused or dropped of a network, by node and reason."""

    drops: list[NodeDrops]
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class CountNetworkDrops(Command[ShownDrops], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Count what was refused or dropped of a network since its rules were made."""

    subject: ClassVar[str] = "cnm.v1.network.drops"

    network: Key


NETWORK_COMMANDS: tuple[type[Command[Any]], ...] = (
    CreateNetwork,
    GetNetwork,
    ListNetworks,
    UpdateNetwork,
    DeleteNetwork,
    PruneNetworks,
    CountNetworkDrops,
)
