"""Whatever is killed or started again, traffic goes on, and nothing that was right is written again (Z01, S19)."""

import json
import os
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from .conftest import Making, api_of
from .test_crashes import WORKERS
from .test_resolver_life import asking

NETWORKS, BOXES = 3, 30

SERVER = """
import socket, sys, threading
def tcp(connection):
    with connection:
        try:
            while said := connection.recv(4096): connection.sendall(said)
        except OSError: pass
def udp(bound):
    while True:
        said, peer = bound.recvfrom(4096)
        bound.sendto(said, peer)
listening = socket.create_server(('0.0.0.0', 80), backlog=1024)
bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); bound.bind(('0.0.0.0', 81))
threading.Thread(target=udp, args=(bound,), daemon=True).start()
print('there', flush=True)
while True:
    threading.Thread(target=tcp, args=(listening.accept()[0],), daemon=True).start()
"""

# Says something again and again, in each way that it is told; what was not answered is told at the end, by way.
CLIENT = """
import json, socket, sys, threading, time
over, told, PATIENCE_S = threading.Event(), {}, 10
def pause(): time.sleep(0.005)
def stream(host, port, note):
    with socket.create_connection((host, port), PATIENCE_S) as end:
        while not over.is_set():
            say(end, note, whole=True); pause()
def connections(host, port, note):
    while not over.is_set():
        with socket.create_connection((host, port), PATIENCE_S) as end: say(end, note, whole=True)
        pause()
def datagrams(host, port, note):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.connect((host, port)); end.settimeout(PATIENCE_S)
        while not over.is_set():
            say(end, note); pause()
def say(end, note, whole=False):
    said = b'%08d' % note['count']
    end.sendall(said)
    heard = end.recv(8)
    while whole and heard and len(heard) < 8: heard += end.recv(8 - len(heard))
    if heard != said: raise OSError(f'{heard} for {said}')
    note['count'] += 1
def keep(way, host, port, note):
    while not over.is_set():
        try: globals()[way](host, port, note)
        except OSError as error: note['wrong'].append(f'{type(error).__name__} {error}')
threads = []
for words in sys.argv[1:]:
    way, host, port = words.split(',')
    note = told[words] = {'count': 0, 'wrong': []}
    threads.append(threading.Thread(target=keep, args=(way, host, int(port), note)))
    threads[-1].start()
while not all(note['count'] or note['wrong'] for note in told.values()): time.sleep(0.01)
print('begun', flush=True)
sys.stdin.read()
over.set()
for thread in threads: thread.join()
print(json.dumps(told), flush=True)
"""


class Node:
    """An installation with thirty endpoints, a LAN beside it, and traffic all the time."""

    def __init__(self, installation, api, lan):
        self.installation, self.api, self.lan = installation, api, lan
        making = Making(api)
        networks = [making.network() for _ in range(NETWORKS)]
        ports = [{"container_port": 80, "host_port": 8080}]
        ports.append({"container_port": 81, "host_port": 8081, "protocol": "udp"})
        self.web = making.sandbox("web", on=[networks[0]], ports=ports)
        self.client = making.sandbox("client", on=[networks[0]])
        others = [making.sandbox(on=[networks[number % NETWORKS]]) for number in range(BOXES - 2)]
        self.boxes = [self.web, self.client, *others]
        self.address = self.web["endpoints"][0]["ipv4_address"].partition("/")[0]

    def answering(self):
        """Return the id of each worker's process that answers, by its name."""

        async def ask():
            found = {}
            client = self.api.client
            answers = await client.subscribe(inbox := client.new_inbox())
            await client.publish("$SRV.PING", reply=inbox)
            with_patience = time.monotonic() + 0.2
            while (left := with_patience - time.monotonic()) > 0:
                try:
                    said = json.loads((await answers.next_msg(timeout=left)).data or b"{}")
                except TimeoutError:
                    break
                if "name" in said:
                    found[said["name"]] = said["id"]
            await answers.unsubscribe()
            return found

        return self.api.run(ask())

    def has_converged(self):
        reply, _ = self.api.call("system.check", {"repair": False})
        return reply.get("differences") == [] and len(reply["compared"]) == 5 and not reply.get("warnings")

    def kernel(self):
        """Return what stands, with the numbers that the kernel gave it, and the files as they were written."""
        found = {"rules": self.api.sh("nft --handle --stateless list ruleset")}
        found["links"] = sorted((each["ifindex"], each["ifname"], each["operstate"]) for each in self.api.ip("link"))
        for box in self.boxes:
            command = "nft --handle --stateless list ruleset; ip -o addr; ip route"
            paths = [Path(self.api.path(box[each])) for each in ("key", "hosts_path", "resolv_conf_path")]
            written = [(each.st_ino, each.st_mtime_ns) for each in (path.stat() for path in paths)]
            found[box["name"]] = (self.api.sh(command, box["key"]), written)
        return found

    @contextmanager
    def unchanged(self):
        """Check that nothing is changed in the block, not even to what it was."""
        before = self.kernel()
        with ExitStack() as stack:
            for key in (None, self.web["key"]):
                stack.enter_context(self._silence("nft monitor", "nft {} table inet stranger", key))
                stack.enter_context(
                    self._silence("ip -o monitor link address route", "ip addr {} 203.0.113.99/32 dev lo", key)
                )
            yield
        after = self.kernel()
        for what, found in after.items():
            assert found == before[what], f"{what} changed"

    @contextmanager
    def _silence(self, monitor, control, key):
        """Check that a monitor says nothing but of our own control, before and after the block."""
        path = self.api.path(key) if key else self.api.namespace
        heard = self.installation.folder / f"{monitor.split()[0]}-{key is None}"
        self._until(lambda: not self.api.sh("ip -6 -o addr show tentative", key))  # whose end would be told, too
        with heard.open("wb") as out, subprocess.Popen(
            ["nsenter", f"--net={path}", *monitor.split()], stdout=out, stderr=out
        ) as process:  # fmt: skip
            try:
                self._until(lambda: self._control(control, key) and heard.stat().st_size)
                begin = self._until_still(heard)
                yield
                # A bridge tells of each port 15 s after it came (in a message of its own, which names no qdisc).
                said = [
                    line
                    for line in heard.read_bytes()[begin:].decode().splitlines()
                    if "veth" not in line or "qdisc" in line
                ]
                self._until(lambda: self._control(control, key) and heard.stat().st_size > begin)
            finally:
                process.kill()
        assert said == [], monitor

    def _control(self, command, key):
        self.api.sh("; ".join(command.format(verb) for verb in ("add", "delete")), key)
        return True

    def _until_still(self, heard):
        size = -1
        while size != (size := heard.stat().st_size):
            time.sleep(0.1)
        return size

    def _until(self, condition):
        until = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < until
            time.sleep(0.02)

    @contextmanager
    def traffic(self, *, names=True):
        """Have traffic of every kind while the block runs, and give what came of it."""
        told = {}
        node, lan = self.installation.node_address, self.installation.lan_address
        inside = self.api.path(self.client["key"])
        with ExitStack() as stack:
            for path, target in ((inside, self.address), (inside, lan), (self.lan, node)):
                stack.enter_context(pinging(path, target, told))
            ways = (f"stream,{self.address},80", f"connections,{self.address},80")
            stack.enter_context(saying(inside, told, *ways))
            ways = (f"stream,{node},8080", f"connections,{node},8080", f"datagrams,{node},8081")
            stack.enter_context(saying(self.lan, told, *ways))
            stack.enter_context(saying(self.api.namespace, told, *(["connections,::1,8080"] if names else [])))
            if names:
                told["names"] = stack.enter_context(asking(self.api, self.client, "web"))
            yield told


