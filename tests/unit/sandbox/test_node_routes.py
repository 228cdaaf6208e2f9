"""Which address is the node's, and its settings."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from cnm.errors import Invalid
from cnm.kernel.address import LinkAddress
from cnm.kernel.link import Link
from cnm.kernel.route import Route
from cnm.settings import from_environment
from cnm_sandbox.config import Settings
from cnm_sandbox.node_routes import MOST, address, used

DEFAULT4 = Route(ip_network("0.0.0.0/0"), gateway=ip_address("192.0.2.1"), index=2)
DEFAULT6 = Route(ip_network("::/0"), gateway=ip_address("fe80::1"), index=2, metric=1024)
ADDRESSES = [
    LinkAddress(1, ip_interface("127.0.0.1/8"), "host"),
    LinkAddress(2, ip_interface("fe80::2/64"), "link"),
    LinkAddress(2, ip_interface("fd00::2/64")),
    LinkAddress(2, ip_interface("192.0.2.2/24")),
    LinkAddress(3, ip_interface("198.51.100.2/24")),
]


@pytest.mark.parametrize(
    ("routes", "found"),
    [
        ([], None),
        ([DEFAULT6, DEFAULT4], "192.0.2.2"),
        ([DEFAULT6], "fd00::2"),
        ([replace(DEFAULT4, metric=100), replace(DEFAULT4, index=3, metric=50)], "198.51.100.2"),
        ([replace(DEFAULT4, source=ip_address("203.0.113.9"))], "203.0.113.9"),
        ([replace(DEFAULT4, index=9), DEFAULT6], "fd00::2"),
        ([Route(ip_network("10.0.0.0/8"), index=2)], None),
        ([replace(DEFAULT4, kind=7)], None),
    ],
)
def test_node_s_address_is_that_of_its_default_route(routes, found):
    assert address(routes, ADDRESSES) == (ip_address(found) if found else None)


def link(index, name, alias=""):
    return Link(index=index, name=name, alias=alias)


def shown(routes, links=(), servers=()):
    return [(str(each.prefix), each.by, each.device) for each in used(routes, links, servers)]


def test_name_servers_and_routes_are_used_and_ours_are_not():
    routes = [
        DEFAULT4,
        Route(ip_network("10.0.0.0/8"), index=2, gateway=ip_address("192.0.2.9")),
        Route(ip_network("10.0.0.0/8"), index=3, metric=50),
        Route(ip_network("172.17.0.0/16"), index=9),
        Route(ip_network("172.18.0.0/16"), index=8),
        Route(ip_network("198.18.0.0/15")),
    ]
    links = [link(2, "eth0"), link(9, "br-1", "cnm:" + "a" * 64), link(8, "br-mine")]
    servers = [ip_address("10.1.1.1"), ip_address("::1"), ip_address("2001:db8::53%eth0")]
    assert shown(routes, links, servers) == [
        ("10.0.0.0/8", "route", None),
        ("10.0.0.0/8", "route via 192.0.2.9 on eth0", "eth0"),
        ("10.1.1.1/32", "name server", None),
        ("172.18.0.0/16", "route on br-mine", "br-mine"),
        ("198.18.0.0/15", "route", None),
        ("2001:db8::53/128", "name server", None),
    ]


@pytest.mark.parametrize("piece", ["0.0.0.0/1", "128.0.0.0/1", "172.0.0.0/7", "::/1", "8000::/1", "2000::/3"])
def test_default_route_in_pieces_is_none(piece):
    assert shown([Route(ip_network(piece), index=2)]) == []


@pytest.mark.parametrize("prefix", ["10.0.0.0/8", "172.16.0.0/12", "fc00::/7", "fd00:1::/64"])
def test_route_to_a_private_prefix_is_one(prefix):
    assert shown([Route(ip_network(prefix), index=2)]) == [(prefix, "route", None)]


def test_unreachable_and_local_routes_use_nothing():
    routes = [Route(ip_network("10.0.0.0/8"), kind=7), Route(ip_network("10.0.0.1/32"), kind=2, table=255)]
    assert shown(routes) == []


def test_settings_come_from_the_worker_s():
    found = Settings.of(from_environment({"CNM_RUN_DIR": "/x", "CNM_NODE_ADDRESS": "198.51.100.7"}))
    assert (found.namespaces, found.directories) == (Path("/x/netns"), Path("/x/sandboxes"))
    assert found.node_address == ip_address("198.51.100.7")
    assert Settings.of(from_environment({})).node_address is None


def test_malformed_address_is_named():
    with pytest.raises(Invalid, match="CNM_NODE_ADDRESS: 'here' is not an IP address"):
        Settings.of(from_environment({"CNM_NODE_ADDRESS": "here"}))


def routes_of(prefix, length, count):
    whole = ip_network(prefix)
    start, step = int(whole.network_address), 1 << whole.max_prefixlen - length
    return [Route(type(whole)((start + index * step, length)), index=2) for index in range(count)]


def test_of_very_many_routes_private_ones_are_told():
    found = shown([*routes_of("20.0.0.0/8", 24, MOST), *routes_of("10.0.0.0/8", 24, 100)], [link(2, "eth0")])
    assert found == [(f"10.0.{index}.0/24", "route on eth0", "eth0") for index in range(100)]


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        (routes_of("10.0.0.0/8", 32, MOST + 1), 257),  # by /28
        (routes_of("10.0.0.0/8", 24, 3 * MOST), 768),  # by /20
        (routes_of("fd00::/8", 128, MOST + 1), 1),  # by /112
    ],
)
def test_of_too_many_private_routes_larger_prefixes_are_told(routes, expected):
    found = shown([*routes, Route(ip_network("172.16.0.0/12"), index=2)], [link(2, "eth0")])
    assert len(found) == expected + 1
    told = {ip_network(prefix) for prefix, by, _ in found if by == "several routes"}
    (length,) = {each.prefixlen for each in told}
    assert all(route.destination.supernet(new_prefix=length) in told for route in routes)
    assert ("172.16.0.0/12", "route on eth0", "eth0") in found
