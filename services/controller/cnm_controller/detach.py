"""Takes an endpoint out of its sandbox, and deletes it when asked: one saga."""

from collections.abc import Sequence
from contextlib import suppress

import msgspec
import structlog

from cnm.errors import CnmError, Forbidden, NotFound
from cnm.messages.endpoint import Endpoint
from cnm.messages.message import Empty
from cnm.messages.namespace import EnsureSandbox
from cnm.messages.ports import PublishedPorts, UnpublishPorts
from cnm.messages.sandbox import PortBinding
from cnm.store import Changes, Claims, Compensation
from cnm_controller.addressing import release
from cnm_controller.attach import detach_steps, gateway_moved, port_steps, restore_steps, route_steps
from cnm_controller.controller import Controller
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody
from cnm_controller.events import event, port_events
from cnm_controller.ledger import Read
from cnm_controller.sagas import Saga, Step, until_fresh
from cnm_controller.specs import Joined, sandbox_spec
from cnm_controller.views import endpoint_view

log = structlog.get_logger()


async def detach(
    controller: Controller,
    endpoint: str,
    network: str | None,
    *,
    delete: bool,
    sandbox: str | None = None,
    joined_too: bool = True,
) -> Endpoint:
    """Take an endpoint out of its sandbox and, with ``delete``, give up its addresses and its row.

    Raises:
        NotFound: there is no such endpoint; or, with ``sandbox``, it has not joined that one.
        Forbidden: it is in a sandbox, and ``joined_too`` is false.
    """

    async def attempt() -> Endpoint:
        found, on = await controller.ledger.endpoint(endpoint, network)
        if found.body.sandbox_id is None:
            if not delete:
                raise NotFound(f"endpoint {found.body.name!r} on network {on.body.name!r} is in no sandbox")
            return await _delete_alone(controller, found, on)
        if not joined_too:
            raise Forbidden(
                f"endpoint {found.body.name!r} on network {on.body.name!r} is in sandbox {found.body.sandbox_name!r}"
            )
        home, named = await controller.ledger.home_and(found.body.sandbox_id, sandbox or found.body.sandbox_id)
        if named.body.id != home.body.id:
            raise NotFound(
                f"endpoint {found.body.name!r} on network {on.body.name!r} is not in sandbox {sandbox!r} "
                f"but in {home.body.name!r}"
            )
        return await _detach_from(controller, found, on, home, delete=delete)

    return await until_fresh(attempt)


async def disconnect(controller: Controller, sandbox: str, network: str) -> None:
    """Take a sandbox off a network, and give up the endpoint that it had there.

    Raises:
        NotFound: there is no such sandbox or network, or the one is not on the other.
    """

    async def attempt() -> None:
        home, on = await controller.ledger.sandbox_and_network(sandbox, network)
        for body, document in zip(home.endpoints, home.endpoint_documents, strict=True):
            if body.network_id == on.body.id:
                await _detach_from(controller, Read(body=body, document=document), on, home, delete=True)
                return
        raise NotFound(f"sandbox {home.body.name!r} is not on network {on.body.name!r}")

    await until_fresh(attempt)


async def _delete_alone(controller: Controller, found: Read[EndpointBody], on: Read[NetworkBody]) -> Endpoint:
    shown = endpoint_view(found.body, on.body, found.document.revision)
    claims = Claims(
        exclusive=(f"endpoint:{found.body.id}",), shared=(f"network:{on.body.id}",), unchanged=(found.document,)
    )
    async with controller.sagas.begin("endpoint.delete", claims, label=f"endpoint {found.body.name!r}") as saga:
        changes = Changes(
            deletes=(found.document,),
            events=(event("endpoint", "deleted", found.body.id, shown),),
            after=_released(found.body, on.body),
        )
        await saga.commit(changes, answer=Empty())
    return shown


async def _detach_from(
    controller: Controller,
    found: Read[EndpointBody],
    on: Read[NetworkBody],
    home: Read[SandboxBody],
    *,
    delete: bool,
) -> Endpoint:
    before = await controller.ledger.joined(home, {on.body.id: on.body})
    after = [each for each in before if each.endpoint.id != found.body.id]
    claims = Claims(
        exclusive=(f"sandbox:{home.body.id}", f"endpoint:{found.body.id}"),
        shared=(f"network:{on.body.id}",),
        unchanged=(home.document, found.document, on.document),
    )
    undo = (undo_detach(home.body, before), (), ())
    label = f"endpoint {found.body.name!r}"
    async with controller.sagas.begin("endpoint.leave", claims, undo, label=label) as saga:
        gone = (found.body.id,)
        await saga.run(*detach_steps(home.body, before, gone))
        warnings = await _move_routes(saga, route_steps(home.body, before, gone))
        bound, unmoved = await _move_ports(controller, saga, home.body, before, after)
        warnings += unmoved
        left = found.body.left()
        revision = found.document.revision
        shown = endpoint_view(left, on.body, revision + 1, warnings)
        events = [event("endpoint", "left", left.id, shown, node=home.body.node)]
        events += port_events(home.body, bound)
        stayed = msgspec.structs.replace(home.body, bound=bound)
        puts = [stayed.document()]
        if delete:
            events.append(event("endpoint", "deleted", left.id, shown))
        else:
            puts.append(left.document())
        changes = Changes(
            puts=tuple(puts),
            deletes=(found.document,) if delete else (),
            events=tuple(events),
            after=_released(found.body, on.body) if delete else (),
        )
        await saga.commit(changes, answer=Empty() if delete else shown)
    return shown


def undo_detach(sandbox: SandboxBody, joined: Sequence[Joined]) -> list[Step]:
    """Return what makes a sandbox stand again as it was before a detach."""
    files = Step(command=EnsureSandbox(sandbox=sandbox_spec(sandbox, joined)), node=sandbox.node)
    return [files, *restore_steps(sandbox, joined)]


async def _move_routes(saga: Saga, steps: Sequence[Step]) -> list[str]:
    """Move the default routes; a failure never blocks a leave (modern 7), it is warned of."""
    try:
        await saga.run(*steps)
    except CnmError as error:
        log.warning("routes.unmoved", error=error.message)
        return [f"the default route did not move: {error.message}"]
    return []


async def _move_ports(
    controller: Controller, saga: Saga, sandbox: SandboxBody, before: Sequence[Joined], after: Sequence[Joined]
) -> tuple[list[PortBinding], list[str]]:
    """Move the published ports, and return those that are bound then; ports that cannot move never block a leave."""
    gone = {each.endpoint.id for each in before} - {each.endpoint.id for each in after}
    steps = port_steps(sandbox, before, gone)
    try:
        replies = await saga.run(*steps)
    except CnmError as error:
        log.warning("ports.unmoved", error=error.message)
        with suppress(CnmError):  # else the node's next comparison closes them
            await controller.sagas.send(Step(command=UnpublishPorts(sandbox_id=sandbox.id), node=sandbox.node))
        return [], [f"the published ports are closed, for they could not move: {error.message}"]
    for reply in replies:
        if isinstance(reply, PublishedPorts):
            return reply.ports, []
    return [] if sandbox.requests and gateway_moved(before, after) else sandbox.bound, []


def _released(endpoint: EndpointBody, network: NetworkBody) -> tuple[Compensation, ...]:
    return tuple(step.compensation() for step in release(network, endpoint.id))