@contextmanager
def serving(path):
    with subprocess.Popen(
        ["nsenter", f"--net={path}", "python3", "-c", SERVER], stdout=subprocess.PIPE, text=True
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "there\n"
        try:
            yield
        finally:
            process.kill()


@contextmanager
def saying(path, told, *ways):
    command = ["nsenter", f"--net={path}", "python3", "-c", CLIENT, *ways]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        try:
            yield
        finally:
            process.stdin.close()
        told.update(json.loads(process.stdout.read()))


@contextmanager
def pinging(path, target, told):
    """Flood, a hundred a second: with shorter intervals ping itself takes a whole processor."""
    command = ["nsenter", f"--net={path}", "ping", "-f", "-q", "-i", "0.01", target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
        (line,) = [each for each in process.communicate()[0].splitlines() if "transmitted" in each]
        told[f"ping {target}"] = tuple(int(part.split()[0]) for part in line.split(",")[:2])


def check(told, *, killed=0):
    """Check that nothing was lost; ``killed`` is how often the process was that proxies, or answers names."""
    for what, found in told.items():
        if what.startswith("ping"):
            sent, answered = found
            assert sent - 1 <= answered, f"{what}: {sent - answered} of {sent} lost"  # the last may be under way
            assert sent > 20
        elif what == "names":
            assert (found["lost"], found["wrong"]) == (0, [])
            assert found["again"] <= killed, "what a process has read goes with it: one question at most"
            assert found["count"] > 20
        elif what == "connections,::1,8080":
            assert not [each for each in found["wrong"] if "Refused" in each]
            assert len(found["wrong"]) <= killed, "what the proxy carries goes with it"
            assert found["count"] > 20
        else:
            assert found["wrong"] == [], what
            assert found["count"] > 20, what


@pytest.fixture(scope="module")
def installation(prepared, tmp_path_factory):
    """An installation of the module's own, in place of the one that the tests share."""
    made = prepared(tmp_path_factory.mktemp("restarts"))
    try:
        made.up()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def node(installation):
    with installation.lan() as lan, api_of(installation) as api:
        made = Node(installation, api, lan)
        with serving(api.path(made.web["key"])):
            yield made


def test_killed_workers_are_not_felt_one_by_one_nor_all_at_once(node, patiently):
    with node.unchanged():
        with node.traffic() as told:
            for workers in (*((each,) for each in WORKERS), WORKERS):
                names = [f"cnm-{each}" for each in workers]
                before = node.answering()
                for name in names:
                    os.kill(node.installation.pid(name), signal.SIGKILL)
                patiently(
                    lambda names=names, before=before: (
                        (found := node.answering()).keys() == before.keys()
                        and all(found[name] != before[name] for name in names)
                    )
                )
                patiently(node.has_converged)
        check(told, killed=2)


def test_killed_servers_are_not_felt(node, patiently):
    with node.unchanged():
        with node.traffic() as told:
            for server in ("nats", "redis"):
                old = node.installation.pid(server)
                os.kill(old, signal.SIGKILL)
                patiently(lambda server=server, old=old: node.installation.pid(server) != old)
                patiently(lambda: len(node.answering()) == len(WORKERS))
                patiently(node.has_converged)
        check(told)


def test_traffic_goes_on_while_nothing_runs_and_the_next_start_changes_nothing(node, patiently):
    """Names are not answered then, nor what only the proxy serves: nobody is there who would."""
    with node.unchanged():
        with node.traffic(names=False) as told:
            node.installation.down()
            node.installation.up()
            with api_of(node.installation) as node.api:
                patiently(node.has_converged)
        check(told)
        with api_of(node.installation) as node.api, node.traffic() as told:
            pass
        check(told)
