"""Answers about nodes, for clients and for the nodes' workers."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from cnm.bus import Route
from cnm.errors import Invalid, NotFound
from cnm.messages.drift import Difference, ReportDrift
from cnm.messages.message import Command, Empty, to_builtins
from cnm.messages.names import CountNames
from cnm.messages.node import (
    BridgeSlice,
    GetBridgeSlice,
    GetNameSlice,
    GetNode,
    GetNodeDns,
    GetPortSlice,
    GetSandboxSlice,
    Heartbeat,
    ListNodes,
    NameSlice,
    Node,
    NodeDns,
    Nodes,
    NodeWorker,
    PortSlice,
    SandboxSlice,
)
from cnm.store import Changes, Claims
from cnm_controller import slices
from cnm_controller.controller import SEEN_WITHIN, Controller, alive, is_ready
from cnm_controller.documents import EndpointBody, SandboxBody, read
from cnm_controller.events import event
from cnm_controller.network import check_filters
from cnm_controller.ports import NodeState
from cnm_controller.window import window

Slice = TypeVar("Slice", BridgeSlice, SandboxSlice, PortSlice, NameSlice)


async def get_node(command: GetNode, *, controller: Controller) -> Node:
    """Show a node.

    Raises:
        NotFound: none of that name ever reported.
    """
    for node in (await list_nodes(ListNodes(), controller=controller)).nodes:
        if node.name == command.node:
            return node
    raise NotFound(f"no node {command.node!r}")


async def list_nodes(command: ListNodes, *, controller: Controller) -> Nodes:
    """Show the nodes that pass the filters.

    Raises:
        Invalid: a filter is unknown.
        NotFound: there is no node ``after``.
    """
    check_filters(command.filters, ("name", "state"))
    snapshot = await controller.ledger.store.snapshot(("sandbox", "endpoint"))
    documents = snapshot.documents or {}
    sandboxes = Counter(read(SandboxBody, each).node for each in documents["sandbox"])
    endpoints = Counter(read(EndpointBody, each).node for each in documents["endpoint"])
    shown = [
        _view(node, controller, sandboxes[node.name], endpoints[node.name]) for node in await controller.nodes.every()
    ]
    names, states = command.filters.get("name"), command.filters.get("state")

    def passes(node: Node) -> bool:
        return (names is None or any(str(name) in node.name for name in names)) and (
            states is None or node.state in states
        )

    return Nodes(nodes=window(shown, passes, after=command.after, limit=command.limit, by="name"))


async def get_node_dns(command: GetNodeDns, *, controller: Controller) -> NodeDns:
    """Show what the embedded DNS of a node did.

    Raises:
        NotFound: no node of that name ever reported.
        Unavailable: its resolver does not answer.
    """
    if command.node not in [node.name for node in await controller.nodes.every()]:
        raise NotFound(f"no node {command.node!r}")
    return NodeDns(node=command.node, dns=await controller.bus.ask(CountNames(), node=command.node))


def _view(node: NodeState, controller: Controller, sandboxes: int, endpoints: int) -> Node:
    now = controller.now()
    up = alive(node, now)
    workers = [
        NodeWorker(
            name=worker.name,
            state="ready" if worker.name in up else "down",
            version=worker.version,
            pid=worker.pid,
            last_seen=worker.last_seen,
        )
        for worker in node.workers
    ]
    return Node(
        name=node.name,
        address=node.address,
        workers=workers,
        state="ready" if is_ready(node, now) else "down",
        kernel=node.kernel,
        sandboxes=sandboxes,
        endpoints=endpoints,
    )


async def heartbeat(command: Heartbeat, *, controller: Controller) -> Empty:
    """Note that a node's worker is there, or leaves.

    Raises:
        Invalid: the node's name cannot be one.
    """
    if "/" in command.node:
        raise Invalid.at("node", command.node, f"{command.node!r} is no name for a node: it holds a slash")
    shown = {"name": command.node, "worker": command.worker, "address": command.address}
    joined = event("node", "joined", command.node, shown, node=command.node)
    left = event("node", "left", command.node, shown, node=command.node)
    now = controller.now()
    await controller.nodes.report(command, now=now, dead_before=now - SEEN_WITHIN, joined=joined, left=left)
    return Empty()


async def report_drift(command: ReportDrift, *, controller: Controller) -> Empty:
    """Publish what a worker found to differ: of each object ``drift.found``, then ``drift.repaired``."""
    events = [
        event("drift", participle, about, shown, node=command.node, id=f"{command.id}-{number}-{participle}")
        for number, (about, found) in enumerate(_by_object(command.differences).items())
        for participle, differences in (("found", found), ("repaired", [each for each in found if each.repaired]))
        if differences
        for shown in [{"id": about, "about": found[0].about, "differences": to_builtins(differences)}]
    ]
    async with controller.sagas.begin("drift", Claims(), ((),), label="drift") as saga:
        await saga.commit(Changes(events=tuple(events)))
    return Empty()


def _by_object(differences: Iterable[Difference]) -> dict[str, list[Difference]]:
    found: dict[str, list[Difference]] = {}
    for each in differences:
        found.setdefault(each.id, []).append(each)
    return found


async def _slice(
    command: GetBridgeSlice | GetSandboxSlice | GetPortSlice | GetNameSlice,
    *,
    controller: Controller,
    unchanged: type[Slice],
    derive: Callable[[slices.NodeState], Slice],
) -> Slice:
    """Return what one of a node's workers should make stand, or that nothing moved since the clock it knows."""
    snapshot = await controller.ledger.store.snapshot(slices.KINDS, known_clock=command.known_clock)
    if snapshot.documents is None:
        return unchanged(clock=snapshot.clock, unchanged=True)
    return derive(slices.on_node(snapshot, command.node))


def routes(controller: Controller) -> tuple[Route, ...]:
    """Return what this service answers about nodes."""

    def route(command: type[Command[Any]], handler: Any, **more: Any) -> Route:
        return Route(command=command, handler=partial(handler, controller=controller, **more), urgent=True)

    return (
        route(GetNode, get_node),
        route(GetNodeDns, get_node_dns),
        route(ListNodes, list_nodes),
        route(Heartbeat, heartbeat),
        route(ReportDrift, report_drift),
        route(GetBridgeSlice, _slice, unchanged=BridgeSlice, derive=slices.bridge_slice),
        route(GetSandboxSlice, _slice, unchanged=SandboxSlice, derive=slices.sandbox_slice),
        route(GetPortSlice, _slice, unchanged=PortSlice, derive=slices.port_slice),
        route(GetNameSlice, _slice, unchanged=NameSlice, derive=slices.name_slice),
    )
