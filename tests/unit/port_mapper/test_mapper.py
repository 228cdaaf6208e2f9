"""Changes are whole: over a fake host that refuses when told to."""

import asyncio
import contextlib
import errno
import os
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from cnm.drift import SHOWN
from cnm.errors import Conflict, Exhausted, Forbidden, Invalid, Unavailable, Unsupported
from cnm.messages.node import PortSlice
from cnm.messages.ports import CheckPorts, PublishPorts
from cnm.messages.sandbox import PortRequest
from cnm_port_mapper.binding import Place, Target
from cnm_port_mapper.config import Settings
from cnm_port_mapper.handlers import routes
from cnm_port_mapper.mapper import PortMapper
from cnm_port_mapper.placement import Automatic
from cnm_port_mapper.reconcile import Convergence
from cnm_port_mapper.rules import Remake, Translate, Translation, plan
from cnm_port_mapper.service import Service

A, B = "a" * 64, "b" * 64
V4, V6 = ip_address("0.0.0.0"), ip_address("::")


class Socket:
    def __init__(self, host, seat):
        self.host, self.seat, self.held = host, seat, True

    def close(self):
        self.host.open_sockets.remove(self)


class Host:
    """Sockets, firewall and relay of a host that exists only here."""

    ipv6 = True

    def __init__(self):
        self.open_sockets = []
        self.foreign = {}
        self.elements = {}
        self.served = {}
        self.failures = 0
        self.transactions = 0
        self.gate = None
        self.left = set()

    # sockets

    def supports(self, protocol):
        return protocol != "sctp"

    def automatic(self):
        return Automatic(40000, 40003)

    def addresses(self):
        return (ip_address("10.0.0.1"),)

    def open(self, seat):
        for place in seat.places:
            self.probe(place)
        opened = Socket(self, seat)
        self.open_sockets.append(opened)
        return opened

    def probe(self, place):
        for other, number in self.foreign.items():
            if place.overlaps(other):
                raise OSError(number, os.strerror(number))
        if any(place.overlaps(other) for opened in self.open_sockets for other in opened.seat.places):
            raise OSError(errno.EADDRINUSE, "in use")

    async def inherit(self, seats):
        self.left &= set(seats)

    async def let_go(self, but=()):
        """Nothing was inherited."""

    async def leave(self, left, gone=()):
        self.left -= set(gone)
        self.left |= set(left)

    def hold(self, bound):
        bound.held = True

    def admit(self, bound):
        assert bound.held
        bound.held = False

    async def holder(self, place):
        return "nginx (pid 7)"

    # firewall

    async def apply(self, steps, *, forget=()):
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOENT, "no such table")
        self.transactions += bool(steps)
        for step in steps:
            if isinstance(step, Translate):
                assert step.place not in self.elements
                self.elements[step.place] = step.translation
            else:
                self.elements.pop(step.place, None)

    def watching(self, heard):
        return contextlib.nullcontext()

    async def observe(self):
        return dict(self.elements)

    async def repair(self, desired, *, leave=()):
        steps = plan(desired, self.elements, leave=leave)
        if steps:
            await self.apply(steps)
        return steps

    # relay

    def serve(self, seat, bound, targets):
        assert bound.seat == seat
        self.served[seat] = targets

    def stop(self, seat):
        self.served.pop(seat, None)

    def bound(self):
        assert all(not opened.held for opened in self.open_sockets)
        assert {opened.seat for opened in self.open_sockets} == self.left, "the process that comes after has the same"
        return sorted(str(place) for opened in self.open_sockets for place in opened.seat.places)

    def state(self):
        return self.bound(), dict(self.elements), dict(self.served)


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def mapper(host):
    return new_mapper(host)


def new_mapper(host):
    return PortMapper(sockets=host, firewall=host, relay=host, settings=Settings(automatic_attempts=3))


def request(container=80, host=None, end=None, **more):
    return PortRequest(container_port=container, host_port=host, host_port_end=end, **more)


def command(*requests, sandbox=A, bound=(), label="sandbox 'a'", ipv4="172.28.0.2", ipv6=None):
    return PublishPorts(
        sandbox_id=sandbox,
        label=label,
        ipv4_address=IPv4Address(ipv4) if ipv4 else None,
        ipv6_address=IPv6Address(ipv6) if ipv6 else None,
        bound=list(bound),
        requests=list(requests),
    )


async def test_publishing_twice_is_publishing_once(mapper, host):
    first = await mapper.publish(command(request(), request(81, 8081), request(82, 8082, 8089)))
    state = host.state()
    assert await mapper.publish(command(request(), request(81, 8081), request(82, 8082, 8089))) == first
    assert [(binding.container_port, binding.host_port) for binding in first[::2]] == [
        (80, 40000),
        (81, 8081),
        (82, 8082),
    ]
    assert await mapper.publish(command(bound=first)) == first
    assert host.state() == state
    assert host.transactions == 1
    assert mapper.stands(command(bound=first))


