"""Bridges that are shared with the node's owner, and rules that are: what is ours goes, what is theirs stays."""

import json
from contextlib import contextmanager

import pytest

from .conftest import wait_for

NAME = "com.docker.network.bridge.name"
INHIBIT = "com.docker.network.bridge.inhibit_ipv4"
MTU = "com.docker.network.driver.mtu"
ICC = "com.docker.network.bridge.enable_icc"
USERS_RULE = "ip daddr 203.0.113.77 drop"


@contextmanager
def link(api, name, kind):
    api.sh(f"ip link add {name} {kind}")
    try:
        yield
    finally:
        api.sh(f"ip link del {name}")


def ipv4_of(api, name):
    (found,) = api.ip(f"addr show dev {name}")
    return [f"{each['local']}/{each['prefixlen']}" for each in found["addr_info"] if each["family"] == "inet"]


def address_of(endpoint):
    return endpoint["ipv4_address"].split("/")[0]


def test_a_users_bridge_serves_and_keeps_what_was_its_own(api, traffic):
    subnet, own, ours = "10.181.0.0/24", "10.182.0.1/24", "10.181.0.1/24"
    with link(api, "br-users", "type bridge"):
        api.sh(f"ip addr add {own} dev br-users")
        fields = {"name": api.name(), "options": {NAME: "br-users"}, "ipam": {"pools": [{"subnet": subnet}]}}
        network = api.ask("network.create", fields)
        boxes = [api.ask("sandbox.create", {"name": api.name("box")}) for _ in range(2)]
        ends = [api.ask("sandbox.connect", {"sandbox": box["id"], "network": network["id"]}) for box in boxes]
        traffic.serve(boxes[0], 80, "it ")
        assert traffic.fetch(address_of(ends[0]), 80, boxes[1]) == f"it {address_of(ends[1])}"
        assert sorted(ipv4_of(api, "br-users")) == [ours, own]
        traffic.end()
        for box in boxes:
            api.ask("sandbox.delete", {"sandbox": box["id"]})
        api.ask("network.delete", {"network": network["id"]})
        assert ipv4_of(api, "br-users") == [own]
        assert network["id"][:12] not in api.sh("nft list ruleset")


def test_an_address_that_a_users_bridge_had_before_us_stays(api):
    with link(api, "br-users", "type bridge"):
        api.sh("ip addr add 10.183.0.1/24 dev br-users")
        pool = {"subnet": "10.183.0.0/24", "gateway": "10.183.0.1"}
        fields = {"name": api.name(), "options": {NAME: "br-users"}, "ipam": {"pools": [pool]}}
        network = api.ask("network.create", fields)
        api.ask("network.delete", {"network": network["id"]})
        assert ipv4_of(api, "br-users") == ["10.183.0.1/24"]


def test_a_device_that_is_no_bridge_is_refused_by_name(api):
    with link(api, "vethmine", "type veth peer name vethother"), api.unchanged():
        fields = {"name": api.name(), "options": {NAME: "vethmine"}}
        api.refused("network.create", fields, "conflict", "vethmine", "veth")


def test_one_bridge_serves_one_network_and_its_holder_is_named(api, make):
    holder = make.network(options={NAME: "br-shared"})
    with api.unchanged():
        fields = {"name": api.name(), "options": {NAME: "br-shared"}}
        api.refused("network.create", fields, "conflict", "br-shared", holder["name"])


def test_an_inhibited_bridge_has_no_ipv4_address_but_peers_do(api, make, traffic):
    plain, inhibited = make.network(), make.network(options={INHIBIT: "true"})
    assert len(ipv4_of(api, f"br-{plain['id'][:12]}")) == 1
    assert ipv4_of(api, f"br-{inhibited['id'][:12]}") == []
    one, two = make.sandbox(), make.sandbox(on=[inhibited])
    address = address_of(make.connect(one, inhibited))
    traffic.serve(one, 80, "it ")
    assert traffic.fetch(address, 80, two).startswith("it ")


