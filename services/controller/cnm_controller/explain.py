"""Decides whether a packet gets from a sandbox to an address, hop by hop, and from where a published port is reached.

What stops it is what would stop the packet itself: the order is that of `docs/rules.md`. What only the kernel knows,
such as who listens, is looked at by the handler afterwards.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from cnm.errors import Fault, Invalid
from cnm.messages.sandbox import PortBinding
from cnm.messages.system import ExplainedPort, ExplainSystem, Hop, PortReach
from cnm.types import Address, Protocol
from cnm_controller.documents import NetworkBody, SandboxBody
from cnm_controller.options import parse_bridge
from cnm_controller.specs import Joined, bridge_name, leading_out, open_ports, routed_bindings, sandbox_label

OTHERS, NODE = "other machines", "the node itself"
SANDBOXES, ISOLATED = "sandboxes whose network leads out", "sandboxes of internal networks alone"


def check_explain(command: ExplainSystem) -> None:
    """Refuse a question that is none.

    Raises:
        Invalid: ``details["fields"]`` says what is missing.
    """
    faults = []
    if (command.from_ is None) != (command.to is None):
        missing, said = ("to", "from") if command.to is None else ("from", "to")
        faults.append(Fault(field=missing, value=None, reason=f"{said} is said: say {missing} too"))
    elif command.from_ is None and command.port is None:
        faults.append(Fault(field="from", value=None, reason="say from and to, or port alone"))
    if faults:
        raise Invalid.of(faults)


@dataclass(frozen=True)
class Scene:
    """What the store says: every sandbox with its endpoints, every network, and who holds an address where."""

    sandboxes: Sequence[tuple[SandboxBody, Sequence[Joined]]]
    networks: Mapping[str, NetworkBody]
    holders: Mapping[tuple[str, Address], str] = field(default_factory=dict)
    """Endpoints that are in no sandbox, by network and address: what they are called."""

    def at(self, address: Address) -> list[tuple[SandboxBody, Joined]]:
        """Return the endpoints in sandboxes that have an address, each with its sandbox."""
        return [
            (sandbox, each)
            for sandbox, joined in self.sandboxes
            for each in joined
            if any(own is not None and own.ip == address for own in (each.endpoint.ipv4, each.endpoint.ipv6))
        ]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A packet: from which sandbox with which endpoints, to where."""

    source: SandboxBody
    joined: Sequence[Joined]
    address: Address
    port: int | None
    protocol: Protocol

    @property
    def shown_port(self) -> str:
        """Return the port as people write it."""
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """Where the packet arrives when every hop lets it pass: in a sandbox, on the node (None), or beyond."""

    sandbox: SandboxBody | None = None
    address: Address | None = None
    port: int | None = None
    beyond: bool = False


@dataclass
class Walk:
    """The hops so far, and the arrival, if it arrived."""

    hops: list[Hop] = field(default_factory=list)
    arrival: Arrival | None = None

    def passes(self, hop: str, about: str) -> None:
        """Note a hop that lets pass."""
        self.hops.append(Hop(hop=hop, passes=True, about=about))

    def stops(self, hop: str, about: str) -> "Walk":
        """Note the hop that stops it."""
        self.hops.append(Hop(hop=hop, passes=False, about=about))
        return self

    def arrives(self, arrival: Arrival) -> "Walk":
        """Note where it arrives."""
        self.arrival = arrival
        return self


def walk(asked: Question, scene: Scene, node_addresses: Sequence[Address]) -> Walk:
    """Walk the way to an address; ``node_addresses`` are those of the node that the sandbox is on."""
    way = Walk()
    label = sandbox_label(asked.source)
    if asked.source.pending:
        return way.stops("sandbox", f"{label} has no namespace yet: sandbox.adopt gives it one")
    own = [each for each in asked.joined if asked.address in _addresses(each)]
    if not asked.source.use_default_sandbox and (asked.address.is_loopback or own):
        way.passes("loopback", f"{asked.address} is {label} itself")
        return way.arrives(Arrival(sandbox=asked.source, address=asked.address, port=asked.port))
    shared = next((each for each in asked.joined if _covers(each.network, asked.address)), None)
    if shared is not None:
        return _within(asked, shared, scene, node_addresses, way)
    if asked.address in node_addresses:
        return _to_node(asked, scene, way)
    return _elsewhere(asked, scene, way)


