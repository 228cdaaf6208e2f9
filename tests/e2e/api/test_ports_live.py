"""Ports that are published and closed while the sandbox runs (API 3, 8 and 12)."""

import contextlib
import json
import subprocess

from .test_crashes import WORKERS, kill, worker_pids
from .test_ports import listening

HTTP = """
import http.server, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = sys.argv[2].encode(); self.send_response(200)
        self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True; request_queue_size = 512
server = Server(("0.0.0.0", int(sys.argv[1])), Handler)
print("there", flush=True)
server.serve_forever()
"""
# Asks again and again with a new connection each time, and tells what went wrong and how often it asked.
ASKER = """
import json, socket, sys, threading
host, port = sys.argv[1], int(sys.argv[2])
count, wrong = [0], []
def ask():
    while not over.is_set():
        try:
            with socket.create_connection((host, port), timeout=5) as s:
                s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                data = b""
                while chunk := s.recv(4096): data += chunk
            if b" 200 " not in data: wrong.append(repr(data))
        except OSError as error: wrong.append(repr(error))
        count[0] += 1
        if count[0] == 20: print("asking", flush=True)
over = threading.Event()
threads = [threading.Thread(target=ask) for _ in range(4)]
for t in threads: t.start()
sys.stdin.read()
over.set()
for t in threads: t.join()
print(json.dumps({"count": count[0], "wrong": wrong[:5]}), flush=True)
"""


def at(box, host="0.0.0.0"):
    return [(each["container_port"], each["host_port"]) for each in box["ports"] if each["host_ip"] == host]


