"""IPAM hears of the node's routes when they change, and again later; what it could not hear is told again."""

import asyncio
from ipaddress import ip_network

from cnm.errors import Unavailable
from cnm.messages.ipam import NodeRoute
from cnm_sandbox.route_reports import REFRESH_S, RouteReports

A = NodeRoute(prefix=ip_network("10.8.0.0/16"), by="route on tun0", device="tun0")
B = NodeRoute(prefix=ip_network("10.9.0.0/16"), by="route on tun1", device="tun1")


class Node:
    def __init__(self):
        self.routes, self.told, self.now = [A], [], 0.0
        self.read_error = self.tell_error = None
        self.reports = RouteReports(self.read, self.tell, clock=lambda: self.now)

    async def read(self):
        if self.read_error:
            raise self.read_error
        return list(self.routes)

    async def tell(self, routes):
        if self.tell_error:
            raise self.tell_error
        self.told.append(list(routes))


async def test_routes_are_told_when_they_change_and_once_an_hour():
    node = Node()
    for _ in range(3):
        await node.reports.once()
    assert node.told == [[A]]
    node.routes = [A, B]
    await node.reports.once()
    node.routes = []
    await node.reports.once()
    assert node.told == [[A], [A, B], []]
    node.now += REFRESH_S
    await node.reports.once()
    assert node.told == [[A], [A, B], [], []]


async def test_what_could_not_be_told_is_told_later():
    node = Node()
    node.tell_error = Unavailable("nobody answers")
    await node.reports.once()
    assert node.told == []
    node.tell_error = None
    await node.reports.once()
    assert node.told == [[A]]
    node.read_error = OSError("disturbed")
    await node.reports.once()
    node.read_error = None
    await node.reports.once()
    assert node.told == [[A], [A]], "it is not known what was told last"


async def test_change_is_told_without_waiting_for_the_timer():
    node = Node()
    keeping = asyncio.create_task(node.reports.keep())
    node.reports.nudge()
    async with asyncio.timeout(3):
        while not node.told:
            await asyncio.sleep(0.01)
    keeping.cancel()
    assert node.told == [[A]]
