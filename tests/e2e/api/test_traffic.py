"""What a reply promised carries traffic at once: no test here tries anything twice (API 4, 11 and 12)."""

import json
import subprocess

import pytest


def bare(address):
    return address.partition("/")[0]


def own_address(api):
    """Give the node an address of its own, as a network card would."""
    api.sh("ip link add card type veth peer name cable; ip addr add 198.51.100.7/24 dev card; ip link set card up")
    api.sh("ip link set cable up")


NXDOMAIN = 3


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_sandboxes_of_a_network_reach_one_another_by_every_name(api, make, traffic, tidy, kind):
    network = make.network(enable_ipv6=True)
    one, two = make.sandbox(), make.sandbox()
    traffic.serve(two, 7000, "two ", kind)
    make.connect(one, network)
    there = make.connect(two, network, name="db", aliases=["data"])
    addresses = [bare(there["ipv4_address"])], [bare(there["ipv6_address"])]
    assert there["dns_names"] == ["db", "data", two["name"], two["id"][:12]]
    for name in (*there["dns_names"], f"db.{network['name']}", "DB"):
        assert traffic.resolve(one, name) == (0, addresses[0]), name
        assert traffic.resolve(one, name, 28) == (0, addresses[1]), name
    assert traffic.resolve(one, "db", protocol="tcp") == (0, addresses[0])
    for (address,) in addresses:
        assert traffic.fetch(address, 7000, one, kind=kind).startswith("two ")
    assert traffic.resolve(one, "nonesuch")[0] == NXDOMAIN
    api.ask("sandbox.disconnect", {"sandbox": two["id"], "network": network["id"]})
    assert traffic.resolve(one, "db")[0] == NXDOMAIN
    traffic.end()
    make.end()


