"""What becomes different of sandboxes and endpoints that stay, and namespaces that others made."""

import json
import subprocess
from pathlib import Path

import pytest

NXDOMAIN = 3


def bare(address):
    return address.partition("/")[0]


@pytest.fixture
def foreign(api):
    """Make a process with a network namespace of its own, in the installation's: gives it; it ends with the test."""
    made = []

    def make():
        process = subprocess.Popen(
            ["nsenter", f"--net={api.namespace}", "unshare", "--net", "sh", "-c", "echo there; read line"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout.readline() == "there\n"
        made.append(process)
        return process

    yield make
    for process in made:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def inode(api, key):
    return api.sh(f"stat -L -c %i {api.path(key)}").strip()


# Endpoints.


def test_aliases_labels_and_readiness_follow_at_once(api, make, traffic):
    network, asking = make.network(), make.sandbox()
    box = make.sandbox()
    make.connect(asking, network)
    made = make.connect(box, network, aliases=["old"])
    at = {"network": network["id"], "endpoint": made["id"]}
    address = [bare(made["ipv4_address"])]
    with api.recording() as events:
        shown = api.ask("endpoint.update", {**at, "aliases": ["new", "newer"], "labels": {"tier": "front"}})
    assert [(event.what, event.about) for event in events] == [("endpoint.updated", made["id"])]
    assert events[0].body["object"] == shown == api.ask("endpoint.get", at)
    assert (shown["aliases"], shown["labels"]) == (["new", "newer"], {"tier": "front"})
    assert shown["revision"] == made["revision"] + 1
    assert traffic.resolve(asking, "old")[0] == NXDOMAIN
    assert traffic.resolve(asking, "newer") == (0, address)
    for ready, told, answer in ((False, "endpoint.unready", []), (True, "endpoint.ready", address)):
        with api.recording() as events:
            assert api.ask("endpoint.update", {**at, "ready": ready})["ready"] is ready
        assert [event.what for event in events] == [told]
        assert traffic.resolve(asking, "new") == (0, answer)
    with api.recording() as events:
        assert api.ask("endpoint.update", at) == api.ask("endpoint.get", at)
    assert events == []


def test_an_endpoint_that_has_not_joined_is_changed_all_the_same(api, make, traffic):
    network, asking, box = make.network(), make.sandbox(), make.sandbox()
    make.connect(asking, network)
    made = make.endpoint(network)
    api.ask("endpoint.update", {"endpoint": made["id"], "aliases": ["later"], "ready": False})
    api.ask("endpoint.join", {"network": network["id"], "endpoint": made["id"], "sandbox": box["id"]})
    assert traffic.resolve(asking, "later") == (0, [])
    api.ask("endpoint.update", {"endpoint": made["id"], "ready": True})
    assert traffic.resolve(asking, "later") == (0, [bare(made["ipv4_address"])])


def test_changes_of_endpoints_are_refused_by_name(api, make):
    made = make.endpoint(make.network())
    with api.unchanged():
        api.refused("endpoint.update", {"endpoint": "f" * 64}, "not_found", "f" * 64)
        api.refused("endpoint.update", {"endpoint": made["id"], "aliases": ["no way"]}, "invalid")
        api.refused("endpoint.update", {"endpoint": made["id"], "ready": "yes"}, "invalid")
        api.refused("endpoint.update", {"endpoint": made["id"], "name": "other"}, "invalid")


def test_link_local_addresses_and_routes_are_the_interfaces_own(api, make):
    network = make.network(enable_ipv6=True, ipam={"pools": [{"subnet": "10.88.0.0/24"}, {"subnet": "fd00:88::/64"}]})
    box, peer = make.sandbox(), make.sandbox()
    routes = [
        {"destination": "10.200.0.0/16", "gateway": "10.88.0.99"},
        {"destination": "10.201.0.0/16"},
        {"destination": "fd00:200::/48", "gateway": "fd00:88::99"},
    ]
    locals_ = ["169.254.7.7", "fe80::7"]
    shown = make.connect(box, network, link_local_addresses=locals_, routes=routes)
    make.connect(peer, network, link_local_addresses=["169.254.7.8"])
    assert shown["link_local_addresses"] == locals_
    assert shown["routes"] == [{"gateway": None, **route} for route in routes]
    (link,) = api.ip("addr show dev eth0", box["key"])
    found = {f"{each['local']}/{each['prefixlen']}" for each in link["addr_info"]}
    assert {"169.254.7.7/16", "fe80::7/64", shown["ipv4_address"]} <= found
    api.sh("ping -c 1 -W 2 169.254.7.7", peer["key"])
    by_prefix = {
        each["dst"]: each.get("gateway") for words in ("-4", "-6") for each in api.ip(f"{words} route", box["key"])
    }
    assert by_prefix["10.200.0.0/16"] == "10.88.0.99"
    assert by_prefix["10.201.0.0/16"] is None
    assert by_prefix["fd00:200::/48"] == "fd00:88::99"
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": network["id"]})
    assert not [each for each in api.ip("route", box["key"]) if each["dst"].startswith("10.20")]


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"link_local_addresses": ["10.0.0.1"]}, "link_local_addresses[0]"),
        ({"link_local_addresses": ["169.254.1.1", "169.254.255.255"]}, "link_local_addresses[1]"),
        ({"link_local_addresses": ["fe80:1::1"]}, "link_local_addresses[0]"),
        ({"link_local_addresses": ["fe80::1"]}, "link_local_addresses[0]"),  # the network has no IPv6
        ({"routes": [{"destination": "0.0.0.0/0", "gateway": "10.87.0.9"}]}, "routes[0].destination"),
        ({"routes": [{"destination": "10.87.0.0/25"}]}, "routes[0].destination"),
        ({"routes": [{"destination": "fd00::/64"}]}, "routes[0].destination"),
        ({"routes": [{"destination": "10.9.0.0/16", "gateway": "10.86.0.1"}]}, "routes[0].gateway"),
        ({"routes": [{"destination": "10.9.0.0/16", "gateway": "fe80::1"}]}, "routes[0].gateway"),
    ],
)
def test_what_cannot_be_on_an_interface_is_invalid(api, make, fields, at_fault):
    network, box = make.network(ipam={"pools": [{"subnet": "10.87.0.0/24"}]}), make.sandbox()
    with api.unchanged():
        error = api.refused("sandbox.connect", {"sandbox": box["id"], "network": network["id"], **fields}, "invalid")
    assert [fault["field"] for fault in error["details"]["fields"]] == [at_fault]


