"""Answers for sandboxes."""

from functools import partial
from typing import Any

import msgspec

from cnm.bus import Route
from cnm.errors import Conflict
from cnm.messages.message import Command, Empty
from cnm.messages.names import ForgetSandbox, UpdateNames
from cnm.messages.namespace import EnsureSandbox, RemoveSandbox
from cnm.messages.ports import CheckPorts, PublishPorts, UnpublishPorts
from cnm.messages.sandbox import (
    ConnectSandbox,
    CreateSandbox,
    DeleteSandbox,
    DisconnectSandbox,
    GetSandbox,
    ListSandboxes,
    Sandbox,
    Sandboxes,
)
from cnm.store import Changes, Claims
from cnm_controller import join
from cnm_controller.addressing import release
from cnm_controller.attach import detach_steps
from cnm_controller.controller import Controller
from cnm_controller.detach import disconnect, undo_detach
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody, read
from cnm_controller.events import event, port_events
from cnm_controller.ledger import Read
from cnm_controller.network import check_filters
from cnm_controller.sagas import Step, until_fresh
from cnm_controller.sandbox import check_create, matches, new_sandbox
from cnm_controller.specs import Joined, joined_of, resolver_sandbox, sandbox_label, sandbox_spec
from cnm_controller.views import endpoint_view, sandbox_view
from cnm_controller.window import window

FILTERS = ("name", "id", "node", "label")
HOST_PORTS = "a sandbox in the node's own namespace publishes nothing: its ports were left out"


async def create_sandbox(command: CreateSandbox, *, controller: Controller) -> Sandbox:
    """Make a sandbox on a node.

    Raises:
        Invalid: the request is contradictory, or ``netns`` is no network namespace.
        Conflict: the name, the namespace or a fixed host port is taken; the message names the holder.
        NotFound: there is no such node.
        Unavailable: the node is down, or none is ready.
    """
    check_create(command)
    node = await controller.node_for(command.node)
    sandbox = new_sandbox(command, node, id=controller.new_id(), now=controller.now())
    exclusive = [f"sandbox:{sandbox.id}", f"name:sandbox/{sandbox.name}"]
    if sandbox.netns is not None:
        exclusive.append(f"netns:{node.name}:{sandbox.netns}")
    claims = Claims(exclusive=tuple(exclusive), unique=(("sandbox", "", sandbox.name),))
    spec = sandbox_spec(sandbox, ())
    undo = (
        [Step(command=RemoveSandbox(sandbox=spec), node=node.name)],
        [Step(command=ForgetSandbox(sandbox_id=sandbox.id), node=node.name)],
    )
    async with controller.sagas.begin("sandbox.create", claims, undo, label=sandbox_label(sandbox)) as saga:
        if sandbox.netns is not None:
            await refuse_adopted_twice(controller, sandbox)
        first = [Step(command=EnsureSandbox(sandbox=spec), node=node.name)]
        if sandbox.requests:
            check = CheckPorts(sandbox_id=sandbox.id, label=sandbox_label(sandbox), requests=sandbox.requests)
            first.append(Step(command=check, node=node.name))
        await saga.run(*first)
        served = resolver_sandbox(sandbox, ())
        if served is not None:
            await saga.run(Step(command=UpdateNames(sandbox=served), node=node.name))
        shown = sandbox_view(sandbox, 1, (), {})
        events = (event("sandbox", "created", sandbox.id, shown, node=node.name),)
        if command.use_default_sandbox and command.ports:
            shown = msgspec.structs.replace(shown, warnings=[HOST_PORTS])
        await saga.commit(Changes(puts=(sandbox.document(),), events=events), answer=shown)
    return shown


async def refuse_adopted_twice(controller: Controller, sandbox: SandboxBody) -> None:
    """Refuse a namespace that another sandbox has adopted by the same path.

    Raises:
        Conflict: the message names the sandbox.
    """
    index = f"netns:{sandbox.node}:{sandbox.netns}"
    for holder in await controller.ledger.store.every("sandbox", index=index):
        reason = f"namespace {sandbox.netns} is adopted by sandbox {holder.name!r} already"
        raise Conflict(reason, holder=holder.id)


async def get_sandbox(command: GetSandbox, *, controller: Controller) -> Sandbox:
    """Show a sandbox.

    Raises:
        NotFound: there is none.
    """
    found = await controller.ledger.sandbox(command.sandbox)
    return _view(found, await controller.ledger.joined(found))


def _view(found: Read[SandboxBody], joined: list[Joined]) -> Sandbox:
    revisions = {document.id: document.revision for document in found.endpoint_documents}
    return sandbox_view(found.body, found.document.revision, joined, revisions)