async def test_bound_ports_stay_and_new_ones_join_them(mapper, host):
    first = await mapper.publish(command(request()))
    both = await mapper.publish(command(request(), bound=first))
    assert both[:2] == first
    assert {binding.host_port for binding in both[2:]} == {40001}
    assert await mapper.publish(command(bound=first)) == first
    assert host.bound() == ["0.0.0.0:40000/tcp", "[::]:40000/tcp"]


async def test_unpublished_sandbox_leaves_nothing(mapper, host):
    await mapper.publish(command(request(80, 8080)))
    for _ in range(2):
        await mapper.unpublish(A)
    assert host.state() == ([], {}, {})
    assert mapper.sandboxes() == ()
    assert await mapper.publish(command(ipv4=None)) == []
    await mapper.publish(command(request(80, 8080), sandbox=B))


async def test_publishing_nothing_is_unpublishing(mapper, host):
    await mapper.publish(command(request(80, 8080)))
    assert await mapper.publish(command()) == []
    assert host.state() == ([], {}, {})


async def test_refused_port_undoes_the_whole_change(mapper, host):
    bound = await mapper.publish(command(request(80, 8080)))
    state = host.state()
    host.foreign[Place("tcp", V6, 8082)] = errno.EADDRINUSE
    with pytest.raises(Conflict, match=r"host port \[::\]:8082/tcp is taken by nginx \(pid 7\)"):
        await mapper.publish(command(request(81, 8081), request(82, 8082), bound=bound))
    assert host.state() == state
    await mapper.publish(command(request(81, 8081), sandbox=B))


async def test_refusing_firewall_undoes_the_whole_change(mapper, host):
    bound = await mapper.publish(command(request(80, 8080)))
    state = host.state()
    host.failures = 3
    with pytest.raises(Unavailable, match="firewall"):
        await mapper.publish(command(request(81, 8081), bound=bound))
    host.failures = 3
    with pytest.raises(Unavailable, match="firewall"):
        await mapper.unpublish(A)
    host.failures = 0
    assert host.state() == state
    await mapper.publish(command(request(81, 8081), sandbox=B))


async def test_firewall_that_lost_everything_is_mended_on_the_way(mapper, host):
    await mapper.publish(command(request(80, 8080)))
    host.elements.clear()
    host.failures = 1
    await mapper.publish(command(request(80, 8081), sandbox=B))
    assert sorted(map(str, host.elements)) == ["0.0.0.0:8080/tcp", "0.0.0.0:8081/tcp"]


async def test_change_is_finished_though_the_caller_gives_up(mapper, host):
    host.gate = asyncio.Event()
    task = asyncio.create_task(mapper.publish(command(request(80, 8080))))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    host.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert host.bound() == ["0.0.0.0:8080/tcp", "[::]:8080/tcp"]
    await mapper.unpublish(A)
    assert host.state() == ([], {}, {})


async def test_port_that_is_being_changed_is_nobody_elses(mapper, host):
    host.gate = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(mapper.publish(command(request(80, 8080))))
        await asyncio.sleep(0)
        with pytest.raises(Conflict):
            await mapper.publish(command(request(80, 8080), sandbox=B))
        host.gate.set()


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EADDRNOTAVAIL, Invalid),
        (errno.EACCES, Forbidden),
        (errno.EMFILE, Exhausted),
        (errno.EAFNOSUPPORT, Unsupported),
        (errno.EIO, Unavailable),
    ],
)
async def test_what_the_kernel_refuses_is_told_in_our_words(mapper, host, number, error):
    host.foreign[Place("tcp", V4, 8080)] = number
    asked = [request(80, 8080, host_ip=ip_address("10.0.0.9"))]
    with pytest.raises(error, match=r"10\.0\.0\.9"):
        await mapper.publish(command(*asked))
    with pytest.raises(error, match=r"10\.0\.0\.9"):
        await mapper.check(CheckPorts(sandbox_id=A, label="a", requests=asked))
    assert host.state() == ([], {}, {})


async def test_automatic_choice_gives_up_after_so_many_attempts(mapper, host):
    for port in range(40000, 40003):
        host.foreign[Place("tcp", V4, port)] = errno.EADDRINUSE
    with pytest.raises(Exhausted, match="after 3 attempts"):
        await mapper.publish(command(request()))
    del host.foreign[Place("tcp", V4, 40002)]
    assert (await mapper.publish(command(request())))[0].host_port == 40002


async def test_unknown_protocols_and_addressless_sandboxes_are_refused(mapper):
    for asked in (request(protocol="sctp"), request(80, 8080, protocol="sctp")):
        with pytest.raises(Unsupported, match=r"port 80/sctp cannot be published: this kernel has no sctp"):
            await mapper.publish(command(request(81), asked))
        with pytest.raises(Unsupported, match="80/sctp"):
            await mapper.check(CheckPorts(sandbox_id=A, label="a", requests=[request(81), asked]))
    with pytest.raises(Invalid, match="has no address"):
        await mapper.publish(command(request(), ipv4=None))