def test_networks_whose_addresses_the_sandbox_has_a_route_to_are_refused(api, make):
    wide = make.network(ipam={"pools": [{"subnet": "10.86.0.0/16"}]})
    narrow = make.network(
        ipam={"pools": [{"subnet": "10.86.5.0/24", "range": "10.86.5.0/25"}], "address_space": api.name("other")},
        options={"com.docker.network.bridge.inhibit_ipv4": "true"},
    )
    apart = make.network(ipam={"pools": [{"subnet": "10.85.0.0/24"}]})
    box = make.sandbox(on=[wide])
    with api.unchanged():
        asked = {"sandbox": box["id"], "network": narrow["id"]}
        api.refused("sandbox.connect", asked, "conflict", "10.86.5.0/24", "10.86.0.0/16", wide["name"])
    make.connect(box, apart)


def test_an_interface_whose_sysctls_turn_ipv6_off_has_no_ipv6_address(api, make):
    network, box = make.network(enable_ipv6=True), make.sandbox()
    off = {"net.ipv6.conf.IFNAME.disable_ipv6": "1"}
    with api.unchanged():
        asked = {"sandbox": box["id"], "network": network["id"], "sysctls": off, "ipv6_address": "fd00::9"}
        api.refused("sandbox.connect", asked, "invalid", "fd00::9")
    shown = make.connect(box, network, sysctls=off)
    assert shown["ipv6_address"] is None
    (link,) = api.ip("addr show dev eth0", box["key"])
    assert [each["family"] for each in link["addr_info"]] == ["inet"]
    other = make.sandbox(on=[network])
    assert other["endpoints"][0]["ipv6_address"] is not None


