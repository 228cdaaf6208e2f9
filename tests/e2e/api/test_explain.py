"""What `system.explain` says is what traffic does, and it names the hop that stops it (API 7)."""

import subprocess

import pytest

from .conftest import Traffic
from .test_ports import listening

BRIDGE = "com.docker.network.bridge."


def bare(address):
    return address.partition("/")[0]


@pytest.fixture(scope="module")
def place(api, make_for_module):
    """Make networks of every kind, with a sandbox on each; `web` serves 80 on both families, and 81 on loopback."""
    make = make_for_module
    return build(api, make)


def build(api, make):
    networks = {
        "both": make.network(enable_ipv6=True),
        "four": make.network(),
        "quiet": make.network(options={f"{BRIDGE}enable_icc": "false"}),
        "inner": make.network(internal=True),
        "routed": make.network(options={f"{BRIDGE}gateway_mode_ipv4": "routed"}),
        "open": make.network(options={f"{BRIDGE}gateway_mode_ipv4": "nat-unprotected"}),
    }
    ports = [
        {"container_port": 80, "host_port": 18700},
        {"container_port": 80, "host_port": 18701, "allow": ["203.0.113.0/24"]},
        {"container_port": 80, "host_port": 18702, "allow": ["0.0.0.0/0", "::/0"]},
        {"container_port": 80, "host_port": 18703, "host_ip": "127.0.0.1"},
        {"container_port": 79, "host_port": 18704},
    ]
    boxes = {
        "web": make.sandbox(on=[networks["both"]], ports=ports),
        "peer": make.sandbox(on=[networks["both"]]),
        "other": make.sandbox(on=[networks["four"]]),
        "mute": make.sandbox(on=[networks["quiet"]]),
        "mute2": make.sandbox(on=[networks["quiet"]]),
        "shut": make.sandbox(on=[networks["inner"]]),
        "shut2": make.sandbox(on=[networks["inner"]]),
        "plain": make.sandbox(on=[networks["routed"]], ports=[{"container_port": 80}]),
        "bare": make.sandbox(on=[networks["open"]]),
        "alone": make.sandbox(),
        "host": make.sandbox(use_default_sandbox=True),
    }
    return networks, boxes


@pytest.fixture(scope="module")
def served(api, place):
    networks, boxes = place
    traffic = Traffic(api)
    for name in ("web", "mute2", "shut2", "plain", "bare"):
        traffic.serve(boxes[name], 80, f"{name} ")
    yield networks, boxes
    traffic.end()


def v4(box):
    return bare(box["endpoints"][0]["ipv4_address"])


def v6(box):
    return bare(box["endpoints"][0]["ipv6_address"])


def explain(api, box, to, port=80, **more):
    body = {"from": box["id"], "to": to, "port": port, **more}
    return api.ask("system.explain", {name: value for name, value in body.items() if value is not None})


