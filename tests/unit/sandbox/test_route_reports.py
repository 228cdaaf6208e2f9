"""IPAM hears of the node's routes when they change, and again later; what it could not hear is told again."""

import asyncio
from ipaddress import ip_address, ip_network

import pytest

from cnm.errors import Unavailable
from cnm.kernel.route import Route
from cnm.messages.ipam import NodeRoute
from cnm_sandbox.route_reports import READ_PERIOD_S, REFRESH_S, RouteReports

A = NodeRoute(prefix=ip_network("10.8.0.0/16"), by="route on tun0", device="tun0")
B = NodeRoute(prefix=ip_network("10.9.0.0/16"), by="route on tun1", device="tun1")
OURS, STRANGER, CARRIER = 5, 6, 7


class Node:
    def __init__(self):
        self.routes, self.told, self.now, self.reads, self.names = [A], [], 0.0, 0, []
        self.read_error = self.tell_error = None
        self.reports = RouteReports(self, self.tell, clock=lambda: self.now)

    async def used(self):
        self.reads += 1
        if self.read_error:
            raise self.read_error
        return list(self.routes)

    async def servers(self):
        return list(self.names)

    async def has_stranger(self, indices):
        return STRANGER in indices

    async def tell(self, routes):
        if self.tell_error:
            raise self.tell_error
        self.told.append(list(routes))

    def carries(self, index):
        return index == CARRIER

    def hear(self, *indices, links=(), **more):
        self.reports.note([Route(ip_network("10.8.0.0/16"), index=index, **more) for index in indices], links)


async def test_routes_are_told_when_they_change_and_once_an_hour():
    node = Node()
    for _ in range(3):
        await node.reports.once()
    assert (node.told, node.reads) == ([[A]], 1)
    for routes in ([A, B], [], []):
        node.routes = routes
        node.hear(STRANGER)
        await node.reports.once()
    assert (node.told, node.reads) == ([[A], [A, B], []], 4)
    node.now += REFRESH_S
    await node.reports.once()
    assert node.told == [[A], [A, B], [], []]


@pytest.mark.parametrize("more", [{}, {"kind": 2, "table": 255}, {"kind": 7}])
async def test_routes_of_our_bridges_and_such_as_use_nothing_cost_no_reading(more):
    node = Node()
    await node.reports.once()
    node.hear(STRANGER if more else OURS, **more)
    await node.reports.once()
    assert node.reads == 1
    node.now += READ_PERIOD_S
    await node.reports.once()
    assert (node.reads, node.told) == (2, [[A]])


async def test_link_that_goes_with_its_routes_is_noticed():
    node = Node()
    await node.reports.once()
    node.hear(links=[OURS, STRANGER])
    await node.reports.once()
    assert node.reads == 1
    node.routes = []
    node.hear(links=[OURS, CARRIER])
    await node.reports.once()
    assert node.told == [[A], []]


async def test_lost_notifications_and_other_name_servers_are_looked_after():
    node = Node()
    await node.reports.once()
    node.reports.note(None, ())
    await node.reports.once()
    assert node.reads == 2
    node.names = [ip_address("192.0.2.53")]
    await node.reports.once()
    assert node.reads == 3


async def test_what_could_not_be_told_is_told_later():
    node = Node()
    node.tell_error = Unavailable("nobody answers")
    await node.reports.once()
    assert node.told == []
    node.tell_error = None
    await node.reports.once()
    assert node.told == [[A]]
    node.read_error = OSError("disturbed")
    node.hear(STRANGER)
    await node.reports.once()
    node.read_error = None
    await node.reports.once()
    assert node.told == [[A], [A]], "it is not known what was told last"


async def test_change_is_told_without_waiting_for_the_timer():
    node = Node()
    keeping = asyncio.create_task(node.reports.keep())
    node.hear(STRANGER)
    async with asyncio.timeout(3):
        while not node.told:
            await asyncio.sleep(0.01)
    keeping.cancel()
    assert node.told == [[A]]
