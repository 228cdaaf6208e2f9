"""Makes endpoints and puts them into sandboxes: one saga, one parallel round."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from cnm.errors import Conflict
from cnm.messages.bridge import Plugged
from cnm.messages.endpoint import CreateEndpoint, Endpoint, JoinEndpoint
from cnm.messages.ipam import AllocatedAddresses
from cnm.messages.ports import PublishedPorts
from cnm.messages.sandbox import ConnectSandbox, PortBinding
from cnm.store import Changes, Claims, Document
from cnm_controller.addressing import (
    addresses_step,
    check_addresses,
    endpoint_label,
    release,
    wanted_addresses,
)
from cnm_controller.attach import (
    UNBOUND,
    attach_steps,
    check_attach,
    choose_ifname,
    ensure_on,
    gateway_moved,
    remove_from,
    undo_attach,
)
from cnm_controller.controller import Controller
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody
from cnm_controller.endpoint import check_join_sysctls, decide_endpoint, turns_ipv6_off
from cnm_controller.events import event, port_events
from cnm_controller.ledger import Read
from cnm_controller.options import ENDPOINT_IFNAME
from cnm_controller.pools import driver_of, with_pools
from cnm_controller.ports import NodeState
from cnm_controller.sagas import Rounds, Saga, until_fresh
from cnm_controller.specs import Joined, closed_warnings, publish, routed_bindings
from cnm_controller.views import endpoint_view

NO_SERVICES = (
    "service {!r} is found by name, at its endpoints in turn: it has no address of its own without a load balancer"
)


async def create(command: CreateEndpoint, *, controller: Controller) -> Endpoint:
    """Reserve an endpoint's addresses on a network.

    Raises:
        NotFound: there is no such network.
        Invalid: an address, route or option does not go with the network; all faults are told.
        Conflict: the name or the address is taken; the message names the holder.
        Exhausted: the pool has no free address.
        Forbidden: the network only holds a configuration, or hands out no addresses and one is asked for.
    """

    async def attempt() -> Endpoint:
        on = await controller.ledger.network(command.network)
        ground = await _Ground.of(on, controller)
        endpoint = decide_endpoint(command, on.body, id=controller.new_id(), name=command.name, now=controller.now())
        claims = _claims_of_new(endpoint, ground)
        undo = (*ground.undo(controller), release(on.body, endpoint.id, unused=True))
        label = endpoint_label(endpoint, on.body)
        async with controller.sagas.begin("endpoint.create", claims, undo, label=label) as saga:
            network = await ground.prepare(saga, controller)
            endpoint = await _allocate(saga, endpoint, network, command, controller)
            shown = endpoint_view(endpoint, network, 1)
            puts = (*ground.documents(network), endpoint.document())
            events = (event("endpoint", "created", endpoint.id, shown),)
            if endpoint.service is not None:
                shown = msgspec.structs.replace(shown, warnings=[NO_SERVICES.format(endpoint.service.name)])
            await saga.commit(Changes(puts=puts, events=events), answer=shown)
        return shown

    return await until_fresh(attempt)


async def connect(command: ConnectSandbox, *, controller: Controller) -> Endpoint:
    """Create an endpoint and join it to a sandbox.

    Raises:
        NotFound: there is no such sandbox or network.
        Invalid: an address, route, option or sysctl does not go with the network; all faults are told.
        Conflict: the sandbox is on the network, or on one that overlaps it, or a name, address or port is taken.
        Exhausted: the pool has no free address, or the range no free host port.
        Forbidden: this sandbox cannot be on this network.
        Unavailable: the node's workers do not answer; nothing was changed.
    """

    async def attempt() -> Endpoint:
        home, on = await controller.ledger.sandbox_and_network(command.sandbox, command.network)
        ground = await _Ground.of(on, controller)
        before = await controller.ledger.joined(home, {on.body.id: on.body})
        check_attach(home.body, on.body, before)
        endpoint = decide_endpoint(
            command, on.body, id=controller.new_id(), name=command.name or home.body.name, now=controller.now()
        )
        endpoint = _settled(endpoint, home.body, on.body, before, command.ifname, command.gw_priority)
        claims = _claims_of_new(endpoint, ground, home)
        undo = (
            *ground.undo(controller),
            release(on.body, endpoint.id, unused=True),
            undo_attach(home.body, before, endpoint.id),
        )
        label = endpoint_label(endpoint, on.body)
        async with controller.sagas.begin("sandbox.connect", claims, undo, label=label) as saga:
            network = await ground.prepare(saga, controller)
            endpoint = await _allocate(saga, endpoint, network, command, controller)
            new = Joined(endpoint=endpoint, network=network)
            return await _join(saga, home, before, new, made=True, also=ground.documents(network))

    return await until_fresh(attempt)


async def join(command: JoinEndpoint, *, controller: Controller) -> Endpoint:
    """Put an endpoint that exists into a sandbox.

    Raises:
        NotFound: there is no such endpoint, network or sandbox.
        Invalid: a sysctl cannot be set for an interface.
        Conflict: it has joined one already, the sandbox is on the network or on one that overlaps it, or a port is
            taken.
        Exhausted: the range has no free host port.
        Forbidden: this sandbox cannot be on this network.
        Unavailable: the node's workers do not answer; nothing was changed.
    """
    check_join_sysctls(command.sysctls)

    async def attempt() -> Endpoint:
        found, on = await controller.ledger.endpoint(command.endpoint, command.network)
        home = await controller.ledger.sandbox(command.sandbox)
        if found.body.sandbox_id is not None:
            holder = f"sandbox {found.body.sandbox_name!r}"
            raise Conflict(f"endpoint {found.body.name!r} has joined {holder} already", holder=found.body.sandbox_id)
        before = await controller.ledger.joined(home, {on.body.id: on.body})
        check_attach(home.body, on.body, before)
        endpoint = msgspec.structs.replace(found.body, sysctls={**found.body.sysctls, **command.sysctls})
        endpoint = _settled(endpoint, home.body, on.body, before, command.ifname, command.gw_priority)
        claims = Claims(
            exclusive=(f"sandbox:{home.body.id}", f"endpoint:{endpoint.id}"),
            shared=(f"network:{on.body.id}",),
            unchanged=(home.document, found.document, on.document),
        )
        undo = (undo_attach(home.body, before, endpoint.id),)
        label = endpoint_label(endpoint, on.body)
        async with controller.sagas.begin("endpoint.join", claims, undo, label=label) as saga:
            new = Joined(endpoint=endpoint, network=on.body)
            return await _join(saga, home, before, new, made=False, revision=found.document.revision)

    return await until_fresh(attempt)


def _claims_of_new(endpoint: EndpointBody, ground: "_Ground", home: Read[SandboxBody] | None = None) -> Claims:
    on = ground.on
    network = (f"network:{on.body.id}",)
    mine: tuple[str, ...] = (f"endpoint:{endpoint.id}", f"name:endpoint/{on.body.id}/{endpoint.name}")
    if home is not None:
        mine = (f"sandbox:{home.body.id}", *mine)
    return Claims(
        exclusive=(*network, *mine) if ground.bare else mine,
        shared=() if ground.bare else network,
        unchanged=(on.document, home.document) if home else (on.document,),
        unique=(("endpoint", on.body.id, endpoint.name),),
    )


def _settled(
    endpoint: EndpointBody,
    sandbox: SandboxBody,
    network: NetworkBody,
    before: Sequence[Joined],
    ifname: str | None,
    gw_priority: int,
) -> EndpointBody:
    """Return an endpoint as it is in its sandbox, but for what the workers find."""
    wanted = ifname or endpoint.options.get(ENDPOINT_IFNAME)
    return msgspec.structs.replace(
        endpoint,
        sandbox_id=sandbox.id,
        sandbox_name=sandbox.name,
        node=sandbox.node,
        ifname=choose_ifname(network, wanted, before),
        gw_priority=gw_priority,
    )


async def _allocate(
    saga: Saga,
    endpoint: EndpointBody,
    network: NetworkBody,
    command: CreateEndpoint | ConnectSandbox,
    controller: Controller,
) -> EndpointBody:
    """Reserve the addresses of an endpoint; a network without pools has none to give."""
    without_ipv6 = turns_ipv6_off(endpoint.sysctls)
    wanted = wanted_addresses(network, command.ipv4_address, command.ipv6_address, without_ipv6=without_ipv6)
    if not wanted:
        await saga.run()
        return endpoint
    allocated: AllocatedAddresses
    (allocated,) = await saga.run(addresses_step(endpoint, network, wanted, await driver_of(network, controller)))
    check_addresses(network, wanted, allocated.addresses)
    by_version = {address.version: address for address in allocated.addresses}
    return msgspec.structs.replace(endpoint, ipv4=by_version.get(4), ipv6=by_version.get(6))


async def _join(
    saga: Saga,
    home: Read[SandboxBody],
    before: Sequence[Joined],
    new: Joined,
    *,
    made: bool,
    revision: int = 0,
    also: Sequence[Document] = (),
) -> Endpoint:
    """Run the parallel round and commit what came of it."""
    replies = await saga.run(*attach_steps(home.body, before, new))
    endpoint = new.endpoint
    bound, exposed = home.body.bound, list[str]()
    for reply in replies:
        if isinstance(reply, Plugged):
            endpoint = msgspec.structs.replace(endpoint, host_ifname=reply.host_ifname)
        elif isinstance(reply, PublishedPorts):
            bound, exposed = reply.ports, reply.warnings
    after = [*before, Joined(endpoint=endpoint, network=new.network)]
    warnings = [*exposed, *_port_warnings(home.body, before, after, bound)]
    sandbox = msgspec.structs.replace(home.body, bound=bound)
    shown = endpoint_view(endpoint, new.network, revision + 1, warnings, home=sandbox)
    quiet = msgspec.structs.replace(shown, warnings=msgspec.UNSET)
    events = [event("endpoint", "created", endpoint.id, quiet)] if made else []
    events.append(event("endpoint", "joined", endpoint.id, quiet, node=home.body.node))
    events += port_events(home.body, bound)
    puts = (*also, sandbox.document(), endpoint.document())
    await saga.commit(Changes(puts=puts, events=tuple(events)), answer=shown)
    return shown


def _port_warnings(
    sandbox: SandboxBody, before: Sequence[Joined], after: Sequence[Joined], bound: Sequence[PortBinding]
) -> list[str]:
    closed = closed_warnings(sandbox, after[len(before) :])
    if sandbox.requests and not bound and not gateway_moved(before, after) and publish(sandbox, after) is None:
        return closed or ([] if routed_bindings(sandbox, after) else [UNBOUND])
    return closed


@dataclass(frozen=True, kw_only=True)
class _Ground:
    """The network that a new endpoint will be on; ``nodes`` are where it has to be made to stand first.

    Only the predefined bridge is ever bare: it gets its pools and its device in the saga of its first endpoint.
    """

    on: Read[NetworkBody]
    bare: bool
    nodes: Sequence[NodeState] = ()

    @classmethod
    async def of(cls, on: Read[NetworkBody], controller: Controller) -> "_Ground":
        bare = on.body.driver == "bridge" and not on.body.pools
        return cls(on=on, bare=bare, nodes=await controller.nodes.every() if bare else ())

    def undo(self, controller: Controller) -> Rounds:
        """Return what undoes ``prepare``."""
        if not self.bare:
            return ()
        network = self.on.body
        return (release(network, network.id, unused=True), remove_from(controller.bridging(self.nodes), network))

    async def prepare(self, saga: Saga, controller: Controller) -> NetworkBody:
        """Return the network as endpoints can be on it."""
        if not self.bare:
            return self.on.body
        network, _ = await with_pools(self.on.body, saga)
        await saga.run(*ensure_on(controller.bridging(self.nodes), network))
        return network

    def documents(self, network: NetworkBody) -> tuple[Document, ...]:
        """Return what has to be stored of it with the endpoint."""
        return (network.document(),) if self.bare else ()
