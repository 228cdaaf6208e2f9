"""Networks, sandboxes and endpoints as the controller stores them; nothing in them can be counted or derived."""

from collections.abc import Sequence
from datetime import datetime
from ipaddress import IPv4Interface, IPv6Interface
from typing import ClassVar, TypeVar

import msgspec

from cnm.messages.endpoint import ServiceBackend, StaticRoute
from cnm.messages.ipam import AllocatedPool
from cnm.messages.message import decode_trusted, encode
from cnm.messages.network import NetworkDns, PoolRequest
from cnm.messages.sandbox import ExtraHost, PortBinding, PortRequest, SandboxDns
from cnm.store import Document
from cnm.types import Address


class NetworkBody(msgspec.Struct, frozen=True, kw_only=True):
    """A network. ``pools`` are empty until the predefined bridge gets its first endpoint, and of a configuration.

    ``config_from`` and ``config_id`` are the name and the id of the configuration network that it was made from.
    """

    kind: ClassVar[str] = "network"

    id: str
    name: str
    driver: str
    scope: str
    created: datetime
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    ipam_driver: str = "default"
    ipam_options: dict[str, str] = {}
    address_space: str = "LocalDefault"
    wanted: list[PoolRequest] = []
    pools: list[AllocatedPool] = []
    dns: NetworkDns = NetworkDns()
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    predefined: bool = False
    config_only: bool = False
    config_from: str | None = None
    config_id: str | None = None

    def with_pools(self, pools: list[AllocatedPool]) -> "NetworkBody":
        """Return it with the pools that it was given."""
        return msgspec.structs.replace(self, pools=pools)

    def document(self, revision: int = 0) -> Document:
        """Return what the store keeps of it."""
        indexes = []
        bridge = self.options.get("com.docker.network.bridge.name")
        if bridge and not self.config_only:
            indexes.append(f"bridge-name:{bridge}")
        if self.config_id:
            indexes.append(config_users(self.config_id))
        return _document(self, name=self.name, scope="", indexes=tuple(indexes), revision=revision)


def config_users(config_id: str) -> str:
    """Return the index of the networks that were made from a configuration network."""
    return f"network:config:{config_id}"


class SandboxBody(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox. ``requests`` are the ports asked for, ``bound`` those that stand.

    ``netns`` is where its namespace was adopted from; one that is ``pending`` has none yet.
    """

    kind: ClassVar[str] = "sandbox"

    id: str
    name: str
    node: str
    created: datetime
    key: str
    hosts_path: str
    resolv_conf_path: str
    netns: str | None = None
    pending: bool = False
    hostname: str = ""
    domainname: str = ""
    extra_hosts: list[ExtraHost] = []
    dns: SandboxDns = SandboxDns()
    requests: list[PortRequest] = []
    bound: list[PortBinding] = []
    exposed_ports: list[str] = []
    use_default_sandbox: bool = False
    sysctls: dict[str, str] = {}
    labels: dict[str, str] = {}

    def document(self, revision: int = 0) -> Document:
        """Return what the store keeps of it."""
        indexes = (f"netns:{self.node}:{self.netns}",) if self.netns else ()
        return _document(self, name=self.name, scope="", indexes=indexes, revision=revision)


class EndpointBody(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint; ``sandbox_id``, ``node``, ``ifname`` and ``host_ifname`` are null until it has joined."""

    kind: ClassVar[str] = "endpoint"

    id: str
    name: str
    network_id: str
    created: datetime
    mac_address: str
    ipv4: IPv4Interface | None = None
    ipv6: IPv6Interface | None = None
    aliases: list[str] = []
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    service: ServiceBackend | None = None
    sandbox_id: str | None = None
    sandbox_name: str | None = None
    node: str | None = None
    ifname: str | None = None
    host_ifname: str | None = None
    gw_priority: int = 0
    sysctls: dict[str, str] = {}
    ready: bool = True
    link_local: list[Address] = []
    routes: list[StaticRoute] = []
    links: dict[str, str] = {}

    def document(self, revision: int = 0) -> Document:
        """Return what the store keeps of it; its name is unique on its network."""
        indexes = [f"endpoint:network:{self.network_id}"]
        if self.sandbox_id:
            indexes.append(f"endpoint:sandbox:{self.sandbox_id}")
        return _document(self, name=self.name, scope=self.network_id, indexes=tuple(indexes), revision=revision)

    def dns_names(self) -> list[str]:
        """Return the names it answers to, the one that its address resolves back to first."""
        names = [self.name, *self.aliases]
        if self.sandbox_id and self.sandbox_name:
            names += [self.sandbox_name, self.sandbox_id[:12]]
        return list(dict.fromkeys(names))

    def left(self) -> "EndpointBody":
        """Return it as it is outside of any sandbox."""
        return msgspec.structs.replace(
            self,
            sandbox_id=None,
            sandbox_name=None,
            node=None,
            ifname=None,
            host_ifname=None,
            gw_priority=0,
            sysctls={},
        )


SHOWN = 20


def listed(bodies: Sequence[NetworkBody] | Sequence[EndpointBody]) -> str:
    """Name objects for a message, the first of them where there are many."""
    shown = ", ".join(f"{body.name!r} ({body.id[:12]})" for body in bodies[:SHOWN])
    return f"{shown} and {len(bodies) - SHOWN} more" if len(bodies) > SHOWN else shown


AnyBody = NetworkBody | SandboxBody | EndpointBody
Body = TypeVar("Body", NetworkBody, SandboxBody, EndpointBody)


def _document(body: AnyBody, *, name: str, scope: str, indexes: tuple[str, ...], revision: int) -> Document:
    return Document(
        kind=type(body).kind,
        id=body.id,
        name=name,
        scope=scope,
        created_ms=int(body.created.timestamp() * 1000),
        indexes=indexes,
        body=encode(body).decode(),
        revision=revision,
    )


def read(kind: type[Body], document: Document) -> Body:
    """Read a body back from its document."""
    return decode_trusted(kind, document.body.encode())
