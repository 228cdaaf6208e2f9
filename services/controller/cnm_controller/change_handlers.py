"""Answers for what becomes different of sandboxes and endpoints that stay: names, files, readiness, the namespace."""

from functools import partial
from typing import Any

import msgspec

from cnm.bus import Route
from cnm.errors import NotFound
from cnm.messages.bridge import Plugged, UnplugEndpoint
from cnm.messages.endpoint import Endpoint, UpdateEndpoint
from cnm.messages.message import Command
from cnm.messages.names import ForgetSandbox, UpdateNames
from cnm.messages.namespace import CountNamespace, EnsureSandbox
from cnm.messages.ports import PublishedPorts, UnpublishPorts
from cnm.messages.sandbox import (
    AdoptNamespace,
    CountSandbox,
    InterfaceStatistics,
    Sandbox,
    SandboxStatistics,
    UpdateSandbox,
)
from cnm.store import Changes, Claims, Stale
from cnm_controller.attach import naming_steps, restore_steps
from cnm_controller.controller import Controller
from cnm_controller.documents import EndpointBody, SandboxBody
from cnm_controller.events import event, port_events
from cnm_controller.ledger import Read
from cnm_controller.sagas import Step, until_fresh
from cnm_controller.sandbox import adopted, changed, check_adopt, check_update, namespace_source
from cnm_controller.sandbox_handlers import refuse_adopted_twice
from cnm_controller.specs import Joined, resolver_sandbox, sandbox_label, sandbox_spec
from cnm_controller.views import endpoint_view, sandbox_view


async def update_endpoint(command: UpdateEndpoint, *, controller: Controller) -> Endpoint:
    """Change an endpoint's aliases, links, readiness or labels; DNS follows on every sandbox that it concerns.

    Raises:
        NotFound: there is none.
    """

    async def attempt() -> Endpoint:
        found, on = await controller.ledger.endpoint(command.endpoint, command.network)
        before = found.body
        after = msgspec.structs.replace(
            before,
            aliases=before.aliases if command.aliases is None else list(dict.fromkeys(command.aliases)),
            ready=before.ready if command.ready is None else command.ready,
            labels=before.labels if command.labels is None else command.labels,
            links=before.links if command.links is None else command.links,
        )
        revision = found.document.revision
        read = await _home(before, controller)
        home = read.body if read else None
        if after == before:
            return endpoint_view(after, on.body, revision, home=home)
        steps, undo = await _renaming(controller, read, after)
        claims = Claims(
            exclusive=(f"endpoint:{before.id}",),
            shared=(f"network:{on.body.id}", *([f"sandbox:{read.body.id}"] if read else ())),
            unchanged=(found.document, *([read.document] if read else ())),
        )
        label = f"endpoint {before.name!r}"
        async with controller.sagas.begin("endpoint.update", claims, (undo,), label=label) as saga:
            await saga.run(*steps)
            shown = endpoint_view(after, on.body, revision + 1, home=home)
            told = [("ready" if after.ready else "unready")] if after.ready != before.ready else []
            if (after.aliases, after.labels, after.links) != (before.aliases, before.labels, before.links):
                told.append("updated")
            events = tuple(event("endpoint", each, after.id, shown, node=after.node) for each in told)
            await saga.commit(Changes(puts=(after.document(),), events=events), answer=shown)
        return shown

    return await until_fresh(attempt)


async def _home(endpoint: EndpointBody, controller: Controller) -> Read[SandboxBody] | None:
    """Read the sandbox that an endpoint is in, if it is in one.

    Raises:
        Stale: it was deleted since the endpoint was read.
    """
    if endpoint.sandbox_id is None:
        return None
    try:
        return await controller.ledger.sandbox(endpoint.sandbox_id)
    except NotFound:
        raise Stale from None


