"""Sandboxes in the kernel and on disk: names, addresses, gateways, files, adopted namespaces (API 3, 11 and 12)."""

import contextlib
import os
from pathlib import Path

import pytest


def routes(api, key, family=""):
    return [route for route in api.ip(f"{family} route show default", key) if "gateway" in route]


def gateway(api, key, family="-4"):
    (route,) = routes(api, key, family)
    return route["dev"], route["gateway"]


def hosts(api, box):
    lines = Path(api.path(box["hosts_path"])).read_text().splitlines()
    return {tuple(line.split()) for line in lines if line.strip() and not line.startswith("#")}


def test_connect_makes_exactly_what_it_shows(api, make, tidy):
    network = make.network(enable_ipv6=True, options={"com.docker.network.driver.mtu": "1400"})
    box = make.sandbox()
    shown = make.connect(box, network)
    (link,) = [each for each in api.ip("addr show", box["key"]) if each["ifname"] != "lo"]
    assert link["ifname"] == shown["ifname"] == "eth0"
    assert link["address"] == shown["mac_address"]
    assert link["operstate"] == "UP"
    assert link["mtu"] == 1400
    found = {f"{each['local']}/{each['prefixlen']}" for each in link["addr_info"] if each["scope"] == "global"}
    assert found == {shown["ipv4_address"], shown["ipv6_address"]}
    assert not [each for each in link["addr_info"] if each.get("tentative") and each["scope"] == "global"]
    assert gateway(api, box["key"]) == ("eth0", shown["gateway_ipv4"])
    assert gateway(api, box["key"], "-6") == ("eth0", shown["gateway_ipv6"])
    (host,) = api.ip(f"link show {shown['driver_info']['host_ifname']}")
    assert host["ifalias"] == f"cnm:{shown['id']}"
    assert host["master"] == f"br-{network['id'][:12]}"
    assert host["operstate"] == "UP"
    make.end()


def test_bridges_are_named_after_the_network_or_as_asked(api, make, tidy):
    network = make.network(options={"com.docker.network.bridge.name": "br-mine"})
    endpoint = make.connect(make.sandbox(), network)
    assert api.ip(f"link show {endpoint['driver_info']['host_ifname']}")[0]["master"] == "br-mine"
    with api.unchanged():
        body = {"name": api.name(), "options": {"com.docker.network.bridge.name": "br-mine"}}
        api.refused("network.create", body, "conflict", "br-mine", network["name"])
    make.end()


def test_the_predefined_bridge_has_pool_and_device_from_its_first_endpoint_on(api, make):
    (bridge,) = [each for each in api.ask("network.list")["networks"] if each["name"] == "bridge"]
    box = make.sandbox(on=[bridge])
    (endpoint,) = box["endpoints"]
    assert endpoint["ipv4_address"]
    assert api.ip(f"link show {endpoint['driver_info']['host_ifname']}")[0]["master"] == "cnm0"
    (pool,) = api.ask("network.get", {"network": "bridge"})["ipam"]["pools"]
    assert pool["in_use"] >= 2
    assert pool["gateway"] == endpoint["gateway_ipv4"]
    assert gateway(api, box["key"]) == ("eth0", pool["gateway"])


def test_fixed_addresses_are_kept_and_their_holder_is_named(api, make):
    network = make.network(enable_ipv6=True, ipam={"pools": [{"subnet": "10.96.0.0/24"}, {"subnet": "fd00:96::/64"}]})
    box = make.sandbox()
    fixed = {"ipv4_address": "10.96.0.77", "ipv6_address": "fd00:96::77", "mac_address": "02:00:00:00:00:77"}
    shown = make.connect(box, network, **fixed)
    assert shown["ipv4_address"] == "10.96.0.77/24"
    assert shown["ipv6_address"] == "fd00:96::77/64"
    assert shown["mac_address"] == "02:00:00:00:00:77"
    other = make.sandbox()
    with api.unchanged():
        for key in ("ipv4_address", "ipv6_address"):
            body = {"sandbox": other["id"], "network": network["id"], key: fixed[key]}
            api.refused("sandbox.connect", body, "conflict", fixed[key], box["name"])
            body = {"network": network["id"], "name": "x", key: fixed[key]}
            api.refused("endpoint.create", body, "conflict", fixed[key], box["name"])


