"""Which address is the node's, and its settings."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from cnm.errors import Invalid
from cnm.kernel.address import LinkAddress
from cnm.kernel.route import Route
from cnm.settings import from_environment
from cnm_sandbox.config import Settings
from cnm_sandbox.node_routes import address, taken

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


def test_name_servers_and_routes_are_taken():
    routes = [DEFAULT4, Route(ip_network("10.0.0.0/8"), index=2), Route(ip_network("172.17.0.0/16"), index=9)]
    servers = [ip_address("10.1.1.1"), ip_address("::1"), ip_address("2001:db8::53%eth0")]
    assert taken(routes, {9}, servers) == [
        ip_network("10.0.0.0/8"), ip_network("10.1.1.1/32"), ip_network("2001:db8::53/128"),
    ]  # fmt: skip


def test_settings_come_from_the_worker_s():
    found = Settings.of(from_environment({"CNM_RUN_DIR": "/x", "CNM_NODE_ADDRESS": "198.51.100.7"}))
    assert (found.namespaces, found.directories) == (Path("/x/netns"), Path("/x/sandboxes"))
    assert found.node_address == ip_address("198.51.100.7")
    assert Settings.of(from_environment({})).node_address is None


def test_malformed_address_is_named():
    with pytest.raises(Invalid, match="CNM_NODE_ADDRESS: 'here' is not an IP address"):
        Settings.of(from_environment({"CNM_NODE_ADDRESS": "here"}))