def test_host_gateway_is_the_node_on_the_network_that_leads_out(api, make):
    pools = [
        {"subnet": "10.83.0.0/24", "aux_addresses": {"DefaultGatewayIPv4": "10.83.0.99"}},
        {"subnet": "fd00:83::/64"},
    ]
    network = make.network(enable_ipv6=True, ipam={"pools": pools})
    box = make.sandbox(on=[network], extra_hosts=[{"name": "node", "ip": "host-gateway"}])
    lines = [line.split("\t") for line in read(api, box["hosts_path"]).splitlines()]
    assert [address for address, names in lines if names == "node"] == ["10.83.0.1", "fd00:83::1"]


# Sandboxes.


def test_files_and_labels_of_a_sandbox_change_in_place(api, make, traffic):
    box = make.sandbox(on=[make.network()], hostname="old", extra_hosts=[{"name": "gone", "ip": "192.0.2.1"}])
    before = inode(api, box["key"]), api.sh(f"stat -c %i {box['hosts_path']}", check=False).stdout
    change = {
        "hostname": "new", "domainname": "example.org", "labels": {"a": "b"},
        "extra_hosts": [{"name": "there", "ip": "192.0.2.2"}],
        "dns": {"search": ["example.org"], "options": ["ndots:2"]},
    }  # fmt: skip
    with api.recording() as events:
        shown = api.ask("sandbox.update", {"sandbox": box["id"], **change})
    assert [(event.what, event.about) for event in events] == [("sandbox.updated", box["id"])]
    assert shown == api.ask("sandbox.get", {"sandbox": box["id"]})
    assert shown["revision"] == box["revision"] + 1
    assert {key: shown[key] for key in ("hostname", "domainname", "labels")} == {
        key: change[key] for key in ("hostname", "domainname", "labels")
    }
    assert (inode(api, box["key"]), api.sh(f"stat -c %i {box['hosts_path']}", check=False).stdout) == before
    hosts = read(api, box["hosts_path"])
    assert "new.example.org new" in hosts
    assert "192.0.2.2\tthere" in hosts
    assert "gone" not in hosts
    resolv = read(api, box["resolv_conf_path"])
    assert "search example.org\n" in resolv
    assert "options ndots:2\n" in resolv
    with api.unchanged():
        api.refused("sandbox.update", {"sandbox": "absent"}, "not_found", "absent")
        api.refused("sandbox.update", {"sandbox": box["id"], "dns": {"options": ["ndots:x"]}}, "invalid", "ndots")
        api.refused(
            "sandbox.update", {"sandbox": box["id"], "extra_hosts": [{"name": "x", "ip": "y"}]}, "invalid", "y"
        )


def read(api, path):
    return Path(api.path(path)).read_text()


def test_a_sandbox_can_do_without_the_embedded_server(api, make, traffic):
    network = make.network()
    box = make.sandbox(on=[network], dns={"servers": ["192.0.2.53"], "embedded": False})
    assert "nameserver 192.0.2.53\n" in read(api, box["resolv_conf_path"])
    assert "127.0.0.11" not in read(api, box["resolv_conf_path"])
    assert api.sh("ss -Hlnu", box["key"]) == ""
    assert api.sh("nft list tables", box["key"]) == ""
    shown = api.ask("sandbox.update", {"sandbox": box["id"], "dns": {}})
    assert "127.0.0.11" in read(api, box["resolv_conf_path"])
    assert traffic.resolve(shown, box["name"]) == (0, [bare(box["endpoints"][0]["ipv4_address"])])
    api.ask("sandbox.update", {"sandbox": box["id"], "dns": {"embedded": False}})
    assert "127.0.0.11" not in read(api, box["resolv_conf_path"])


