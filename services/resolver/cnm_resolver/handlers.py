"""Answers the controller's commands to the resolver."""

from functools import partial

from cnm.bus import Route
from cnm.messages.message import Empty
from cnm.messages.names import ForgetSandbox, ForgetZone, UpdateNames
from cnm_resolver.names import Names


async def update_names(command: UpdateNames, *, names: Names) -> Empty:
    """Know zones and records, forget endpoints, serve a sandbox.

    Raises:
        NotFound: the sandbox's namespace is not there.
        Unavailable: the kernel refused its sockets.
    """
    names.touch(
        *(zone.network_id for zone in command.zones),
        *(record.endpoint_id for record in command.records),
        *command.forget_endpoints,
        *([command.sandbox.sandbox_id] if command.sandbox else []),
    )
    for zone in command.zones:
        names.put_zone(zone)
    for record in command.records:
        names.put_record(record)
    for endpoint_id in command.forget_endpoints:
        names.directory.drop_record(endpoint_id)
    if command.sandbox is not None:
        await names.serve(command.sandbox)
    return Empty()


async def forget_sandbox(command: ForgetSandbox, *, names: Names) -> Empty:
    """Stop answering a sandbox; one that is not served is fine."""
    names.touch(command.sandbox_id)
    await names.forget_sandbox(command.sandbox_id)
    return Empty()


async def forget_zone(command: ForgetZone, *, names: Names) -> Empty:
    """Forget a network; one that is not known is fine."""
    names.touch(command.network_id)
    names.drop_zone(command.network_id)
    return Empty()


def _order(command: UpdateNames) -> str:
    return command.sandbox.sandbox_id if command.sandbox else ""


def routes(names: Names) -> tuple[Route, ...]:
    """Return what this service answers; whatever concerns one sandbox is done one after another."""
    return (
        Route(command=UpdateNames, handler=partial(update_names, names=names), order_by=_order),
        Route(
            command=ForgetSandbox,
            handler=partial(forget_sandbox, names=names),
            order_by=lambda command: command.sandbox_id,
        ),
        Route(command=ForgetZone, handler=partial(forget_zone, names=names)),
    )
