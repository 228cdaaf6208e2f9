"""Derives each node worker's slice: what should stand on its node, from the state at one moment."""

from dataclasses import dataclass

from cnm.messages.node import BridgeSlice, NameSlice, PortSlice, SandboxSlice
from cnm.store import Document, Snapshot
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody, read
from cnm_controller.specs import (
    Joined,
    attachment,
    bridge_network,
    joined_of,
    publish,
    record,
    resolver_sandbox,
    sandbox_spec,
    zone,
)

KINDS = ("network", "sandbox", "endpoint")


@dataclass(frozen=True, kw_only=True)
class NodeState:
    """What the store says of one node: its sandboxes with their endpoints, and all networks."""

    clock: int
    networks: list[NetworkBody]
    sandboxes: list[tuple[SandboxBody, list[Joined]]]
    busy: list[str]


def on_node(snapshot: Snapshot, node: str) -> NodeState:
    """Pick what concerns a node out of a snapshot; its documents must be there."""
    documents: dict[str, list[Document]] = snapshot.documents or {}
    networks = {each.id: read(NetworkBody, each) for each in documents["network"]}
    endpoints: dict[str, list[EndpointBody]] = {}
    for document in documents["endpoint"]:
        body = read(EndpointBody, document)
        if body.sandbox_id is not None:
            endpoints.setdefault(body.sandbox_id, []).append(body)
    sandboxes = [
        (sandbox, joined_of(endpoints.get(sandbox.id, ()), networks))
        for document in documents["sandbox"]
        if (sandbox := read(SandboxBody, document)).node == node
    ]
    busy = [claim.partition(":")[2] for claim in snapshot.claimed if not claim.startswith("name:")]
    busy += [each.endpoint.id for sandbox, joined in sandboxes if sandbox.id in busy for each in joined]
    return NodeState(clock=snapshot.clock, networks=list(networks.values()), sandboxes=sandboxes, busy=busy)


def bridge_slice(state: NodeState) -> BridgeSlice:
    """Return what the bridge driver should make stand: every bridge network that has its pools, every link."""
    return BridgeSlice(
        clock=state.clock,
        networks=[
            bridge_network(network) for network in state.networks if network.driver == "bridge" and network.pools
        ],
        attachments=[
            attachment(sandbox, each, joined)
            for sandbox, joined in state.sandboxes
            for each in joined
            if each.network.driver == "bridge" and not sandbox.pending
        ],
        busy=state.busy,
    )


def sandbox_slice(state: NodeState) -> SandboxSlice:
    """Return what the sandbox worker should make stand."""
    specs = [sandbox_spec(sandbox, joined) for sandbox, joined in state.sandboxes]
    return SandboxSlice(clock=state.clock, sandboxes=specs, busy=state.busy)


def port_slice(state: NodeState) -> PortSlice:
    """Return what the port mapper should make stand: what is bound, on the ports where it is."""
    published = [
        wanted
        for sandbox, joined in state.sandboxes
        if sandbox.bound and (wanted := publish(sandbox, joined)) is not None
    ]
    return PortSlice(clock=state.clock, published=published, busy=state.busy)


def name_slice(state: NodeState) -> NameSlice:
    """Return what the resolver should answer."""
    return NameSlice(
        clock=state.clock,
        sandboxes=[
            served for sandbox, joined in state.sandboxes if (served := resolver_sandbox(sandbox, joined)) is not None
        ],
        zones=[zone(network) for network in state.networks if network.driver == "bridge"],
        records=[
            record(each.endpoint, sandbox)
            for sandbox, joined in state.sandboxes
            for each in joined
            if each.network.driver == "bridge"
        ],
        busy=state.busy,
    )
