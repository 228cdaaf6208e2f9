"""Answers about the system as a whole, and to the drivers that announce themselves."""

from functools import partial
from typing import Any

import msgspec

from cnm.bus import Route
from cnm.errors import Conflict
from cnm.messages.ipam_driver import AnnounceDriver
from cnm.messages.message import Command, Empty
from cnm.messages.system import CheckSystem, GetSystemInfo, SystemCheck, SystemInfo
from cnm.version import VERSION
from cnm_controller import bookkeeping
from cnm_controller.accounts import WORKER
from cnm_controller.comparison import compare_nodes
from cnm_controller.controller import Controller
from cnm_controller.drivers import DRIVERS, IPAM_DRIVERS
from cnm_controller.ports import IpamDriver


async def system_info(_: GetSystemInfo, *, controller: Controller) -> SystemInfo:
    """Show what this installation is."""
    snapshot = await controller.ledger.store.snapshot(("network", "sandbox", "endpoint"))
    documents = snapshot.documents or {}
    nodes = await controller.nodes.every()
    announced = [each.name for each in await controller.ipam_drivers.every() if controller.is_heard(each.last_seen)]
    return SystemInfo(
        version=VERSION,
        nodes=len(nodes),
        networks=len(documents["network"]),
        sandboxes=len(documents["sandbox"]),
        endpoints=len(documents["endpoint"]),
        drivers={"network": sorted(DRIVERS), "ipam": [*IPAM_DRIVERS, *announced]},
        workers={worker.name: worker.version for node in nodes for worker in node.workers},
    )


async def check_system(command: CheckSystem, *, controller: Controller) -> SystemCheck:
    """Compare what should be with what is, in IPAM's books and on every node, and mend it when asked to."""
    books = await bookkeeping.check(controller, repair=command.repair)
    nodes = await compare_nodes(controller, repair=command.repair)
    return SystemCheck(
        differences=[*books, *nodes.differences],
        compared=[WORKER, *nodes.workers],
        warnings=list(nodes.warnings) or msgspec.UNSET,
    )


async def announce_driver(command: AnnounceDriver, *, controller: Controller) -> Empty:
    """Note that an IPAM driver is there, or leaves.

    Raises:
        Conflict: a built-in driver has that name.
    """
    if command.name in IPAM_DRIVERS:
        raise Conflict(f"IPAM driver {command.name!r} is built in", holder=command.name)
    if command.leaving:
        await controller.ipam_drivers.forget(command.name)
        return Empty()
    driver = IpamDriver(
        name=command.name,
        instance=command.instance,
        requires_mac_address=command.requires_mac_address,
        requires_request_replay=command.requires_request_replay,
        last_seen=controller.now(),
    )
    await controller.ipam_drivers.note(driver)
    return Empty()


def routes(controller: Controller) -> tuple[Route, ...]:
    """Return what this service answers about the system."""

    def route(command: type[Command[Any]], handler: Any, *, urgent: bool = False) -> Route:
        return Route(command=command, handler=partial(handler, controller=controller), urgent=urgent)

    return (
        route(GetSystemInfo, system_info, urgent=True),
        route(CheckSystem, check_system),
        route(AnnounceDriver, announce_driver, urgent=True),
    )
