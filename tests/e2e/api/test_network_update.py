"""A network changes under its endpoints, which notice nothing but what was changed (API 2; ADR 0011)."""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

MTU = "com.docker.network.driver.mtu"
ICC = "com.docker.network.bridge.enable_icc"
MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"

SERVER = """
import socket, sys, threading
def echo(s):
    while data := s.recv(65536): s.sendall(data)
def tcp(s):
    while True: threading.Thread(target=echo, args=(s.accept()[0],), daemon=True).start()
def udp(s):
    while True:
        data, peer = s.recvfrom(65536); s.sendto(data or peer[0].encode(), peer)
t = socket.create_server(('::', 7), family=socket.AF_INET6, dualstack_ipv6=True)
u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
u.bind(('::', 7))
for serve, s in ((tcp, t), (udp, u)): threading.Thread(target=serve, args=(s,), daemon=True).start()
print('there', flush=True)
sys.stdin.read()
"""
# One TCP connection and one UDP flow, each message answered before the next is sent, until told to stop.
STREAM = """
import json, select, socket, sys
host = sys.argv[1]
t = socket.create_connection((host, 7), 5); t.settimeout(5)
u = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)
u.settimeout(1); u.connect((host, 7))
count, lost = 0, 0
while not select.select([sys.stdin], [], [], 0)[0]:
    message = (b'%08d' % count) * 150
    t.sendall(message)
    back = b''
    while len(back) < len(message): back += t.recv(65536)
    assert back == message
    try:
        u.send(message[:64])
        while u.recv(65536) != message[:64]: pass
    except TimeoutError: lost += 1
    count += 1
    if count == 20: print('going', flush=True)
print(json.dumps({'count': count, 'lost': lost}), flush=True)
"""
# What an echo server says of who asks: an empty datagram is answered with the asker's address.
ASK = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(float(sys.argv[2])); s.connect((sys.argv[1], 7)); s.send(b''); print(s.recv(100).decode())
"""


class Streams:
    """Echo servers and streams in network namespaces."""

    def __init__(self, api):
        self.api = api
        self._stack = contextlib.ExitStack()

    def run(self, path, script, *words):
        process = self._stack.enter_context(
            subprocess.Popen(
                ["nsenter", f"--net={path}", "python3", "-c", script, *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
        self._stack.callback(process.stdin.close)
        assert process.stdout.readline() in ("there\n", "going\n")
        return process

    def serve(self, box):
        self.run(self.api.path(box["key"]), SERVER)

    def begin(self, host, box=None):
        """Begin a stream from a sandbox, or from the node; returns once it goes."""
        return self.run(self.api.path(box["key"]) if box else self.api.namespace, STREAM, host)

    def ask(self, host, box=None, *, path=None, patience_s=5):
        """Return under which address an echo server sees a sandbox, or the node; None when it does not answer."""
        path = path or (self.api.path(box["key"]) if box else self.api.namespace)
        done = subprocess.run(
            ["nsenter", f"--net={path}", "python3", "-c", ASK, host, str(patience_s)],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        return done.stdout.strip().removeprefix("::ffff:") if done.returncode == 0 else None

    def end(self):
        self._stack.close()


def stopped(process):
    """Stop a stream and return what became of it."""
    before = process.poll()
    assert before is None, "the stream broke"
    process.stdin.write("stop\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


@pytest.fixture
def streams(api):
    made = Streams(api)
    yield made
    made.end()


def bare(address):
    return address.partition("/")[0]


def address_of(endpoint, version=4):
    return bare(endpoint[f"ipv{version}_address"])


def update(api, network, **changes):
    return api.ask("network.update", {"network": network["id"], **changes})


def mtu_of(api, ifname, key=None):
    return next(link["mtu"] for link in api.ip("link show", key) if link["ifname"] == ifname)


def test_a_change_replaces_what_it_names_and_is_told_once(api, tidy, make):
    network = make.network(labels={"a": "1", "b": "2"}, dns={"ttl": 5}, options={MTU: 1400})
    network.pop("warnings", None)  # the first network of a node tells of forwarding, which was set
    kernel = api.kernel()
    with api.recording() as events:
        changed = update(api, network, labels={"c": "3"})
        same = update(api, network, labels={"c": "3"}, options={MTU: "1400"}, dns={"ttl": 5})
        nothing = update(api, network)
    assert changed == {**network, "labels": {"c": "3"}, "revision": 2}
    assert same == nothing == changed == api.ask("network.get", {"network": network["id"]})
    assert [event.what for event in events] == ["network.updated"]
    assert events[0].body["object"] == changed
    assert api.kernel() == kernel
    assert update(api, network, labels={}, dns={})["labels"] == {}
    assert api.ask("network.get", {"network": network["id"]})["dns"] == {
        "servers": [], "search": [], "ttl": None, "domains": {},
    }  # fmt: skip
    label = {"filters": {"label": ["c"]}}
    assert network["id"] not in [each["id"] for each in api.ask("network.list", label)["networks"]]


def test_a_repeat_of_a_request_changes_nothing_more(api, make):
    network, headers = make.network(), {"Cnm-Request-Id": api.name("twice")}
    body = {"network": network["id"], "revision": 1, "labels": {"a": "1"}}
    first, again = (api.ask("network.update", body, headers) for _ in range(2))
    assert first == again
    api.refused("network.update", body, "conflict", "revision 2", "revision 1")


def test_of_many_changes_of_one_revision_one_wins(api, make):
    network = make.network()
    bodies = [{"network": network["id"], "revision": 1, "labels": {"n": str(n)}} for n in range(8)]
    replies = [reply for reply, _ in api.together(*(("network.update", body) for body in bodies))]
    (won,) = [reply for reply in replies if "error" not in reply]
    assert {reply["error"]["code"] for reply in replies if "error" in reply} == {"conflict"}
    assert api.ask("network.get", {"network": network["id"]}) == won


def test_an_mtu_reaches_the_bridge_and_both_ends_of_every_port(api, tidy, make):
    network, box = make.network(), make.sandbox()
    joined = make.connect(box, network)
    bridge, port = f"br-{network['id'][:12]}", joined["driver_info"]["host_ifname"]

    def mtus():
        return [mtu_of(api, bridge), mtu_of(api, port), mtu_of(api, "eth0", box["key"])]

    assert mtus() == [1500] * 3
    for asked, stands in ((1400, 1400), (9000, 9000), (None, 1500)):
        update(api, network, options={MTU: asked})
        assert mtus() == [stands] * 3
    update(api, network, options={MTU: 1300})
    late = make.sandbox(on=[network])
    assert mtu_of(api, "eth0", late["key"]) == 1300
    assert "mtu 1300" in api.sh("ip link show eth0", late["key"])


def test_icc_is_turned_off_and_on_under_endpoints(api, tidy, make, streams):
    network, boxes = make.network(), [make.sandbox() for _ in range(2)]
    one, two = (address_of(make.connect(box, network)) for box in boxes)
    streams.serve(boxes[1])
    assert streams.ask(two, boxes[0]) == one
    going = streams.begin(two)  # from the node, which it does not concern
    update(api, network, options={ICC: False})
    assert streams.ask(two, boxes[0], patience_s=0.5) is None
    assert streams.ask(two) is not None
    update(api, network, options={ICC: True})
    assert streams.ask(two, boxes[0]) == one
    assert stopped(going)["lost"] == 0


def test_masquerading_is_turned_off_and_on(installation, api, make, lan, streams):
    network, box = make.network(), make.sandbox()
    mine = address_of(make.connect(box, network))
    streams.run(lan, SERVER)
    gateway = api.ask("node.get", {"node": api.node})["address"]
    subprocess.run(
        ["nsenter", f"--net={lan}", "ip", "route", "add", f"{mine}/32", "via", gateway], check=True, timeout=10
    )
    there = installation.lan_address
    assert streams.ask(there, box) == gateway
    update(api, network, options={MASQUERADE: False})
    assert streams.ask(there, box) == mine
    update(api, network, options={MASQUERADE: None})
    assert streams.ask(there, box) == gateway


def test_dns_settings_reach_the_sandboxes(api, tidy, make):
    network, other, box = make.network(dns={"search": ["old.example"]}), make.network(), make.sandbox()
    make.connect(box, network)
    make.connect(box, other)
    idle = make.sandbox()

    def resolv_conf(sandbox):
        return Path(api.path(sandbox["resolv_conf_path"])).read_text()

    before = resolv_conf(idle)
    assert "old.example" in resolv_conf(box)
    update(api, network, dns={"search": ["new.example"], "ttl": 3})
    assert "new.example" in resolv_conf(box)
    assert "old.example" not in resolv_conf(box)
    assert resolv_conf(idle) == before
    assert api.ask("network.get", {"network": network["id"]})["dns"]["ttl"] == 3


def test_another_pool_serves_when_the_first_is_full(api, tidy, make, streams):
    network = make.network(ipam={"pools": [{"subnet": "10.71.0.0/30"}]})
    boxes = [make.sandbox(ports=[{"container_port": 7, "protocol": "udp"}]) for _ in range(3)]
    first = make.connect(boxes[0], network)
    body = {"sandbox": boxes[1]["id"], "network": network["id"]}
    with api.unchanged():
        api.refused("sandbox.connect", body, "exhausted", "10.71.0.0/30")
    with api.recording() as events:
        grown = update(api, network, add_pools=[{"subnet": "10.72.0.0/24", "range": "10.72.0.128/25"}])
    assert sorted(event.what for event in events) == ["network.updated", "pool.requested"]
    assert [pool["subnet"] for pool in grown["ipam"]["pools"]] == ["10.71.0.0/30", "10.72.0.0/24"]
    assert [pool["in_use"] for pool in grown["ipam"]["pools"]] == [2, 1]
    gateway = grown["ipam"]["pools"][1]["gateway"]
    second, third = (make.connect(box, network) for box in boxes[1:])
    assert second["gateway_ipv4"] == gateway
    assert second["ipv4_address"].startswith("10.72.0.1")
    assert api.ask("endpoint.get", {"endpoint": first["id"]})["gateway_ipv4"] == "10.71.0.1"
    for box in boxes:
        streams.serve(box)
    for here, there in ((boxes[0], second), (boxes[1], first), (boxes[1], third), (None, second), (None, first)):
        assert streams.ask(address_of(there), here), (here, there)
    (port,) = [
        each for each in api.ask("sandbox.get", {"sandbox": boxes[1]["id"]})["ports"] if each["host_ip"] == "0.0.0.0"
    ]
    assert port["container_ip"] == address_of(second)
    routes = api.ip("route show default", boxes[1]["key"])
    assert [route["gateway"] for route in routes] == [gateway]
    going = streams.begin(address_of(first), boxes[1])
    assert stopped(going)["lost"] == 0
    update(api, network, options={ICC: False})
    assert streams.ask(address_of(first), boxes[1], patience_s=0.5) is None
    assert streams.ask(address_of(first)) is not None
    # It is the network's own: nobody else gets it, and it goes with the network.
    taken = {"name": api.name("late"), "ipam": {"pools": [{"subnet": "10.72.0.0/25"}]}}
    api.refused("network.create", taken, "conflict", network["name"])
    fixed = make.endpoint(network, ipv4_address="10.72.0.9")
    assert fixed["ipv4_address"] == "10.72.0.9/24"
    api.ask("network.delete", {"network": network["id"], "force": True})
    make.network(ipam={"pools": [{"subnet": "10.72.0.0/25"}]})


def test_traffic_from_an_added_pool_is_masqueraded(installation, api, make, lan, streams):
    network, box = make.network(ipam={"pools": [{"subnet": "10.73.0.0/30"}]}), make.sandbox()
    update(api, network, add_pools=[{"subnet": "10.74.0.0/24"}])
    make.endpoint(network)
    assert make.connect(box, network)["ipv4_address"].startswith("10.74.")
    streams.run(lan, SERVER)
    node = api.ask("node.get", {"node": api.node})["address"]
    assert streams.ask(installation.lan_address, box) == node


@pytest.mark.parametrize("asked", ["::/64", "fd00:75::/64"])
def test_ipv6_comes_to_a_network_that_had_none(api, tidy, make, streams, asked):
    network, boxes = make.network(), [make.sandbox() for _ in range(3)]
    first = make.connect(boxes[0], network)
    grown = update(api, network, add_pools=[{"subnet": asked}])
    assert grown["enable_ipv6"]
    assert grown["ipam"]["pools"][1]["subnet"].endswith("::/64")
    second, third = (make.connect(box, network) for box in boxes[1:])
    assert api.ask("endpoint.get", {"endpoint": first["id"]})["ipv6_address"] is None
    streams.serve(boxes[1])
    assert streams.ask(address_of(second, 6), boxes[2]) == address_of(third, 6)
    assert streams.ask(address_of(second), boxes[0]) == address_of(first)
    assert streams.ask(address_of(second, 6)) == bare(grown["ipam"]["pools"][1]["gateway"])


def test_streams_notice_nothing_of_a_change(api, tidy, make, streams):
    network, boxes = make.network(options={MTU: 1450}), [make.sandbox() for _ in range(2)]
    two = address_of([make.connect(box, network) for box in boxes][1])
    streams.serve(boxes[1])
    going = [streams.begin(two, boxes[0]), streams.begin(two)]
    for changes in (
        {"labels": {"a": "1"}},
        {"options": {MTU: 1400, MASQUERADE: False, HOST_BINDING: "127.0.0.1"}},
        {"add_pools": [{"subnet": "10.76.0.0/24"}, {"subnet": "fd00:76::/64"}]},
        {"options": {MTU: None, MASQUERADE: None}, "dns": {"search": ["corp.example"], "ttl": 1}},
    ):
        update(api, network, **changes)
    for stream in going:
        told = stopped(stream)
        assert told["lost"] == 0
        assert told["count"] > 20


def test_a_host_binding_is_for_ports_that_come_after(api, tidy, make):
    network = make.network()
    early, late = (make.sandbox(ports=[{"container_port": 80}]) for _ in range(2))
    make.connect(early, network)
    before = api.ask("sandbox.get", {"sandbox": early["id"]})["ports"]
    update(api, network, options={HOST_BINDING: "127.0.0.1"})
    make.connect(late, network)
    assert api.ask("sandbox.get", {"sandbox": early["id"]})["ports"] == before
    assert {port["host_ip"] for port in api.ask("sandbox.get", {"sandbox": late["id"]})["ports"]} == {"127.0.0.1"}


def test_a_container_that_died_keeps_no_network_from_changing(api, make, patiently):
    pid = int(api.sh("unshare -n sleep 1000 >/dev/null 2>&1 & echo $!").strip())
    dead = f"/proc/{pid}/ns/net"
    try:
        patiently(lambda: Path(dead).readlink() != Path(api.namespace).readlink())
        network = make.network()
        boxes = [make.sandbox(on=[network], netns=dead), make.sandbox(on=[network])]
    finally:
        os.kill(pid, signal.SIGKILL)
    patiently(lambda: not Path(dead).exists())
    changed = update(api, network, options={MTU: 1400})
    assert "warnings" not in changed  # the sandbox keeps the namespace until it goes itself (ADR 14)
    assert [mtu_of(api, "eth0", box["key"]) for box in boxes] == [1400, 1400]
    assert api.ask("sandbox.delete", {"sandbox": boxes[0]["id"]}) == {}


def test_a_changed_network_is_the_same_after_a_restart(own_installation, own_api, patiently):
    api = own_api
    network = api.ask("network.create", {"name": "web", "ipam": {"pools": [{"subnet": "10.77.0.0/30"}]}})
    box = api.ask("sandbox.create", {"name": "box"})
    api.ask("sandbox.connect", {"sandbox": "box", "network": "web"})
    changes = {"options": {MTU: 1400, ICC: False}, "add_pools": [{"subnet": "10.78.0.0/24"}], "labels": {"a": "1"}}
    changed = update(api, network, **changes)

    def kernel():
        shown = ("nft -s list ruleset", "ip -o addr show", f"ip -o link show master br-{changed['id'][:12]}")
        inside = own_installation.sh("ip -o link show eth0; ip -o addr show eth0", at=box["key"])
        return [own_installation.sh(command) for command in shown], inside

    before = kernel()
    assert "mtu 1400" in before[1]
    own_installation.down()
    own_installation.up()
    patiently(lambda: "id" in api.call("network.get", {"network": "web"})[0])
    assert api.ask("network.get", {"network": "web"}) == changed
    assert api.ask("system.check")["differences"] == []
    assert kernel() == before
    late = api.ask("endpoint.create", {"network": "web", "name": "late"})
    assert late["ipv4_address"] == "10.78.0.2/24"
