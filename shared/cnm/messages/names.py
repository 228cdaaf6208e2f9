"""What the controller tells a node's resolver."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any, ClassVar

import msgspec

from cnm.messages.message import Command, Empty
from cnm.types import Address, Id, Prefix, Protocol


class ZoneSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A network as the resolver sees it; ``ttl`` in seconds, null for the default."""

    network_id: Id
    name: str
    prefixes: list[Prefix] = []
    enable_ipv6: bool = False
    ttl: int | None = None


class NamePort(msgspec.Struct, frozen=True, kw_only=True):
    """Ports that an endpoint serves, from the first to the last of them."""

    protocol: Protocol
    first: int
    last: int


class NameRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint's names on its network; the first is the one that its address resolves back to.

    A name ``*.app`` is carried by every name below ``app``. ``ports`` are found as ``_80._tcp.name``.
    """

    endpoint_id: Id
    network_id: Id
    names: list[str]
    ipv4_address: IPv4Address | None = None
    ipv6_address: IPv6Address | None = None
    ready: bool = True
    ports: list[NamePort] = []


class NameHost(msgspec.Struct, frozen=True, kw_only=True):
    """An address of a name that one sandbox knows."""

    name: str
    address: Address


class ResolverSandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox as the resolver sees it: its networks in order, its own external servers, and whether it gets out.

    It alone knows ``hosts``, and ``links``: names by aliases of them. ``node_addresses`` are the node's, as it
    reaches them. ``domains`` are servers of a domain and all names below it, which go before others.
    """

    sandbox_id: Id
    namespace: str
    networks: list[Id] = []
    servers: list[Address] = []
    domains: dict[str, list[Address]] = {}
    external: bool = False
    ndots_set: bool = False
    hosts: list[NameHost] = []
    links: dict[str, str] = {}
    node_addresses: list[Address] = []


class UpdateNames(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Serve a sandbox as told, know these zones and records, forget those endpoints: all at once.

    When it replies, every sandbox of this node is answered accordingly.
    """

    subject: ClassVar[str] = "cnm.v1.on.{node}.names.update"

    sandbox: ResolverSandbox | None = None
    zones: list[ZoneSpec] = []
    records: list[NameRecord] = []
    forget_endpoints: list[Id] = []


class ForgetSandbox(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stop serving a sandbox."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.names.forget_sandbox"

    sandbox_id: Id


class ForgetZone(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Forget a network with all its records."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.names.forget_zone"

    network_id: Id


class ResolvedName(msgspec.Struct, frozen=True, kw_only=True):
    """What the embedded DNS answered: addresses, IPv4 first, or none and why, such as ``NXDOMAIN``."""

    addresses: list[Address]
    code: str


class ResolveName(Command[ResolvedName], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Answer a name as a sandbox is answered, external servers asked where it would ask them."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.names.resolve"

    sandbox_id: Id
    name: str


class NameQuestions(msgspec.Struct, frozen=True, kw_only=True):
    """How many questions had one outcome.

    ``source`` is where the answer is from: ``own`` is what is known here, ``kept`` what servers said before,
    ``outside`` what they said now, ``dropped`` is none. ``type`` is the record type asked for, such as ``A``;
    ``code`` the response code, such as ``NXDOMAIN``, null where there was no reply.
    """

    source: str
    type: str
    code: str | None
    count: int


class NameTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How many answers took up to each bound, in seconds, but longer than the one before; the last has no bound.

    Of ``own`` answers a part is timed.
    """

    source: str
    bounds: list[float]
    counts: list[int]


class NameServer(msgspec.Struct, frozen=True, kw_only=True):
    """An external server, as it did: ``last_ms`` is how long its last answer took."""

    address: Address
    inside: bool
    asked: int
    answered: int
    failed: int
    silent: int
    last_ms: float | None


class NameCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's embedded DNS did since its process began; ``kept_bytes`` are what kept answers take."""

    sandboxes: int
    questions: list[NameQuestions]
    times: list[NameTimes]
    servers: list[NameServer]
    kept: int
    kept_bytes: int


class CountNames(Command[NameCounts], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Count what the embedded DNS of a node did."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.names.count"


NAME_COMMANDS: tuple[type[Command[Any]], ...] = (UpdateNames, ForgetSandbox, ForgetZone, ResolveName, CountNames)
