"""What an endpoint tells of ports, and that published ports follow what leads out, each family for itself."""

import contextlib
from pathlib import Path

import pytest

from .test_crashes import WORKERS, kill, worker_pids


def shown(api, box, network):
    """Return what an endpoint tells of ports: by itself, listed, and in its sandbox, which must agree."""
    one = next(each for each in api.ask("sandbox.get", {"sandbox": box["id"]})["endpoints"] if on(each, network))
    assert api.ask("endpoint.get", {"endpoint": one["id"]}) == one
    assert one in api.ask("endpoint.list", {"network": network["id"]})["endpoints"]
    (link,) = api.ip(f"link show {one['ifname']}", box["key"])
    assert link["address"] == one["mac_address"]
    return one["driver_info"]


def on(endpoint, network):
    return endpoint["network"] == network["id"]


def container_ports(info):
    return [each["container_port"] for each in info.get("ports", ())]


def test_an_endpoint_tells_the_ports_that_lead_to_it_and_what_its_sandbox_exposes(api, make):
    network = make.network(enable_ipv6=True)
    exposed = ["9090/tcp", "53/udp", "7000-7010/tcp"]
    ports = [{"container_port": 80, "host_port": 18710}, {"container_port": 53, "protocol": "udp"}]
    box = make.sandbox(ports=ports, exposed_ports=exposed)
    with api.recording() as events:
        joined = make.connect(box, network)
    info = shown(api, box, network)
    assert info["exposed_ports"] == exposed
    assert info["ports"] == api.ask("sandbox.get", {"sandbox": box["id"]})["ports"]
    assert [(each["host_port"], each["host_ip"]) for each in info["ports"][:2]] == [(18710, "0.0.0.0"), (18710, "::")]
    assert {each["container_ip"] for each in info["ports"]} == {
        joined["ipv4_address"].partition("/")[0],
        joined["ipv6_address"].partition("/")[0],
    }
    assert joined["driver_info"] == info
    told = next(event for event in events if event.what == "endpoint.joined")
    assert told.body["object"]["driver_info"] == info
    api.ask("sandbox.publish", {"sandbox": box["id"], "ports": [{"container_port": 81, "host_port": 18711}]})
    assert container_ports(shown(api, box, network)) == [80, 80, 53, 53, 81, 81]
    updated = api.ask("endpoint.update", {"endpoint": joined["id"], "labels": {"a": "b"}})
    assert container_ports(updated["driver_info"]) == [80, 80, 53, 53, 81, 81]
    api.ask("sandbox.unpublish", {"sandbox": box["id"], "ports": [{"container_port": 80}]})
    assert container_ports(shown(api, box, network)) == [53, 53, 81, 81]
    left = api.ask("endpoint.leave", {"endpoint": joined["id"], "sandbox": box["id"]})
    assert left["driver_info"] == {"host_ifname": None}
    assert api.ask("endpoint.get", {"endpoint": joined["id"]}) == left


def test_ports_are_told_at_the_endpoint_that_leads_out(api, make):
    stem = api.name("net")
    late, early, inner = make.network(f"{stem}-b"), make.network(f"{stem}-a"), make.network(internal=True)
    box = make.sandbox(ports=[{"container_port": 80, "host_port": 18715}], exposed_ports=["9090/tcp"])
    make.connect(box, inner)
    assert shown(api, box, inner) == {
        "host_ifname": shown(api, box, inner)["host_ifname"],
        "exposed_ports": ["9090/tcp"],
    }
    make.connect(box, late)
    assert container_ports(shown(api, box, late)) == [80, 80]
    make.connect(box, early)
    assert container_ports(shown(api, box, late)) == []
    assert container_ports(shown(api, box, early)) == [80, 80]
    assert shown(api, box, early)["exposed_ports"] == ["9090/tcp"]


def test_routed_ports_are_told_at_their_own_endpoint(api, make):
    network = make.network(options={"com.docker.network.bridge.gateway_mode_ipv4": "routed"})
    box = make.sandbox(on=[network], ports=[{"container_port": 80}])
    assert [(each["host_port"], each["container_port"]) for each in shown(api, box, network)["ports"]] == [(None, 80)]


def test_an_exposed_port_is_told_and_not_published(api, make, traffic):
    network = make.network()
    box = make.sandbox(on=[network], exposed_ports=["18720/tcp"])
    peer = make.sandbox(on=[network])
    traffic.serve(box, 18720, "there ")
    assert api.ask("sandbox.get", {"sandbox": box["id"]})["exposed_ports"] == ["18720/tcp"]
    assert api.ask("sandbox.get", {"sandbox": box["id"]})["ports"] == []
    address = box["endpoints"][0]["ipv4_address"].partition("/")[0]
    assert traffic.fetch(address, 18720, peer).startswith("there ")
    assert traffic.fetch("127.0.0.1", 18720, patience_s=1) is None


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_ports_answer_whoever_leads_out_after_each_join_and_leave(api, make, traffic, kind):
    stem = api.name("net")
    late, early = make.network(f"{stem}-b", enable_ipv6=True), make.network(f"{stem}-a", enable_ipv6=True)
    port = {"container_port": 80, "host_port": 18730, "protocol": "tcp" if kind == "SOCK_STREAM" else "udp"}
    box = make.sandbox(on=[late], ports=[port])
    elsewhere = make.network()["ipam"]["pools"][0]["gateway"]  # of the node, on no network of the sandbox's
    traffic.serve(box, 80, "here ", kind)

    def answers():
        found = [traffic.fetch(host, 18730, kind=kind) for host in ("127.0.0.1", elsewhere, "::1")]
        assert all(each is not None and each.startswith("here ") for each in found), found
        return {each["container_ip"] for each in api.ask("sandbox.get", {"sandbox": box["id"]})["ports"]}

    first = answers()
    assert first == addresses(box["endpoints"][0])
    for _ in range(2):
        endpoint = make.connect(box, early)
        assert answers() == addresses(endpoint)
        api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": early["id"]})
        assert answers() == first
    endpoint = make.connect(box, early)
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": late["id"]})
    assert answers() == addresses(endpoint)


