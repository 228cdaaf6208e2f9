"""One function a command, and which of them answers what."""

from collections.abc import Sequence
from functools import partial

from cnm.bus import Route
from cnm.messages.bridge import (
    CountDrops,
    Drops,
    EnsureBridge,
    EnsuredBridge,
    NetworkDrops,
    PlugEndpoint,
    Plugged,
    RemoveBridge,
    UnplugEndpoint,
)
from cnm.messages.message import Empty
from cnm.touched import Touched
from cnm_driver_bridge.blocks import short
from cnm_driver_bridge.bridge import node_settings
from cnm_driver_bridge.frame import REASONS
from cnm_driver_bridge.ports import Node


async def ensure_bridge(
    command: EnsureBridge, *, node: Node, touched: Touched, warnings: Sequence[str] = ()
) -> EnsuredBridge:
    """Make a network's bridge and rules stand, without the addresses that it is to have no more.

    Raises:
        Invalid: no bridge could be like that; every fault is listed.
        Conflict: a device of that name is no bridge, or another network's.
        Unsupported: the kernel lacks what the network needs.

    """
    touched.touch(command.network.network_id)
    steps = await node.ensure(command.network, command.gone)
    return EnsuredBridge(settings=node_settings(steps, command.network.bridge), warnings=list(warnings))


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


async def count_drops(command: CountDrops, *, node: Node) -> NetworkDrops:
    """Count what was refused or dropped of a network; of one that has no rules here, nothing."""
    counted = (await node.drops()).get(short(command.network_id), {})
    return NetworkDrops(
        drops=[
            Drops(reason=reason, about=about, packets=counted[reason][0], bytes=counted[reason][1])
            for reason, about in REASONS.items()
            if reason in counted
        ]
    )


def routes(*, node: Node, touched: Touched, warnings: Sequence[str] = ()) -> Sequence[Route]:
    """Say who answers what; commands about one endpoint, or one network, are answered one after another."""
    return (
        Route(
            command=EnsureBridge,
            handler=partial(ensure_bridge, node=node, touched=touched, warnings=warnings),
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
        Route(command=CountDrops, handler=partial(count_drops, node=node)),
    )
