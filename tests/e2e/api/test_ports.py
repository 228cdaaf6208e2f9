"""Published ports: what is refused when, and what is chosen (API 3 and 12)."""

import contextlib
import subprocess

import pytest


@contextlib.contextmanager
def listening(api, port, *, protocol="tcp", address="0.0.0.0"):
    """Hold a port of the node as a program of somebody else does."""
    kind = "SOCK_STREAM" if protocol == "tcp" else "SOCK_DGRAM"
    family = "AF_INET6" if ":" in address else "AF_INET"
    program = (
        f"import socket,sys\ns = socket.socket(socket.{family}, socket.{kind})\ns.bind(({address!r}, {port}))\n"
        f"{'s.listen()' if protocol == 'tcp' else ''}\nprint('there', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        ["nsenter", f"--net={api.namespace}", "python3", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"there\n"
        try:
            yield
        finally:
            process.stdin.close()


def ports(box, host="0.0.0.0"):
    return [(each["host_port"], each.get("host_port_end")) for each in box["ports"] if each["host_ip"] == host]


def test_a_taken_port_is_refused_at_create_when_it_is_known_then(api, make):
    network = make.network()
    holder = make.sandbox(on=[network], ports=[{"container_port": 80, "host_port": 18401}])
    with api.unchanged():
        body = {"name": api.name(), "ports": [{"container_port": 80, "host_port": 18401}]}
        api.refused("sandbox.create", body, "conflict", "18401", holder["name"])
        body["ports"][0] |= {"host_port": 18400, "container_port_end": 81, "host_port_end": 18401}
        api.refused("sandbox.create", body, "conflict", "18401", holder["name"])
    with api.unchanged(), listening(api, 18402):
        body = {"name": api.name(), "ports": [{"container_port": 80, "host_port": 18402}]}
        api.refused("sandbox.create", body, "conflict", "18402")
    other = [{"container_port": 80, "host_port": 18401, "protocol": "udp"}]
    assert ports(make.sandbox(on=[network], ports=other)) == [(18401, None)]


def test_a_port_taken_since_is_refused_at_connect_and_the_sandbox_is_as_before(api, make):
    network = make.network()
    wanted = [{"container_port": 80, "host_port": 18411}, {"container_port": 81, "host_port": 18410}]
    late = make.sandbox(ports=wanted)
    holder = make.sandbox(on=[network], ports=[{"container_port": 80, "host_port": 18410}])
    with api.unchanged():
        error = api.refused("sandbox.connect", {"sandbox": late["id"], "network": network["id"]}, "conflict", "18410")
        assert holder["name"] in error["message"]
        assert [each["ifname"] for each in api.ip("link show", late["key"])] == ["lo"]
    api.ask("sandbox.delete", {"sandbox": holder["id"]})
    make.connect(late, network)
    assert ports(api.ask("sandbox.get", {"sandbox": late["id"]})) == [(18411, None), (18410, None)]


def test_an_address_that_is_not_the_nodes_is_refused(api, make):
    with api.unchanged():
        box = make.sandbox()
        body = {"name": api.name(), "ports": [{"container_port": 80, "host_port": 18419, "host_ip": "203.0.113.7"}]}
        error = api.refused("sandbox.create", body, "invalid", "203.0.113.7")
        assert [fault["field"] for fault in error["details"]["fields"]] == ["ports[0].host_ip"]
        api.ask("sandbox.delete", {"sandbox": box["id"]})


def test_the_same_port_on_different_addresses_is_no_conflict(api, make):
    network = make.network()
    one = make.sandbox(on=[network], ports=[{"container_port": 80, "host_port": 18420, "host_ip": "127.0.0.1"}])
    assert [each["host_ip"] for each in one["ports"]] == ["127.0.0.1"]
    two = make.sandbox(on=[network], ports=[{"container_port": 80, "host_port": 18420, "host_ip": "::1"}])
    assert [each["host_ip"] for each in two["ports"]] == ["::1"]
    with api.unchanged():
        for host in ("127.0.0.1", "0.0.0.0", None):
            body = {"name": api.name(), "ports": [{"container_port": 80, "host_port": 18420, "host_ip": host}]}
            api.refused("sandbox.create", body, "conflict", "18420", one["name"])


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_longer_host_range_gives_the_first_free_consecutive_ports(api, make, protocol):
    network = make.network()
    asked = {
        "container_port": 8000, "container_port_end": 8001, "protocol": protocol, "host_port": 18430,
        "host_port_end": 18435,
    }  # fmt: skip
    with listening(api, 18431, protocol=protocol):
        box = make.sandbox(on=[network], ports=[asked])
        assert ports(box) == [(18432, 18433)]
        assert ports(make.sandbox(on=[network], ports=[asked])) == [(18434, 18435)]
        late = make.sandbox(ports=[asked])
        with api.unchanged():
            body = {"sandbox": late["id"], "network": network["id"]}
            api.refused("sandbox.connect", body, "exhausted", "18430", "18435")
    make.connect(late, network)
    assert ports(api.ask("sandbox.get", {"sandbox": late["id"]})) == [(18430, 18431)]


def test_ports_that_are_left_open_are_chosen_and_differ(api, make):
    network = make.network()
    asked = [
        {"container_port": 80, "host_port": 0},
        {"container_port": 81},
        {"container_port": 80, "protocol": "udp"},
    ]
    found = [port for _ in range(3) for port in ports(make.sandbox(on=[network], ports=asked))]
    assert all(32768 <= port <= 60999 for port, _ in found)
    assert len(found) == 9


def test_one_port_for_many_container_ports_is_free_again_after_delete(api, make):
    network = make.network()
    for _ in range(3):
        box = make.sandbox(on=[network], ports=[{"container_port": 80, "host_port": 18440}])
        assert ports(box) == [(18440, None)]
        assert ports(box, "::") == [(18440, None)]
        api.ask("sandbox.delete", {"sandbox": box["id"]})


def test_ports_keep_their_numbers_when_the_gateway_moves(api, make):
    stem = api.name("net")
    one, two = make.network(f"{stem}-b"), make.network(f"{stem}-a")
    box = make.sandbox(on=[one], ports=[{"container_port": 80}])
    first = box["ports"]
    endpoint = make.connect(box, two)
    second = api.ask("sandbox.get", {"sandbox": box["id"]})["ports"]
    assert [each["host_port"] for each in first] == [each["host_port"] for each in second]
    assert {each["container_ip"] for each in second} == {endpoint["ipv4_address"].partition("/")[0]}
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": two["id"]})
    assert api.ask("sandbox.get", {"sandbox": box["id"]})["ports"] == first


def test_a_host_sandbox_publishes_nothing_and_says_so(api, make):
    box = make.sandbox(use_default_sandbox=True, ports=[{"container_port": 80, "host_port": 18450}])
    assert box["ports"] == []
    assert box["warnings"]


def test_ports_bind_where_the_network_says(api, make):
    network = make.network(options={"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"})
    box = make.sandbox(on=[network], ports=[{"container_port": 80, "host_port": 18460}])
    assert [each["host_ip"] for each in box["ports"]] == ["127.0.0.1"]