async def _renaming(
    controller: Controller, home: Read[SandboxBody] | None, changed: EndpointBody
) -> tuple[list[Step], list[Step]]:
    """Return what makes the resolver know an endpoint as it is afterwards, and what undoes that."""
    if home is None:
        return [], []
    before = await controller.ledger.joined(home)
    after = [
        Joined(endpoint=changed if each.endpoint.id == changed.id else each.endpoint, network=each.network)
        for each in before
    ]
    sandbox = home.body, home.body
    return naming_steps(sandbox, before, after), naming_steps(sandbox, after, before)


async def update_sandbox(command: UpdateSandbox, *, controller: Controller) -> Sandbox:
    """Change what a sandbox's files say, whom its questions are passed on to, and its labels.

    Raises:
        NotFound: there is none.
        Invalid: an extra host is none, or an option of resolv.conf is malformed.
    """
    check_update(command)

    async def attempt() -> Sandbox:
        found = await controller.ledger.sandbox(command.sandbox)
        joined = await controller.ledger.joined(found)
        after = changed(found.body, command)
        if after == found.body:
            return _view(after, found, joined, found.document.revision)
        claims = Claims(exclusive=(f"sandbox:{after.id}",), unchanged=(found.document,))
        undo = (_rewriting(after, found.body, joined),)
        label = sandbox_label(after)
        async with controller.sagas.begin("sandbox.update", claims, undo, label=label) as saga:
            await saga.run(*_rewriting(found.body, after, joined))
            shown = _view(after, found, joined, found.document.revision + 1)
            events = (event("sandbox", "updated", after.id, shown, node=after.node),)
            await saga.commit(Changes(puts=(after.document(),), events=events), answer=shown)
        return shown

    return await until_fresh(attempt)


def _rewriting(before: SandboxBody, after: SandboxBody, joined: list[Joined]) -> list[Step]:
    """Return what makes a sandbox's files, and the embedded DNS in it, what they are afterwards."""
    commands: list[Command[Any]] = []
    if sandbox_spec(after, joined) != sandbox_spec(before, joined):
        commands.append(EnsureSandbox(sandbox=sandbox_spec(after, joined)))
    served = resolver_sandbox(after, joined)
    if served != resolver_sandbox(before, joined):
        commands.append(UpdateNames(sandbox=served) if served else ForgetSandbox(sandbox_id=after.id))
    return [Step(command=command, node=after.node) for command in commands]


async def adopt_namespace(command: AdoptNamespace, *, controller: Controller) -> Sandbox:
    """Give a sandbox its namespace: its endpoints' interfaces, its DNS server and its published ports come with it.

    Raises:
        NotFound: there is no such sandbox.
        Conflict: it has its namespace, or the namespace is another's; the message names it.
        Invalid: it is no network namespace, or the node's own.
    """
    check_adopt(command)
    source = namespace_source(command.netns, command.pid) or ""

    async def attempt() -> Sandbox:
        found = await controller.ledger.sandbox(command.sandbox)
        joined = await controller.ledger.joined(found)
        after = adopted(found.body, source)
        claims = Claims(
            exclusive=(
                f"sandbox:{after.id}",
                f"netns:{after.node}:{source}",
                *(f"endpoint:{each.endpoint.id}" for each in joined),
            ),
            shared=tuple({f"network:{each.network.id}" for each in joined}),
            unchanged=(found.document,),
        )
        files = [Step(command=EnsureSandbox(sandbox=sandbox_spec(after, joined)), node=after.node)]
        without = [Step(command=EnsureSandbox(sandbox=sandbox_spec(found.body, joined)), node=after.node)]
        undo = (without, _moving_out(after, joined))
        label = sandbox_label(after)
        async with controller.sagas.begin("sandbox.adopt", claims, undo, label=label) as saga:
            await refuse_adopted_twice(controller, after)
            await saga.run(*files)
            steps = restore_steps(after, joined)
            replies = await saga.run(*steps)
            moved, after = _moved(after, joined, list(zip(steps, replies, strict=True)))
            shown = _view(after, found, moved, found.document.revision + 1)
            events = (
                event("sandbox", "updated", after.id, shown, node=after.node),
                *port_events(found.body, after.bound),
            )
            puts = (after.document(), *(each.endpoint.document() for each in moved))
            await saga.commit(Changes(puts=puts, events=events), answer=shown)
        return shown

    return await until_fresh(attempt)


