"""Answers why a sandbox gets somewhere or not, and from where a published port is reached."""

import asyncio
from collections.abc import Sequence
from functools import partial

import msgspec

from cnm.bus import Route
from cnm.errors import CnmError
from cnm.messages.names import ResolveName
from cnm.messages.namespace import LookAtPort, PortSight
from cnm.messages.system import ExplainSystem, Explanation, Hop, PortHolder
from cnm.types import Address, Protocol, parse_address
from cnm_controller.controller import Controller
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody, read
from cnm_controller.explain import Arrival, Question, Scene, Walk, check_explain, explain_port, walk
from cnm_controller.sandbox import HOST_KEY
from cnm_controller.specs import Joined, joined_of, sandbox_label, sandbox_spec

SOME_PORT = 9
"""Where only a node's addresses are asked for: discard, which nobody serves."""


async def explain_system(command: ExplainSystem, *, controller: Controller) -> Explanation:
    """Walk the way from a sandbox to a name or an address, or say from where a port is reached.

    Raises:
        Invalid: neither is asked for.
        NotFound: there is no such sandbox.
        Unavailable: a worker of its node does not answer.
    """
    check_explain(command)
    if command.from_ is None or command.to is None:
        assert command.port is not None
        return await _explain_port(command.protocol, command.port, controller)
    found = await controller.ledger.sandbox(command.from_)
    joined = await controller.ledger.joined(found)
    scene = await _scene(controller)
    name, addresses = await _resolve(command.to, found.body, joined, controller)
    if not addresses:
        return _conclude(Walk(hops=[name] if name else []), None)
    asked = LookAtPort(namespace=HOST_KEY, protocol=command.protocol, port=command.port or SOME_PORT)
    host = await controller.bus.ask(asked, node=found.body.node)
    explained = []
    for address in addresses:
        way = walk(
            Question(source=found.body, joined=joined, address=address, port=command.port, protocol=command.protocol),
            scene,
            host.addresses,
        )
        if name is not None:
            way.hops.insert(0, name)
        if way.arrival is not None:
            await _knock(way, way.arrival, command.protocol, host, controller, found.body.node)
        explained.append(_conclude(way, address))
        if explained[-1].reached:
            break
    # A client tries one address after another: what it gets to counts, else what it hears first.
    return next((each for each in explained if each.reached is not False), explained[0])


async def _scene(controller: Controller) -> Scene:
    snapshot = await controller.ledger.store.snapshot(("network", "sandbox", "endpoint"))
    documents = snapshot.documents or {}
    networks = {each.id: read(NetworkBody, each) for each in documents["network"]}
    endpoints = [read(EndpointBody, each) for each in documents["endpoint"]]
    homes: dict[str | None, list[EndpointBody]] = {}
    for endpoint in endpoints:
        homes.setdefault(endpoint.sandbox_id, []).append(endpoint)
    sandboxes = [read(SandboxBody, each) for each in documents["sandbox"]]
    return Scene(
        sandboxes=[(sandbox, joined_of(homes.get(sandbox.id, ()), networks)) for sandbox in sandboxes],
        networks=networks,
        holders={
            (each.network_id, own.ip): each.name
            for each in homes.get(None, ())
            for own in (each.ipv4, each.ipv6)
            if own is not None
        },
    )


async def _resolve(
    to: str, sandbox: SandboxBody, joined: Sequence[Joined], controller: Controller
) -> tuple[Hop | None, list[Address]]:
    """Return the addresses that a name means in a sandbox: by its hosts file, then by the embedded DNS."""
    try:
        return None, [parse_address(to)]
    except ValueError:
        pass
    lines = sandbox_spec(sandbox, joined).hosts
    known = [line.address for line in lines if to.lower() in {name.lower() for name in line.names}]
    if known:
        about = f"{to!r} stands in the hosts file of {sandbox_label(sandbox)}"
        return Hop(hop="name", passes=True, about=f"{about}: {_listed(known)}"), known
    if sandbox.use_default_sandbox or sandbox.pending or sandbox.dns.embedded is False:
        about = f"{sandbox_label(sandbox)} is not answered by the embedded DNS: ask for the address of {to!r} instead"
        return Hop(hop="name", passes=None, about=about), []
    found = await controller.bus.ask(ResolveName(sandbox_id=sandbox.id, name=to), node=sandbox.node)
    if found.addresses:
        return Hop(hop="name", passes=True, about=f"{to!r} is {_listed(found.addresses)}"), found.addresses
    about = f"{to!r} has no address for {sandbox_label(sandbox)}: the embedded DNS answers {found.code}"
    return Hop(hop="name", passes=False, about=about), []


