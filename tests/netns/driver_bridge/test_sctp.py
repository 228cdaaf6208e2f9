"""SCTP through the bridge driver's rules, on a kernel that has it."""

import socket

import pytest

from cnm.kernel import netns
from cnm.messages.bridge import OpenPort

LAN = "192.0.2.9"
PORT = 3868


@pytest.fixture
def listen():
    """Listen in a namespace on an IPv4 port."""
    opened = []

    def make(path, port=PORT):
        try:
            opened.append(netns.open_socket(path, socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP))
        except OSError as error:
            pytest.skip(f"this kernel has no SCTP (modprobe sctp): {error}")
        opened[-1].settimeout(5)
        opened[-1].bind(("0.0.0.0", port))
        opened[-1].listen(16)
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def seen_as(listener, path, address, port=PORT):
    """Connect, exchange a message, and return the address that the listener sees; None when nobody answers."""
    with netns.open_socket(path, socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as client:
        client.settimeout(0.7)
        try:
            client.connect((str(address), port))
        except OSError:
            return None
        accepted, peer = listener.accept()
        with accepted:
            client.send(b"hello")
            assert accepted.recv(100) == b"hello"
        return peer[0]


def test_published_ports_of_a_routed_network_are_open_and_no_others(
    driver, make_network, make_attachment, lan, host, listen
):
    point = make_attachment(
        make_network(1, ipv4_mode="routed"), open_ports=[OpenPort(protocol="sctp", first=PORT, last=PORT + 1)]
    )
    driver.plug(point)
    address = point.addresses[0].ip
    for port, seen in ((PORT, LAN), (PORT + 1, LAN), (PORT + 2, None)):
        assert seen_as(listen(point.namespace, port), lan, address, port) == seen
    driver.unplug(point)


def test_an_endpoint_is_masqueraded_and_cannot_be_reached_directly(
    driver, make_network, make_attachment, lan, host, listen
):
    point, other = make_attachment(make_network(1)), make_attachment(make_network(2))
    for each in (point, other):
        driver.plug(each)
    inside = listen(point.namespace)
    assert seen_as(listen(lan), point.namespace, LAN) == "192.0.2.1"
    assert seen_as(inside, host, point.addresses[0].ip) is not None
    for path in (lan, other.namespace):
        assert seen_as(inside, path, point.addresses[0].ip) is None
