"""Answers for ports that are published and closed while their sandbox runs."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from cnm.bus import Route
from cnm.messages.bridge import PlugEndpoint
from cnm.messages.message import Command
from cnm.messages.ports import CheckPorts, PublishedPorts, UnpublishPorts
from cnm.messages.sandbox import PublishOnSandbox, Sandbox, UnpublishFromSandbox
from cnm.store import Changes, Claims
from cnm_controller.attach import UNBOUND, naming_steps
from cnm_controller.controller import Controller
from cnm_controller.documents import SandboxBody
from cnm_controller.events import changed_port_events
from cnm_controller.ledger import Read
from cnm_controller.port_change import check_publish, check_unpublish, with_more, without
from cnm_controller.sagas import Step, until_fresh
from cnm_controller.specs import (
    Joined,
    attachment,
    closed_warnings,
    publish,
    publish_more,
    routed_bindings,
    sandbox_label,
)
from cnm_controller.views import sandbox_view


async def publish_on_sandbox(command: PublishOnSandbox, *, controller: Controller) -> Sandbox:
    """Publish more ports of a sandbox; they accept connections when this replies.

    Raises:
        NotFound: there is no such sandbox.
        Invalid: a request is contradictory, or its host address is not the node's.
        Conflict: a host port is taken; the message names the holder.
        Exhausted: a range has no free host port.
        Forbidden: the sandbox is in the node's own namespace.
        Unsupported: the node's kernel lacks the protocol.
    """
    check_publish(command)

    async def attempt() -> Sandbox:
        found = await controller.ledger.sandbox(command.sandbox)
        joined = await controller.ledger.joined(found)
        after = with_more(found.body, command.ports)
        # Where nothing leads out yet the ports wait; what is taken already is told now all the same.
        look = CheckPorts(sandbox_id=after.id, label=sandbox_label(after), requests=command.ports)
        return await _change(controller, found, joined, after, publish_more(after, joined, command.ports) or look)

    return await until_fresh(attempt)


async def unpublish_from_sandbox(command: UnpublishFromSandbox, *, controller: Controller) -> Sandbox:
    """Close published ports of a sandbox; they are closed, and free for others, when this replies.

    Raises:
        NotFound: there is no such sandbox, or it has not published one of them.
    """
    check_unpublish(command)

    async def attempt() -> Sandbox:
        found = await controller.ledger.sandbox(command.sandbox)
        joined = await controller.ledger.joined(found)
        after = without(found.body, command.ports)
        return await _change(controller, found, joined, after, _standing(after, joined))

    return await until_fresh(attempt)


def _standing(sandbox: SandboxBody, joined: Sequence[Joined]) -> Command[Any]:
    """Return what leaves exactly the ports that a sandbox has bound."""
    wanted = publish(sandbox, joined) if sandbox.bound else None
    return wanted or UnpublishPorts(sandbox_id=sandbox.id)


async def _change(
    controller: Controller, found: Read[SandboxBody], joined: list[Joined], after: SandboxBody, told: Command[Any]
) -> Sandbox:
    """Tell the node of other ports, and keep them; or leave the sandbox as it was."""
    before, node = found.body, found.body.node
    undo = (
        Step(command=_standing(before, joined), node=node),
        *_reopening(after, before, joined),
        *naming_steps((after, before), joined, joined),
    )
    claims = Claims(exclusive=(f"sandbox:{before.id}",), unchanged=(found.document,))
    label = sandbox_label(before)
    async with controller.sagas.begin("sandbox.ports", claims, (undo,), label=label) as saga:
        reply, *_ = await saga.run(
            Step(command=told, node=node),
            *_reopening(before, after, joined),
            *naming_steps((before, after), joined, joined),
        )
        if isinstance(reply, PublishedPorts):
            after = msgspec.structs.replace(after, bound=reply.ports)
        revisions = {document.id: document.revision for document in found.endpoint_documents}
        shown = sandbox_view(after, found.document.revision + 1, joined, revisions)
        warnings = [*(reply.warnings if isinstance(reply, PublishedPorts) else ()), *closed_warnings(after, joined)]
        if joined and isinstance(told, CheckPorts) and not routed_bindings(after, joined):
            warnings.append(UNBOUND)
        shown = msgspec.structs.replace(shown, warnings=warnings or msgspec.UNSET)
        changes = Changes(puts=(after.document(),), events=changed_port_events(before, after, joined))
        await saga.commit(changes, answer=shown)
    return shown


def _reopening(before: SandboxBody, after: SandboxBody, joined: Sequence[Joined]) -> list[Step]:
    """Return what makes the ports that are reached at endpoints' own addresses other ones."""
    if after.pending:
        return []
    return [
        Step(command=PlugEndpoint(attachment=now), node=after.node)
        for each in joined
        if each.network.driver == "bridge"
        if (now := attachment(after, each, joined)) != attachment(before, each, joined)
    ]


def routes(controller: Controller) -> tuple[Route, ...]:
    """Return what this service answers about published ports."""

    def route(command: type[Command[Any]], handler: Any, check: Any) -> Route:
        return Route(
            command=command,
            handler=partial(handler, controller=controller),
            order_by=lambda asked: f"sandbox {asked.sandbox}",
            once=True,
            check=check,
        )

    return (
        route(PublishOnSandbox, publish_on_sandbox, check_publish),
        route(UnpublishFromSandbox, unpublish_from_sandbox, check_unpublish),
    )
