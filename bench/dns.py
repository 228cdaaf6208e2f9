"""DNS: answers a second inside sandboxes, asked with dnsperf, and what a sandbox costs the resolver."""

import asyncio
import os
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.client import Client
from bench.installation import installation
from bench.report import Section, percentile
from cnm.kernel import netns

SANDBOXES, CARRIERS = 1000, 100
MAKERS = 8
SECONDS = 3
ROUNDS = 3
HERTZ, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
RESOLV_CONF = Path("/etc/resolv.conf")

UPSTREAM = """
import socket
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    packet, client = server.recvfrom(4096)
    end = packet.index(b"\\0", 12) + 5
    answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\1\\x2c\\0\\4\\xc0\\0\\2\\1"
    server.sendto(packet[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + packet[12:end] + answer, client)
"""


@dataclass
class Asked:
    """What some seconds of questions came to."""

    answers: int = 0
    failed: int = 0
    seconds: float = 0.0
    server_s: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.answers / self.seconds

    def row(self, title: str, in_flight: str) -> list[str]:
        shown = (
            [f"{percentile(self.latencies, part) * 1e6:.0f}" for part in (0.5, 0.99)] if self.latencies else ["", ""]
        )
        cpu = f"{self.server_s / max(1, self.answers) * 1e6:.1f}"
        rate = f"{self.rate:.0f}"
        if in_flight == "1":  # dnsperf pauses between one question and the next
            rate = cpu = ""
        return [title, in_flight, rate, *shown, cpu, str(self.failed)]


def need_dnsperf() -> None:
    """Say now, and not after an hour, that the load generator is missing."""
    if shutil.which("dnsperf") is None:
        sys.exit("bench: dnsperf is missing, apt-get install dnsperf")


async def sections() -> list[Section]:
    """Measure in an installation of its own, whose node asks a server of ours."""
    with upstream(), installation() as own:
        client = await Client.connect(own.nats_url)
        try:
            return await _measure(client)
        finally:
            await client.close()


