"""One function a command, and which of them answers what."""

from collections.abc import Sequence
from functools import partial

from cnm.bus import Route
from cnm.messages.bridge import EnsureBridge, PlugEndpoint, Plugged, RemoveBridge, UnplugEndpoint
from cnm.messages.message import Empty
from cnm.touched import Touched
from cnm_driver_bridge.ports import Node


async def ensure_bridge(command: EnsureBridge, *, node: Node, touched: Touched) -> Empty:
    """Make a network's bridge and rules stand.

    Raises:
        Invalid: no bridge could be like that; every fault is listed.
        Conflict: a device of that name is no bridge, or another network's.
        Unsupported: the kernel lacks what the network needs.

    """
    touched.touch(command.network.network_id)
    await node.ensure(command.network)
    return Empty()


async def remove_bridge(command: RemoveBridge, *, node: Node, touched: Touched) -> Empty:
    """Remove a network's rules, and its bridge if we made it; what is gone is fine."""
    touched.touch(command.network.network_id)
    await node.remove(command.network)
    return Empty()


async def plug_endpoint(command: PlugEndpoint, *, node: Node, touched: Touched) -> Plugged:
    """Plug an endpoint into its sandbox, its network's bridge first.

    Raises:
        Invalid: no namespace is at the path, or the kernel refuses a value.
        Conflict: the sandbox has an interface of that name.
        Exhausted: the bridge has no port left.

    """
    attachment = command.attachment
    touched.touch(attachment.endpoint_id, attachment.network.network_id)
    return Plugged(host_ifname=await node.plug(attachment))


async def unplug_endpoint(command: UnplugEndpoint, *, node: Node, touched: Touched) -> Empty:
    """Remove an endpoint's link; it is gone from the sandbox on return, and one that was gone is fine."""
    touched.touch(command.endpoint_id)
    await node.unplug(command.endpoint_id)
    return Empty()


def routes(*, node: Node, touched: Touched) -> Sequence[Route]:
    """Say who answers what; commands about one endpoint, or one network, are answered one after another."""
    return (
        Route(
            command=EnsureBridge,
            handler=partial(ensure_bridge, node=node, touched=touched),
            order_by=lambda command: command.network.network_id,
        ),
        Route(
            command=RemoveBridge,
            handler=partial(remove_bridge, node=node, touched=touched),
            order_by=lambda command: command.network.network_id,
        ),
        Route(
            command=PlugEndpoint,
            handler=partial(plug_endpoint, node=node, touched=touched),
            order_by=lambda command: command.attachment.endpoint_id,
        ),
        Route(
            command=UnplugEndpoint,
            handler=partial(unplug_endpoint, node=node, touched=touched),
            order_by=lambda command: command.endpoint_id,
        ),
    )