def test_an_endpoint_that_is_made_again_is_the_same_neighbour(api, make):
    network, box, other = make.network(enable_ipv6=True), make.sandbox(), make.sandbox()
    neighbour = make.connect(other, network)
    first = make.connect(box, network)
    here, there = first["ipv4_address"].split("/")[0], neighbour["ipv4_address"].split("/")[0]
    api.sh(f"ping -c 1 -W 2 {here}", other["key"])
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": network["id"]})
    again = make.connect(box, network)
    kept = ("mac_address", "ipv4_address", "ipv6_address")
    assert {key: again[key] for key in kept} == {key: first[key] for key in kept}
    assert again["id"] != first["id"]
    api.sh(f"ping -c 1 -W 1 {here}", other["key"])
    api.sh(f"ping -c 1 -W 1 {there}", box["key"])
    other_network = make.network()
    assert make.connect(box, other_network)["mac_address"] != first["mac_address"]


def test_an_endpoint_keeps_mac_and_addresses_through_leave_and_join(api, make):
    network, one, two = make.network(enable_ipv6=True), make.sandbox(), make.sandbox()
    made = make.endpoint(network)
    kept = ("mac_address", "ipv4_address", "ipv6_address", "id", "name")
    for box in (one, two, one):
        at = {"network": network["id"], "endpoint": made["id"], "sandbox": box["name"]}
        joined = api.ask("endpoint.join", at)
        assert {key: joined[key] for key in kept} == {key: made[key] for key in kept}
        assert joined["sandbox"] == box["id"]
        (link,) = [each for each in api.ip("link show", box["key"]) if each["ifname"] == "eth0"]
        assert link["address"] == made["mac_address"]
        left = api.ask("endpoint.leave", at)
        assert {key: left[key] for key in kept} == {key: made[key] for key in kept}
        assert (left["state"], left["sandbox"], left["node"], left["ifname"]) == ("created", None, None, None)
        assert left["gateway_ipv4"] is None
        assert left["driver_info"] == {"host_ifname": None}
        assert left["dns_names"] == [made["name"]]
        api.refused("endpoint.leave", at, "not_found", made["name"])
        assert [each["ifname"] for each in api.ip("link show", box["key"])] == ["lo"]


def test_interface_names_are_the_lowest_free_number_or_the_one_asked_for(api, make):
    box = make.sandbox()
    nets = [make.network() for _ in range(5)]
    assert make.connect(box, nets[0])["ifname"] == "eth0"
    assert make.connect(box, nets[1], ifname="front")["ifname"] == "front"
    assert make.connect(box, nets[2])["ifname"] == "eth1"
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": nets[0]["id"]})
    assert make.connect(box, nets[3], ifname="eth2")["ifname"] == "eth2"
    assert make.connect(box, nets[4])["ifname"] == "eth0"
    names = sorted(link["ifname"] for link in api.ip("link show", box["key"]))
    assert names == ["eth0", "eth1", "eth2", "front", "lo"]
    option = {"com.docker.network.endpoint.ifname": "opt0"}
    assert make.connect(box, nets[0], options=option)["ifname"] == "opt0"
    prefixed = make.network(options={"com.docker.network.container_iface_prefix": "lan"})
    assert make.connect(box, prefixed)["ifname"] == "lan0"


