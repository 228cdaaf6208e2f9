"""A host with a bridge, three sandboxes, a neighbour on its LAN, and a port mapper in a process of its own."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from cnm.errors import ErrorReply, from_reply
from cnm.kernel import netns

PROCESS = Path(__file__).with_name("mapper_process.py")
HOST, HOST_TOO, LAN = "10.9.0.1", "10.9.0.5", "10.9.0.2"
HOST6, LAN6 = "fd09::1", "fd09::2"

LISTENER = """
import socket, sys
kind = socket.SOCK_DGRAM if sys.argv[3] == "udp" else socket.SOCK_STREAM
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
bound = socket.socket(family, kind, 132 if sys.argv[3] == "sctp" else 0)
bound.bind((sys.argv[1], int(sys.argv[2])))
if kind == socket.SOCK_STREAM:
    bound.listen()
print("bound", flush=True)
sys.stdin.read()
"""

# What the bridge driver does of its own: route_localnet and these rules.
BRIDGE_RULES = """
table inet cnm_nat {
    set same_bridge { type ifname . ifname; elements = { "br0" . "br0" }; }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        ct status dnat iifname . oifname @same_bridge masquerade
        oifname "br0" ip saddr 127.0.0.0/8 masquerade
    }
}
"""


class Box:
    """A sandbox with servers that answer with its name, who asked, and what was said."""

    def __init__(self, name, path, ipv4, ipv6=None):
        self.name, self.path, self.ipv4, self.ipv6 = name, path, ipv4, ipv6
        self.id = name.encode().hex().ljust(64, "0")
        self._sockets = []
        self._threads = []

    def serve(self, port, kind=socket.SOCK_STREAM):
        """Serve a port on every address; a TCP answer comes after the client has ended its side."""
        listening = netns.open_socket(self.path, socket.AF_INET6, kind)
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            listening.listen(64)
        self._sockets.append(listening)
        work = self._tcp if kind == socket.SOCK_STREAM else self._udp
        thread = threading.Thread(target=work, args=(listening,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def _tcp(self, listening):
        with contextlib.suppress(OSError):
            while True:
                connection, peer = listening.accept()
                threading.Thread(target=self._answer, args=(connection, peer), daemon=True).start()

    def _answer(self, connection, peer):
        with contextlib.suppress(OSError), connection:
            said = bytearray()
            while chunk := connection.recv(65536):
                said += chunk
            connection.sendall(self._reply(peer, bytes(said)))

    def _udp(self, bound):
        with contextlib.suppress(OSError):
            while True:
                said, peer = bound.recvfrom(65536)
                if peer is None:
                    return  # shut down
                bound.sendto(self._reply(peer, said), peer)

    def _reply(self, peer, said):
        return f"{self.name} {peer[0].removeprefix('::ffff:')} ".encode() + said

    def close(self):
        for listening in self._sockets:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for listening in self._sockets:
            listening.close()

    def command(self, *requests, bound=(), label=None, only=None):
        """Write a PublishPorts; a request is its fields."""
        return {
            "sandbox_id": self.id,
            "label": label or self.name,
            "ipv4_address": None if only == 6 else self.ipv4,
            "ipv6_address": None if only == 4 else self.ipv6,
            "bound": list(bound),
            "requests": list(requests),
        }


class Mapper:
    """Speaks with the process."""

    def __init__(self, host, loop="uvloop", udp_timeout_s=90.0, run_dir=""):
        command = [sys.executable, "-W", "error", PROCESS, loop, str(udp_timeout_s), run_dir]
        self.process = subprocess.Popen(
            ["nsenter", f"--net={host}", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._number = 0
        self.pid = self._line()["ready"]

    def _line(self):
        line = self.process.stdout.readline()
        assert line, f"the mapper ended with {self.process.wait()}"
        return json.loads(line)

    def send(self, verb, body):
        self._number += 1
        self.process.stdin.write(json.dumps({"number": self._number, "verb": verb, "body": body}) + "\n")
        self.process.stdin.flush()

    def ask(self, verb, body):
        self.send(verb, body)
        reply = self._line()
        if "error" in reply:
            raise from_reply(msgspec.convert({"error": reply["error"]}, ErrorReply))
        return reply["ok"]

    def publish(self, command):
        """Return the bindings as they would stand in ``bound``."""
        return self.ask("publish", command)["ports"]

    def unpublish(self, box):
        return self.ask("unpublish", {"sandbox_id": box.id})

    def files(self):
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def kill(self):
        os.kill(self.pid, 9)
        self.process.wait()
        self.stop_pipes()

    def stop(self):
        self.process.stdin.close()
        ended = self.process.wait(10)
        self.stop_pipes()
        assert ended == 0

    def stop_pipes(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()


class Wire:
    """Clients in namespaces."""

    def tcp(self, path, address, port, said=b"hello", timeout=3.0):
        """Say something, end this side, and return the answer."""
        with self.connect(path, address, port, timeout) as client:
            client.sendall(said)
            client.shutdown(socket.SHUT_WR)
            heard = bytearray()
            while chunk := client.recv(65536):
                heard += chunk
            return bytes(heard).decode()

    def connect(self, path, address, port, timeout=3.0):
        client = netns.open_socket(path, _family(address), socket.SOCK_STREAM)
        client.settimeout(timeout)
        try:
            client.connect(_name(address, port))
        except OSError:
            client.close()
            raise
        return client

    def udp(self, path, address, port, said=b"hello", timeout=3.0):
        with self.udp_client(path, address, port, timeout) as client:
            client.send(said)
            return client.recv(65536).decode()

    def udp_client(self, path, address, port, timeout=3.0):
        client = netns.open_socket(path, _family(address), socket.SOCK_DGRAM)
        client.settimeout(timeout)
        client.connect(_name(address, port))
        return client


def _name(address, port):
    plain, _, link = address.partition("%")
    return (plain, port, 0, int(link)) if link else (plain, port)


def _family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def lan(namespace):
    return namespace("lan")


@pytest.fixture
def boxes(namespace, host, lan, shell):
    """c1 has both families, c2 only IPv4, c3 only IPv6."""
    addresses = {"c1": ("172.28.0.2", "fd28::2"), "c2": ("172.28.0.3", None), "c3": (None, "fd28::4")}
    paths = {name: namespace(name) for name in addresses}
    for path in (host, lan, *paths.values()):  # else the first neighbour discovery takes two seconds
        shell.run(path, "sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
    lines = [
        "link set lo up",
        "link add br0 type bridge",
        "link set br0 up",
        "addr add 172.28.0.1/16 dev br0",
        "addr add fd28::1/64 dev br0 nodad",
        f"link add lan0 type veth peer name eth0 netns {lan}",
        "link set lan0 up",
        f"addr add {HOST}/24 dev lan0",
        f"addr add {HOST_TOO}/24 dev lan0",
        f"addr add {HOST6}/64 dev lan0 nodad",
        *(f"link add v{name} type veth peer name eth0 netns {path}" for name, path in paths.items()),
        *(f"link set v{name} master br0 up" for name in paths),
    ]
    shell.run(host, "ip", "-batch", "-", stdin="\n".join(lines))
    near = ["link set lo up", "link set eth0 up", f"addr add {LAN}/24 dev eth0", f"addr add {LAN6}/64 dev eth0 nodad"]
    shell.run(lan, "ip", "-batch", "-", stdin="\n".join([*near, f"route add default via {HOST6}"]))
    made = []
    for name, (ipv4, ipv6) in addresses.items():
        inside = ["link set lo up", "link set eth0 up"]
        if ipv4:
            inside += [f"addr add {ipv4}/16 dev eth0", "route add default via 172.28.0.1"]
        if ipv6:
            inside += [f"addr add {ipv6}/64 dev eth0 nodad", "route add default via fd28::1"]
        shell.run(paths[name], "ip", "-batch", "-", stdin="\n".join(inside))
        made.append(Box(name, paths[name], ipv4, ipv6))
    for setting in ("ipv4.ip_forward=1", "ipv6.conf.all.forwarding=1", "ipv4.conf.br0.route_localnet=1"):
        shell.run(host, "sysctl", "-qw", f"net.{setting}")
    for family in ("iptables", "ip6tables"):
        shell.run(host, "sh", "-c", f"echo 0 > /proc/sys/net/bridge/bridge-nf-call-{family} || true")
    shell.run(host, "nft", "-f", "-", stdin=BRIDGE_RULES)
    yield made
    for box in made:
        box.close()


@pytest.fixture
def c1(boxes):
    return boxes[0]


@pytest.fixture
def c2(boxes):
    return boxes[1]


@pytest.fixture
def c3(boxes):
    return boxes[2]


@pytest.fixture
def start(host, boxes):
    """Start port mappers of the host, with these settings."""
    started = []

    def make(**settings):
        started.append(Mapper(host, **settings))
        return started[-1]

    yield make
    for mapper in started:
        if mapper.process.poll() is None:
            mapper.stop()


@pytest.fixture
def mapper(start):
    return start()


@pytest.fixture
def elements(host, shell):
    """Return the elements of all maps, as nft tells of them."""

    def read():
        listed = shell.nft(host, "list", "table", "inet", "cnm_ports")
        return [element for entry in listed for element in entry.get("map", {}).get("elem", ())]

    return read


@pytest.fixture
def other_process(host):
    """Let another process of the host bind ports."""
    running = []

    def bind(address, port, protocol="tcp"):
        process = subprocess.Popen(
            ["nsenter", f"--net={host}", sys.executable, "-c", LISTENER, address, str(port), protocol],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout.readline() == "bound\n"
        return process

    yield bind
    for process in running:
        process.communicate()
