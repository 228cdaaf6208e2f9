"""Who holds a port, in a namespace of the test's own."""

import ipaddress
import os
import socket
from pathlib import Path

import pytest

from cnm.kernel import netns, sockdiag
from cnm.kernel.rtnl import Rtnl, SetLink
from cnm.kernel.sockdiag import find_holder, listening

address = ipaddress.ip_address


@pytest.fixture
def held(host):
    """Bind a socket in the namespace."""
    opened = []
    with Rtnl.open(host) as rtnl:
        rtnl.send(SetLink(1, up=True))

    def hold(family, kind, where, port, protocol=0):
        each = netns.open_socket(host, family, kind, protocol)
        opened.append(each)
        each.bind((where, port))
        if kind == socket.SOCK_STREAM:
            each.listen()

    yield hold
    for each in opened:
        each.close()


def find(host, *question):
    with netns.inside(host):
        return find_holder(*question)


def test_holder_is_named(host, held):
    held(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", 8080)
    holder = find(host, "tcp", address("127.0.0.1"), 8080)
    assert holder.pid == os.getpid()
    assert holder.command == Path("/proc/self/comm").read_text().strip()
    assert find(host, "tcp", None, 8080) == holder
    assert find(host, "tcp", address("0.0.0.0"), 8080) == holder
    assert find(host, "tcp", address("127.0.0.2"), 8080) is None
    assert find(host, "tcp", address("127.0.0.1"), 8081) is None
    assert find(host, "udp", address("127.0.0.1"), 8080) is None
    assert find(host, "sctp", None, 8080) is None


def test_holder_that_is_not_to_be_seen_is_named_by_its_user(host, held, monkeypatch, tmp_path):
    monkeypatch.setattr(sockdiag, "PROC", tmp_path)
    held(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", 8080)
    assert str(find(host, "tcp", None, 8080)) == f"a process of user {os.getuid()}"
    assert find(host, "tcp", None, 8081) is None


def test_wildcards_hold_every_address(host, held):
    held(socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0", 53)
    held(socket.AF_INET6, socket.SOCK_STREAM, "::", 80)
    assert find(host, "udp", address("127.0.0.1"), 53)
    assert find(host, "udp", address("::1"), 53) is None
    assert find(host, "tcp", address("127.0.0.1"), 80)
    assert find(host, "tcp", address("::1"), 80)


def test_ipv6_address_is_read(host, held):
    held(socket.AF_INET6, socket.SOCK_STREAM, "::1", 443)
    assert find(host, "tcp", address("::1"), 443)
    assert find(host, "tcp", address("fd00::1"), 443) is None


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_connection_holds_the_port_that_it_came_from(host, held, kind):
    held(socket.AF_INET, kind, "127.0.0.1", 8080)
    protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
    with netns.open_socket(host, socket.AF_INET, kind) as client:
        client.connect(("127.0.0.1", 8080))
        port = client.getsockname()[1]
        holder = find(host, protocol, None, port)
        assert str(holder).endswith(f"(pid {os.getpid()}) for a connection that it made")
        assert find(host, protocol, None, 8080).listens
    assert find(host, protocol, None, port) is None


def test_holder_of_an_sctp_port_is_named(host, held):
    try:
        held(socket.AF_INET6, socket.SOCK_STREAM, "::", 3868, socket.IPPROTO_SCTP)
        held(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", 3869, socket.IPPROTO_SCTP)
    except OSError as error:
        pytest.skip(f"this kernel has no SCTP (modprobe sctp): {error}")
    for where in (None, address("127.0.0.1"), address("::1")):
        assert find(host, "sctp", where, 3868).pid == os.getpid()
    assert find(host, "sctp", address("127.0.0.1"), 3869).pid == os.getpid()
    assert find(host, "sctp", address("::1"), 3869) is None
    assert find(host, "tcp", None, 3868) is None
    with netns.inside(host):
        assert listening("sctp", 3868) == [address("::")]


def test_ports_of_other_namespaces_are_not_seen(host, container, held):
    held(socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0", 8080)
    assert find(container, "tcp", None, 8080) is None