def test_the_default_route_follows_priority_then_name_and_moves_when_its_endpoint_leaves(api, make):
    stem = api.name("gw")
    a, b, c = (make.network(f"{stem}-{letter}") for letter in "abc")
    box = make.sandbox()

    def leader():
        shown = api.ask("sandbox.get", {"sandbox": box["id"]})
        by_id = {each["id"]: each for each in shown["endpoints"]}
        endpoint = by_id[shown["gateway_ipv4"]]
        assert gateway(api, box["key"]) == (endpoint["ifname"], endpoint["gateway_ipv4"])
        return endpoint["network"]

    make.connect(box, b)
    assert leader() == b["id"]
    make.connect(box, c)
    assert leader() == b["id"], "ties go by network name"
    make.connect(box, a)
    assert leader() == a["id"], "ties go by network name"
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": c["id"]})
    make.connect(box, c, gw_priority=1)
    assert leader() == c["id"], "the highest priority first"
    for network, rest in ((c, a), (a, b)):
        api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": network["id"]})
        assert leader() == rest["id"]
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": b["id"]})
    shown = api.ask("sandbox.get", {"sandbox": box["id"]})
    assert shown["gateway_ipv4"] is None
    assert routes(api, box["key"]) == []


def test_each_family_has_a_gateway_of_its_own(api, make):
    four, six = make.network(), make.network(enable_ipv4=False, enable_ipv6=True)
    box = make.sandbox(on=[four, six])
    by_network = {each["network"]: each for each in box["endpoints"]}
    assert box["gateway_ipv4"] == by_network[four["id"]]["id"]
    assert box["gateway_ipv6"] == by_network[six["id"]]["id"]
    assert gateway(api, box["key"], "-6") == ("eth1", by_network[six["id"]]["gateway_ipv6"])


def test_internal_networks_lead_nowhere(api, make):
    inner = make.network(internal=True)
    box = make.sandbox(ports=[{"container_port": 80, "host_port": 18300}])
    shown = make.connect(box, inner)
    assert shown["gateway_ipv4"] is None
    assert shown["warnings"]
    sandbox = api.ask("sandbox.get", {"sandbox": box["id"]})
    assert sandbox["gateway_ipv4"] is None
    assert sandbox["ports"] == []
    assert routes(api, box["key"]) == []
    outer = make.network()
    shown = make.connect(box, outer)
    assert "warnings" not in shown
    sandbox = api.ask("sandbox.get", {"sandbox": box["id"]})
    assert [each["host_port"] for each in sandbox["ports"]] == [18300, 18300]
    assert sandbox["gateway_ipv4"] == shown["id"]
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": outer["id"]})
    assert api.ask("sandbox.get", {"sandbox": box["id"]})["ports"] == []


def test_hosts_and_resolv_conf_follow_the_sandbox(api, make):
    network = make.network(enable_ipv6=True)
    extra = [
        {"name": "db.local", "ip": "10.0.0.5"},
        {"name": "six", "ip": "fd00::5"},
        {"name": "host", "ip": "host-gateway"},
    ]
    box = make.sandbox(hostname="web", domainname="corp.example", extra_hosts=extra, dns={"search": ["one.example"]})
    before = hosts(api, box)
    assert ("10.0.0.5", "db.local") in before
    assert ("fd00::5", "six") in before
    assert ("127.0.0.1", "localhost") in before
    shown = make.connect(box, network)
    after = hosts(api, box)
    assert (shown["ipv4_address"].partition("/")[0], "web.corp.example", "web") in after
    assert (shown["ipv6_address"].partition("/")[0], "web.corp.example", "web") in after
    assert (shown["gateway_ipv4"], "host") in after
    resolv = Path(api.path(box["resolv_conf_path"])).read_text()
    assert "nameserver 127.0.0.11" in resolv
    assert "search one.example" in resolv
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": network["id"]})
    assert hosts(api, box) == before


def test_nothing_of_a_deleted_sandbox_is_left_when_delete_replies(api, make, tidy):
    network, other = make.network(), make.network(enable_ipv6=True)
    box = make.sandbox(on=[network, other], ports=[{"container_port": 80}])
    paths = [Path(api.path(box[key])) for key in ("key", "hosts_path", "resolv_conf_path")]
    assert all(path.exists() for path in paths)
    assert api.ask("sandbox.delete", {"sandbox": box["name"]}) == {}
    assert not [path for path in paths if path.exists()]
    assert not paths[1].parent.exists()
    for each in (network, other):
        assert api.ask("network.get", {"network": each["id"]})["endpoints"] == []
        assert all(pool["in_use"] == 1 for pool in api.ask("network.get", {"network": each["id"]})["ipam"]["pools"])
    make.end()


