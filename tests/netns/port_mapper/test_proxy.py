"""The sockets that keep ports, and what the proxy does on them."""

import asyncio
import contextlib
import socket
from ipaddress import ip_address

import pytest

from cnm.kernel import netns
from cnm_port_mapper.binding import Place, Seat, Target
from cnm_port_mapper.config import Settings
from cnm_port_mapper.proxy import Proxy
from cnm_port_mapper.reserve import BoundSockets

LOOPBACK = ip_address("127.0.0.1")


@pytest.fixture
def box(host, shell):
    """The host, its loopback up."""
    shell.run(host, "ip", "link", "set", "lo", "up")
    return host


@contextlib.asynccontextmanager
async def proxying(**settings):
    async with asyncio.TaskGroup() as tasks:
        proxy = Proxy(tasks, Settings(**settings))
        try:
            yield proxy
        finally:
            proxy.close()


def open_at(box, place):
    sockets = BoundSockets()
    with netns.inside(box):
        return sockets, sockets.open(Seat((place,)))


def client(box, kind, port, timeout=2.0):
    made = netns.open_socket(box, socket.AF_INET, kind)
    made.settimeout(timeout)
    try:
        made.connect(("127.0.0.1", port))
    except OSError:
        made.close()
        raise
    return made


def test_nobody_is_accepted_until_admitted(box):
    sockets, bound = open_at(box, Place("tcp", LOOPBACK, 8080))
    with contextlib.closing(bound):
        with pytest.raises(TimeoutError):
            client(box, socket.SOCK_STREAM, 8080, timeout=0.2)
        sockets.admit(bound)
        client(box, socket.SOCK_STREAM, 8080).close()
        sockets.hold(bound)
        with pytest.raises(TimeoutError):
            client(box, socket.SOCK_STREAM, 8080, timeout=0.2)


def test_two_may_not_have_one_port(box):
    for protocol in ("tcp", "udp"):
        _, bound = open_at(box, Place(protocol, LOOPBACK, 8080))
        with contextlib.closing(bound), pytest.raises(OSError, match="in use"):
            open_at(box, Place(protocol, ip_address("0.0.0.0"), 8080))


async def test_quietest_udp_session_gives_way(box):
    place = Place("udp", LOOPBACK, 5353)
    sockets, bound = open_at(box, place)
    with (
        contextlib.closing(bound),
        netns.open_socket(box, socket.AF_INET, socket.SOCK_DGRAM) as server,
        contextlib.ExitStack() as stack,
    ):
        server.bind(("127.0.0.1", 53))
        server.setblocking(False)
        loop = asyncio.get_running_loop()
        async with proxying(udp_sessions=3) as proxy:
            with netns.inside(box):  # a session's socket is of the namespace of the loop's thread
                proxy.serve(Seat((place,)), bound, (Target(LOOPBACK, 53),))
                sockets.admit(bound)
                peers = []
                for number in range(5):
                    near = stack.enter_context(client(box, socket.SOCK_DGRAM, 5353))
                    near.send(str(number).encode())
                    said, peer = await loop.sock_recvfrom(server, 100)
                    assert said == str(number).encode()
                    peers.append(peer)
                    assert proxy.sessions == min(number + 1, 3)
            assert len(set(peers)) == 5
            proxy.stop(Seat((place,)))
            assert proxy.sessions == 0


async def test_stopping_ends_what_goes_through_the_port(box):
    place = Place("tcp", LOOPBACK, 8080)
    sockets, bound = open_at(box, place)
    loop = asyncio.get_running_loop()
    with contextlib.closing(bound), netns.open_socket(box, socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 80))
        server.listen()
        server.setblocking(False)
        async with proxying() as proxy:
            with netns.inside(box):
                proxy.serve(Seat((place,)), bound, (Target(LOOPBACK, 80),))
                sockets.admit(bound)
                near = client(box, socket.SOCK_STREAM, 8080)
                far, _ = await loop.sock_accept(server)
            with near, far:
                near.setblocking(False)
                near.send(b"hello")
                assert await loop.sock_recv(far, 100) == b"hello"
                proxy.stop(Seat((place,)))
                assert await loop.sock_recv(near, 100) == b""
                assert await loop.sock_recv(far, 100) == b""
