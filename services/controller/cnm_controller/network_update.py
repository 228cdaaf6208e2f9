"""Changes networks under their endpoints: one saga, and every endpoint has followed when it is over."""

import asyncio
from collections.abc import Sequence

import msgspec

from cnm.errors import CnmError, Fault, Invalid, NotFound
from cnm.messages.ipam import AllocatedPool, AllocatedPools
from cnm.messages.network import Network, UpdateNetwork
from cnm.store import Changes, Claims, Stale
from cnm_controller.addressing import more_pools, reconcile_network, surplus_pools
from cnm_controller.attach import node_warnings
from cnm_controller.controller import Controller
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody
from cnm_controller.events import event
from cnm_controller.ledger import Read
from cnm_controller.network_change import Home, added_versions, change_steps, commands_at, decide_update
from cnm_controller.pools import count_pools
from cnm_controller.sagas import Step, until_fresh
from cnm_controller.specs import joined_of
from cnm_controller.views import network_view


async def update_network(command: UpdateNetwork, *, controller: Controller) -> Network:
    """Change a network; what is joined follows at once, without leaving.

    Raises:
        NotFound: there is none.
        Forbidden: it is predefined.
        Invalid: what is asked for cannot be changed, or contradicts what stays; all faults are told.
        Unsupported: its driver of IPAM cannot give it more pools.
        Conflict: it is at another revision, or a pool is taken; the message names the holder.
        Exhausted: no predefined pool is left.
        Unavailable: a node's worker does not answer; nothing was changed.
    """

    async def attempt() -> Network:
        found = await controller.ledger.network(command.network, endpoints=True)
        after = decide_update(command, found.body, found.document.revision)
        warnings: list[str] = []
        added: list[AllocatedPool] = []
        if command.add_pools and not after.config_only:
            added, warnings = await _choose(command, found.body, controller)
            after = after.with_pools([*found.body.pools, *added])
        if after == found.body:
            usages = await count_pools(controller, [after])
            return network_view(after, found.document.revision, found.endpoints, usages, warnings)
        return await _change(found, after, added, warnings, controller)

    return await until_fresh(attempt)


async def _choose(
    command: UpdateNetwork, network: NetworkBody, controller: Controller
) -> tuple[list[AllocatedPool], list[str]]:
    """Ask which pools there would be: what undoes a saga has to be known before it begins."""
    families = added_versions(command.add_pools, network)
    try:
        chosen: AllocatedPools = await controller.bus.ask(more_pools(network, command.add_pools, families))
    except Invalid as error:
        faults = [Fault(**each) for each in error.details.get("fields", ())]
        renamed = [
            Fault(field=each.field.replace("ipam.pools[", "add_pools["), value=each.value, reason=each.reason)
            for each in faults
        ]
        raise Invalid.of(renamed) from None
    return chosen.pools, chosen.warnings


async def _change(
    found: Read[NetworkBody],
    after: NetworkBody,
    added: Sequence[AllocatedPool],
    warnings: Sequence[str],
    controller: Controller,
) -> Network:
    before = found.body
    nodes = [] if before.config_only else controller.bridging(await controller.nodes.every())
    sandboxes, homes = await _homes(found.endpoints, before, controller)
    claims = Claims(
        exclusive=(f"network:{before.id}", *(f"sandbox:{home.body.id}" for home in sandboxes)),
        unchanged=(found.document, *(home.document for home in sandboxes)),
    )
    reserve = [Step(command=reconcile_network(after))] if added else []
    give_back = [Step(command=surplus_pools(before, added))] if added else []
    undo = (give_back, change_steps(nodes, homes, after, before))
    async with controller.sagas.begin("network.update", claims, undo, label=f"network {before.name!r}") as saga:
        await saga.run(*reserve)
        follow = change_steps(nodes, homes, before, after)
        replies = await saga.run(*follow)
        usages = await count_pools(controller, [after])
        shown = network_view(after, found.document.revision + 1, found.endpoints, usages)
        # A sandbox that follows gets a new revision: who read it before decided by what is no more.
        touched = [home.sandbox.document() for home in homes if commands_at(home, before, after)]
        events = (event("network", "updated", before.id, shown),)
        away = sorted({home.sandbox.node for home in homes} - {node.name for node in nodes})
        warnings = [*warnings, *node_warnings(follow, replies)]
        warnings += (f"node {name!r} is away: what is on it follows when it is back" for name in away)
        refused = dict.fromkeys(reply.message for reply in replies if isinstance(reply, CnmError))
        warnings += [f"a sandbox did not follow: {message}" for message in refused]
        shown = msgspec.structs.replace(shown, warnings=warnings or msgspec.UNSET)
        await saga.commit(Changes(puts=(after.document(), *touched), events=events), answer=shown)
    return shown


async def _homes(
    endpoints: Sequence[EndpointBody], network: NetworkBody, controller: Controller
) -> tuple[list[Read[SandboxBody]], list[Home]]:
    """Read the sandboxes that are on a network, with all their endpoints.

    Raises:
        Stale: one was deleted since the endpoints were read.
    """
    ids = dict.fromkeys(endpoint.sandbox_id for endpoint in endpoints if endpoint.sandbox_id is not None)
    try:
        sandboxes = await asyncio.gather(*(controller.ledger.sandbox(id) for id in ids))
    except NotFound:
        raise Stale from None
    joined = [endpoint for sandbox in sandboxes for endpoint in sandbox.endpoints]
    networks = await controller.ledger.networks_of(joined)
    networks[network.id] = network
    return list(sandboxes), [
        Home(sandbox=sandbox.body, joined=joined_of(sandbox.endpoints, networks)) for sandbox in sandboxes
    ]