async def list_sandboxes(command: ListSandboxes, *, controller: Controller) -> Sandboxes:
    """Show the sandboxes that pass the filters.

    Raises:
        Invalid: a filter is unknown.
        NotFound: ``after`` is not in the list.
    """
    check_filters(command.filters, FILTERS)
    snapshot = await controller.ledger.store.snapshot(("sandbox", "endpoint", "network"))
    documents = snapshot.documents or {}
    networks = {each.id: read(NetworkBody, each) for each in documents["network"]}
    revisions = {each.id: each.revision for kind in documents.values() for each in kind}
    endpoints: dict[str, list[EndpointBody]] = {}
    for document in documents["endpoint"]:
        body = read(EndpointBody, document)
        endpoints.setdefault(body.sandbox_id or "", []).append(body)

    def passes(sandbox: SandboxBody) -> bool:
        return matches(sandbox, command.filters)

    every = [read(SandboxBody, document) for document in documents["sandbox"]]
    return Sandboxes(
        sandboxes=[
            sandbox_view(body, revisions[body.id], joined_of(endpoints.get(body.id, ()), networks), revisions)
            for body in window(every, passes, after=command.after, limit=command.limit)
        ]
    )


async def delete_sandbox(command: DeleteSandbox, *, controller: Controller) -> Empty:
    """Let every endpoint leave and be deleted, then remove the namespace and the files.

    Raises:
        NotFound: there is none.
    """

    async def attempt() -> Empty:
        found = await controller.ledger.sandbox(command.sandbox)
        sandbox, joined = found.body, await controller.ledger.joined(found)
        claims = Claims(
            exclusive=(
                f"sandbox:{sandbox.id}",
                f"name:sandbox/{sandbox.name}",
                *(f"endpoint:{endpoint.id}" for endpoint in found.endpoints),
            ),
            shared=tuple({f"network:{endpoint.network_id}" for endpoint in found.endpoints}),
            unchanged=(found.document,),
        )
        remove = RemoveSandbox(sandbox=sandbox_spec(sandbox, ()))
        restored = undo_detach(sandbox, joined)
        undo = (restored, restored[:1])
        async with controller.sagas.begin("sandbox.delete", claims, undo, label=sandbox_label(sandbox)) as saga:
            await saga.run(*_empty_steps(sandbox, joined))
            await saga.run(Step(command=remove, node=sandbox.node))
            await saga.commit(_deletion(found, joined), answer=Empty())
        return Empty()

    return await until_fresh(attempt)


def _empty_steps(sandbox: SandboxBody, joined: list[Joined]) -> list[Step]:
    """Return the round that takes everything out of a sandbox; its files need not follow, they go too."""
    steps = [
        step
        for step in detach_steps(sandbox, joined, {each.endpoint.id for each in joined})
        if not isinstance(step.command, (PublishPorts, UnpublishPorts))
    ]
    if sandbox.bound:
        steps.append(Step(command=UnpublishPorts(sandbox_id=sandbox.id), node=sandbox.node))
    if not sandbox.use_default_sandbox:
        steps.append(Step(command=ForgetSandbox(sandbox_id=sandbox.id), node=sandbox.node))
    return steps


def _deletion(found: Read[SandboxBody], joined: list[Joined]) -> Changes:
    sandbox = found.body
    revisions = {document.id: document.revision for document in found.endpoint_documents}
    events = port_events(sandbox, [])
    for each in joined:
        shown = endpoint_view(each.endpoint.left(), each.network, revisions[each.endpoint.id] + 1)
        events.append(event("endpoint", "left", each.endpoint.id, shown, node=sandbox.node))
        events.append(event("endpoint", "deleted", each.endpoint.id, shown))
    shown_sandbox = sandbox_view(sandbox, found.document.revision, (), {})
    events.append(event("sandbox", "deleted", sandbox.id, shown_sandbox, node=sandbox.node))
    return Changes(
        deletes=(*found.endpoint_documents, found.document),
        events=tuple(events),
        after=tuple(step.compensation() for each in joined for step in release(each.network, each.endpoint.id)),
    )


async def disconnect_sandbox(command: DisconnectSandbox, *, controller: Controller) -> Empty:
    """Take a sandbox off a network.

    Raises:
        NotFound: there is no such sandbox or network, or the one is not on the other.
    """
    await disconnect(controller, command.sandbox, command.network)
    return Empty()


def routes(controller: Controller) -> tuple[Route, ...]:
    """Return what this service answers about sandboxes."""

    def route(command: type[Command[Any]], handler: Any, *, ordered: bool = False, **more: Any) -> Route:
        return Route(
            command=command,
            handler=partial(handler, controller=controller),
            order_by=(lambda asked: f"sandbox {asked.sandbox}") if ordered else None,
            **more,
        )

    return (
        route(CreateSandbox, create_sandbox, once=True, check=check_create),
        route(GetSandbox, get_sandbox),
        route(ListSandboxes, list_sandboxes),
        route(DeleteSandbox, delete_sandbox, once=True, ordered=True),
        route(ConnectSandbox, join.connect, once=True, ordered=True),
        route(DisconnectSandbox, disconnect_sandbox, once=True, ordered=True),
    )
