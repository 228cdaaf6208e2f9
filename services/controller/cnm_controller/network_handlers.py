"""Answers for networks."""

import dataclasses
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from cnm.bus import Route, in_passing
from cnm.errors import CnmError, Conflict, Forbidden, NotFound, Timeout, Unavailable
from cnm.messages.bridge import CountDrops
from cnm.messages.message import Command, Empty
from cnm.messages.network import (
    CountNetworkDrops,
    CreateNetwork,
    DeleteNetwork,
    Filters,
    GetNetwork,
    ListNetworks,
    Network,
    Networks,
    NodeDrops,
    Pruned,
    PruneNetworks,
    ShownDrops,
    UpdateNetwork,
)
from cnm.store import Changes, Claims, Stale
from cnm_controller.addressing import release
from cnm_controller.attach import ensure_on, node_warnings, remove_from
from cnm_controller.configuration import refuse_in_use
from cnm_controller.controller import Controller
from cnm_controller.detach import detach
from cnm_controller.documents import EndpointBody, NetworkBody, config_users, listed, read
from cnm_controller.events import event
from cnm_controller.ledger import Read
from cnm_controller.network import check_create, check_filters, decide_create, decide_from, matches
from cnm_controller.network_change import check_update
from cnm_controller.network_update import update_network
from cnm_controller.options import parse_bool
from cnm_controller.pools import count_pools, driver_of, with_pools
from cnm_controller.sagas import until_fresh
from cnm_controller.specs import bridge_name
from cnm_controller.views import network_view
from cnm_controller.window import window

FILTERS = ("name", "id", "driver", "scope", "label", "dangling")


async def create_network(command: CreateNetwork, *, controller: Controller) -> Network:
    """Make a network: its pools, its row, its bridge on every node that is ready.

    Raises:
        Invalid, Forbidden, Unsupported: see ``decide_create``.
        NotFound: there is no such configuration network.
        Conflict: the name, the bridge or a pool is taken; the message names the holder.
        Exhausted: no predefined pool is left.
        Unavailable: its IPAM driver was not heard of lately.
    """

    async def attempt() -> Network:
        id, now = controller.new_id(), controller.now()
        network = decide_create(command, id=id, now=now)
        if command.config_from is None:
            return await _create(network, None, controller)
        source = await controller.ledger.network(command.config_from)
        return await _create(decide_from(command, source.body, id=id, now=now), source, controller)

    return await until_fresh(attempt)


async def _create(network: NetworkBody, source: Read[NetworkBody] | None, controller: Controller) -> Network:
    """Make a network that was decided on, from its configuration network if it has one."""
    claims = Claims(
        exclusive=(f"network:{network.id}", f"name:network/{network.name}"),
        shared=(f"network:{source.body.id}",) if source else (),
        unchanged=(source.document,) if source else (),
        unique=(("network", "", network.name),),
    )
    if network.config_only:
        return await _create_configuration(network, claims, controller)
    await driver_of(network, controller)
    nodes = await controller.nodes.every()
    ready = controller.bridging(nodes)
    bridge = bridge_name(network)
    claims = dataclasses.replace(claims, exclusive=(*claims.exclusive, f"bridge:{bridge}"))
    undo = (release(network, network.id, unused=True), remove_from(ready, network))
    async with controller.sagas.begin("network.create", claims, undo, label=f"network {network.name!r}") as saga:
        for holder in await controller.ledger.store.every("network", index=f"bridge-name:{bridge}"):
            reason = f"bridge {bridge!r}, wanted by network {network.name!r}, belongs to network {holder.name!r}"
            raise Conflict(reason, holder=holder.id)
        network, warnings = await with_pools(network, saga)
        steps = ensure_on(ready, network)
        warnings += node_warnings(steps, await saga.run(*steps))
        usages = await count_pools(controller, [network])
        events = (event("network", "created", network.id, network_view(network, 1, [], usages)),)
        absent = [] if ready else ["no node's bridge driver is there: the bridge is made when one is"]
        shown = network_view(network, 1, [], usages, [*warnings, *absent])
        await saga.commit(Changes(puts=(network.document(),), events=events), answer=shown)
    return shown