CASES = {
    "by name": ("peer", lambda n, b: b["web"]["name"], 80, None),
    "by name and network": ("peer", lambda n, b: f"{b['web']['name']}.{n['both']['name']}", 80, None),
    "by address": ("peer", lambda n, b: v4(b["web"]), 80, None),
    "by IPv6": ("peer", lambda n, b: v6(b["web"]), 80, None),
    "itself": ("web", lambda n, b: v4(b["web"]), 80, None),
    "its own loopback": ("web", lambda n, b: "127.0.0.1", 80, None),
    "nobody listens": ("peer", lambda n, b: v4(b["web"]), 82, "listener"),
    "unknown name": ("peer", lambda n, b: "nonesuch", 80, "name"),
    "name of another network": ("other", lambda n, b: b["web"]["name"], 80, "name"),
    "nobody has the address": ("peer", lambda n, b: v4(b["web"]).rpartition(".")[0] + ".200", 80, "address"),
    "icc off": ("mute", lambda n, b: v4(b["mute2"]), 80, "icc"),
    "internal, within": ("shut", lambda n, b: b["shut2"]["name"], 80, None),
    "internal, out": ("shut", lambda n, b: v4(b["web"]), 80, "route"),
    "internal, in": ("other", lambda n, b: v4(b["shut2"]), 80, "internal"),
    "internal, published": ("shut", lambda n, b: n["inner"]["ipam"]["pools"][0]["gateway"], 18700, "internal"),
    "isolation": ("other", lambda n, b: v4(b["web"]), 80, "isolation"),
    "no IPv6": ("other", lambda n, b: v6(b["web"]), 80, "route"),
    "routed, published": ("other", lambda n, b: v4(b["plain"]), 80, None),
    "routed, not published": ("other", lambda n, b: v4(b["plain"]), 81, "isolation"),
    "nat-unprotected": ("other", lambda n, b: v4(b["bare"]), 80, None),
    "no network": ("alone", lambda n, b: v4(b["web"]), 80, "route"),
    "published": ("other", lambda n, b: n["four"]["ipam"]["pools"][0]["gateway"], 18700, None),
    "published, by another gateway": ("other", lambda n, b: n["both"]["ipam"]["pools"][0]["gateway"], 18700, None),
    "hairpin": ("web", lambda n, b: n["both"]["ipam"]["pools"][0]["gateway"], 18700, None),
    "not allowed": ("other", lambda n, b: n["four"]["ipam"]["pools"][0]["gateway"], 18701, "allow"),
    "allowed": ("other", lambda n, b: n["four"]["ipam"]["pools"][0]["gateway"], 18702, None),
    "on the node's loopback": ("other", lambda n, b: n["four"]["ipam"]["pools"][0]["gateway"], 18703, "listener"),
    "published, nobody listens": ("other", lambda n, b: n["four"]["ipam"]["pools"][0]["gateway"], 18704, "listener"),
    "not published": ("other", lambda n, b: n["four"]["ipam"]["pools"][0]["gateway"], 18709, "listener"),
    "from the node": ("host", lambda n, b: v4(b["web"]), 80, None),
    "from the node, published": ("host", lambda n, b: "127.0.0.1", 18700, None),
    "from the node, loopback": ("host", lambda n, b: "127.0.0.1", 18703, None),
    "from the node, not allowed": ("host", lambda n, b: "127.0.0.1", 18701, "allow"),
    "from the node, nobody": ("host", lambda n, b: "127.0.0.1", 18709, "listener"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_is_what_traffic_does(api, served, traffic, case):
    networks, boxes = served
    name, choose, port, stopped_by = CASES[case]
    to = choose(networks, boxes)
    said = explain(api, boxes[name], to, port)
    assert said["stopped_by"] == stopped_by, said
    assert said["reached"] is (stopped_by is None), said
    assert said["hops"][-1]["about"] == said["about"]
    assert [hop["passes"] for hop in said["hops"][:-1]] == [True] * (len(said["hops"]) - 1)
    if said["address"] is not None:
        key = boxes[name] if name != "host" else None
        answer = traffic.fetch(said["address"], port, key, patience_s=1)
        assert (answer is not None) is said["reached"], (said, answer)


def test_hops_name_what_they_are_about(api, served):
    networks, boxes = served
    words = {
        "icc off": (networks["quiet"]["name"], "enable_icc"),
        "isolation": (networks["both"]["name"], "port 18700"),
        "internal, out": (networks["inner"]["name"], "internal"),
        "unknown name": ("nonesuch", "NXDOMAIN"),
        "not allowed": ("203.0.113.0/24", v4(boxes["other"])),
        "nobody listens": ("82/tcp", boxes["web"]["name"]),
    }
    for case, wanted in words.items():
        name, choose, port, _ = CASES[case]
        about = explain(api, boxes[name], choose(networks, boxes), port)["about"]
        assert all(word in about for word in wanted), (case, about)


def test_the_way_out_ends_where_nobody_here_can_tell(api, served):
    _, boxes = served
    said = explain(api, boxes["web"], "198.51.100.9", 443)
    assert (said["reached"], said["stopped_by"]) == (None, None)
    assert said["hops"][-1]["hop"] == "outside"


def test_an_endpoint_that_waits_and_one_that_listens_elsewhere_are_told(api, make, served, traffic):
    networks, boxes = served
    waiting = make.endpoint(networks["both"], "waiting")
    said = explain(api, boxes["peer"], bare(waiting["ipv4_address"]))
    assert said["stopped_by"] == "address"
    assert "waiting" in said["about"]
    program = "import socket; s = socket.create_server(('127.0.0.1', 83)); print('there', flush=True); input()"
    command = ["nsenter", f"--net={api.path(boxes['web']['key'])}", "python3", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "there\n"
        said = explain(api, boxes["peer"], v4(boxes["web"]), 83)
        assert said["stopped_by"] == "listener"
        assert "127.0.0.1 alone" in said["about"]
        assert explain(api, boxes["web"], "127.0.0.1", 83)["reached"] is True
        process.communicate("\n")


def test_names_are_looked_up_in_the_hosts_file_first(api, make, served):
    networks, boxes = served
    hosts = [{"name": "db.local", "ip": v4(boxes["web"])}]
    box = make.sandbox(on=[networks["both"]], extra_hosts=hosts)
    said = explain(api, box, "DB.local")
    assert said["reached"] is True
    assert "hosts file" in said["hops"][0]["about"]


def reach(said, host_ip):
    (port,) = [each for each in said["ports"] if each["host_ip"] == host_ip]
    return port, {each["place"]: each["reached"] for each in port["reach"]}


def test_a_port_alone_is_explained_by_who_reaches_it(api, served):
    _, boxes = served
    said = api.ask("system.explain", {"port": 18700})
    assert said["reached"] is True
    assert boxes["web"]["name"] in said["about"]
    port, places = reach(said, "0.0.0.0")
    assert (port["sandbox"], port["node"], port["container_port"]) == (boxes["web"]["id"], api.node, 80)
    assert port["container_ip"] == v4(boxes["web"])
    assert list(places.values()) == [True, True, True, False]
    assert all("cnm_ports" in each["about"] for each in port["reach"][:3])
    _, places = reach(api.ask("system.explain", {"port": 18703}), "127.0.0.1")
    assert [place for place, reached in places.items() if reached] == ["the node itself"]
    port, _ = reach(api.ask("system.explain", {"port": 18701}), "0.0.0.0")
    assert {tuple(each.get("only", ())) for each in port["reach"] if each["reached"]} == {("203.0.113.0/24",)}
    port, _ = reach(api.ask("system.explain", {"port": 80}), "0.0.0.0")
    assert (port["host_port"], port["name"]) == (None, boxes["plain"]["name"])
    assert "routed" in port["reach"][0]["about"]


def test_a_port_that_nobody_published_is_told_with_who_has_it(api):
    said = api.ask("system.explain", {"port": 18710})
    assert (said["reached"], said["ports"], said["holders"], said["stopped_by"]) == (False, [], [], "port")
    with listening(api, 18711):
        said = api.ask("system.explain", {"port": 18711})
    assert said["holders"][0]["node"] == api.node
    assert "python3 (pid " in said["about"]


def test_questions_that_are_none_are_refused(api, served):
    _, boxes = served
    for body, field in (({}, "from"), ({"from": boxes["web"]["id"]}, "to"), ({"to": "x", "port": 1}, "from")):
        error = api.refused("system.explain", body, "invalid")
        assert [each["field"] for each in error["details"]["fields"]] == [field]
    api.refused("system.explain", {"from": "nonesuch", "to": "x"}, "not_found", "nonesuch")
    api.refused("system.explain", {"port": 0}, "invalid")
    api.refused("system.explain", {"port": 1, "protocol": "icmp"}, "invalid")


def test_it_changes_nothing(api, served):
    _, boxes = served
    with api.unchanged():
        explain(api, boxes["peer"], boxes["web"]["name"])
        api.ask("system.explain", {"port": 18700})
