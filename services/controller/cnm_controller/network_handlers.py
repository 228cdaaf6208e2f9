"""Answers for networks."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from cnm.bus import Route
from cnm.errors import Conflict, Forbidden, NotFound
from cnm.messages.message import Command, Empty
from cnm.messages.network import (
    CreateNetwork,
    DeleteNetwork,
    GetNetwork,
    ListNetworks,
    Network,
    Networks,
    Pruned,
    PruneNetworks,
)
from cnm.store import Changes, Claims, Stale
from cnm_controller.addressing import release
from cnm_controller.attach import ensure_on, remove_from
from cnm_controller.controller import Controller
from cnm_controller.detach import detach
from cnm_controller.documents import EndpointBody, NetworkBody, read
from cnm_controller.events import event
from cnm_controller.ledger import Read
from cnm_controller.network import check_create, check_filters, decide_create, matches
from cnm_controller.pools import count_pools, driver_of, with_pools
from cnm_controller.ports import NodeState
from cnm_controller.sagas import until_fresh
from cnm_controller.specs import bridge_name
from cnm_controller.views import network_view
from cnm_controller.window import window

FILTERS = ("name", "id", "driver", "scope", "label", "dangling")


async def create_network(command: CreateNetwork, *, controller: Controller) -> Network:
    """Make a network: its pools, its row, its bridge on every node that is ready.

    Raises:
        Invalid, Forbidden, Unsupported: see ``decide_create``.
        Conflict: the name, the bridge or a pool is taken; the message names the holder.
        Exhausted: no predefined pool is left.
        Unavailable: its IPAM driver was not heard of lately.
    """
    network = decide_create(command, id=controller.new_id(), now=controller.now())
    await driver_of(network, controller)
    nodes = await controller.nodes.every()
    ready = controller.bridging(nodes)
    bridge = bridge_name(network)
    claims = Claims(
        exclusive=(f"network:{network.id}", f"name:network/{network.name}", f"bridge:{bridge}"),
        unique=(("network", "", network.name),),
    )
    undo = (release(network, network.id, unused=True), remove_from(ready, network))
    async with controller.sagas.begin("network.create", claims, undo, label=f"network {network.name!r}") as saga:
        for holder in await controller.ledger.store.every("network", index=f"bridge-name:{bridge}"):
            reason = f"bridge {bridge!r}, wanted by network {network.name!r}, belongs to network {holder.name!r}"
            raise Conflict(reason, holder=holder.id)
        network, warnings = await with_pools(network, saga)
        await saga.run(*ensure_on(ready, network))
        usages = await count_pools(controller, [network])
        events = (event("network", "created", network.id, network_view(network, 1, [], usages)),)
        await saga.commit(Changes(puts=(network.document(),), events=events))
    return network_view(network, 1, [], usages, [*warnings, *_warnings(network, ready)])


def _warnings(network: NetworkBody, ready: Sequence[NodeState]) -> list[str]:
    """Say what of a network is not as a client may think."""
    warnings = []
    if not ready:
        warnings.append("no node's bridge driver is there: the bridge is made when one is")
    if network.dns.domains:
        shown = ", ".join(sorted(network.dns.domains))
        warnings.append(f"dns.domains is kept but not served yet, names under {shown} go to the other servers")
    return warnings


async def get_network(command: GetNetwork, *, controller: Controller) -> Network:
    """Show a network.

    Raises:
        NotFound: there is none.
    """
    found = await controller.ledger.network(command.network, endpoints=True)
    usages = await count_pools(controller, [found.body])
    return network_view(found.body, found.document.revision, found.endpoints, usages)


async def list_networks(command: ListNetworks, *, controller: Controller) -> Networks:
    """Show the networks that pass the filters.

    Raises:
        Invalid: a filter is unknown.
        NotFound: ``after`` is not in the list.
    """
    check_filters(command.filters, FILTERS)
    snapshot = await controller.ledger.store.snapshot(("network", "endpoint"))
    documents = snapshot.documents or {}
    endpoints: dict[str, list[EndpointBody]] = {}
    for document in documents["endpoint"]:
        endpoints.setdefault(document.scope, []).append(read(EndpointBody, document))
    revisions = {document.id: document.revision for document in documents["network"]}

    def passes(network: NetworkBody) -> bool:
        return matches(network, command.filters, endpoints=len(endpoints.get(network.id, ())))

    every = [read(NetworkBody, document) for document in documents["network"]]
    bodies = window(every, passes, after=command.after, limit=command.limit)
    usages = await count_pools(controller, bodies)
    return Networks(
        networks=[
            network_view(network, revisions[network.id], endpoints.get(network.id, ()), usages) for network in bodies
        ]
    )


async def delete_network(command: DeleteNetwork, *, controller: Controller) -> Empty:
    """Delete a network; with ``force`` its endpoints leave and are deleted first.

    Raises:
        NotFound: there is none.
        Forbidden: it is predefined, or has endpoints; the message lists them.
    """

    async def attempt() -> Empty:
        found = await controller.ledger.network(command.network, endpoints=True)
        if found.body.predefined:
            raise Forbidden(f"network {found.body.name!r} is predefined and cannot be deleted")
        if found.endpoints and not command.force:
            raise Forbidden(f"network {found.body.name!r} has endpoints: {_listed(found.endpoints)}")
        for endpoint in found.endpoints:
            with suppress(NotFound):  # somebody else was faster
                await detach(controller, endpoint.id, found.body.id, delete=True)
        return await _delete_empty(controller, found, again=command.force)

    return await until_fresh(attempt)


def _listed(endpoints: Sequence[EndpointBody]) -> str:
    shown = [f"{endpoint.name!r} ({endpoint.id[:12]})" for endpoint in endpoints[:20]]
    return ", ".join(shown) + (f" and {len(endpoints) - 20} more" if len(endpoints) > 20 else "")


async def _delete_empty(controller: Controller, found: Read[NetworkBody], *, again: bool) -> Empty:
    network = found.body
    nodes = controller.bridging(await controller.nodes.every())
    claims = Claims(
        exclusive=(f"network:{network.id}", f"name:network/{network.name}", f"bridge:{bridge_name(network)}"),
        unchanged=(found.document,),
    )
    undo = (ensure_on(nodes, network),)
    async with controller.sagas.begin("network.delete", claims, undo, label=f"network {network.name!r}") as saga:
        left = (await controller.ledger.network(network.id, endpoints=True)).endpoints
        if left and again:
            raise Stale  # one more joined meanwhile: it has to leave first, too
        if left:
            raise Forbidden(f"network {network.name!r} has endpoints: {_listed(left)}")
        await saga.run(*remove_from(nodes, network))
        shown = network_view(network, found.document.revision, [])
        changes = Changes(
            deletes=(found.document,),
            events=(event("network", "deleted", network.id, shown),),
            after=tuple(step.compensation() for step in release(network, network.id)),
        )
        await saga.commit(changes)
    return Empty()


async def prune_networks(command: PruneNetworks, *, controller: Controller) -> Pruned:
    """Delete the networks that nothing uses and that pass the filters.

    Raises:
        Invalid: a filter is unknown.
    """
    listed = await list_networks(ListNetworks(filters=command.filters), controller=controller)
    deleted = []
    for network in listed.networks:
        if network.endpoints or network.name in ("none", "host", "bridge"):
            continue
        try:
            await delete_network(DeleteNetwork(network=network.id), controller=controller)
        except (Forbidden, NotFound, Conflict):
            continue  # it came into use, or somebody else deleted it
        deleted.append(network.id)
    return Pruned(deleted=deleted)


def routes(controller: Controller) -> tuple[Route, ...]:
    """Return what this service answers about networks."""

    def route(command: type[Command[Any]], handler: Any, **more: Any) -> Route:
        return Route(command=command, handler=partial(handler, controller=controller), **more)

    return (
        route(CreateNetwork, create_network, once=True, check=check_create),
        route(GetNetwork, get_network),
        route(ListNetworks, list_networks),
        route(DeleteNetwork, delete_network, once=True),
        route(PruneNetworks, prune_networks, once=True),
    )
