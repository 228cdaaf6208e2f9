"""The topology as the page draws it: a small row an object, and how events change the rows.

Folding the events that came after a list over the rows of that list gives the rows of a later list. An event may be
folded twice, or over rows that are newer than it: whatever comes later in the stream settles it.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from cnm.messages.endpoint import Endpoints
from cnm.messages.message import Event, to_builtins
from cnm.messages.network import Networks
from cnm.messages.node import Nodes
from cnm.messages.sandbox import Sandboxes

Kind = Literal["node", "network", "sandbox", "endpoint", "drift"]
NEEDED = frozenset(("cnm-sandbox", "cnm-driver-bridge"))
"""A node is ready while these of its workers are."""
LOST = "lost change"
"""What the controller calls a change that was told of, and that the store has lost."""
MOST_DRIFT = 1000
"""So many objects may be marked as drifted; the marks are all that no list tells."""


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker of a node."""

    name: str
    state: str


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node; ``state`` is ``ready``, ``down`` or ``draining``."""

    name: str
    state: str
    address: str | None = None
    workers: tuple[Worker, ...] = ()


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A pool of a network."""

    subnet: str
    gateway: str | None = None


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A network, without what its endpoints change."""

    id: str
    name: str
    driver: str
    created: str
    internal: bool
    config_only: bool
    enable_ipv6: bool
    revision: int
    pools: tuple[Pool, ...] = ()


class Port(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A port as bound on the node, one a binding and family."""

    container_port: int
    protocol: str
    host_ip: str
    host_port: int
    container_ip: str
    container_port_end: int | None = None
    host_port_end: int | None = None


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A sandbox and its published ports, in their own order; ports that are only routed to are left out."""

    id: str
    name: str
    node: str
    created: str
    revision: int
    ports: tuple[Port, ...] = ()


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint: the place of a sandbox on a network, or one that is reserved while ``sandbox`` is null."""

    id: str
    name: str
    network: str
    sandbox: str | None
    node: str | None
    ipv4_address: str | None
    ipv6_address: str | None
    mac_address: str
    ifname: str | None
    ready: bool
    dns_names: tuple[str, ...]
    revision: int


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What was found to differ of an object, and is not mended."""

    worker: str
    what: str
    value: str
    repaired: bool = False
    reason: str | None = None


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """All that is not as it should be of one object; ``id`` is the object's, or the node's name."""

    id: str
    about: str
    differences: tuple[Difference, ...]


Row = Node | Network | Sandbox | Endpoint | Drift


class Change(NamedTuple):
    """A row that is new, or another one now; None where it went."""

    kind: Kind
    id: str
    row: Row | None


class Topology(msgspec.Struct, frozen=True, kw_only=True):
    """All rows, by id; nodes by name."""

    nodes: dict[str, Node] = {}
    networks: dict[str, Network] = {}
    sandboxes: dict[str, Sandbox] = {}
    endpoints: dict[str, Endpoint] = {}
    drift: dict[str, Drift] = {}

    def of(self, kind: Kind) -> Mapping[str, Row]:
        """Return the rows of a kind."""
        found: Mapping[str, Row] = getattr(self, PLACES[kind])
        return found

    def shows(self, other: "Topology") -> bool:
        """Tell whether another shows the same: revisions may differ, for not each change of a document is told of."""
        return self == other or self._without_revisions() == other._without_revisions()

    def _without_revisions(self) -> "Topology":
        rows = {
            place: {id: msgspec.structs.replace(row, revision=0) for id, row in getattr(self, place).items()}
            for place in ("networks", "sandboxes", "endpoints")
        }
        return msgspec.structs.replace(self, **rows)

    def after(self, changes: Iterable[Change]) -> "Topology":
        """Return the topology with these changes made."""
        places: dict[str, dict[str, Row]] = {}
        for kind, id, row in changes:
            rows = places.setdefault(PLACES[kind], dict(self.of(kind)))
            if row is None:
                rows.pop(id, None)
            else:
                rows[id] = row
        return msgspec.structs.replace(self, **places) if places else self


PLACES: Mapping[Kind, str] = {
    "node": "nodes", "network": "networks", "sandbox": "sandboxes", "endpoint": "endpoints", "drift": "drift",
}  # fmt: skip


def listed(
    nodes: Nodes, networks: Networks, sandboxes: Sandboxes, endpoints: Endpoints, drift: Mapping[str, Drift]
) -> Topology:
    """Return the rows of what the lists told; marks of drift stay on what is there, for no list tells of them."""
    found = Topology(
        nodes={each.name: node_row(to_builtins(each)) for each in nodes.nodes},
        networks={each.id: network_row(to_builtins(each)) for each in networks.networks},
        sandboxes={each.id: sandbox_row(to_builtins(each)) for each in sandboxes.sandboxes},
        endpoints={each.id: endpoint_row(to_builtins(each)) for each in endpoints.endpoints},
    )
    there = {*found.nodes, *found.networks, *found.sandboxes, *found.endpoints}
    return msgspec.structs.replace(found, drift={id: mark for id, mark in drift.items() if id in there})


def node_row(shown: Mapping[str, Any]) -> Node:
    """Return the row of a node as shown."""
    return msgspec.convert(shown, Node)


def network_row(shown: Mapping[str, Any]) -> Network:
    """Return the row of a network as shown."""
    return msgspec.convert({**shown, "pools": shown["ipam"]["pools"]}, Network)


def sandbox_row(shown: Mapping[str, Any]) -> Sandbox:
    """Return the row of a sandbox as shown."""
    return msgspec.convert({**shown, "ports": to_builtins(ports_of(shown))}, Sandbox)


def endpoint_row(shown: Mapping[str, Any]) -> Endpoint:
    """Return the row of an endpoint as shown."""
    return msgspec.convert(shown, Endpoint)


def ports_of(shown: Mapping[str, Any]) -> tuple[Port, ...]:
    """Return the ports that are bound on the node, of a sandbox or of an event."""
    bound = [each for each in shown["ports"] if each["host_port"] is not None]
    return _in_order(msgspec.convert(bound, tuple[Port, ...]))


def _in_order(ports: Iterable[Port]) -> tuple[Port, ...]:
    return tuple(
        sorted(set(ports), key=lambda each: (each.container_port, each.protocol, each.host_ip, each.host_port))
    )


def noun_and_participle(subject: str) -> tuple[str, str]:
    """Return what an event is about and what has become of it, from its subject."""
    noun, _, rest = subject.removeprefix("cnm.v1.event.").partition(".")
    return noun, rest.partition(".")[0]


def changes(topology: Topology, subject: str, event: Event) -> tuple[Change, ...]:
    """Decide what an event changes; nothing when it tells of what the topology does not show, or is none of ours."""
    noun, participle = noun_and_participle(subject)
    try:
        match noun:
            case "network" | "sandbox" | "endpoint":
                return _object_changes(topology, noun, participle, event.object)
            case "port":
                return _port_changes(topology, participle, event.object)
            case "node":
                return _node_changes(topology, participle, event.object)
            case "drift":
                return _drift_changes(topology, participle, event.object)
            case _:
                return ()
    except (msgspec.ValidationError, KeyError, TypeError):
        return ()


def is_doubtful(topology: Topology, subject: str, event: Event) -> bool:
    """Say whether the lists must be asked again after an event: it tells of what no event will tell.

    Either earlier events are not true any more, or the network of an endpoint has pools that were not told of: a
    predefined one gets its pools with its first endpoint.
    """
    match noun_and_participle(subject):
        case ("drift", "found"):
            found = event.object.get("differences", ())
            return any(isinstance(each, dict) and each.get("what") == LOST for each in found)
        case ("endpoint", "created"):
            network = topology.networks.get(str(event.object.get("network")))
            return network is None or (not network.pools and event.object.get("ipv4_address") is not None)
        case _:
            return False


def _object_changes(
    topology: Topology, kind: Literal["network", "sandbox", "endpoint"], participle: str, shown: Mapping[str, Any]
) -> tuple[Change, ...]:
    if participle == "deleted":
        id = str(shown["id"])
        marks = (Change("drift", id, None),) if id in topology.drift else ()
        return (Change(kind, id, None), *marks)
    row: Network | Sandbox | Endpoint
    match kind:
        case "network":
            row = network_row(shown)
        case "sandbox":
            row = sandbox_row(shown)
        case "endpoint":
            row = endpoint_row(shown)
    known = topology.of(kind).get(row.id)
    if known == row or (isinstance(known, Network | Sandbox | Endpoint) and known.revision > row.revision):
        return ()
    return (Change(kind, row.id, row),)


def _port_changes(topology: Topology, participle: str, shown: Mapping[str, Any]) -> tuple[Change, ...]:
    sandbox = topology.sandboxes.get(shown["sandbox"])
    if sandbox is None:
        return ()
    told = set(ports_of(shown))
    ports = _in_order(set(sandbox.ports) | told if participle == "published" else set(sandbox.ports) - told)
    if ports == sandbox.ports:
        return ()
    return (Change("sandbox", sandbox.id, msgspec.structs.replace(sandbox, ports=ports)),)


def _node_changes(topology: Topology, participle: str, shown: Mapping[str, Any]) -> tuple[Change, ...]:
    """Mark a node whose first worker joined, or whose last one left or was lost."""
    name, worker = str(shown["name"]), str(shown.get("worker", ""))
    node = topology.nodes.get(name, Node(name=name, state="down"))
    workers = {each.name: each for each in node.workers}
    if participle == "joined":
        workers[worker] = Worker(name=worker, state="ready")
    else:
        workers = {each: Worker(name=each, state="down") for each in workers}
    ready = {each.name for each in workers.values() if each.state == "ready"}
    row = Node(
        name=name,
        state="ready" if ready >= NEEDED else "down",
        address=shown.get("address") or node.address,
        workers=tuple(workers[each] for each in sorted(workers)),
    )
    return () if row == topology.nodes.get(name) else (Change("node", name, row),)


def _drift_changes(topology: Topology, participle: str, shown: Mapping[str, Any]) -> tuple[Change, ...]:
    id = str(shown["id"])
    told = msgspec.convert(shown["differences"], tuple[Difference, ...])
    known = topology.drift.get(id)
    names = {(each.what, each.value) for each in told}
    left = tuple(each for each in (known.differences if known else ()) if (each.what, each.value) not in names)
    if participle == "found":
        left += told
    if not left:
        return (Change("drift", id, None),) if known else ()
    full = known is None and len(topology.drift) >= MOST_DRIFT
    return () if full else (Change("drift", id, Drift(id=id, about=str(shown.get("about", id)), differences=left)),)