def addresses(endpoint):
    both = (endpoint["ipv4_address"], endpoint["ipv6_address"])
    return {address.partition("/")[0] for address in both if address}


def test_each_family_of_a_port_follows_its_own_gateway(api, make, traffic):
    four = make.network()
    six = make.network(enable_ipv4=False, enable_ipv6=True)
    box = make.sandbox(on=[four], ports=[{"container_port": 80, "host_port": 18740}])
    traffic.serve(box, 80, "here ")
    gateway4, gateway6 = four["ipam"]["pools"][0]["gateway"], six["ipam"]["pools"][0]["gateway"]

    def led():
        ports = api.ask("sandbox.get", {"sandbox": box["id"]})["ports"]
        return {each["host_ip"]: each["container_ip"] for each in ports}

    (own4,) = addresses(box["endpoints"][0])
    assert led() == {"0.0.0.0": own4, "::": own4}
    assert traffic.fetch("::1", 18740) == f"here {gateway4}", "by the proxy"
    (own6,) = addresses(make.connect(box, six))
    assert led() == {"0.0.0.0": own4, "::": own6}
    assert container_ports(shown(api, box, four)) == container_ports(shown(api, box, six)) == [80]
    assert traffic.fetch(gateway4, 18740) == f"here {gateway4}"
    assert traffic.fetch(gateway6, 18740) == f"here {gateway6}"
    assert traffic.fetch("::1", 18740) == f"here {gateway6}"
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": four["id"]})
    assert led() == {"0.0.0.0": own6, "::": own6}
    assert traffic.fetch("127.0.0.1", 18740) == f"here {gateway6}"
    assert traffic.fetch("::1", 18740) == f"here {gateway6}"
    make.connect(box, four)
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": six["id"]})
    assert traffic.fetch("127.0.0.1", 18740) == f"here {gateway4}"
    assert traffic.fetch("::1", 18740) == f"here {gateway4}"


def test_ports_are_the_same_after_each_worker_came_back(api, make, traffic, patiently):
    network = make.network()
    box = make.sandbox(on=[network], ports=[{"container_port": 80}, {"container_port": 53, "protocol": "udp"}])
    traffic.serve(box, 80, "page ")
    traffic.serve(box, 53, "name ", "SOCK_DGRAM")
    tcp, udp = box["ports"][0]["host_port"], box["ports"][2]["host_port"]
    for worker in WORKERS:
        old = kill(api, worker)
        assert patiently(lambda worker=worker, old=old: [pid for pid in worker_pids(api, worker) if pid != old])
        assert api.ask("sandbox.get", {"sandbox": box["id"]})["ports"] == box["ports"], worker
        for host in ("127.0.0.1", "::1"):
            assert patiently(lambda host=host: traffic.fetch(host, tcp, patience_s=1)).startswith("page "), worker
            answer = patiently(lambda host=host: traffic.fetch(host, udp, kind="SOCK_DGRAM", patience_s=1))
            assert answer.startswith("name "), worker


# Comes again from the port that it had, so that a flow of before would lead it.
AGAIN = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 18779)); s.settimeout(2)
s.connect(("127.0.0.1", 18770)); s.send(b"x"); print(s.recv(100).decode())
"""


@pytest.mark.parametrize("way", ["sandbox.disconnect", "endpoint.leave", "sandbox.delete"])
def test_a_port_is_the_next_sandbox_s_at_once_when_one_went(api, make, traffic, way):
    network = make.network()
    ports = [
        {"container_port": 53, "host_port": 18770, "protocol": "udp"},
        {"container_port": 80, "host_port": 18771},
    ]

    def fetched():
        return [api.sh(f"python3 -c '{AGAIN}'").split()[0], traffic.fetch("127.0.0.1", 18771).split()[0]]

    one = make.sandbox(on=[network], ports=ports)
    traffic.serve(one, 53, "one ", "SOCK_DGRAM")
    traffic.serve(one, 80, "one ")
    assert fetched() == ["one", "one"]
    more = {"network": network["id"]} if "disconnect" in way else {"endpoint": one["endpoints"][0]["id"]}
    api.ask(way, {"sandbox": one["id"], **({} if way == "sandbox.delete" else more)})
    assert traffic.fetch("127.0.0.1", 18771, patience_s=1) is None
    two = make.sandbox(on=[network], ports=ports)
    traffic.serve(two, 53, "two ", "SOCK_DGRAM")
    traffic.serve(two, 80, "two ")
    assert fetched() == ["two", "two"]


def test_ports_take_no_processes(api, make):
    network = make.network()
    boxes = [make.sandbox(on=[network]) for _ in range(2)]
    before = processes(api)
    for box, first in zip(boxes, (18750, 18760), strict=True):
        ports = [{"container_port": 80, "container_port_end": 89, "host_port": first, "host_port_end": first + 9}]
        api.ask("sandbox.publish", {"sandbox": box["id"], "ports": [*ports, {"container_port": 53}]})
    assert processes(api) == before, "22 ports on two families"


def processes(api):
    """Return the processes in the installation's namespace."""
    inside, found = Path(api.namespace).readlink(), set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "ns/net").readlink() == inside:
                found.add(entry.name)
    return found
