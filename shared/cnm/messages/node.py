"""Nodes: who is there, and what each node's workers should make stand."""

from datetime import datetime
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from cnm.messages.bridge import Attachment, BridgeNetwork
from cnm.messages.message import Command, Empty
from cnm.messages.names import NameCounts, NameRecord, ResolverSandbox, ZoneSpec
from cnm.messages.namespace import SandboxSpec
from cnm.messages.network import Filters
from cnm.messages.ports import PublishPorts
from cnm.types import Key, Prefix


class NodeWorker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker of a node; ``state`` is ``ready`` while it reports."""

    name: str
    state: str
    version: str
    pid: int
    last_seen: datetime


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node as shown."""

    name: str
    address: str | None
    workers: list[NodeWorker]
    state: str
    kernel: dict[str, bool]
    sandboxes: int
    endpoints: int


class Nodes(msgspec.Struct, frozen=True, kw_only=True):
    """Every node that ever reported, by name."""

    nodes: list[Node]


class GetNode(Command[Node], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show one node."""

    subject: ClassVar[str] = "cnm.v1.node.get"

    node: Key


class ListNodes(Command[Nodes], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show the nodes that match all filters, by name; ``after`` is a node's name, those that follow it are shown.

    ``name`` is a part of a name, ``state`` is ``ready`` or ``down``.
    """

    subject: ClassVar[str] = "cnm.v1.node.list"

    filters: Filters = {}
    limit: Annotated[int, Meta(ge=1)] | None = None
    after: Key | None = None


class NodeDns(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's embedded DNS did since its process began."""

    node: str
    dns: NameCounts


class GetNodeDns(Command[NodeDns], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show what the embedded DNS of a node did, and how its external servers do."""

    subject: ClassVar[str] = "cnm.v1.node.dns"

    node: Key


class Heartbeat(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node's worker is there; ``leaving`` when it stops in order.

    ``kernel`` and ``address`` come from the sandbox worker. ``taken`` is not read any more: IPAM is told of a node's
    routes, with ``cnm.v1.ipam.node.report``.
    """

    subject: ClassVar[str] = "cnm.v1.node.heartbeat"

    node: Annotated[str, Meta(min_length=1, max_length=253)]
    worker: str
    version: str
    pid: int
    run_dir: str
    leaving: bool = False
    address: str | None = None
    kernel: dict[str, bool] | None = None
    taken: list[Prefix] | None = None


class BridgeSlice(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's bridge driver should make stand; ``busy`` ids are being changed right now: leave them alone."""

    clock: int
    networks: list[BridgeNetwork] = []
    attachments: list[Attachment] = []
    busy: list[str] = []
    unchanged: bool = False


class GetBridgeSlice(Command[BridgeSlice], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask what the bridge driver of a node should make stand."""

    subject: ClassVar[str] = "cnm.v1.node.slice.bridge"

    node: str
    known_clock: int | None = None


class SandboxSlice(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's sandbox worker should make stand."""

    clock: int
    sandboxes: list[SandboxSpec] = []
    busy: list[str] = []
    unchanged: bool = False


class GetSandboxSlice(Command[SandboxSlice], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask what the sandbox worker of a node should make stand."""

    subject: ClassVar[str] = "cnm.v1.node.slice.sandbox"

    node: str
    known_clock: int | None = None


class PortSlice(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's port mapper should make stand."""

    clock: int
    published: list[PublishPorts] = []
    busy: list[str] = []
    unchanged: bool = False


class GetPortSlice(Command[PortSlice], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask what the port mapper of a node should make stand."""

    subject: ClassVar[str] = "cnm.v1.node.slice.ports"

    node: str
    known_clock: int | None = None


class NameSlice(msgspec.Struct, frozen=True, kw_only=True):
    """What a node's resolver should answer; ``zones`` are all networks of ours, shared or not."""

    clock: int
    sandboxes: list[ResolverSandbox] = []
    zones: list[ZoneSpec] = []
    records: list[NameRecord] = []
    busy: list[str] = []
    unchanged: bool = False


class GetNameSlice(Command[NameSlice], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask what the resolver of a node should answer; ``zones`` are all networks of ours, shared or not."""

    subject: ClassVar[str] = "cnm.v1.node.slice.names"

    node: str
    known_clock: int | None = None


NODE_COMMANDS: tuple[type[Command[Any]], ...] = (
    GetNode,
    GetNodeDns,
    ListNodes,
    Heartbeat,
    GetBridgeSlice,
    GetSandboxSlice,
    GetPortSlice,
    GetNameSlice,
)