def _listed(addresses: Sequence[Address]) -> str:
    return ", ".join(map(str, addresses))


async def _knock(
    way: Walk, arrival: Arrival, protocol: Protocol, host: PortSight, controller: Controller, node: str
) -> None:
    """Look whether anybody listens where the packet arrives."""
    if arrival.beyond or arrival.port is None or arrival.address is None:
        return
    sight = host
    where = f"node {node!r}"
    if arrival.sandbox is not None:
        sandbox = arrival.sandbox
        where = sandbox_label(sandbox)
        namespace = HOST_KEY if sandbox.use_default_sandbox else sandbox.key
        look = LookAtPort(namespace=namespace, protocol=protocol, port=arrival.port)
        try:
            sight = await controller.bus.ask(look, node=sandbox.node)
        except CnmError as error:
            way.hops.append(Hop(hop="listener", passes=None, about=f"{where} cannot be looked into: {error.message}"))
            return
    shown = f"{arrival.port}/{protocol}"
    if any(_takes(each, arrival.address) for each in sight.listening):
        by = f" ({sight.holder})" if sight.holder else ""
        way.passes("listener", f"somebody listens on {shown} in {where}{by}")
    elif sight.listening:
        about = f"in {where} {shown} is listened to at {_listed(sight.listening)} alone, not at {arrival.address}"
        way.stops("listener", about)
    else:
        way.stops("listener", f"nobody listens on {shown} in {where}")


def _takes(listening: Address, address: Address) -> bool:
    """Tell whether a socket takes what comes to an address; one on ``::`` takes IPv4 too, as most do."""
    if listening == address:
        return True
    return listening.is_unspecified and listening.version in (6, address.version)


def _conclude(way: Walk, address: Address | None) -> Explanation:
    last = way.hops[-1]
    unknown = last.passes is None or (way.arrival is not None and way.arrival.beyond)
    reached = None if unknown else bool(last.passes)
    return Explanation(
        reached=reached,
        stopped_by=last.hop if last.passes is False else None,
        about=last.about,
        address=address,
        hops=way.hops,
    )


async def _explain_port(protocol: Protocol, port: int, controller: Controller) -> Explanation:
    ports = list(explain_port(await _scene(controller), protocol, port))
    nodes = [each.name for each in await controller.nodes.every()]
    look = LookAtPort(namespace=HOST_KEY, protocol=protocol, port=port)
    sights = dict(zip(nodes, await asyncio.gather(*(_look(look, node, controller) for node in nodes)), strict=True))
    ours = {each.node for each in ports if each.host_port is not None}
    holders = [
        PortHolder(node=node, holder=sight.holder, addresses=sight.listening)
        for node, sight in sights.items()
        if isinstance(sight, PortSight) and sight.listening and node not in ours
    ]
    silent = [
        f"node {node!r} does not tell: {each.message}" for node, each in sights.items() if isinstance(each, CnmError)
    ]
    shown = f"port {port}/{protocol}"
    if ports:
        names = ", ".join(dict.fromkeys(f"sandbox {each.name!r}" for each in ports))
        about = f"{shown} is published by {names}"
    elif holders:
        about = f"{shown} is published by no sandbox; " + ", ".join(
            f"on node {each.node!r} it is held by {each.holder or 'a process that cannot be seen'}"
            for each in holders
        )
    else:
        where = " where it could be looked" if silent else ""
        about = f"{shown} is published by no sandbox, and nobody listens on it{where}"
    reached = any(each.reached for port_ in ports for each in port_.reach)
    return Explanation(
        reached=reached,
        stopped_by=None if reached else "port",
        about=about,
        ports=ports,
        holders=holders,
        warnings=silent or msgspec.UNSET,
    )


async def _look(command: LookAtPort, node: str, controller: Controller) -> PortSight | CnmError:
    try:
        return await controller.bus.ask(command, node=node)
    except CnmError as error:
        return error


def routes(controller: Controller) -> tuple[Route, ...]:
    """Return what this service explains."""
    return (
        Route(command=ExplainSystem, handler=partial(explain_system, controller=controller), check=check_explain),
    )