def _moving_out(sandbox: SandboxBody, joined: list[Joined]) -> list[Step]:
    """Return what takes a sandbox's endpoints out of a namespace that it is not to have after all."""
    commands: list[Command[Any]] = [UnplugEndpoint(endpoint_id=each.endpoint.id) for each in joined]
    commands.append(ForgetSandbox(sandbox_id=sandbox.id))
    if sandbox.requests:
        commands.append(UnpublishPorts(sandbox_id=sandbox.id))
    return [Step(command=command, node=sandbox.node) for command in commands]


def _moved(
    sandbox: SandboxBody, joined: list[Joined], outcomes: list[tuple[Step, Any]]
) -> tuple[list[Joined], SandboxBody]:
    """Return endpoints and sandbox as they are when all is in place: with the node's links, and the ports bound."""
    links: dict[str, str] = {}
    for step, reply in outcomes:
        if isinstance(reply, Plugged):
            links[step.command.attachment.endpoint_id] = reply.host_ifname  # type: ignore[attr-defined]  # it was a plug
        elif isinstance(reply, PublishedPorts):
            sandbox = msgspec.structs.replace(sandbox, bound=reply.ports)
    return [
        Joined(
            endpoint=msgspec.structs.replace(each.endpoint, host_ifname=links.get(each.endpoint.id)),
            network=each.network,
        )
        for each in joined
    ], sandbox


async def count_sandbox(command: CountSandbox, *, controller: Controller) -> SandboxStatistics:
    """Read the counters of a sandbox's interfaces.

    Raises:
        NotFound: there is no such sandbox, or its namespace is gone.
        Unavailable: the worker of its node does not answer.
    """
    found = await controller.ledger.sandbox(command.sandbox)
    sandbox = found.body
    owners = {endpoint.ifname: endpoint for endpoint in found.endpoints if endpoint.ifname is not None}
    interfaces: list[InterfaceStatistics] = []
    if not (sandbox.use_default_sandbox or sandbox.pending):
        counted = await controller.bus.ask(CountNamespace(namespace=sandbox.key), node=sandbox.node)
        for each in counted.interfaces:
            owner = owners.get(each.ifname)
            interfaces.append(
                InterfaceStatistics(
                    endpoint=owner.id if owner else None,
                    network=owner.network_id if owner else None,
                    **msgspec.to_builtins(each),
                )
            )
    return SandboxStatistics(id=sandbox.id, name=sandbox.name, time=controller.now(), interfaces=interfaces)


def _view(sandbox: SandboxBody, found: Read[SandboxBody], joined: list[Joined], revision: int) -> Sandbox:
    revisions = {document.id: document.revision for document in found.endpoint_documents}
    if revision != found.document.revision and sandbox.pending != found.body.pending:
        revisions = {id: number + 1 for id, number in revisions.items()}  # they are written with it
    return sandbox_view(sandbox, revision, joined, revisions)


def routes(controller: Controller) -> tuple[Route, ...]:
    """Return what this service answers about changes."""

    def route(command: type[Command[Any]], handler: Any, **more: Any) -> Route:
        return Route(command=command, handler=partial(handler, controller=controller), **more)

    def sandbox(command: Any) -> str:
        return f"sandbox {command.sandbox}"

    return (
        route(UpdateEndpoint, update_endpoint, once=True),
        route(UpdateSandbox, update_sandbox, once=True, order_by=sandbox, check=check_update),
        route(AdoptNamespace, adopt_namespace, once=True, order_by=sandbox, check=check_adopt),
        route(CountSandbox, count_sandbox),
    )
