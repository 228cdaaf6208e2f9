"""How networks are reached from outside, by their options; "outside" is another machine on the node's LAN."""

import json

import pytest

BRIDGE = "com.docker.network.bridge."
MODE4, MODE6 = f"{BRIDGE}gateway_mode_ipv4", f"{BRIDGE}gateway_mode_ipv6"
TRUSTED = f"{BRIDGE}trusted_host_interfaces"


@pytest.fixture
def outside(installation, lan, api):
    """The LAN's other machine, as a box to fetch from, that routes our networks to the node."""
    installation.sh(f"ip route add 10.0.0.0/8 via {installation.node_address}", at=lan)
    return {"key": lan}


@pytest.fixture
def served(api, make, traffic):
    """Make a network of some options with a sandbox on it that serves ports 80, published, and 81."""
    numbers = iter(range(60, 90))

    def make_one(*, ports=({"container_port": 80},), **fields):
        subnet = f"10.{next(numbers)}.0.0/24"
        network = make.network(ipam={"pools": [{"subnet": subnet}]}, **fields)
        box = make.sandbox(ports=list(ports))
        for port in (80, 81):
            traffic.serve(box, port, "it ")
        endpoint = make.connect(box, network)
        shown = api.ask("sandbox.get", {"sandbox": box["id"]})
        return network, shown, endpoint["ipv4_address"].split("/")[0]

    return make_one


def test_nat_keeps_outsiders_from_endpoints_and_says_why(api, served, traffic, outside):
    network, _, address = served()
    assert traffic.fetch(address, 80).startswith("it ")
    assert traffic.fetch(address, 80, outside, patience_s=1) is None
    (drops,) = [each for each in api.ask("network.drops", {"network": network["id"]})["drops"] if each["packets"]]
    assert (drops["node"], drops["reason"]) == (api.node, "direct")
    assert "outside" in drops["about"]
    assert drops["bytes"] >= drops["packets"] * 40


def test_routed_ports_are_open_and_shown_without_a_host_port(api, make, served, traffic, outside):
    ports = [
        {"container_port": 80, "host_port": 18080},
        {"container_port": 90, "container_port_end": 92, "protocol": "udp"},
    ]
    network, box, address = served(options={MODE4: "routed"}, ports=ports)
    assert traffic.fetch(address, 80, outside).startswith("it ")
    assert traffic.fetch(address, 81, outside, patience_s=1) is None
    assert api.sh(f"ping -c 1 -W 2 {address}", outside["key"])
    everywhere = {"host_ip": "0.0.0.0", "host_port": None, "container_ip": address}
    assert box["ports"] == [
        {"container_port": 80, "protocol": "tcp", **everywhere},
        {"container_port": 90, "container_port_end": 92, "protocol": "udp", **everywhere},
    ]
    assert traffic.fetch("127.0.0.1", 18080, patience_s=1) is None, "routed ports are not mapped"
    neighbour = make.sandbox(on=[make.network()])
    assert traffic.fetch(address, 80, neighbour).startswith("it ")
    assert traffic.fetch(address, 81, neighbour, patience_s=1) is None
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": network["id"]})
    assert address not in api.sh("nft list table inet cnm_filter")
    assert api.ask("sandbox.get", {"sandbox": box["id"]})["ports"] == []


def test_a_routed_network_opens_ports_although_another_leads_out(api, make, served, traffic, outside):
    _, box, address = served(options={MODE4: "routed"}, ports=[{"container_port": 80, "host_port": 18081}])
    make.connect(box, make.network(), gw_priority=10)
    shown = api.ask("sandbox.get", {"sandbox": box["id"]})["ports"]
    assert {(each["host_port"], each["container_ip"] == address) for each in shown} == {(18081, False), (None, True)}
    assert traffic.fetch("127.0.0.1", 18081).startswith("it ")
    assert traffic.fetch(address, 80, outside).startswith("it ")


def test_nat_unprotected_is_open_to_all_and_still_maps_ports(served, traffic, outside, api):
    _, box, address = served(options={MODE4: "nat-unprotected"}, ports=[{"container_port": 80, "host_port": 18082}])
    for port in (80, 81):
        assert traffic.fetch(address, port, outside).startswith("it ")
    assert traffic.fetch("127.0.0.1", 18082).startswith("it ")
    assert [each["host_port"] for each in box["ports"]] == [18082, 18082]


def test_a_trusted_links_neighbours_reach_published_ports(served, traffic, outside):
    *_, address = served(options={TRUSTED: "uplink0:wg0"})
    *_, distrusting = served(options={TRUSTED: "wg0"})
    assert traffic.fetch(address, 80, outside).startswith("it ")
    assert traffic.fetch(address, 81, outside, patience_s=1) is None
    assert traffic.fetch(distrusting, 80, outside, patience_s=1) is None


def test_endpoints_are_seen_as_the_networks_own_address(installation, api, make, traffic, outside, lan):
    api.sh("ip addr add 198.51.100.77/32 dev lo")
    installation.sh(f"ip route add 198.51.100.77 via {installation.node_address}", at=lan)
    traffic.serve(outside, 7100, "")
    plain, translated = make.network(), make.network(options={"com.docker.network.host_ipv4": "198.51.100.77"})
    shown = make.network(
        options={f"{BRIDGE}enable_ip_masquerade": "false"}, ipam={"pools": [{"subnet": "10.99.0.0/24"}]}
    )
    seen = [
        traffic.fetch(installation.lan_address, 7100, make.sandbox(on=[network]))
        for network in (plain, translated, shown)
    ]
    assert seen == [installation.node_address, "198.51.100.77", "10.99.0.2"]
    api.sh("ip addr del 198.51.100.77/32 dev lo")
    traffic.end()  # or the LAN's namespace outlives it


