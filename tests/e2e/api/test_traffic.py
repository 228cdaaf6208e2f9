"""What a reply promised carries traffic at once: no test here tries anything twice (API 4, 11 and 12)."""

import contextlib
import json
import socket
import struct
import subprocess

import pytest

SERVER = """
import socket, sys, threading
def serve(family, kind, address, port, text):
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, port))
    if kind == socket.SOCK_STREAM: s.listen(16)
    sys.stdout.write('there\\n'); sys.stdout.flush()
    while True:
        if kind == socket.SOCK_STREAM:
            c, peer = s.accept(); c.sendall(text + peer[0].encode()); c.close()
        else:
            data, peer = s.recvfrom(100); s.sendto(text + peer[0].encode(), peer)
kind = getattr(socket, sys.argv[1]); port = int(sys.argv[2]); text = sys.argv[3].encode()
for family, address in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
    threading.Thread(target=serve, args=(family, kind, address, port, text), daemon=True).start()
sys.stdin.read()
"""
CLIENT = """
import socket, sys
kind = getattr(socket, sys.argv[1]); host, port = sys.argv[2], int(sys.argv[3])
s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, kind)
s.settimeout(float(sys.argv[4]))
s.connect((host, port))
if kind == socket.SOCK_DGRAM: s.send(b'x')
print(s.recv(200).decode())
"""
DNS = """
import socket, struct, sys
name, kind, protocol = sys.argv[1], int(sys.argv[2]), sys.argv[3]
query = struct.pack('>6H', 7, 0x100, 1, 0, 0, 0)
query += b''.join(bytes([len(l)]) + l.encode() for l in name.rstrip('.').split('.'))
query += b'\\0' + struct.pack('>2H', kind, 1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if protocol == 'udp' else socket.SOCK_STREAM)
s.settimeout(5); s.connect(('127.0.0.11', 53))
if protocol == 'tcp':
    s.sendall(struct.pack('>H', len(query)) + query)
    data = b''
    while len(data) < 2 or len(data) < 2 + struct.unpack('>H', data[:2])[0]: data += s.recv(4096)
    data = data[2:]
else:
    s.send(query); data = s.recv(4096)
sys.stdout.write(data.hex())
"""


class Traffic:
    def __init__(self, api):
        self.api = api
        self._stack = contextlib.ExitStack()

    def serve(self, box, port, text, kind="SOCK_STREAM"):
        """Answer on a port of a sandbox, on both families, with a text and the peer's address."""
        path = self.api.path(box["key"])
        process = self._stack.enter_context(
            subprocess.Popen(
                ["nsenter", f"--net={path}", "python3", "-c", SERVER, kind, str(port), text],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
        )  # fmt: skip
        self._stack.callback(process.stdin.close)
        assert [process.stdout.readline(), process.stdout.readline()] == [b"there\n"] * 2

    def fetch(self, host, port, box=None, *, kind="SOCK_STREAM", patience_s=5):
        """Return what a port answers, from a sandbox or the node; None when it does not."""
        path = self.api.path(box["key"]) if box else self.api.namespace
        done = subprocess.run(
            ["nsenter", f"--net={path}", "python3", "-c", CLIENT, kind, host, str(port), str(patience_s)],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        return done.stdout.strip() if done.returncode == 0 else None

    def resolve(self, box, name, kind=1, protocol="udp"):
        """Return the response code and the addresses that the embedded DNS answers."""
        path = self.api.path(box["key"])
        done = subprocess.run(
            ["nsenter", f"--net={path}", "python3", "-c", DNS, name, str(kind), protocol],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return parse_dns(bytes.fromhex(done.stdout))

    def end(self):
        self._stack.close()


def parse_dns(data):
    _, flags, _, answers, _, _ = struct.unpack(">6H", data[:12])
    place = data.index(b"\0", 12) + 5
    found = []
    for _ in range(answers):
        while data[place] and data[place] < 0xC0:
            place += data[place] + 1
        place += 2 if data[place] >= 0xC0 else 1
        kind, _, _, size = struct.unpack(">HHIH", data[place : place + 10])
        value = data[place + 10 : place + 10 + size]
        if kind in (1, 28):
            found.append(socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, value))
        place += 10 + size
    return flags & 15, sorted(found)


@pytest.fixture
def traffic(api):
    made = Traffic(api)
    yield made
    made.end()


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