def _within(asked: Question, shared: Joined, scene: Scene, node_addresses: Sequence[Address], way: Walk) -> Walk:
    """Go on within a network that the sandbox is on: no router is asked."""
    network = shared.network
    label = sandbox_label(asked.source)
    way.passes("network", f"{asked.address} is of network {network.name!r}, which {label} is on")
    if asked.address in node_addresses:
        return _to_node(asked, scene, way, over=shared)
    there = [(sandbox, each) for sandbox, each in scene.at(asked.address) if each.network.id == network.id]
    if not there:
        return way.stops("address", _nobody(asked, network, scene))
    sandbox, target = there[0]
    if _elsewhere_stops(asked, sandbox, network, way):
        return way
    if not parse_bridge(network.options, []).icc:
        only = "its endpoints reach one another's published ports alone"
        return way.stops("icc", f"network {network.name!r} has enable_icc=false: {only}")
    way.passes("icc", f"endpoints of network {network.name!r} reach one another")
    return _arrive(asked, sandbox, target, way)


def _to_node(asked: Question, scene: Scene, way: Walk, over: Joined | None = None) -> Walk:
    """Go on to the node: a published port of it, or itself."""
    source = over
    if over is None and not asked.source.use_default_sandbox:
        source = _leave(asked, way)
        if source is None:
            return way
    bound = None if asked.port is None else _binding(asked, scene)
    if bound is None:
        way.passes("node", f"{asked.address} is an address of node {asked.source.node!r} itself")
        return way.arrives(Arrival(address=asked.address, port=asked.port))
    sandbox, binding = bound
    shown = f"{asked.address}:{asked.shown_port}"
    way.passes("port", f"{shown} is published by {sandbox_label(sandbox)}, {_led_by(binding)}")
    if source is not None and source.network.internal:
        about = f"network {source.network.name!r} is internal: nothing leaves it, not to a published port either"
        return way.stops("internal", about)
    client = _client(source, asked)
    if binding.allow is not msgspec.UNSET:
        if client is None or not any(client in prefix for prefix in binding.allow):
            allowed = ", ".join(map(str, binding.allow))
            return way.stops("allow", f"{shown} lets only {allowed} connect, and {client} is none of them")
        way.passes("allow", f"{client} is among those that {shown} lets connect")
    assert isinstance(binding.host_port, int)
    offset = (asked.port or binding.host_port) - binding.host_port
    return way.arrives(Arrival(sandbox=sandbox, address=binding.container_ip, port=binding.container_port + offset))


def _elsewhere(asked: Question, scene: Scene, way: Walk) -> Walk:
    """Go on to what is neither on a network of the sandbox nor the node's."""
    source = None
    if not asked.source.use_default_sandbox:
        source = _leave(asked, way)
        if source is None:
            return way
    network = next((each for each in scene.networks.values() if _covers(each, asked.address)), None)
    if network is None:
        return _beyond(asked, source, way)
    there = [(sandbox, each) for sandbox, each in scene.at(asked.address) if each.network.id == network.id]
    if not there:
        return way.stops("address", _nobody(asked, network, scene))
    sandbox, target = there[0]
    if _elsewhere_stops(asked, sandbox, network, way):
        return way
    if asked.source.use_default_sandbox:
        way.passes("network", f"the node reaches the endpoints of network {network.name!r} directly")
        return _arrive(asked, sandbox, target, way)
    if network.internal:
        return way.stops("internal", f"network {network.name!r} is internal: nothing enters it")
    mode = parse_bridge(network.options, []).mode(asked.address.version)
    opened = [
        each
        for each in open_ports(sandbox, network)
        if each.version == asked.address.version and each.protocol == asked.protocol
    ]
    if mode == "nat-unprotected":
        way.passes("isolation", f"network {network.name!r} is nat-unprotected: it lets everybody in")
    elif mode == "routed" and asked.port is None:
        way.passes("isolation", f"network {network.name!r} is routed: it lets ICMP in")
    elif mode == "routed" and any(each.first <= (asked.port or 0) <= each.last for each in opened):
        way.passes("isolation", f"network {network.name!r} is routed, and {asked.shown_port} is published there")
    else:
        return way.stops("isolation", _isolated(asked, sandbox, network, routed=mode == "routed"))
    return _arrive(asked, sandbox, target, way)


