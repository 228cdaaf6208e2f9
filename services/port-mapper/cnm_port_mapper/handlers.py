"""What the port mapper of a node answers."""

from functools import partial

from cnm.bus import Route
from cnm.messages.message import Empty
from cnm.messages.ports import CheckPorts, PublishedPorts, PublishPorts, UnpublishPorts
from cnm_port_mapper.exposure import exposures
from cnm_port_mapper.mapper import PortMapper


async def publish_ports(command: PublishPorts, *, mapper: PortMapper) -> PublishedPorts:
    """Make a sandbox's ports exactly those asked for, all or nothing; asked again, the same ports.

    Raises:
        Invalid: a contradiction, a host address that is not this node's, or a sandbox without an address.
        Conflict: a fixed port is held; the message names place and holder.
        Exhausted: a range has no free port.
        Unsupported: the kernel lacks the protocol.
        Unavailable: the firewall refuses.

    """
    ports = await mapper.publish(command)
    new = ports[sum(each.host_port is not None for each in command.bound) :]
    return PublishedPorts(ports=ports, warnings=exposures(new, mapper.addresses()) if new else [])


async def unpublish_ports(command: UnpublishPorts, *, mapper: PortMapper) -> Empty:
    """Close a sandbox's ports at once; one that has none is fine.

    Raises:
        Unavailable: the firewall refuses.

    """
    await mapper.unpublish(command.sandbox_id)
    return Empty()


async def check_ports(command: CheckPorts, *, mapper: PortMapper) -> Empty:
    """Refuse what is fixed and cannot be had now.

    Raises:
        CnmError: as ``publish_ports``.

    """
    await mapper.check(command)
    return Empty()


def _sandbox(command: PublishPorts | UnpublishPorts) -> str:
    return command.sandbox_id


def routes(mapper: PortMapper) -> tuple[Route, ...]:
    """Return which handler answers which command."""
    return (
        Route(command=PublishPorts, handler=partial(publish_ports, mapper=mapper), order_by=_sandbox),
        Route(command=UnpublishPorts, handler=partial(unpublish_ports, mapper=mapper), order_by=_sandbox),
        Route(command=CheckPorts, handler=partial(check_ports, mapper=mapper)),
    )