@pytest.fixture
def foreign(api):
    """A namespace that is not of CNM's making."""
    pid = int(api.sh("unshare -n sleep 1000 >/dev/null 2>&1 & echo $!").strip())
    yield f"/proc/{pid}/ns/net"
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)


def test_an_adopted_namespace_is_used_and_stays(api, make, foreign, patiently):
    patiently(lambda: Path(foreign).readlink() != Path("/proc/self/ns/net").readlink())
    patiently(lambda: Path(foreign).readlink() != Path(api.namespace).readlink())
    network = make.network()
    box = make.sandbox(netns=foreign)
    assert box["netns"] == foreign
    with api.unchanged():
        api.refused("sandbox.create", {"name": api.name(), "netns": foreign}, "conflict", box["name"])
    shown = make.connect(box, network)

    def links():
        return [each["ifname"] for each in api.ip("link show", foreign)]

    assert links() == ["lo", "eth0"]
    assert gateway(api, foreign) == ("eth0", shown["gateway_ipv4"])
    assert api.ask("sandbox.delete", {"sandbox": box["id"]}) == {}
    assert links() == ["lo"]
    assert make.sandbox(netns=foreign)["netns"] == foreign


def test_a_sandbox_of_the_nodes_own_namespace(api, make, tidy):
    box = make.sandbox(use_default_sandbox=True)
    assert box["key"] == "host"
    assert box["use_default_sandbox"] is True
    network = make.network()
    api.refused("sandbox.connect", {"sandbox": box["id"], "network": network["id"]}, "forbidden", box["name"])
    shown = make.connect(box, {"id": "host"})
    assert shown["state"] == "joined"
    assert shown["ipv4_address"] is None
    assert Path(api.path(box["hosts_path"])).exists()
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": "host"})
    plain = make.sandbox()
    api.refused("sandbox.connect", {"sandbox": plain["id"], "network": "host"}, "forbidden", plain["name"])
    make.end()


def test_network_none_cannot_be_combined(api, make):
    box = make.sandbox(on=[{"id": "none"}])
    network = make.network()
    api.refused("sandbox.connect", {"sandbox": box["id"], "network": network["id"]}, "forbidden", "none")
    api.refused("sandbox.connect", {"sandbox": box["id"], "network": "none"}, "conflict", "none")
    other = make.sandbox(on=[network])
    api.refused("sandbox.connect", {"sandbox": other["id"], "network": "none"}, "forbidden", "none")
    api.refused(
        "sandbox.connect",
        {"sandbox": make.sandbox()["id"], "network": "none", "ipv4_address": "10.0.0.1"},
        "forbidden",
    )


def test_sysctls_are_set_in_the_sandbox(api, make):
    box = make.sandbox(sysctls={"net.ipv4.ip_unprivileged_port_start": "77"})
    assert api.sh("sysctl -n net.ipv4.ip_unprivileged_port_start", box["key"]).strip() == "77"
    network = make.network()
    make.connect(box, network, sysctls={"net.ipv4.conf.IFNAME.log_martians": "1"})
    assert api.sh("sysctl -n net.ipv4.conf.eth0.log_martians", box["key"]).strip() == "1"
    with api.unchanged():
        body = {"name": api.name(), "sysctls": {"net.ipv4.nonesuch": "1"}}
        api.refused("sandbox.create", body, "unsupported", "nonesuch")
        body = {"name": api.name(), "sysctls": {"net.ipv4.ip_unprivileged_port_start": "many"}}
        api.refused("sandbox.create", body, "invalid", "net.ipv4.ip_unprivileged_port_start")
        body = {
            "sandbox": make.sandbox()["id"],
            "network": network["id"],
            "sysctls": {"net.ipv4.conf.IFNAME.nonesuch": "1"},
        }
        api.refused("sandbox.connect", body, "unsupported", "nonesuch")
        make._undo.pop()
        api.ask("sandbox.delete", {"sandbox": body["sandbox"]})