def _isolated(asked: Question, sandbox: SandboxBody, network: NetworkBody, *, routed: bool) -> str:
    reason = f"{asked.address} is of network {network.name!r}, which {sandbox_label(asked.source)} is not on"
    if routed:
        return f"{reason}; it is routed, but {sandbox_label(sandbox)} has not published {asked.shown_port}"
    public = [each.host_port for each in sandbox.bound if each.container_port == asked.port and each.host_port]
    hint = f"it is published as port {public[0]} of the node" if public else "publish a port, or join the network"
    return f"{reason}; networks are kept apart: {hint}"


def _leave(asked: Question, way: Walk) -> Joined | None:
    """Find the endpoint by which a packet leaves its sandbox."""
    version = asked.address.version
    leader = leading_out(asked.joined, version)
    if leader is not None:
        gateway = leader.gateway(version)
        way.passes("route", f"the default route leads over network {leader.network.name!r} by {gateway}")
        return leader
    label = sandbox_label(asked.source)
    names = ", ".join(repr(each.network.name) for each in asked.joined)
    about = f"{label} has no IPv{version} route to {asked.address}: "
    if not asked.joined:
        about += "it is on no network"
    elif all(each.network.internal for each in asked.joined):
        about += f"internal is every network that it is on ({names})"
    else:
        about += f"no network that it is on ({names}) leads out by IPv{version}"
    way.stops("route", about)
    return None


def _elsewhere_stops(asked: Question, sandbox: SandboxBody, network: NetworkBody, way: Walk) -> bool:
    if sandbox.node == asked.source.node:
        return False
    nodes = f"{sandbox_label(sandbox)} is on node {sandbox.node!r}, {sandbox_label(asked.source)} on"
    way.stops("node", f"{nodes} {asked.source.node!r}: bridge network {network.name!r} does not span nodes")
    return True


def _arrive(asked: Question, sandbox: SandboxBody, target: Joined, way: Walk) -> Walk:
    if sandbox.pending:
        return way.stops("sandbox", f"{sandbox_label(sandbox)} has no namespace yet: sandbox.adopt gives it one")
    name = f"endpoint {target.endpoint.name!r} of {sandbox_label(sandbox)}"
    way.passes("endpoint", f"{asked.address} is {name}")
    return way.arrives(Arrival(sandbox=sandbox, address=asked.address, port=asked.port))


def _beyond(asked: Question, source: Joined | None, way: Walk) -> Walk:
    seen = "as it is"
    if source is not None:
        options = parse_bridge(source.network.options, [])
        version = asked.address.version
        own = options.snat_ipv4 if version == 4 else options.snat_ipv6
        if options.mode(version).startswith("nat") and options.masquerade:
            seen = f"as {own}" if own else "as the node's own address"
    way.passes("outside", f"it leaves node {asked.source.node!r}, seen {seen}; what is beyond, nobody here can tell")
    return way.arrives(Arrival(address=asked.address, port=asked.port, beyond=True))


def _nobody(asked: Question, network: NetworkBody, scene: Scene) -> str:
    holder = scene.holders.get((network.id, asked.address))
    if holder is not None:
        return (
            f"{asked.address} is reserved for endpoint {holder!r} of network {network.name!r}, which is in no sandbox"
        )
    return f"no endpoint of network {network.name!r} has {asked.address}"