@contextmanager
def upstream() -> Iterator[None]:
    """Answer on the node's loopback, as the only server of the node's resolv.conf, in this mount namespace."""
    with tempfile.NamedTemporaryFile("w", prefix="cnm-bench-") as file:
        file.write("nameserver 127.0.0.1\n")
        file.flush()
        subprocess.run(["mount", "--bind", file.name, RESOLV_CONF.resolve()], check=True)
        with subprocess.Popen([sys.executable, "-c", UPSTREAM], stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            try:
                yield
            finally:
                server.terminate()
                subprocess.run(["umount", RESOLV_CONF.resolve()], check=True)


async def _measure(client: Client) -> list[Section]:
    (node,) = (await client.ask("node.list", {}))["nodes"]
    pid = next(worker["pid"] for worker in node["workers"] if worker["name"] == "cnm-resolver")
    before = _resident(pid)
    names = await _make(client)
    shown = await client.ask("sandbox.list", {"filters": {"name": ["dns-"]}})
    memory = (_resident(pid) - before) / SANDBOXES
    boxes = sorted(shown["sandboxes"], key=lambda box: int(box["name"].partition("-")[2]))
    keys = [Path(box["key"]) for box in boxes]
    addresses = [box["endpoints"][0]["ipv4_address"].partition("/")[0] for box in boxes]
    pointers = [".".join(reversed(address.split("."))) + ".in-addr.arpa PTR" for address in addresses]
    several = [f"{name} A" for name in names]
    absent = iter(range(10**9))
    rows = []
    for title, questions, levels in (
        ("a name of the network, A", several, (1, 8, 200)),
        ("the same, AAAA: empty", [f"{name} AAAA" for name in names], (8,)),
        ("an address, PTR", pointers, (1, 8, 200)),
        ("a name of 100 endpoints", ["many A"], (8, 200)),
        ("forwarded, each name new", None, (8, 200)),
        ("forwarded, one name again and again", ["same.example A"], (8, 200)),
    ):
        for in_flight in levels:
            rounds = [
                _dnsperf(keys[0], pid, questions or [f"n{next(absent)}.example A" for _ in range(100_000)], in_flight)
                for _ in range(ROUNDS)
            ]
            rounds.sort(key=lambda asked: asked.rate)
            rows.append(rounds[ROUNDS // 2].row(title, str(in_flight)))
    every = _everywhere(keys, pid)
    rows.append(every.row(f"A, {SANDBOXES} sandboxes each asking", f"{SANDBOXES} x 1"))
    return [
        Section(
            title="DNS",
            note=f"Answers a second from 127.0.0.11 in a sandbox, {SANDBOXES} sandboxes present; medians of {ROUNDS} "
            f"rounds of {SECONDS} s. dnsperf asks, on the same processors, but in the last row a loader in Python, "
            "which is what that row measures most. One question at a time it pauses in between, so there is no rate. "
            "Microseconds; processor time is the resolver's, the kernel's part in it too.",
            head=["question", "in flight", "answers/s", "p50", "p99", "CPU an answer", "failed"],
            rows=rows,
        ),
        Section(
            title="Memory of the resolver",
            note="Resident memory, by how much it grew with the sandboxes; names, sockets and all.",
            head=["sandboxes", "KiB a sandbox"],
            rows=[[str(SANDBOXES), f"{memory / 1024:.1f}"]],
        ),
    ]


async def _make(client: Client) -> list[str]:
    """Make the sandboxes, so many at once; return their names."""
    await client.timed("network.create", {"name": "dns", "ipam": {"pools": [{"subnet": "10.211.0.0/16"}]}})
    names = [f"dns-{number}" for number in range(SANDBOXES)]
    waiting = iter(enumerate(names))

    async def maker() -> None:
        for number, name in waiting:
            await client.timed("sandbox.create", {"name": name})
            aliases = ["many"] if number < CARRIERS else []
            await client.timed("sandbox.connect", {"sandbox": name, "network": "dns", "aliases": aliases})

    await asyncio.gather(*(maker() for _ in range(MAKERS)))
    return names


def _dnsperf(namespace: Path, pid: int, questions: list[str], in_flight: int) -> Asked:
    """Keep so many questions under way. It tells every latency, which costs it less than the network does us."""
    with tempfile.NamedTemporaryFile("w", prefix="cnm-bench-") as file:
        file.write("\n".join(questions) + "\n")
        file.flush()
        command = ["nsenter", f"--net={namespace}", "dnsperf", "-s", "127.0.0.11", "-d", file.name, "-e", "-v"]
        spent = _processor(pid)
        told = subprocess.run(
            [*command, "-l", str(SECONDS), "-q", str(in_flight), "-c", str(min(in_flight, 50))],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        spent = _processor(pid) - spent
    asked = Asked(server_s=spent)
    for line in told.splitlines():
        words = line.split()
        if line.startswith("> "):
            good = words[1] == "NOERROR"  # else another code, or T: nothing came in time
            asked.answers += good
            asked.failed += not good
            asked.latencies += [float(words[-1])] if good else []
        elif line.startswith("  Run time (s):"):
            asked.seconds = float(words[-1])
    return asked


def _everywhere(keys: list[Path], pid: int) -> Asked:
    """Ask in every sandbox at once, each when it has its answer."""
    selector = selectors.DefaultSelector()
    asked = Asked()
    question = b"\0\1\1\0\0\1\0\0\0\0\0\0\5dns-7\0\0\1\0\1"
    sockets = [netns.open_socket(key, socket.AF_INET, socket.SOCK_DGRAM) for key in keys]
    sent = {}
    for sock in sockets:
        sock.connect(("127.0.0.11", 53))
        selector.register(sock, selectors.EVENT_READ)
    spent, began = _processor(pid), time.perf_counter()
    for sock in sockets:
        sent[sock] = time.perf_counter()
        sock.send(question)
    while (now := time.perf_counter()) < began + SECONDS:
        ready = selector.select(timeout=1)
        asked.failed += not ready
        for found, _ in ready:
            sock = found.fileobj
            assert isinstance(sock, socket.socket)
            reply = sock.recv(512)
            now = time.perf_counter()
            asked.answers += 1
            asked.failed += reply[3] & 15 != 0 or reply[7] != 1
            asked.latencies.append(now - sent[sock])
            sent[sock] = now
            sock.send(question)
    asked.seconds, asked.server_s = now - began, _processor(pid) - spent
    selector.close()
    for sock in sockets:
        sock.close()
    return asked


def _processor(pid: int) -> float:
    """Return the seconds of processor time that a process has had."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / HERTZ


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