def test_statistics_grow_with_traffic(api, make):
    networks = [make.network(), make.network()]
    box, peer = make.sandbox(on=networks), make.sandbox(on=networks[:1])
    target = bare(peer["endpoints"][0]["ipv4_address"])

    def counted():
        return {each["ifname"]: each for each in api.ask("sandbox.stats", {"sandbox": box["id"]})["interfaces"]}

    api.sh(f"ping -c 1 -W 2 {target}", box["key"])
    before = counted()
    api.sh(f"ping -c 3 -i 0.05 -s 1000 -W 2 {target}", box["key"])
    after = counted()
    assert list(after) == ["eth0", "eth1"]
    assert after["eth0"]["endpoint"] == box["endpoints"][0]["id"]
    assert after["eth0"]["network"] == networks[0]["id"]
    for way in ("rx", "tx"):
        assert after["eth0"][f"{way}_bytes"] - before["eth0"][f"{way}_bytes"] >= 3000
        assert after["eth0"][f"{way}_packets"] - before["eth0"][f"{way}_packets"] >= 3
        assert after["eth0"][f"{way}_errors"] == after["eth0"][f"{way}_dropped"] == 0
    host = make.sandbox(use_default_sandbox=True)
    assert api.ask("sandbox.stats", {"sandbox": host["id"]})["interfaces"] == []
    api.refused("sandbox.stats", {"sandbox": "absent"}, "not_found", "absent")


# Namespaces that others made.


@pytest.mark.parametrize("how", ["pid", "netns"])
def test_a_foreign_namespace_is_held_under_the_run_directory(api, make, traffic, foreign, how):
    process, network = foreign(), make.network()
    source = f"/proc/{process.pid}/ns/net"
    box = make.sandbox(**({"pid": process.pid} if how == "pid" else {"netns": source}))
    assert box["key"].endswith(f"/netns/{box['id'][:12]}")
    assert box["netns"] == source
    assert inode(api, box["key"]) == api.sh(f"stat -L -c %i {source}").strip()
    make.connect(box, network)
    assert api.ip("link show eth0", source)
    with api.unchanged():
        api.refused("sandbox.create", {"name": api.name(), "netns": source}, "conflict", box["name"])
        other = f"/proc/{process.pid}/task/{process.pid}/ns/net"
        api.refused("sandbox.create", {"name": api.name(), "netns": other}, "conflict", other, box["id"][:12])
    process.stdin.close()
    process.wait(10)
    peer = make.sandbox(on=[network])
    address = bare(api.ask("sandbox.get", {"sandbox": box["id"]})["endpoints"][0]["ipv4_address"])
    api.sh(f"ping -c 1 -W 2 {address}", peer["key"])
    api.ask("sandbox.delete", {"sandbox": box["id"]})
    assert api.sh(f"test -e {api.path(box['key'])}", check=False).returncode == 1


