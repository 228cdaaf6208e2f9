"""Answers for endpoints."""

from functools import partial
from typing import Any

from cnm.bus import Route
from cnm.messages.endpoint import (
    CreateEndpoint,
    DeleteEndpoint,
    Endpoint,
    Endpoints,
    GetEndpoint,
    JoinEndpoint,
    LeaveEndpoint,
    ListEndpoints,
)
from cnm.messages.message import Command, Empty
from cnm_controller import join
from cnm_controller.controller import Controller
from cnm_controller.detach import detach
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody, read
from cnm_controller.network import check_filters, has_label
from cnm_controller.views import endpoint_view
from cnm_controller.window import window

FILTERS = ("name", "id", "network", "label")


async def get_endpoint(command: GetEndpoint, *, controller: Controller) -> Endpoint:
    """Show an endpoint.

    Raises:
        NotFound: there is none.
    """
    found, on = await controller.ledger.endpoint(command.endpoint, command.network)
    return endpoint_view(found.body, on.body, found.document.revision, home=await controller.ledger.home(found.body))


async def list_endpoints(command: ListEndpoints, *, controller: Controller) -> Endpoints:
    """Show the endpoints, of one network or of all, that pass the filters.

    Raises:
        NotFound: there is no such network, or ``after`` is not in the list.
        Invalid: a filter is unknown.
    """
    check_filters(command.filters, FILTERS)
    only = (await controller.ledger.network(command.network)).body.id if command.network is not None else None
    snapshot = await controller.ledger.store.snapshot(("network", "endpoint", "sandbox"))
    documents = snapshot.documents or {}
    networks = {each.id: read(NetworkBody, each) for each in documents["network"]}
    sandboxes = {each.id: each for each in documents["sandbox"]}
    revisions = {each.id: each.revision for each in documents["endpoint"]}
    every = [read(EndpointBody, each) for each in documents["endpoint"] if only in (None, each.scope)]

    def passes(body: EndpointBody) -> bool:
        return _matches(body, networks.get(body.network_id), command.filters)

    def home(body: EndpointBody) -> SandboxBody | None:
        document = sandboxes.get(body.sandbox_id or "")
        return None if document is None else read(SandboxBody, document)

    return Endpoints(
        endpoints=[
            endpoint_view(body, networks.get(body.network_id), revisions[body.id], home=home(body))
            for body in window(every, passes, after=command.after, limit=command.limit)
        ]
    )


def _matches(body: EndpointBody, network: NetworkBody | None, filters: dict[str, list[str | bool]]) -> bool:
    names = (body.network_id, network.name if network else "")
    return all(
        any(_matches_one(body, names, name, str(value)) for value in values) for name, values in filters.items()
    )


def _matches_one(body: EndpointBody, network_names: tuple[str, str], name: str, value: str) -> bool:
    match name:
        case "name":
            return value in body.name
        case "id":
            return body.id.startswith(value)
        case "network":
            return value in network_names
        case _:
            return has_label(body.labels, value)


async def delete_endpoint(command: DeleteEndpoint, *, controller: Controller) -> Empty:
    """Give up an endpoint; with ``force`` it leaves its sandbox first.

    Raises:
        NotFound: there is none.
        Forbidden: it is in a sandbox.
    """
    await detach(controller, command.endpoint, command.network, delete=True, joined_too=command.force)
    return Empty()


async def leave_endpoint(command: LeaveEndpoint, *, controller: Controller) -> Endpoint:
    """Take an endpoint out of its sandbox.

    Raises:
        NotFound: there is no such endpoint or sandbox, or the one is not in the other.
    """
    return await detach(controller, command.endpoint, command.network, delete=False, sandbox=command.sandbox)


def routes(controller: Controller) -> tuple[Route, ...]:
    """Return what this service answers about endpoints."""

    def route(command: type[Command[Any]], handler: Any, *, once: bool = False, ordered: bool = False) -> Route:
        return Route(
            command=command,
            handler=partial(handler, controller=controller),
            order_by=(lambda asked: f"sandbox {asked.sandbox}") if ordered else None,
            once=once,
        )

    return (
        route(CreateEndpoint, join.create, once=True),
        route(GetEndpoint, get_endpoint),
        route(ListEndpoints, list_endpoints),
        route(DeleteEndpoint, delete_endpoint, once=True),
        route(JoinEndpoint, join.join, once=True, ordered=True),
        route(LeaveEndpoint, leave_endpoint, once=True, ordered=True),
    )