def test_an_isolated_network_leaves_the_node_out_and_uses_every_address(api, make):
    network = make.network(
        internal=True, enable_ipv6=True, options={MODE4: "isolated", MODE6: "isolated"},
        ipam={"pools": [{"subnet": "10.98.0.0/31"}, {"subnet": "fd00:98::/64"}]},
    )  # fmt: skip
    assert [pool["gateway"] for pool in network["ipam"]["pools"]] == [None, None]
    one, two = make.sandbox(on=[network]), make.sandbox(on=[network])
    addresses = {box["endpoints"][0]["ipv4_address"] for box in (one, two)}
    assert addresses == {"10.98.0.0/31", "10.98.0.1/31"}
    api.sh(f"ping -c 1 -W 2 {two['endpoints'][0]['ipv4_address'].split('/')[0]}", one["key"])
    api.sh(f"ping -6 -c 1 -W 2 {two['endpoints'][0]['ipv6_address'].split('/')[0]}", one["key"])
    (bridge,) = api.ip(f"addr show dev br-{network['id'][:12]}")
    assert bridge["addr_info"] == []


def test_another_gateway_than_the_bridge_can_be_named(api, make):
    pool = {"subnet": "10.97.0.0/24", "aux_addresses": {"DefaultGatewayIPv4": "10.97.0.99"}}
    network = make.network(ipam={"pools": [pool]})
    box = make.sandbox(on=[network])
    (endpoint,) = box["endpoints"]
    assert endpoint["gateway_ipv4"] == "10.97.0.99"
    assert json.loads(api.sh("ip -j route show default", box["key"]))[0]["gateway"] == "10.97.0.99"
    assert network["ipam"]["pools"][0]["gateway"] == "10.97.0.1"
    (bridge,) = api.ip(f"addr show dev br-{network['id'][:12]}")
    assert [each["local"] for each in bridge["addr_info"] if each["family"] == "inet"] == ["10.97.0.1"]


def test_an_ipv6_only_network_works_end_to_end(api, make, traffic):
    network = make.network(enable_ipv4=False, enable_ipv6=True)
    box = make.sandbox(ports=[{"container_port": 80, "host_port": 18083}])
    traffic.serve(box, 80, "six ")
    endpoint = make.connect(box, network)
    assert endpoint["ipv4_address"] is None
    other = make.sandbox(on=[network])
    address = endpoint["ipv6_address"].split("/")[0]
    assert traffic.resolve(other, box["name"], 28) == (0, [address])
    assert traffic.resolve(other, box["name"]) == (0, [])
    assert traffic.fetch(address, 80, other).startswith("six ")
    assert traffic.fetch("::1", 18083).startswith("six ")
    assert api.ip("-4 addr show dev eth0", box["key"]) in ([], [{}])


OPTIONS_AT_FAULT = {
    MODE4: "isolated",
    MODE6: "routed",
    "com.docker.network.host_ipv4": "fd00::1",
    "com.docker.network.host_ipv6": "2001:db8::1",
    TRUSTED: "eth0::wg0",
    "com.docker.network.advertise_addr_nmsgs": "4",
    "com.docker.network.advertise_addr_ms": "soon",
    "colour": "red",
}


def test_all_faults_of_options_come_at_once(api):
    with api.unchanged():
        error = api.refused("network.create", {"name": api.name(), "options": OPTIONS_AT_FAULT}, "invalid")
    assert {fault["field"] for fault in error["details"]["fields"]} == {
        f"options.{name}" for name in OPTIONS_AT_FAULT
    }


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"options": {MODE4: "isolated"}}, MODE4),
        ({"options": {MODE6: "nat"}}, MODE6),
        ({"options": {"com.docker.network.host_ipv4": "192.0.2.1", MODE4: "routed"}}, "com.docker.network.host_ipv4"),
        (
            {"options": {"com.docker.network.host_ipv4": "192.0.2.1", f"{BRIDGE}enable_ip_masquerade": "false"}},
            "com.docker.network.host_ipv4",
        ),
        (
            {"internal": True, "options": {"com.docker.network.host_ipv4": "192.0.2.1"}},
            "com.docker.network.host_ipv4",
        ),
        ({"internal": True, "options": {TRUSTED: "eth0"}}, TRUSTED),
    ],
)
def test_options_that_contradict_are_invalid(api, fields, at_fault):
    with api.unchanged():
        error = api.refused("network.create", {"name": api.name(), **fields}, "invalid")
    assert [fault["field"] for fault in error["details"]["fields"]] == [f"options.{at_fault}"]


def test_what_had_to_be_set_on_the_node_is_said(own_api):
    api = own_api

    def said(reply):
        return [each for each in reply.get("warnings", ()) if "was set" in each]

    assert "ip_forward" not in str(said(api.ask("network.create", {"name": "closed", "internal": True})))
    (first,) = said(api.ask("network.create", {"name": "open"}))
    assert "net.ipv4.ip_forward=1" in first
    assert said(api.ask("network.create", {"name": "more"})) == [], "it is set already"
    changed = api.ask("network.update", {"network": "open", "add_pools": [{"subnet": "fd00:77::/64"}]})
    assert "net.ipv6.conf.all.forwarding=1" in said(changed)[0]
    assert "warnings" not in api.ask("network.get", {"network": "open"})
