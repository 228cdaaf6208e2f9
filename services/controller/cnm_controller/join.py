"""Makes endpoints and puts them into sandboxes: one saga, one parallel round."""

from collections.abc import Sequence

import msgspec

from cnm.errors import Conflict
from cnm.messages.bridge import Plugged
from cnm.messages.endpoint import CreateEndpoint, Endpoint, JoinEndpoint
from cnm.messages.ipam import AllocateAddresses, AllocatedAddresses, ReleaseOwned
from cnm.messages.ports import PublishedPorts
from cnm.messages.sandbox import ConnectSandbox, PortBinding
from cnm.store import Changes, Claims
from cnm_controller.attach import (
    UNBOUND,
    attach_steps,
    check_attach,
    choose_ifname,
    gateway_moved,
    undo_attach,
    undo_route,
)
from cnm_controller.controller import Controller
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody
from cnm_controller.endpoint import check_join_sysctls, decide_endpoint, lease_options, wanted_addresses
from cnm_controller.events import event, port_events
from cnm_controller.ledger import Read
from cnm_controller.options import ENDPOINT_IFNAME
from cnm_controller.pools import with_pools
from cnm_controller.sagas import Saga, Step, until_fresh
from cnm_controller.specs import Joined, publish
from cnm_controller.views import endpoint_view


async def create(command: CreateEndpoint, *, controller: Controller) -> Endpoint:
    """Reserve an endpoint's addresses on a network.

    Raises:
        NotFound: there is no such network.
        Conflict: the name or the address is taken; the message names the holder.
        Exhausted: the pool has no free address.
    """

    async def attempt() -> Endpoint:
        on = await _ready_network(controller, await controller.ledger.network(command.network))
        endpoint = decide_endpoint(command, on.body, id=controller.new_id(), name=command.name, now=controller.now())
        claims = _claims_of_new(endpoint, on)
        undo = ([Step(command=ReleaseOwned(owner=endpoint.id))],)
        label = f"endpoint {endpoint.name!r} on network {on.body.name!r}"
        async with controller.sagas.begin("endpoint.create", claims, undo, label=label) as saga:
            endpoint = await _allocate(saga, endpoint, on.body, command)
            shown = endpoint_view(endpoint, on.body, 1)
            changes = Changes(puts=(endpoint.document(),), events=(event("endpoint", "created", endpoint.id, shown),))
            await saga.commit(changes)
        return shown

    return await until_fresh(attempt)


async def connect(command: ConnectSandbox, *, controller: Controller) -> Endpoint:
    """Create an endpoint and join it to a sandbox.

    Raises:
        NotFound: there is no such sandbox or network.
        Conflict: the sandbox is on the network already, or a name, address or port is taken.
        Exhausted: the pool has no free address.
        Forbidden: this sandbox cannot be on this network.
    """

    async def attempt() -> Endpoint:
        home, on = await controller.ledger.sandbox_and_network(command.sandbox, command.network)
        on = await _ready_network(controller, on)
        before = await controller.ledger.joined(home, {on.body.id: on.body})
        check_attach(home.body, on.body, before)
        endpoint = decide_endpoint(
            command, on.body, id=controller.new_id(), name=command.name or home.body.name, now=controller.now()
        )
        endpoint = _settled(endpoint, home.body, on.body, before, command.ifname, command.gw_priority)
        claims = _claims_of_new(endpoint, on, home)
        undo = (
            [Step(command=ReleaseOwned(owner=endpoint.id)), *undo_route(home.body, before)],
            undo_attach(home.body, before, endpoint.id),
        )
        label = f"endpoint {endpoint.name!r} on network {on.body.name!r}"
        async with controller.sagas.begin("sandbox.connect", claims, undo, label=label) as saga:
            endpoint = await _allocate(saga, endpoint, on.body, command)
            return await _join(saga, home, before, Joined(endpoint=endpoint, network=on.body), made=True)

    return await until_fresh(attempt)


