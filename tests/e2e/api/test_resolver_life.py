"""The embedded DNS answers whatever else dies, and loses no question when it is killed or restarted itself (D26)."""

import json
import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import Traffic
from .test_crashes import worker_pids

# Asks again and again, three clients at once. Each question waits for its answer five seconds and is sent once more
# then, as the C library does; what was sent again, and what was never answered, is counted.
ASKER = """
import json, select, socket, struct, sys, threading, time
question = struct.pack('>6H', 0, 0x100, 1, 0, 0, 0) + b''.join(
    bytes([len(l)]) + l.encode() for l in sys.argv[1].split('.')) + b'\\0' + struct.pack('>2H', 1, 1)
count, again, lost, wrong, over = [0], [0], [0], [], threading.Event()
def ask(number):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('127.0.0.11', 53))
    while not over.is_set():
        number = number + 3 & 0xFFFF
        packet = struct.pack('>H', number) + question[2:]
        for attempt in range(3):
            s.send(packet)
            until, answer = time.monotonic() + 5, None
            while answer is None and time.monotonic() < until:
                if select.select([s], [], [], until - time.monotonic())[0]:
                    found = s.recv(4096)
                    answer = found if found[:2] == packet[:2] else None
            if answer is not None: break
            again[0] += 1
        else: lost[0] += 1
        if answer is not None and (answer[3] & 15 or answer[6:8] != b'\\0\\1'): wrong.append(answer.hex())
        count[0] += 1
        if count[0] == 50: print('asking', flush=True)
        time.sleep(0.002)
threads = [threading.Thread(target=ask, args=(n,)) for n in range(3)]
for t in threads: t.start()
sys.stdin.read()
over.set()
for t in threads: t.join()
print(json.dumps({'count': count[0], 'again': again[0], 'lost': lost[0], 'wrong': wrong[:3]}), flush=True)
"""


@contextmanager
def asking(api, box, name):
    """Ask for a name in a sandbox while the block runs, and give what came of it."""
    told = {}
    command = ["nsenter", f"--net={api.path(box['key'])}", "python3", "-c", ASKER, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "asking\n"
        yield told
        told.update(json.loads(process.communicate()[0]))


@pytest.fixture(scope="module")
def installation(module_installation):
    """Have it in place of the one that the tests share."""
    return module_installation


@pytest.fixture
def box(api, patiently):
    network = api.ask("network.create", {"name": "web"})
    made = api.ask("sandbox.create", {"name": "c1"})
    api.ask("sandbox.connect", {"sandbox": "c1", "network": network["id"]})
    yield made
    for verb, body in (("sandbox.delete", {"sandbox": "c1"}), ("network.delete", {"network": "web"})):
        # What the test killed may not be back yet; what was refused then may be done all the same.
        patiently(
            lambda verb=verb, body=body: api.call(verb, body)[0].get("error", {}).get("code") in (None, "not_found")
        )


def test_the_sockets_of_a_deleted_sandbox_are_let_go(api, patiently):
    """Else its namespace would live on in them."""
    supervisor = api.namespace.split("/")[2]

    def sockets():
        found = [each.readlink() for each in Path(f"/proc/{supervisor}/fd").iterdir()]
        return sum(each.name.startswith("socket:") for each in found)

    before = sockets()
    api.ask("sandbox.create", {"name": "c1"})
    patiently(lambda: sockets() == before + 2)
    api.ask("sandbox.delete", {"sandbox": "c1"})
    patiently(lambda: sockets() == before)


def restarted(api, old):
    return [pid for pid in worker_pids(api, "resolver") if pid != old]


@pytest.mark.parametrize("how", ["killed", "stopped in order"])
def test_no_question_is_lost_when_the_resolver_is(api, box, patiently, how):
    times = 3
    with asking(api, box, "c1.web") as told:
        for _ in range(times):
            (old,) = worker_pids(api, "resolver")
            os.kill(old, signal.SIGKILL if how == "killed" else signal.SIGTERM)
            patiently(lambda old=old: restarted(api, old))
            assert Traffic(api).resolve(box, "c1.web")[0] == 0
    assert (told["lost"], told["wrong"]) == (0, [])
    # What a process has read when it is killed goes with it: one question at most.
    assert told["again"] <= (times if how == "killed" else 0)
    assert told["count"] > 50


def test_the_resolver_answers_while_all_else_is_dead(api, installation, box):
    stopped = []
    try:
        with asking(api, box, "c1.web") as told:
            for program in ("cnm-controller", "cnm-ipam", "cnm-sandbox", "cnm-driver-bridge", "nats", "redis"):
                stopped.append(installation.pid(program))
                os.kill(stopped[-1], signal.SIGSTOP)
            with asking(api, box, "c1") as more:
                pass
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    for each in (told, more):
        assert (each["lost"], each["again"], each["wrong"]) == (0, 0, [])


def test_a_resolver_that_starts_without_a_controller_knows_what_was_said(api, installation, box, patiently):
    kept = Path(f"{installation.inside}{installation.run_dir}/names.json")
    (endpoint,) = api.ask("sandbox.get", {"sandbox": "c1"})["endpoints"]
    patiently(lambda: endpoint["id"] in kept.read_text())
    controller = installation.pid("cnm-controller")
    os.kill(controller, signal.SIGSTOP)
    try:
        (old,) = worker_pids(api, "resolver")
        os.kill(old, signal.SIGKILL)
        with asking(api, box, "c1.web") as told:
            pass
    finally:
        os.kill(controller, signal.SIGCONT)
    assert (told["lost"], told["wrong"]) == (0, [])


def test_the_resolver_answers_while_its_servers_are_killed(api, installation, box, patiently):
    with asking(api, box, "c1.web") as told:
        for program in ("nats", "redis", "cnm-controller"):
            old = installation.pid(program)
            os.kill(old, signal.SIGKILL)
            patiently(lambda program=program, old=old: installation.pid(program) != old)
    assert (told["lost"], told["again"], told["wrong"]) == (0, 0, [])
