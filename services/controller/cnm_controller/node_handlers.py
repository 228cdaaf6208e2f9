"""Answers about nodes, for clients and for the nodes' workers."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from cnm.bus import Route
from cnm.errors import Invalid, NotFound
from cnm.messages.message import Command, Empty
from cnm.messages.node import (
    BridgeSlice,
    GetBridgeSlice,
    GetNameSlice,
    GetNode,
    GetPortSlice,
    GetSandboxSlice,
    Heartbeat,
    ListNodes,
    NameSlice,
    Node,
    Nodes,
    NodeWorker,
    PortSlice,
    SandboxSlice,
)
from cnm_controller import slices
from cnm_controller.controller import SEEN_WITHIN, Controller, alive, is_ready
from cnm_controller.documents import EndpointBody, SandboxBody, read
from cnm_controller.events import event
from cnm_controller.network import check_filters
from cnm_controller.ports import NodeState

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
    return Nodes(
        nodes=[
            node
            for node in shown
            if (names is None or any(str(name) in node.name for name in names))
            and (states is None or node.state in states)
        ]
    )


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
        route(ListNodes, list_nodes),
        route(Heartbeat, heartbeat),
        route(GetBridgeSlice, _slice, unchanged=BridgeSlice, derive=slices.bridge_slice),
        route(GetSandboxSlice, _slice, unchanged=SandboxSlice, derive=slices.sandbox_slice),
        route(GetPortSlice, _slice, unchanged=PortSlice, derive=slices.port_slice),
        route(GetNameSlice, _slice, unchanged=NameSlice, derive=slices.name_slice),
    )