def test_an_mtu_is_that_of_the_bridge_and_both_ends_and_a_negative_one_is_none(api, make):
    network = make.network(options={MTU: "1400"})
    box = make.sandbox(on=[network])
    bridge = f"br-{network['id'][:12]}"
    ports = [each for each in json.loads(api.sh("ip -j link show")) if each.get("master") == bridge]
    inside = [each for each in api.ip("link show", box["key"]) if each["ifname"] == "eth0"]
    assert [each["mtu"] for each in (*api.ip(f"link show dev {bridge}"), *ports, *inside)] == [1400] * 3
    with api.unchanged():
        api.refused("network.create", {"name": api.name(), "options": {MTU: "-1"}}, "invalid", "-1")


@pytest.fixture
def users_rule(api):
    """A rule of the node's owner in the chain that is theirs."""
    api.sh(f"nft add rule inet cnm_filter cnm-user {USERS_RULE}")
    yield
    api.sh("nft flush chain inet cnm_filter cnm-user")
    # When this is mended the driver has seen that the rule is gone, and does not bring it back after a flush.
    api.sh("nft flush chain inet cnm_filter loopback-guard")
    wait_for(lambda: "drop" in api.sh("nft list chain inet cnm_filter loopback-guard"))


def test_the_users_chain_survives_networks_and_goes_first(api, users_rule):
    for _ in range(2):
        network = api.ask("network.create", {"name": api.name(), "options": {ICC: "false"}})
        api.ask("network.delete", {"network": network["id"]})
        assert USERS_RULE in api.sh("nft list chain inet cnm_filter cnm-user")
    listed = json.loads(api.sh("nft -j list chain inet cnm_filter forward"))["nftables"]
    first = next(each["rule"] for each in listed if "rule" in each)
    assert first["expr"] == [{"jump": {"target": "cnm-user"}}]


def test_a_flush_by_others_is_repaired_and_isolates_again(api, make, traffic):
    networks = make.network(), make.network(options={ICC: "false"})
    served, stranger, peer = make.sandbox(), make.sandbox(on=[networks[0]]), make.sandbox(on=[networks[1]])
    address = address_of(make.connect(served, networks[1]))
    traffic.serve(served, 80, "it ")
    before = api.rules()
    assert traffic.fetch(address, 80).startswith("it "), "the node reaches it"
    api.sh("nft flush ruleset")
    assert f"br-{networks[1]['id'][:12]}" in " ".join(before)
    wait_for(lambda: api.rules() == before)
    for box in (stranger, peer):
        assert traffic.fetch(address, 80, box, patience_s=1) is None
    assert traffic.fetch(address, 80).startswith("it ")


def test_a_port_of_127_0_0_1_is_not_open_to_neighbours_where_the_node_routes_loopback(
    installation, api, make, traffic, lan
):
    """Other software, such as kube-proxy, turns route_localnet on for all links (modern 3, moby#45610)."""
    network = make.network()
    port = {"container_port": 80, "host_ip": "127.0.0.1", "host_port": 18090}
    everywhere = {"container_port": 80, "host_port": 18091}
    box = make.sandbox(ports=[port, everywhere])
    traffic.serve(box, 80, "it ")
    make.connect(box, network)
    outside = {"key": lan}
    api.sh("sysctl -qw net.ipv4.conf.all.route_localnet=1")
    try:
        installation.sh("sysctl -qw net.ipv4.conf.all.route_localnet=1", at=lan)
        installation.sh("ip addr del 127.0.0.1/8 dev lo; ip route flush table local 127.0.0.0/8", at=lan)
        installation.sh(f"ip route add 127.0.0.1 via {installation.node_address}", at=lan)
        assert traffic.fetch("127.0.0.1", 18090).startswith("it ")
        assert traffic.fetch(installation.node_address, 18091, outside).startswith("it ")
        assert "via" in installation.sh("ip route get 127.0.0.1", at=lan), "it goes out to the node"
        assert traffic.fetch("127.0.0.1", 18090, outside, patience_s=1) is None
        assert traffic.fetch("127.0.0.1", 18091, outside, patience_s=1) is None
    finally:
        api.sh("sysctl -qw net.ipv4.conf.all.route_localnet=0")
