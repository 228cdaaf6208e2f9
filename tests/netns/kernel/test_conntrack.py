"""Tracked connections of real flows, found and forgotten."""

import contextlib
import ipaddress
import socket

import pytest

from cnm.kernel import netns
from cnm.kernel.conntrack import Conntrack, delete_by_address, delete_udp_by_host_port
from cnm.kernel.nft import Nft
from cnm.kernel.rtnl import AddAddress, Rtnl, SetLink

address = ipaddress.ip_address

# A map for UDP from port 5000, whatever the address, to 10.7.0.9:9000 and [fd00:7::9]:9000.
RULES = """
add table inet t
add chain inet t out { type nat hook output priority -100; }
add rule inet t out udp dport 5000 dnat ip to 10.7.0.9:9000
add rule inet t out udp dport 5000 dnat ip6 to [fd00:7::9]:9000
add chain inet t watch { type filter hook output priority 0; }
add rule inet t watch ct state new counter
"""
# On loopback, where nothing is sent unasked, such as IGMP.
ADDRESSES = ("10.7.0.1/32", "10.7.0.2/32", "10.7.0.9/32", "fd00:7::1/128", "fd00:7::9/128")


@pytest.fixture
def tracked(host, shell, wait_for):
    """A namespace whose kernel follows connections, with the addresses above."""
    with Rtnl.open(host) as rtnl:
        rtnl.send(SetLink(1, up=True), *(AddAddress(1, ipaddress.ip_interface(each)) for each in ADDRESSES))
    with Nft(host) as nft:
        nft.run(RULES)
    # An IPv6 address has its route a moment after it is there (addrconf_dad_work), and what is translated to it
    # before is dropped without a word: such a packet leaves no flow.
    wanted = {each.partition("/")[0] for each in ADDRESSES if ":" in each}
    wait_for(lambda: wanted <= {each["dst"] for each in shell.ip(host, "-6", "route", "show", "table", "local")})
    return host


@pytest.fixture
def send(tracked):
    """Send a datagram by a socket that stays open, so that its flow can go on."""
    with contextlib.ExitStack() as stack:

        def once(target, port, *, kind=socket.SOCK_DGRAM, source=None):
            family = socket.AF_INET6 if ":" in target else socket.AF_INET
            opened = stack.enter_context(netns.open_socket(tracked, family, kind))
            if source:
                opened.bind((source, 0))
            opened.sendto(b"x", (target, port))
            return opened

        yield once


def targets(conntrack, version=4):
    return sorted(
        (str(each.original.destination), each.original.destination_port) for each in conntrack.connections(version)
    )


def test_flow_is_told_in_both_directions(tracked, send):
    client = send("10.7.0.1", 5000, source="10.7.0.2")
    with Conntrack(tracked) as conntrack:
        (found,) = conntrack.connections(4)
    assert (str(found.original.source), found.original.source_port) == ("10.7.0.2", client.getsockname()[1])
    assert (str(found.original.destination), found.original.destination_port) == ("10.7.0.1", 5000)
    assert (str(found.reply.source), found.reply.source_port) == ("10.7.0.9", 9000)
    assert found.original.protocol == 17


def test_flows_to_a_host_port_are_forgotten_and_no_others(tracked, send):
    for where, port in (("10.7.0.1", 5000), ("10.7.0.2", 5000), ("10.7.0.1", 5001), ("10.7.0.9", 9000)):
        send(where, port)
    send("fd00:7::1", 5000)
    with Conntrack(tracked) as conntrack:
        assert len(targets(conntrack)) == 4
        assert conntrack.delete_udp_by_host_port(5000, address("10.7.0.2")) == 1
        assert targets(conntrack) == [("10.7.0.1", 5000), ("10.7.0.1", 5001), ("10.7.0.9", 9000)]
        assert conntrack.delete_udp_by_host_port(5000, family=6) == 1
        assert targets(conntrack, 6) == []
        assert conntrack.delete_udp_by_host_port(5000) == 1
        assert conntrack.delete_udp_by_host_port(5000) == 0
        # 9000 is where NAT leads, not a host port that was asked for, save once directly.
        assert targets(conntrack) == [("10.7.0.1", 5001), ("10.7.0.9", 9000)]


def test_flows_to_many_ports_are_forgotten_by_one_look(tracked, send):
    with Conntrack(tracked) as conntrack:
        for target, port in (("10.7.0.1", 5000), ("10.7.0.2", 5000), ("fd00:7::1", 5000), ("10.7.0.1", 5001)):
            send(target, port)
        send("10.7.0.9", 9000)  # where the others are led: the original destination counts
        some = [(5000, address("10.7.0.2"), 4), (5001, address("10.7.0.2"), 4), (9, None, 4)]
        assert conntrack.delete_sent_to(17, some) == 1
        assert targets(conntrack) == [("10.7.0.1", 5000), ("10.7.0.1", 5001), ("10.7.0.9", 9000)]
        assert conntrack.delete_sent_to(17, [(5000, None, 4), (5001, None, 4)]) == 2
        assert targets(conntrack) == [("10.7.0.9", 9000)]
        assert targets(conntrack, 6) == [("fd00:7::1", 5000)]
        assert conntrack.delete_sent_to(17, [(5000, None, 6)]) == 1
        assert conntrack.delete_sent_to(17, []) == 0


def test_forgotten_flow_follows_the_new_rules(tracked, send):
    with (
        netns.open_socket(tracked, socket.AF_INET, socket.SOCK_DGRAM) as old,
        netns.open_socket(tracked, socket.AF_INET, socket.SOCK_DGRAM) as new,
    ):
        old.bind(("10.7.0.9", 9000))
        new.bind(("10.7.0.1", 5000))
        for each in (old, new):
            each.settimeout(2)
        client = send("10.7.0.1", 5000)
        assert old.recv(8) == b"x"
        with Nft(tracked) as nft:
            nft.run("flush chain inet t out")
        client.sendto(b"still", ("10.7.0.1", 5000))
        assert old.recv(8) == b"still"
        assert delete_udp_by_host_port(5000, namespace=tracked) == 1
        client.sendto(b"new", ("10.7.0.1", 5000))
        assert new.recv(8) == b"new"


def test_connections_of_an_address_are_forgotten_before_and_after_nat(tracked, send):
    send("10.7.0.1", 5000)
    send("10.7.0.9", 80)
    send("10.7.0.1", 81, source="10.7.0.2")
    assert delete_by_address(address("10.7.0.9"), namespace=tracked) == 2
    with Conntrack(tracked) as conntrack:
        assert targets(conntrack) == [("10.7.0.1", 81)]
        assert conntrack.delete_by_address(address("10.7.0.2")) == 1
        assert conntrack.delete_by_address(address("fd00:7::9")) == 0


def test_tcp_to_the_same_port_stays(tracked, send):
    with netns.open_socket(tracked, socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("10.7.0.1", 5000))
        server.listen()
        with netns.open_socket(tracked, socket.AF_INET, socket.SOCK_STREAM) as client:
            client.connect(("10.7.0.1", 5000))
            assert delete_udp_by_host_port(5000, namespace=tracked) == 0
            with Conntrack(tracked) as conntrack:
                assert targets(conntrack) == [("10.7.0.1", 5000)]


def test_many_flows_are_forgotten(tracked, send):
    sender = send("10.7.0.1", 1)
    for port in range(10000, 10600):
        sender.sendto(b"x", ("10.7.0.1", port))
    with Conntrack(tracked) as conntrack:
        assert conntrack.delete_by_address(address("10.7.0.1")) == 601
        assert conntrack.connections(4) == []
