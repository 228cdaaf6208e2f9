"""What the controller tells a node's resolver."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any, ClassVar

import msgspec

from cnm.messages.message import Command, Empty
from cnm.types import Address, Id, Prefix


class ZoneSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A network as the resolver sees it; ``ttl`` in seconds, null for the default."""

    network_id: Id
    name: str
    prefixes: list[Prefix] = []
    enable_ipv6: bool = False
    ttl: int | None = None


class NameRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint's names on its network; the first is the one that its address resolves back to."""

    endpoint_id: Id
    network_id: Id
    names: list[str]
    ipv4_address: IPv4Address | None = None
    ipv6_address: IPv6Address | None = None
    ready: bool = True


class ResolverSandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox as the resolver sees it: its networks in order, its own external servers, and whether it gets out."""

    sandbox_id: Id
    namespace: str
    networks: list[Id] = []
    servers: list[Address] = []
    external: bool = False
    ndots_set: bool = False


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


NAME_COMMANDS: tuple[type[Command[Any]], ...] = (UpdateNames, ForgetSandbox, ForgetZone)