def _binding(asked: Question, scene: Scene) -> tuple[SandboxBody, PortBinding] | None:
    """Find what is published where a packet goes; one on loopback is for the node alone, who asks there."""
    return next(
        (
            (sandbox, each)
            for sandbox, _ in scene.sandboxes
            if sandbox.node == asked.source.node
            for each in sandbox.bound
            if each.protocol == asked.protocol and _has(each, asked.port or 0)
            if each.host_ip == asked.address
            or (each.host_ip.is_unspecified and each.host_ip.version == asked.address.version)
        ),
        None,
    )


def _has(binding: PortBinding, port: int) -> bool:
    if binding.host_port is None:
        return False
    last = binding.host_port if binding.host_port_end is msgspec.UNSET else binding.host_port_end
    return binding.host_port <= port <= last


def _client(source: Joined | None, asked: Question) -> Address | None:
    """Return the address that a packet comes from; the node asks itself from the very address it asks."""
    if source is None:
        return asked.address
    return next((own for own in _addresses(source) if own.version == asked.address.version), None)


def _addresses(joined: Joined) -> list[Address]:
    return [own.ip for own in (joined.endpoint.ipv4, joined.endpoint.ipv6) if own is not None]


def _covers(network: NetworkBody, address: Address) -> bool:
    return any(address in pool.subnet for pool in network.pools if pool.subnet.version == address.version)


def _led_by(binding: PortBinding) -> str:
    version = binding.host_ip.version
    proxy = f"by the proxy, for the sandbox has no IPv{version}"
    by = "translated (table inet cnm_ports)" if binding.container_ip.version == version else proxy
    return f"to {binding.container_ip} port {binding.container_port}, {by}"


def explain_port(scene: Scene, protocol: Protocol, port: int) -> Iterator[ExplainedPort]:
    """Say of every binding of a port from where it is reached; routed ones are meant by the sandbox's own port."""
    for sandbox, joined in scene.sandboxes:
        bound = [each for each in sandbox.bound if each.protocol == protocol and _has(each, port)]
        routed = [
            each for each in routed_bindings(sandbox, joined) if each.protocol == protocol and _spans(each, port)
        ]
        for each in (*bound, *routed):
            offset = 0 if each.host_port is None else port - each.host_port
            yield ExplainedPort(
                sandbox=sandbox.id,
                name=sandbox.name,
                node=sandbox.node,
                protocol=protocol,
                host_ip=each.host_ip,
                host_port=None if each.host_port is None else port,
                container_ip=each.container_ip,
                container_port=port if each.host_port is None else each.container_port + offset,
                reach=list(_reach_routed(each, scene) if each.host_port is None else _reach(each)),
            )


def _spans(binding: PortBinding, port: int) -> bool:
    last = binding.container_port if binding.container_port_end is msgspec.UNSET else binding.container_port_end
    return binding.container_port <= port <= last


def _reach(binding: PortBinding) -> Iterator[PortReach]:
    where = "every address of the node" if binding.host_ip.is_unspecified else str(binding.host_ip)
    by = f"at {where}, {_led_by(binding)}"
    only = binding.allow
    closed = f"it is published on {binding.host_ip} alone, which is no address on a network"
    for place in (OTHERS, SANDBOXES):
        if binding.host_ip.is_loopback:
            yield PortReach(place=place, reached=False, about=closed)
        else:
            yield PortReach(place=place, reached=True, about=by, only=only)
    yield PortReach(place=NODE, reached=True, about=by, only=only)
    yield PortReach(place=ISOLATED, reached=False, about="nothing leaves an internal network")


def _reach_routed(binding: PortBinding, scene: Scene) -> Iterator[PortReach]:
    network = next(each for each in scene.networks.values() if _covers(each, binding.container_ip))
    about = (
        f"at {binding.container_ip} itself: network {network.name!r} is routed (set ports{binding.host_ip.version}"
    )
    about += f" of table inet cnm_filter, {bridge_name(network)})"
    for place in (OTHERS, SANDBOXES, NODE):
        extra = "; they need a route to it by this node" if place == OTHERS else ""
        yield PortReach(place=place, reached=True, about=about + extra)
    yield PortReach(place=ISOLATED, reached=False, about="nothing leaves an internal network")