def test_what_joined_before_the_namespace_came_moves_in_with_it(api, make, traffic, foreign):
    networks = [make.network(), make.network()]
    box = make.sandbox(netns_later=True, ports=[{"container_port": 80, "host_port": 18600}])
    ends = [make.connect(box, network) for network in networks]
    assert [end["ifname"] for end in ends] == ["eth0", "eth1"]
    assert ends[0]["driver_info"] == {"host_ifname": None}
    shown = api.ask("sandbox.get", {"sandbox": box["id"]})
    assert (shown["ports"], len(shown["endpoints"])) == ([], 2)
    process = foreign()
    with api.unchanged():
        api.refused("sandbox.adopt", {"sandbox": box["id"]}, "invalid", "netns")
        api.refused("sandbox.adopt", {"sandbox": box["id"], "netns": "there"}, "invalid", "there")
        api.refused("sandbox.adopt", {"sandbox": box["id"], "netns": "/nowhere"}, "invalid", "/nowhere")
        api.refused("sandbox.adopt", {"sandbox": box["id"], "pid": process.pid, "netns": "/x"}, "invalid", "/x")
        api.refused("sandbox.adopt", {"sandbox": "absent", "pid": process.pid}, "not_found", "absent")
        api.refused("sandbox.adopt", {"sandbox": box["id"], "netns": "/proc/1/ns/mnt"}, "invalid", "/proc/1/ns/mnt")
    moved = api.ask("sandbox.adopt", {"sandbox": box["id"], "pid": process.pid})
    assert moved == api.ask("sandbox.get", {"sandbox": box["id"]})
    assert [end["ipv4_address"] for end in moved["endpoints"]] == [end["ipv4_address"] for end in ends]
    assert all(end["driver_info"]["host_ifname"] for end in moved["endpoints"])
    names = {link["ifname"] for link in api.ip("link show", f"/proc/{process.pid}/ns/net")}
    assert names == {"lo", "eth0", "eth1"}
    assert len(json.loads(api.sh("ip -j route show default", moved["key"]))) == 1
    traffic.serve(moved, 80, "moved ")
    assert traffic.fetch("127.0.0.1", 18600).startswith("moved ")
    peer = make.sandbox(on=networks[:1])
    assert traffic.resolve(peer, box["name"]) == (0, [bare(ends[0]["ipv4_address"])])
    assert traffic.resolve(moved, peer["name"])[0] == 0
    with api.unchanged():
        api.refused("sandbox.adopt", {"sandbox": box["id"], "pid": process.pid}, "conflict", box["name"])
    traffic.end()


def test_a_sandbox_without_its_namespace_can_be_left_and_deleted(api, make, tidy):
    network = make.network()
    box = make.sandbox(netns_later=True)
    end = make.connect(box, network)
    at = {"network": network["id"], "endpoint": end["id"], "sandbox": box["id"]}
    assert api.ask("endpoint.leave", at)["state"] == "created"
    api.ask("endpoint.join", at)
    api.ask("sandbox.delete", {"sandbox": box["id"]})
    make.end()


def test_an_adoption_that_fails_leaves_the_sandbox_as_it_was(api, make, foreign):
    network = make.network(ipam={"pools": [{"subnet": "10.84.0.0/24"}]})
    box = make.sandbox(netns_later=True)
    make.connect(box, network)
    process = foreign()
    source = f"/proc/{process.pid}/ns/net"
    api.sh("ip link set lo up; ip route add 10.84.0.0/16 dev lo", source)
    with api.unchanged():
        asked = {"sandbox": box["id"], "pid": process.pid}
        api.refused("sandbox.adopt", asked, "conflict", "10.84.0.0/24", "10.84.0.0/16")
    assert [link["ifname"] for link in api.ip("link show", source)] == ["lo"]
    assert api.sh(f"test -e {api.path(box['key'])}", check=False).returncode == 1
    api.sh("ip route del 10.84.0.0/16 dev lo", source)
    api.ask("sandbox.adopt", asked)
    assert [link["ifname"] for link in api.ip("link show", source)] == ["lo", "eth0"]


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"netns": "/x", "pid": 7}, ["pid"]),
        ({"netns_later": True, "pid": 7}, ["pid"]),
        ({"netns_later": True, "netns": "x"}, ["netns", "netns"]),
        ({"use_default_sandbox": True, "pid": 7}, ["pid"]),
        ({"use_default_sandbox": True, "netns_later": True}, ["netns_later"]),
    ],
)
def test_namespaces_that_contradict_are_invalid(api, fields, at_fault):
    with api.unchanged():
        error = api.refused("sandbox.create", {"name": api.name(), **fields}, "invalid")
    assert [fault["field"] for fault in error["details"]["fields"]] == at_fault