async def join(command: JoinEndpoint, *, controller: Controller) -> Endpoint:
    """Put an endpoint that exists into a sandbox.

    Raises:
        NotFound: there is no such endpoint, network or sandbox.
        Conflict: it has joined one already, or the sandbox is on the network already.
        Forbidden: this sandbox cannot be on this network.
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
            unchanged=(home.document, found.document),
        )
        undo = (undo_route(home.body, before), undo_attach(home.body, before, endpoint.id))
        label = f"endpoint {endpoint.name!r} on network {on.body.name!r}"
        async with controller.sagas.begin("endpoint.join", claims, undo, label=label) as saga:
            await saga.run()
            new = Joined(endpoint=endpoint, network=on.body)
            return await _join(saga, home, before, new, made=False, revision=found.document.revision)

    return await until_fresh(attempt)


def _claims_of_new(endpoint: EndpointBody, on: Read[NetworkBody], home: Read[SandboxBody] | None = None) -> Claims:
    mine = (f"endpoint:{endpoint.id}", f"name:endpoint/{on.body.id}/{endpoint.name}")
    return Claims(
        exclusive=(f"sandbox:{home.body.id}", *mine) if home else mine,
        shared=(f"network:{on.body.id}",),
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
    saga: Saga, endpoint: EndpointBody, network: NetworkBody, command: CreateEndpoint | ConnectSandbox
) -> EndpointBody:
    """Reserve the addresses of an endpoint; a network without pools has none to give."""
    wanted = wanted_addresses(network, command.ipv4_address, command.ipv6_address)
    if not wanted:
        await saga.run()
        return endpoint
    step = Step(
        command=AllocateAddresses(
            owner=endpoint.id,
            owner_label=f"endpoint {endpoint.name!r} on network {network.name!r}",
            addresses=wanted,
            options=lease_options(network),
        )
    )
    allocated: AllocatedAddresses
    (allocated,) = await saga.run(step)
    by_version = {address.version: address for address in allocated.addresses}
    return msgspec.structs.replace(endpoint, ipv4=by_version.get(4), ipv6=by_version.get(6))


async def _join(
    saga: Saga, home: Read[SandboxBody], before: Sequence[Joined], new: Joined, *, made: bool, revision: int = 0
) -> Endpoint:
    """Run the parallel round and commit what came of it."""
    replies = await saga.run(*attach_steps(home.body, before, new))
    endpoint = new.endpoint
    bound = home.body.bound
    for reply in replies:
        if isinstance(reply, Plugged):
            endpoint = msgspec.structs.replace(endpoint, host_ifname=reply.host_ifname)
        elif isinstance(reply, PublishedPorts):
            bound = reply.ports
    after = [*before, Joined(endpoint=endpoint, network=new.network)]
    warnings = _port_warnings(home.body, before, after, bound)
    shown = endpoint_view(endpoint, new.network, revision + 1, warnings)
    quiet = endpoint_view(endpoint, new.network, revision + 1)
    events = [event("endpoint", "created", endpoint.id, quiet)] if made else []
    events.append(event("endpoint", "joined", endpoint.id, quiet, node=home.body.node))
    events += port_events(home.body, bound)
    sandbox = msgspec.structs.replace(home.body, bound=bound)
    await saga.commit(Changes(puts=(sandbox.document(), endpoint.document()), events=tuple(events)))
    return shown


def _port_warnings(
    sandbox: SandboxBody, before: Sequence[Joined], after: Sequence[Joined], bound: Sequence[PortBinding]
) -> list[str]:
    if sandbox.requests and not bound and not gateway_moved(before, after) and publish(sandbox, after) is None:
        return [UNBOUND]
    return []


async def _ready_network(controller: Controller, on: Read[NetworkBody]) -> Read[NetworkBody]:
    """Return a network that has its pools; the predefined bridge gets them with its first endpoint."""
    network = on.body
    if network.driver == "bridge" and not network.pools:
        claims = Claims(exclusive=(f"network:{network.id}",), unchanged=(on.document,))
        undo = ([Step(command=ReleaseOwned(owner=network.id))],)
        async with controller.sagas.begin("network.pools", claims, undo, label=f"network {network.name!r}") as saga:
            network = await with_pools(network, await controller.nodes.every(), saga)
            (document,) = await saga.commit(Changes(puts=(network.document(),)))
        return Read(body=network, document=document)
    return on