@contextlib.contextmanager
def program(path, text, *words):
    command = ["nsenter", f"--net={path}", "python3", "-c", text, *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline()
        try:
            yield process
        finally:
            process.stdin.close()
            process.stdin = None
            process.terminate() if text is HTTP else None
            process.wait(20)


def test_a_port_is_published_and_closed_while_the_sandbox_runs(api, make, traffic):
    network = make.network()
    box = make.sandbox(on=[network], ports=[{"container_port": 80, "host_port": 18500}])
    traffic.serve(box, 80, "eighty ")
    traffic.serve(box, 81, "eighty-one ")
    gateway = network["ipam"]["pools"][0]["gateway"]
    assert traffic.fetch(gateway, 18500).startswith("eighty ")
    assert traffic.fetch(gateway, 18501) is None
    more = api.ask("sandbox.publish", {"sandbox": box["name"], "ports": [{"container_port": 81, "host_port": 18501}]})
    assert more == api.ask("sandbox.get", {"sandbox": box["id"]})
    assert more["revision"] == box["revision"] + 1
    assert at(more) == at(more, "::") == [(80, 18500), (81, 18501)]
    assert more["ports"][:2] == box["ports"]
    for host in (gateway, "127.0.0.1", "::1"):
        assert traffic.fetch(host, 18501).startswith("eighty-one ")
    less = api.ask("sandbox.unpublish", {"sandbox": box["id"], "ports": [{"container_port": 80}]})
    assert less == api.ask("sandbox.get", {"sandbox": box["id"]})
    assert at(less) == at(less, "::") == [(81, 18501)]
    assert traffic.fetch(gateway, 18500) is None
    assert traffic.fetch(gateway, 18501).startswith("eighty-one ")
    with listening(api, 18500):  # it is free for others
        pass
    empty = api.ask("sandbox.unpublish", {"sandbox": box["id"], "ports": [{"container_port": 81, "protocol": "tcp"}]})
    assert empty["ports"] == []
    assert traffic.fetch(gateway, 18501) is None


def test_everything_that_create_takes_publish_takes(api, make):
    box = make.sandbox(on=[make.network()])
    asked = [
        {"container_port": 80},
        {"container_port": 53, "protocol": "udp", "host_ip": "127.0.0.1", "host_port": 18510},
        {"container_port": 7000, "container_port_end": 7002, "host_port": 18511, "host_port_end": 18520},
        {"container_port": 90, "host_port": 18512, "allow": ["10.0.0.0/8", "fd00::/8"]},
    ]
    ports = api.ask("sandbox.publish", {"sandbox": box["id"], "ports": asked})["ports"]
    shown = [(each["host_ip"], each["host_port"], each.get("host_port_end"), each["protocol"]) for each in ports]
    assert shown[2:] == [
        ("127.0.0.1", 18510, None, "udp"),
        ("0.0.0.0", 18513, 18515, "tcp"),
        ("::", 18513, 18515, "tcp"),
        ("0.0.0.0", 18512, None, "tcp"),  # what is fixed has its port before a range takes it
        ("::", 18512, None, "tcp"),
    ]
    assert [shown[0][0], shown[1][0]] == ["0.0.0.0", "::"]
    assert shown[0][1] == shown[1][1] >= 32768
    assert [each.get("allow") for each in ports] == [None] * 5 + [["10.0.0.0/8", "fd00::/8"]] * 2


def test_what_cannot_be_had_leaves_the_sandbox_as_it_was(api, make, traffic):
    network = make.network()
    holder = make.sandbox(on=[network], ports=[{"container_port": 80, "host_port": 18530}])
    box = make.sandbox(on=[network], ports=[{"container_port": 80, "host_port": 18531}])
    waiting = make.sandbox(ports=[{"container_port": 80, "host_port": 18532}])
    traffic.serve(box, 80, "still ")
    good = {"container_port": 81, "host_port": 18533}
    pool = network["ipam"]["pools"][0]
    with api.unchanged(), listening(api, 18534):

        def refused(one, code, *words, sandbox=box):
            body = {"sandbox": sandbox["id"], "ports": [good, {"container_port": 82, **one}]}
            return api.refused("sandbox.publish", body, code, *words)

        for sandbox in (box, waiting):
            refused({"host_port": 18530}, "conflict", "18530", holder["name"], sandbox=sandbox)
            refused({"host_port": 18534}, "conflict", "18534", "python3 (pid ", sandbox=sandbox)
            refused({"host_port": 18535, "host_ip": "203.0.113.7"}, "invalid", "203.0.113.7", sandbox=sandbox)
        refused({"host_port": 18531}, "conflict", "18531", box["name"], "itself")
        refused({"host_port": 18532}, "conflict", "18532", waiting["name"], "itself", sandbox=waiting)
        refused({"host_port": 18530, "host_port_end": 18531}, "exhausted", "18530", "18531")
        error = refused({"host_port_end": 9, "allow": []}, "invalid")
        assert {each["field"] for each in error["details"]["fields"]} == {"ports[1].host_port", "ports[1].allow"}
        for allow in ("10.0.0.1/8", "everybody"):
            error = refused({"allow": [allow]}, "invalid")
            assert error["details"]["fields"][0]["field"].startswith("ports[1].allow")
        api.refused("sandbox.publish", {"sandbox": box["id"], "ports": []}, "invalid", "at least one")
        api.refused("sandbox.publish", {"sandbox": "nobody", "ports": [good]}, "not_found", "nobody")
        for one in (
            {"container_port": 9},
            {"container_port": 80, "protocol": "udp"},
            {"container_port": 80, "host_port": 1},
        ):
            body = {"sandbox": box["id"], "ports": [{"container_port": 80}, one]}
            api.refused("sandbox.unpublish", body, "not_found", box["name"], one["container_port"])
    assert traffic.fetch(pool["gateway"], 18531).startswith("still ")


def test_ports_of_a_sandbox_that_has_no_way_out_wait_for_one(api, make):
    box = make.sandbox()
    ports = [{"container_port": 80, "host_port": 18540}, {"container_port": 81, "host_port": 18541}]
    assert api.ask("sandbox.publish", {"sandbox": box["id"], "ports": ports})["ports"] == []
    inner = make.network(internal=True)
    make.connect(box, inner)
    more = api.ask("sandbox.publish", {"sandbox": box["id"], "ports": [{"container_port": 82, "host_port": 18542}]})
    assert more["ports"] == []
    assert more["warnings"]
    api.ask("sandbox.unpublish", {"sandbox": box["id"], "ports": [{"container_port": 81}]})
    make.connect(box, make.network())
    assert at(api.ask("sandbox.get", {"sandbox": box["id"]})) == [(80, 18540), (82, 18542)]


def test_ports_on_a_public_address_are_warned_of(api, make):
    box = make.sandbox(on=[make.network()])
    local = {"container_port": 80, "host_port": 18546, "host_ip": "127.0.0.1"}
    ports = [{"container_port": 80, "host_port": 18545}, local]
    assert "warnings" not in api.ask("sandbox.publish", {"sandbox": box["id"], "ports": ports})
    api.sh("ip addr add 203.0.114.9/32 dev lo")
    try:
        asked = [
            {"container_port": 81, "host_port": 18547},
            {"container_port": 82, "host_port": 18548, "host_ip": "203.0.114.9"},
            {"container_port": 83, "host_port": 18549, "allow": ["10.0.0.0/8"]},
        ]
        warnings = api.ask("sandbox.publish", {"sandbox": box["id"], "ports": asked})["warnings"]
        assert ["18547" in each for each in warnings] == [True, False]
        assert ["18548" in each for each in warnings] == [False, True]
        assert all("203.0.114.9" in warning for warning in warnings)
        late = make.sandbox(ports=[{"container_port": 80, "host_port": 18544}])
        assert "18544" in make.connect(late, make.network())["warnings"][0]
        api.ask("sandbox.unpublish", {"sandbox": box["id"], "ports": [{"container_port": 82}]})
    finally:
        api.sh("ip addr del 203.0.114.9/32 dev lo")


def test_ten_thousand_ports_are_one_entry_everywhere_and_each_carries_traffic(api, make, traffic, patiently):
    network = make.network()
    box = make.sandbox(on=[network])
    gateway = network["ipam"]["pools"][0]["gateway"]
    for port in (20000, 25000, 29999):
        traffic.serve(box, port, f"{port} ", kind="SOCK_DGRAM")
    wide = {"container_port": 20000, "container_port_end": 29999, "host_port": 20000, "host_port_end": 29999}
    more = api.ask("sandbox.publish", {"sandbox": box["id"], "ports": [wide | {"protocol": "udp"}]})
    assert [(each["host_ip"], each["host_port"], each["host_port_end"]) for each in more["ports"]] == [
        ("0.0.0.0", 20000, 29999),
        ("::", 20000, 29999),
    ]

    def answered():
        return [
            traffic.fetch(gateway, port, kind="SOCK_DGRAM") is not None
            and traffic.fetch("::1", port, kind="SOCK_DGRAM") is not None
            for port in (20000, 25000, 29999)
        ]

    assert answered() == [True] * 3
    said = api.ask("system.explain", {"port": 25000, "protocol": "udp"})
    assert (said["reached"], said["ports"][0]["sandbox"]) == (True, box["id"])
    api.refused(
        "sandbox.create", {"name": api.name(), "ports": [wide | {"protocol": "udp"}]}, "conflict", box["name"]
    )
    old = kill(api, "port-mapper")
    assert patiently(lambda: [pid for pid in worker_pids(api, "port-mapper") if pid != old])
    assert patiently(lambda: answered() == [True] * 3)
    api.ask("sandbox.unpublish", {"sandbox": box["id"], "ports": [{"container_port": 20000, "protocol": "udp"}]})
    assert traffic.fetch(gateway, 25000, kind="SOCK_DGRAM", patience_s=0.3) is None


def test_one_event_a_request_lists_what_came_or_went(api, make):
    box = make.sandbox(on=[make.network()], ports=[{"container_port": 80, "host_port": 18550}])
    asked = [{"container_port": 81, "host_port": 18551}, {"container_port": 82, "host_port": 18552}]
    with api.recording() as events:
        more = api.ask("sandbox.publish", {"sandbox": box["id"], "ports": asked}, {"Cnm-Request-Id": api.name("rq")})
        api.ask(
            "sandbox.unpublish", {"sandbox": box["id"], "ports": [{"container_port": 81}, {"container_port": 80}]}
        )
        body = {"sandbox": box["id"], "ports": [{"container_port": 83, "host_port": 18552}]}
        api.refused("sandbox.publish", body, "conflict")
    assert [(event.what, event.about) for event in events] == [
        ("port.published", box["id"]), ("port.unpublished", box["id"]),
    ]  # fmt: skip
    assert events[0].body["object"]["ports"] == more["ports"][2:]
    assert events[1].body["object"]["ports"] == more["ports"][:4]
    assert events[0].body["node"] == api.node


def test_the_same_request_again_publishes_once(api, make):
    box = make.sandbox(on=[make.network()])
    headers = {"Cnm-Request-Id": api.name("rq")}
    body = {"sandbox": box["id"], "ports": [{"container_port": 80}]}
    first = api.ask("sandbox.publish", body, headers)
    assert api.ask("sandbox.publish", body, headers) == first
    assert api.ask("sandbox.get", {"sandbox": box["id"]}) == first
    other = {**body, "ports": [{"container_port": 81}]}
    api.refused("sandbox.publish", other, "conflict", headers=headers)


def test_many_at_once_get_what_they_asked_for_or_nothing(api, make):
    boxes = [make.sandbox(on=[make.network()]) for _ in range(2)]

    def call(index, host):
        ports = [{"container_port": 100 + index, "host_port": host}]
        return "sandbox.publish", {"sandbox": boxes[index % 2]["id"], "ports": ports}

    wanted = enumerate((18560, 18560, 18561, 18561, 18562, 18563))
    calls = [call(index, host) for index, host in wanted]
    replies = api.together(*calls)
    codes = [reply.get("error", {}).get("code") for reply, _ in replies]
    assert codes.count("conflict") == 2
    assert codes.count(None) == 4
    bound = [port for box in boxes for _, port in at(api.ask("sandbox.get", {"sandbox": box["id"]}))]
    assert sorted(bound) == [18560, 18561, 18562, 18563]


def test_published_ports_follow_the_gateway(api, make, traffic):
    stem = api.name("net")
    one, two = make.network(f"{stem}-b"), make.network(f"{stem}-a")
    box = make.sandbox(on=[one])
    traffic.serve(box, 80, "here ")
    first = api.ask("sandbox.publish", {"sandbox": box["id"], "ports": [{"container_port": 80}]})["ports"]
    port = first[0]["host_port"]
    endpoint = make.connect(box, two)
    moved = api.ask("sandbox.get", {"sandbox": box["id"]})["ports"]
    assert {each["container_ip"] for each in moved} == {endpoint["ipv4_address"].partition("/")[0]}
    assert {each["host_port"] for each in moved} == {port}
    assert traffic.fetch("127.0.0.1", port).startswith("here ")
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": two["id"]})
    assert api.ask("sandbox.get", {"sandbox": box["id"]})["ports"] == first
    assert traffic.fetch("127.0.0.1", port).startswith("here ")


def test_a_routed_network_opens_instead_of_mapping(api, make):
    network = make.network(options={"com.docker.network.bridge.gateway_mode_ipv4": "routed"})
    box = make.sandbox(on=[network])
    with api.recording() as events:
        more = api.ask(
            "sandbox.publish", {"sandbox": box["id"], "ports": [{"container_port": 80, "host_port": 18570}]}
        )
        routed = [each for each in more["ports"] if each["host_port"] is None]
        assert [each["container_port"] for each in routed] == [80]
        less = api.ask("sandbox.unpublish", {"sandbox": box["id"], "ports": [{"container_port": 80}]})
    assert less["ports"] == []
    assert [event.what for event in events] == ["port.published", "port.unpublished"]
    assert routed[0] in events[0].body["object"]["ports"]


def test_what_only_some_may_reach_is_never_opened_to_all_by_a_routed_network(api, make):
    network = make.network(options={"com.docker.network.bridge.gateway_mode_ipv4": "routed"})
    box = make.sandbox(on=[network])
    asked = [{"container_port": 80, "host_port": 18575, "allow": ["10.0.0.0/8"]}]
    more = api.ask("sandbox.publish", {"sandbox": box["id"], "ports": asked})
    assert not [each for each in more["ports"] if each["host_port"] is None]
    assert any("80/tcp" in warning and network["name"] in warning for warning in more["warnings"])


@contextlib.contextmanager
def asking(api, port):
    """Ask for a page all the time, each with a new connection; every one must be answered."""
    command = ["nsenter", f"--net={api.namespace}", "python3", "-c", ASKER, "127.0.0.1", str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as asker:
        assert asker.stdout.readline() == "asking\n"
        yield
        told = json.loads(asker.communicate()[0])
    assert told["wrong"] == []
    assert told["count"] > 20


def test_a_server_behind_a_port_answers_while_every_worker_dies_and_returns(api, make, patiently):
    box = make.sandbox(on=[make.network()], ports=[{"container_port": 80, "host_port": 18590}])
    before = api.ask("sandbox.get", {"sandbox": box["id"]})["ports"]
    with program(api.path(box["key"]), HTTP, 80, "ok"), asking(api, 18590):
        for worker in WORKERS:
            old = kill(api, worker)
            assert patiently(lambda worker=worker, old=old: [pid for pid in worker_pids(api, worker) if pid != old])
    assert api.ask("sandbox.get", {"sandbox": box["id"]})["ports"] == before
    more = {"container_port": 80, "host_port": 18591}
    assert (80, 18591) in at(api.ask("sandbox.publish", {"sandbox": box["id"], "ports": [more]}))


def test_no_connection_fails_while_other_ports_come_and_go(api, make):
    box = make.sandbox(on=[make.network()], ports=[{"container_port": 80, "host_port": 18580}])
    with program(api.path(box["key"]), HTTP, 80, "ok"), asking(api, 18580):
        for _ in range(20):
            ports = [{"container_port": 80, "host_port": 18581}]
            api.ask("sandbox.publish", {"sandbox": box["id"], "ports": ports})
            api.ask("sandbox.unpublish", {"sandbox": box["id"], "ports": ports})
