"""A stranger's client of the API: it knows NATS, JSON and the public contract, and nothing of CNM's own modules."""

import asyncio
import contextlib
import ctypes
import itertools
import json
import os
import socket
import struct
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import nats
import pytest
from nats.errors import NoRespondersError

STATUS = {
    "invalid": "400",
    "forbidden": "403",
    "not_found": "404",
    "conflict": "409",
    "exhausted": "507",
    "unavailable": "503",
    "unsupported": "501",
    "timeout": "504",
    "internal": "500",
}
CLONE_NEWNET = 0x40000000
PATIENCE_S = 15.0

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

_libc = ctypes.CDLL(None, use_errno=True)


def enter(path):
    """Put this thread into a network namespace, for good."""
    fd = os.open(path, os.O_RDONLY)
    try:
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(fd)


class Refused(AssertionError):
    """A request that was to work did not."""


class Within:
    """A thread with an event loop inside the network namespace that a process is in."""

    def __init__(self, pid):
        self.namespace = f"/proc/{pid}/ns/net"
        self._loop = asyncio.new_event_loop()
        began = threading.Event()
        self._thread = threading.Thread(target=self._live, args=(began,), daemon=True)
        self._thread.start()
        began.wait()

    def _live(self, began):
        enter(self.namespace)
        asyncio.set_event_loop(self._loop)
        began.set()
        self._loop.run_forever()
        self._loop.close()

    def close(self):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def run(self, work, *, patience_s=50):
        """Run a coroutine in the installation's namespace."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(patience_s)


class Api(Within):
    """Asks over NATS, from a thread inside the installation's namespace."""

    def __init__(self, url, *, pid, node):
        super().__init__(pid)
        self.url, self.node, self._root = url, node, f"/proc/{pid}/root"
        self.client = self.run(nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.05))
        self._numbers = itertools.count(1)

    def close(self):
        self.run(self.client.close())
        super().close()

    def name(self, what="x"):
        """Make a name that nothing in the installation has."""
        return f"{what}-{os.getpid()}-{next(self._numbers)}"

    async def send(self, verb, body=None, headers=None, *, raw=None, timeout=20):
        """Return what came back: the body, and the headers."""
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                message = await self.client.request(f"cnm.v1.{verb}", data, timeout=timeout, headers=headers)
            except NoRespondersError:  # a worker that was killed is not back yet: nobody took the request
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.05)
            else:
                break
        return json.loads(message.data), dict(message.headers or {})

    def call(self, verb, body=None, headers=None, **more):
        return self.run(self.send(verb, body, headers, **more))

    def ask(self, verb, body=None, headers=None, **more):
        """Return the body of a reply that tells of no error."""
        reply, reply_headers = self.call(verb, body, headers, **more)
        if "error" in reply:
            raise Refused(f"{verb} {body}: {reply['error']}")
        assert "Nats-Service-Error-Code" not in reply_headers
        assert "Nats-Service-Error" not in reply_headers
        return reply

    def refused(self, verb, body=None, code="invalid", *words, headers=None, **more):
        """Return the error of a reply that tells of one: of this code, in body and headers, naming the words."""
        reply, reply_headers = self.call(verb, body, headers, **more)
        return check_refusal(f"{verb} {body}", reply, reply_headers, code, words)

    def together(self, *calls):
        """Send (verb, body) pairs at once and return (body, headers) pairs in their order."""

        async def all_of_them():
            return await asyncio.gather(*(self.send(*call) for call in calls))

        return self.run(all_of_them())

    # What an outsider can look at.

    def sh(self, command, key=None, *, check=True):
        """Run a command in the installation's namespace, or in a sandbox's."""
        path = self.namespace if key is None else self.path(key)
        done = subprocess.run(
            ["nsenter", f"--net={path}", "bash", "-c", command],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
        return done.stdout if check else done

    def ip(self, words, key=None):
        return json.loads(self.sh(f"ip -j -d {words}", key) or "[]")

    def path(self, path):
        """Return where this process finds a path of the installation."""
        return path if path.startswith("/proc/") else f"{self._root}{path}"

    def kernel(self):
        """Return all that stands in the installation's own namespace."""
        links = sorted(
            (link["ifname"], link.get("ifalias"), link.get("master"))
            for link in json.loads(self.sh("ip -j link show"))
        )
        addresses = sorted(self.sh("ip -o addr show | awk '{print $2, $4}'").splitlines())
        return {"links": links, "addresses": addresses, "rules": self.rules()}

    def rules(self):
        """Return the lines of the rules, one an element: in what order a set tells of them is chance."""
        return sorted(
            line.strip().removeprefix("elements = { ").removesuffix(",").removesuffix(" }")
            for line in self.sh("nft -s list ruleset").splitlines()
            # which families were not forwarded before the first network is the node's own affair
            if "counter isol" not in line and not line.strip().startswith("elements = { ipv")
        )

    def lists(self):
        """Return every list that the API has, and how full each pool is."""
        return {
            **self.ask("network.list"),
            **self.ask("sandbox.list"),
            **self.ask("endpoint.list"),
            **self.ask("ipam.pool.list"),
            **self.ask("ipam.space.list"),
        }

    def world(self):
        return {**self.lists(), **self.kernel()}

    @contextmanager
    def unchanged(self):
        """Check that the body of the block changes nothing, neither in the lists nor in the kernel."""
        before = self.world()
        yield
        after = self.world()
        for what, found in after.items():
            assert found == before[what], f"{what} changed"

    @contextmanager
    def recording(self):
        """Give a list of the events that are published while the block runs, complete when it ends."""
        found = []

        async def begin():
            async def note(message):
                found.append(Event(message))

            subscription = await self.client.subscribe("cnm.v1.event.>", cb=note)
            await self.client.flush()
            return subscription

        subscription = self.run(begin())
        try:
            self._pass_marker(found)
            found.clear()
            yield found
            ours = self._pass_marker(found)
            found[:] = [event for event in found if event.thing not in ours]
        finally:
            self.run(subscription.unsubscribe())

    def _pass_marker(self, found):
        """Make changes of IPAM and of the controller, and wait for their events: those before them are here then."""
        name = self.name("marker")
        pool = self.ask("ipam.pool.request", {"space": name, "pool": "192.0.2.0/24"})["pool_id"]
        self.ask("ipam.pool.release", {"pool_id": pool})
        endpoint = self.ask("endpoint.create", {"network": "none", "name": name})["id"]
        self.ask("endpoint.delete", {"network": "none", "endpoint": name})
        wait_for(lambda: sum(event.thing in (pool, endpoint) for event in list(found)) == 4)
        return pool, endpoint


class Event:
    """An event as it came."""

    def __init__(self, message):
        self.subject = message.subject
        self.body = json.loads(message.data)
        self.message_id = (message.headers or {}).get("Nats-Msg-Id")
        self.thing = self.body["object"].get("id", self.body["object"].get("pool_id"))
        parts = message.subject.split(".", 5)
        self.what, self.about = f"{parts[3]}.{parts[4]}", parts[5]

    def __repr__(self):
        return f"{self.what} {self.about}"


def check_refusal(asked, reply, headers, code, words=()):
    assert "error" in reply, f"{asked}: expected {code}, it worked: {reply}"
    error = reply["error"]
    assert set(reply) == {"error"}
    assert {"code", "message"} <= set(error) <= {"code", "message", "details"}
    assert error["code"] == code, f"{asked}: {error}"
    assert headers["Nats-Service-Error-Code"] == STATUS[code]
    assert headers["Nats-Service-Error"].strip()
    assert "\n" not in headers["Nats-Service-Error"]
    assert error["message"]
    assert "Traceback" not in error["message"]
    for word in words:
        assert str(word) in error["message"], f"{asked}: {error['message']!r} does not name {word!r}"
    if code == "invalid":
        for fault in error["details"]["fields"]:
            assert set(fault) == {"field", "value", "reason"}, fault
            assert fault["reason"]
    return error


def wait_for(condition, *, patience_s=PATIENCE_S):
    """Return the first true value of a condition."""
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition never became true"
        time.sleep(0.01)
    return found


@contextmanager
def api_of(installation):
    told = json.loads(Path(f"{installation.inside}{installation.env['CNM_RUN_DIR']}/cnm.json").read_text())
    made = Api(told["nats_url"], pid=told["pid"], node=told["node"])
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def api(installation):
    with api_of(installation) as made:
        yield made


@pytest.fixture
def own_api(own_installation):
    """A client of an installation that the test may break."""
    with api_of(own_installation) as made:
        yield made


@pytest.fixture(scope="module")
def module_api(module_installation):
    """A client of the installation that is a file's own."""
    with api_of(module_installation) as made:
        yield made


@pytest.fixture
def ask_anew(own_installation):
    """Give a new client of an installation that was started anew."""
    return lambda: api_of(own_installation)


@pytest.fixture
def patiently():
    return wait_for


@pytest.fixture
def tidy(api):
    """Check that a test leaves nothing behind: neither in the lists nor in the kernel."""
    with api.unchanged():
        yield


class Making:
    """Makes objects for a test, and deletes them when it ends."""

    def __init__(self, api):
        self.api = api
        self._undo = []

    def network(self, name=None, **fields):
        made = self.api.ask("network.create", {"name": name or self.api.name("net"), **fields})
        self._undo.append(("network.delete", {"network": made["id"], "force": True}))
        return made

    def sandbox(self, name=None, *, on=(), **fields):
        made = self.api.ask("sandbox.create", {"name": name or self.api.name("box"), **fields})
        self._undo.append(("sandbox.delete", {"sandbox": made["id"]}))
        for network in on:
            self.connect(made, network)
        return self.api.ask("sandbox.get", {"sandbox": made["id"]}) if on else made

    def connect(self, sandbox, network, **fields):
        return self.api.ask("sandbox.connect", {"sandbox": sandbox["id"], "network": network["id"], **fields})

    def endpoint(self, network, name=None, **fields):
        made = self.api.ask(
            "endpoint.create", {"network": network["id"], "name": name or self.api.name("ep"), **fields}
        )
        self._undo.append(("endpoint.delete", {"endpoint": made["id"], "force": True}))
        return made

    def pool(self, **fields):
        made = self.api.ask("ipam.pool.request", {"space": self.api.name("space"), **fields})
        self._undo.append(("ipam.pool.release", {"pool_id": made["pool_id"]}))
        return made

    def end(self):
        for verb, body in reversed(self._undo):
            reply, _ = self.api.call(verb, body)
            assert reply.get("error", {}).get("code", "not_found") == "not_found", reply


@pytest.fixture
def make(api):
    making = Making(api)
    yield making
    making.end()


@pytest.fixture(scope="module")
def make_for_module(api):
    making = Making(api)
    yield making
    making.end()


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
