"""Where a published port is reached from, and where not: place x family x protocol x mode, after the same table.

Every place asks every port in one process; what must not answer is asked beside what must, by the same means.
"""

import itertools
import json
import subprocess

import pytest

NODE6, LAN6 = "fd99::1", "fd99::2"
LISTED = ["192.0.2.2/32", f"{LAN6}/128"]  # the machine on the LAN
PROBE = """
import json, socket, sys, threading
found = {}
def ask(key, kind, host, port):
    try:
        with socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, getattr(socket, kind)) as s:
            s.settimeout(1.5); s.connect((host, port))
            if kind == 'SOCK_DGRAM': s.send(b'x')
            found[key] = s.recv(200).decode()
    except OSError: found[key] = None
threads = [threading.Thread(target=ask, args=(json.dumps(each), *each)) for each in json.load(sys.stdin)]
for t in threads: t.start()
for t in threads: t.join()
print(json.dumps(found))
"""
MODES = {
    "everywhere": {},
    "address": {"host_ip": "192.0.2.1"},
    "address6": {"host_ip": NODE6},
    "loopback": {"host_ip": "127.0.0.1"},
    "loopback6": {"host_ip": "::1"},
    "allowed": {"allow": LISTED},
    "denied": {"allow": ["203.0.113.0/24", "2001:db8::/32"]},
}
KINDS = {"tcp": "SOCK_STREAM", "udp": "SOCK_DGRAM"}
ADDRESSES = {"node4": "192.0.2.1", "node6": NODE6, "local4": "127.0.0.1", "local6": "::1"}
PLACES = ("lan", "host", "itself", "neighbour", "stranger", "itself4", "stranger4")
TARGETS = ("dual", "single")


def port_of(target, mode):
    return 18600 + 20 * TARGETS.index(target) + list(MODES).index(mode)


def is_reached(place, address, mode):
    """Say what must be: the table of this test."""
    match mode:
        case "everywhere":
            return True
        case "address":
            return address == "node4"
        case "address6":
            return address == "node6"
        case "loopback":
            return (place, address) == ("host", "local4")
        case "loopback6":
            return (place, address) == ("host", "local6")
        case "allowed":
            return place == "lan"
        case _:
            return False  # denied to all, or not published at all


def asked_from(place):
    """Return the addresses that mean the node there."""
    if place == "host":
        return tuple(ADDRESSES)
    return ("node4",) if place.endswith("4") else ("node4", "node6")


@pytest.fixture(scope="module")
def answers(installation, api, make_for_module):
    """Return what every port answered to every place."""
    make = make_for_module
    with installation.lan() as lan:
        installation.sh(f"ip addr add {NODE6}/64 dev uplink0 nodad")
        installation.sh(f"ip addr add {LAN6}/64 dev lan0 nodad", at=lan)
        both, four = make.network(enable_ipv6=True), make.network()
        other = make.network(enable_ipv6=True)
        boxes = {
            "itself": make.sandbox(on=[both]),
            "neighbour": make.sandbox(on=[both]),
            "stranger": make.sandbox(on=[other]),
            "itself4": make.sandbox(on=[four]),
            "stranger4": make.sandbox(on=[make.network()]),
        }
        served = [api_traffic(api, boxes[place], name) for place, name in (("itself", "dual"), ("itself4", "single"))]
        for target, place in zip(TARGETS, ("itself", "itself4"), strict=True):
            ports = [
                {"container_port": 80, "protocol": protocol, "host_port": port_of(target, mode), **fields}
                for protocol in KINDS
                for mode, fields in MODES.items()
            ]
            api.ask("sandbox.publish", {"sandbox": boxes[place]["id"], "ports": ports})
        keys = {"lan": f"{lan}", "host": api.namespace} | {name: api.path(box["key"]) for name, box in boxes.items()}
        try:
            yield {place: ask_all(api, keys[place], place) for place in PLACES}
        finally:
            for process in itertools.chain(*served):
                process.stdin.close()
                process.stdout.close()
                process.wait(10)
            make.end()
            make._undo.clear()


def api_traffic(api, box, name):
    from .conftest import SERVER

    processes = []
    for kind in KINDS.values():
        command = ["nsenter", f"--net={api.path(box['key'])}", "python3", "-c", SERVER, kind, "80", f"{name} "]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert [processes[-1].stdout.readline(), processes[-1].stdout.readline()] == [b"there\n"] * 2
    return processes


def ask_all(api, path, place):
    questions = [
        (KINDS[protocol], ADDRESSES[address], port)
        for protocol in KINDS
        for address in asked_from(place)
        for target in TARGETS
        for port in (*(port_of(target, mode) for mode in MODES), port_of(target, "denied") + 1)
    ]
    done = subprocess.run(
        ["nsenter", f"--net={api.path(str(path))}", "python3", "-c", PROBE],
        input=json.dumps(questions), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {tuple(json.loads(key)): answer for key, answer in json.loads(done.stdout).items()}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("protocol", KINDS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", [*MODES, "unpublished"])
def test_a_port_answers_exactly_where_it_should(answers, place, protocol, target, mode):
    port = port_of(target, "denied") + 1 if mode == "unpublished" else port_of(target, mode)
    for address in asked_from(place):
        answer = answers[place][KINDS[protocol], ADDRESSES[address], port]
        assert (answer is not None) == is_reached(place, address, mode), f"{ADDRESSES[address]}:{port}: {answer}"
        assert answer is None or answer.startswith(f"{target} ")


@pytest.mark.parametrize("protocol", KINDS)
@pytest.mark.parametrize("mode", ["everywhere", "allowed"])
def test_the_client_s_address_is_kept_where_translation_serves(answers, protocol, mode):
    kept = (("dual", "node4", "192.0.2.2"), ("dual", "node6", LAN6), ("single", "node4", "192.0.2.2"))
    for target, address, client in kept:
        answer = answers["lan"][KINDS[protocol], ADDRESSES[address], port_of(target, mode)]
        assert answer == f"{target} {client}"


def test_ports_of_an_internal_network_are_not_there(api, make, traffic):
    box = make.sandbox(on=[make.network(internal=True)])
    traffic.serve(box, 80, "inside ")
    more = api.ask("sandbox.publish", {"sandbox": box["id"], "ports": [{"container_port": 80, "host_port": 18690}]})
    assert more["ports"] == []
    assert traffic.fetch("127.0.0.1", 18690, patience_s=1) is None
    make.connect(box, make.network())
    assert traffic.fetch("127.0.0.1", 18690).startswith("inside ")