def test_the_files_of_a_sandbox_make_names_work_in_a_process(api, make):
    network = make.network()
    one, two = make.sandbox(on=[network]), make.sandbox(on=[network])
    files = {"/etc/resolv.conf": one["resolv_conf_path"], "/etc/hosts": one["hosts_path"]}
    binds = "; ".join(f"mount --bind {api.path(source)} {target}" for target, source in files.items())
    path = api.path(one["key"])
    look_up = f"import socket; print(*map(socket.gethostbyname, {[two['name'], one['name']]}))"
    script = f'{binds}; python3 -c "{look_up}"'
    done = subprocess.run(
        ["nsenter", f"--net={path}", "unshare", "-m", "bash", "-c", script],
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    wanted = [bare(box["endpoints"][0]["ipv4_address"]) for box in (two, one)]
    assert done.stdout.split() == wanted, done.stderr


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_a_published_port_answers_from_everywhere_at_once(api, make, traffic, tidy, kind):
    own_address(api)
    try:
        protocol = "tcp" if kind == "SOCK_STREAM" else "udp"
        network = make.network()
        box = make.sandbox(ports=[{"container_port": 7001, "host_port": 18500, "protocol": protocol}])
        traffic.serve(box, 7001, "box ", kind)
        make.connect(box, network)
        for host in ("127.0.0.1", "::1", "198.51.100.7", network["ipam"]["pools"][0]["gateway"]):
            assert (traffic.fetch(host, 18500, kind=kind) or "").startswith("box "), host
        other = make.sandbox(on=[network])
        gateway = network["ipam"]["pools"][0]["gateway"]
        assert (traffic.fetch(gateway, 18500, other, kind=kind) or "").startswith("box "), "hairpin"
        elsewhere = make.sandbox(on=[make.network()])
        assert (traffic.fetch("198.51.100.7", 18500, elsewhere, kind=kind) or "").startswith("box "), (
            "another network"
        )
        assert (traffic.fetch("198.51.100.7", 18500, box, kind=kind) or "").startswith("box "), "itself"
        api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": network["id"]})
        for host in ("127.0.0.1", "::1", "198.51.100.7"):
            assert traffic.fetch(host, 18500, kind=kind, patience_s=1) is None, host
        traffic.end()
        make.end()
    finally:
        api.sh("ip link del card")


def test_ports_of_every_kind_answer(api, make, traffic):
    network = make.network(enable_ipv6=True)
    wanted = [
        {"container_port": 7002, "host_ip": "127.0.0.1"},
        {"container_port": 7002, "host_ip": "::1"},
        {"container_port": 7003, "container_port_end": 7004, "host_port": 18510, "host_port_end": 18519},
    ]
    box = make.sandbox(on=[network], ports=wanted)
    traffic.serve(box, 7002, "two ")
    traffic.serve(box, 7003, "three ")
    traffic.serve(box, 7004, "four ")
    for port in box["ports"]:
        hosts = {"0.0.0.0": "127.0.0.1", "::": "::1"}
        host = hosts.get(port["host_ip"], port["host_ip"])
        for offset in range(port.get("host_port_end", port["host_port"]) - port["host_port"] + 1):
            expected = {7002: "two ", 7003: "three ", 7004: "four "}[port["container_port"] + offset]
            assert (traffic.fetch(host, port["host_port"] + offset) or "").startswith(expected), port


def test_networks_do_not_reach_one_another_and_internal_ones_lead_nowhere(api, make, traffic):
    own_address(api)
    try:
        network, other, inner = make.network(), make.network(), make.network(internal=True)
        box, stranger = make.sandbox(on=[network]), make.sandbox(on=[other])
        friend = make.sandbox(on=[network])
        closed, closed_too = make.sandbox(on=[inner]), make.sandbox(on=[inner])
        traffic.serve(box, 7005, "box ")
        traffic.serve(closed, 7005, "closed ")
        address = bare(box["endpoints"][0]["ipv4_address"])
        inside = bare(closed["endpoints"][0]["ipv4_address"])
        assert traffic.fetch(address, 7005, friend), "the control"
        assert traffic.fetch(inside, 7005, closed_too), "the control"
        for client, host in ((stranger, address), (closed, address), (stranger, inside), (closed, "198.51.100.7")):
            assert traffic.fetch(host, 7005, client, patience_s=0.7) is None
        assert traffic.resolve(stranger, box["name"])[0] == NXDOMAIN
        assert traffic.resolve(stranger, f"{box['name']}.{network['name']}")[0] == NXDOMAIN
        assert traffic.resolve(closed, closed_too["name"])[0] == 0
    finally:
        api.sh("ip link del card")


def test_sandboxes_of_a_network_without_icc_do_not_reach_one_another(api, make, traffic):
    network = make.network(options={"com.docker.network.bridge.enable_icc": "false"})
    one = make.sandbox(on=[network], ports=[{"container_port": 7006, "host_port": 18520}])
    two = make.sandbox(on=[network])
    traffic.serve(one, 7006, "one ")
    assert traffic.fetch(bare(one["endpoints"][0]["ipv4_address"]), 7006, two, patience_s=0.7) is None
    assert traffic.fetch("127.0.0.1", 18520)


def test_traffic_goes_out_by_the_gateway_that_is_shown(api, make, traffic):
    stem = api.name("net")
    first, second = make.network(f"{stem}-a"), make.network(f"{stem}-b")
    box = make.sandbox(on=[first])
    api.sh("ip link add card type veth peer name cable; ip link set card up; ip addr add 198.51.100.7/24 dev card")
    try:
        for step in ({"network": second, "gw_priority": 5}, None):
            if step:
                make.connect(box, step["network"], gw_priority=5)
            else:
                api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": second["id"]})
            shown = api.ask("sandbox.get", {"sandbox": box["id"]})
            leader = next(each for each in shown["endpoints"] if each["id"] == shown["gateway_ipv4"])
            route = json.loads(api.sh("ip -j route get 203.0.113.1", box["key"]))[0]
            assert route["dev"] == leader["ifname"]
            assert route["prefsrc"] == bare(leader["ipv4_address"])
            api.sh("ping -c1 -W2 198.51.100.7", box["key"])
    finally:
        api.sh("ip link del card")


def test_an_endpoint_answers_under_its_address_right_after_it_moved(api, make, traffic):
    network = make.network()
    client, one, two = make.sandbox(on=[network]), make.sandbox(), make.sandbox()
    made = make.endpoint(network, "mover")
    traffic.serve(one, 7007, "one ")
    traffic.serve(two, 7007, "two ")
    for box, text in ((one, "one "), (two, "two "), (one, "one ")):
        at = {"network": network["id"], "endpoint": made["id"], "sandbox": box["id"]}
        api.ask("endpoint.join", at)
        assert traffic.resolve(client, "mover") == (0, [bare(made["ipv4_address"])])
        assert (traffic.fetch(bare(made["ipv4_address"]), 7007, client) or "").startswith(text)
        api.ask("endpoint.leave", at)
        assert traffic.resolve(client, "mover")[0] == NXDOMAIN