async def test_check_sees_sandboxes_processes_and_full_ranges(mapper, host):
    await mapper.publish(command(request(80, 8080)))
    host.foreign[Place("tcp", V4, 8081)] = errno.EADDRINUSE

    def check(*requests, sandbox=B):
        return mapper.check(CheckPorts(sandbox_id=sandbox, label="b", requests=list(requests)))

    before = host.state()
    await check(request(80, 8080), sandbox=A)
    await check(request(80, 8082), request(80))
    with pytest.raises(Conflict, match="taken by sandbox 'a'"):
        await check(request(80, 8080))
    with pytest.raises(Conflict, match="taken by nginx"):
        await check(request(80, 8081))
    assert host.state() == before


async def test_sandbox_may_widen_and_narrow_its_own_port(mapper, host):
    one, two = ip_address("10.0.0.1"), ip_address("10.0.0.2")
    await mapper.publish(command(request(80, 8080)))
    await mapper.publish(command(request(80, 8080, host_ip=one), request(80, 8080, host_ip=two)))
    assert host.bound() == ["10.0.0.1:8080/tcp", "10.0.0.2:8080/tcp"]
    state = host.state()
    host.foreign[Place("tcp", V6, 8080)] = errno.EADDRINUSE
    with pytest.raises(Conflict):
        await mapper.publish(command(request(80, 8080)))
    assert host.state() == state
    host.foreign.clear()
    await mapper.publish(command(request(80, 8080)))
    assert host.bound() == ["0.0.0.0:8080/tcp", "[::]:8080/tcp"]


async def test_process_begun_anew_takes_over_what_the_kernel_holds(mapper, host):
    mine = await mapper.publish(command(request()))
    its = await mapper.publish(command(request(), sandbox=B, ipv4="172.28.0.3"))
    mapper.close()
    elements = dict(host.elements)
    again = new_mapper(host)
    await again.take_over()
    with pytest.raises(Conflict, match=f"taken by sandbox {B[:12]}"):
        await again.publish(command(request(80, 40001), sandbox="c" * 64))
    service = Service(again, host)
    slice = PortSlice(clock=1, published=[command(bound=mine)])
    done = await service.converge(slice)
    assert (done.closed, done.published, done.problems) == ((B,), (A,), ())
    assert host.bound() == ["0.0.0.0:40000/tcp", "[::]:40000/tcp"]
    assert host.elements == {place: found for place, found in elements.items() if found.owner == A}
    assert done.lines() == [f"closed the ports of sandbox {B}", f"published the ports of sandbox {A}"]
    assert (await service.converge(slice)).lines() == []
    assert its[0].host_port == 40001


async def test_slice_older_than_a_command_changes_nothing_of_it(mapper, host):
    service = Service(mapper, host)
    service.asking()
    bound = await mapper.publish(command(request(80, 8080)))
    old = PortSlice(clock=1)
    for _ in range(3):
        assert (await service.converge(old)).lines() == []
        service.asking()
    assert (await service.converge(PortSlice(clock=2, published=[command(bound=bound)]))).lines() == []
    assert (await service.converge(PortSlice(clock=3, busy=[A]))).lines() == []
    service.asking()
    assert (await service.converge(PortSlice(clock=4))).closed == (A,)


async def test_problem_of_one_sandbox_does_not_keep_others_from_converging(mapper, host):
    mine = await mapper.publish(command(request(80, 8080)))
    its = await mapper.publish(command(request(80, 8081), sandbox=B))
    mapper.close()
    host.foreign[Place("tcp", V4, 8080)] = errno.EADDRINUSE
    again = new_mapper(host)
    await again.take_over()
    wanted = PortSlice(clock=1, published=[command(bound=mine), command(bound=its, sandbox=B)])
    done = await Service(again, host).converge(wanted)
    assert done.published == (B,)
    assert "taken by nginx" in done.lines()[-1]
    assert len(host.elements) == 2, "translation goes on"


async def test_routes_are_ordered_by_sandbox(mapper):
    found = {route.command.__name__: route for route in routes(mapper)}
    assert sorted(found) == ["CheckPorts", "PublishPorts", "UnpublishPorts"]
    assert found["PublishPorts"].order_by(command()) == A
    reply = await found["PublishPorts"].handler(command(request(80, 8080)))
    assert [binding.host_port for binding in reply.ports] == [8080, 8080]


def test_of_very_many_steps_the_first_are_told_and_how_many_more():
    places = [Place("tcp", V4, number) for number in range(1000, 1060)]
    steps = [Translate(place, Translation(Target(IPv4Address("172.28.0.2"), 80), A)) for place in places]
    told = Convergence(repaired=(Remake(), *steps)).differences(PortSlice(clock=1, published=[command()]))
    assert len(told) == SHOWN + 1
    assert (told[0].about, told[0].id, told[-1].value) == ("the node's firewall", "", "and 11 more")
    assert told[1].id == A
    assert all(each.repaired for each in told)