async def _create_configuration(network: NetworkBody, claims: Claims, controller: Controller) -> Network:
    """Keep a configuration: no driver, no addresses, no node."""
    async with controller.sagas.begin("network.create", claims, label=f"network {network.name!r}") as saga:
        shown = network_view(network, 1, [])
        events = (event("network", "created", network.id, shown),)
        await saga.commit(Changes(puts=(network.document(),), events=events), answer=shown)
    return shown


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

    every = [read(NetworkBody, document) for document in documents["network"]]
    used = {*endpoints, *(network.config_id for network in every)}

    def passes(network: NetworkBody) -> bool:
        return matches(network, command.filters, used=network.id in used)

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
        Forbidden: it is predefined, has endpoints, or is a configuration in use; the message lists by what.
    """

    async def attempt() -> Empty:
        found = await controller.ledger.network(command.network, endpoints=True)
        if found.body.predefined:
            raise Forbidden(f"network {found.body.name!r} is predefined and cannot be deleted")
        if found.body.config_only:
            return await _delete_configuration(controller, found)
        if found.endpoints and not command.force:
            raise Forbidden(f"network {found.body.name!r} has endpoints: {listed(found.endpoints)}")
        for endpoint in found.endpoints:
            with in_passing(), suppress(NotFound):  # somebody else was faster
                await detach(controller, endpoint.id, found.body.id, delete=True)
        return await _delete_empty(controller, found, again=command.force)

    return await until_fresh(attempt)


async def _delete_configuration(controller: Controller, found: Read[NetworkBody]) -> Empty:
    """Forget a configuration that no network was made from; who makes one now waits, and then finds it gone."""
    config = found.body
    claims = Claims(exclusive=(f"network:{config.id}", f"name:network/{config.name}"), unchanged=(found.document,))
    async with controller.sagas.begin("network.delete", claims, label=f"network {config.name!r}") as saga:
        users = await controller.ledger.store.every("network", index=config_users(config.id))
        refuse_in_use(config, [read(NetworkBody, user) for user in users])
        shown = network_view(config, found.document.revision, [])
        events = (event("network", "deleted", config.id, shown),)
        await saga.commit(Changes(deletes=(found.document,), events=events), answer=Empty())
    return Empty()


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
            raise Forbidden(f"network {network.name!r} has endpoints: {listed(left)}")
        await saga.run(*remove_from(nodes, network))
        shown = network_view(network, found.document.revision, [])
        changes = Changes(
            deletes=(found.document,),
            events=(event("network", "deleted", network.id, shown),),
            after=tuple(step.compensation() for step in release(network, network.id)),
        )
        await saga.commit(changes, answer=Empty())
    return Empty()


async def prune_networks(command: PruneNetworks, *, controller: Controller) -> Pruned:
    """Delete the networks that nothing uses and that pass the filters.

    Raises:
        Invalid: a filter is unknown.
    """
    check_filters(command.filters, FILTERS)
    if not any(parse_bool(str(value)) for value in command.filters.get("dangling", [True])):
        return Pruned(deleted=[])
    filters: Filters = {**command.filters, "dangling": [True]}
    found = (await list_networks(ListNetworks(filters=filters), controller=controller)).networks
    deleted: list[str] = []
    failures: list[tuple[str, CnmError]] = []
    for network in found:
        try:
            with in_passing():
                await delete_network(DeleteNetwork(network=network.id), controller=controller)
        except (Forbidden, NotFound, Conflict):
            continue  # it came into use, or somebody else deleted it
        except CnmError as error:
            failures.append((network.name, error))
        else:
            deleted.append(network.id)
    if failures and not deleted:
        raise failures[0][1]
    warnings = [f"network {name!r} was not deleted: {error.message}" for name, error in failures]
    return Pruned(deleted=deleted, warnings=warnings or msgspec.UNSET)


async def count_drops(command: CountNetworkDrops, *, controller: Controller) -> ShownDrops:
    """Count what was refused or dropped of a network, and why; a node that does not answer is warned of.

    Raises:
        NotFound: there is no such network.
    """
    network = (await controller.ledger.network(command.network)).body
    found: list[NodeDrops] = []
    warnings: list[str] = []
    for node in controller.bridging(await controller.nodes.every()) if network.driver == "bridge" else ():
        try:
            counted = await controller.bus.ask(CountDrops(network_id=network.id), node=node.name)
        except (Unavailable, Timeout) as error:
            warnings.append(f"node {node.name!r} does not tell: {error.message}")
            continue
        found += [
            NodeDrops(node=node.name, reason=each.reason, about=each.about, packets=each.packets, bytes=each.bytes)
            for each in counted.drops
        ]
    return ShownDrops(drops=found, warnings=warnings or msgspec.UNSET)


def routes(controller: Controller) -> tuple[Route, ...]:
    """Return what this service answers about networks."""

    def route(command: type[Command[Any]], handler: Any, **more: Any) -> Route:
        return Route(command=command, handler=partial(handler, controller=controller), **more)

    return (
        route(CreateNetwork, create_network, once=True, check=check_create),
        route(GetNetwork, get_network),
        route(ListNetworks, list_networks),
        route(UpdateNetwork, update_network, once=True, check=check_update),
        route(DeleteNetwork, delete_network, once=True),
        route(PruneNetworks, prune_networks, once=True),
        route(CountNetworkDrops, count_drops),
    )
