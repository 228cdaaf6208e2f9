"""Answers a second to names of the network, asked from where its endpoints ask."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers.packages import Peer
from bench.peers.room import Refused, Room
from cnm.kernel import netns

READY_S = 10.0
TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Server:
    """Where names are asked for."""

    name: str
    namespace: Path
    address: str


class Dnsmasq:
    """Dnsmasq with the names in a hosts file, in a room of its own."""

    name = "dnsmasq"
    address = "127.0.0.1"

    def __init__(self, folder: Path, peer: Peer, names: Sequence[str]) -> None:
        folder.mkdir()
        self.room = Room(folder / "room")
        self._folder, self._peer = folder, peer
        self._first = names[0]
        self._process: subprocess.Popen[bytes] | None = None
        lines = [f"172.30.0.{10 + number} {name}\n" for number, name in enumerate(names)]
        (folder / "hosts").write_text("".join(lines))

    async def start(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            [
                self._peer.program("dnsmasq"), "--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root",
                f"--addn-hosts={self._folder}/hosts", f"--listen-address={self.address}", "--bind-interfaces",
                "--conf-file=/dev/null", f"--pid-file={self._folder}/pid",
            ],
            env=self._peer.environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def server(self) -> "Server":
        """Return where it answers; raise ``Refused`` when it does not."""
        found = Server(self.name, self.room.path, self.address)
        await_answer(found, self._first)
        return found

    async def end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def await_answer(server: Server, name: str) -> None:
    """Return when it answers; raise ``Refused`` when it never does."""
    until = time.monotonic() + READY_S
    with netns.open_socket(server.namespace, socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(0.2)
        asking.connect((server.address, 53))
        while time.monotonic() < until:
            try:
                asking.send(_question(name))
                reply = asking.recv(512)
            except OSError:
                time.sleep(0.02)
                continue
            if reply[3] & 15 == 0 and reply[7]:
                return
            time.sleep(0.02)
    raise Refused(f"{server.name} at {server.address} does not know {name}")


def one_by_one(server: Server, names: Sequence[str], seconds: float) -> float:
    """Ask the next when the last is answered; return answers a second. Dnsperf would pause between them."""
    questions = [_question(name) for name in names]
    answers = 0
    with netns.open_socket(server.namespace, socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(TIMEOUT_S)
        asking.connect((server.address, 53))
        began = time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds:
            asking.send(questions[answers % len(questions)])
            reply = asking.recv(512)
            if reply[3] & 15 or not reply[7]:
                raise Refused(f"{server.name} does not know {names[answers % len(names)]}")
            answers += 1
    return answers / spent


def _question(name: str) -> bytes:
    return b"\0\1\1\0\0\1\0\0\0\0\0\0" + bytes([len(name)]) + name.encode() + b"\0\0\1\0\1"


def many(server: Server, names: Sequence[str], seconds: float, in_flight: int, dnsperf: Peer | None) -> float:
    """Keep so many questions under way with dnsperf; return good answers a second."""
    with tempfile.NamedTemporaryFile("w", prefix="cnm-peers-") as file:
        file.write("".join(f"{name} A\n" for name in names))
        file.flush()
        told = subprocess.run(
            [
                "nsenter", f"--net={server.namespace}", dnsperf.program("dnsperf") if dnsperf else "dnsperf",
                "-s", server.address, "-d", file.name, "-l", f"{max(1, round(seconds))}",
                "-q", str(in_flight), "-c", str(in_flight),
            ],
            env=dnsperf.environment if dnsperf else dict(os.environ), capture_output=True, text=True, check=False,
        )  # fmt: skip
    answers = run_time = 0.0
    for line in told.stdout.splitlines():
        words = line.split()
        if line.strip().startswith("Response codes:") and "NOERROR" in words:
            answers = float(words[words.index("NOERROR") + 1])
        elif line.strip().startswith("Run time (s):"):
            run_time = float(words[-1])
    if not answers:
        raise Refused(f"{server.name} answered nothing: {(told.stdout + told.stderr).strip()[-300:]}")
    return answers / run_time
