"""TCP between two sandboxes of one network, beside a bare pair of links between two namespaces."""

import statistics
import subprocess
import sys
import tempfile
from ipaddress import ip_interface
from pathlib import Path

from bench.client import Client
from bench.report import Section
from cnm.kernel import netns
from cnm.kernel.rtnl import LOOPBACK, AddAddress, CreateVeth, Rtnl, SetLink

ROUNDS = 3
SECONDS = 2.0
PORT = 5201

RECEIVE = """
import socket, sys, time
server = socket.create_server(("", int(sys.argv[1])))
print("ready", flush=True)
taken, _ = server.accept()
buffer, total, began = bytearray(1 << 20), 0, time.perf_counter()
while count := taken.recv_into(buffer):
    total += count
print(total * 8 / (time.perf_counter() - began) / 1e9)
"""
SEND = """
import socket, sys, time
sending, data = socket.create_connection((sys.argv[1], int(sys.argv[2]))), bytes(1 << 20)
until = time.perf_counter() + float(sys.argv[3])
while time.perf_counter() < until:
    sending.sendall(data)
"""


async def section(client: Client) -> Section:
    """Measure both, in turns."""
    await client.timed("network.create", {"name": "through", "ipam": {"pools": [{"subnet": "10.214.0.0/24"}]}})
    keys = []
    for number, name in enumerate(("through-a", "through-b")):
        keys.append(Path((await client.ask("sandbox.create", {"name": name}))["key"]))
        body = {"sandbox": name, "network": "through", "ipv4_address": f"10.214.0.{10 + number}"}
        await client.timed("sandbox.connect", body)
    ours, bare = [], []
    with tempfile.TemporaryDirectory(prefix="cnm-bare-") as folder:
        near, far = _bare_pair(Path(folder))
        for _ in range(ROUNDS):
            ours.append(gbits(keys[0], keys[1], "10.214.0.11"))
            bare.append(gbits(near, far, "10.215.0.2"))
        for path in (near, far):
            netns.remove(path)
    for name in ("through-a", "through-b"):
        await client.timed("sandbox.delete", {"sandbox": name})
    await client.timed("network.delete", {"network": "through"})
    one, other = statistics.median(ours), statistics.median(bare)
    return Section(
        title="Throughput",
        note=f"One TCP stream, Gbit/s; medians of {ROUNDS} rounds of {SECONDS:.0f} s, in turns.",
        head=["between two sandboxes", "over a bare veth pair", "ratio"],
        rows=[[f"{one:.1f}", f"{other:.1f}", f"{one / other:.2f}"]],
    )


def _bare_pair(folder: Path) -> tuple[Path, Path]:
    near, far = folder / "near", folder / "far"
    for path in (near, far):
        netns.create(path)
    with Rtnl.open(near) as here, Rtnl.open(far) as there, far.open("rb") as namespace:
        (link,) = here.send(CreateVeth("bare0", peer_name="bare0", peer_namespace_fd=namespace.fileno()))
        assert link is not None
        here.send(SetLink(LOOPBACK, up=True), AddAddress(link.index, ip_interface("10.215.0.1/24")))
        there.send(
            SetLink(LOOPBACK, up=True),
            SetLink(link.peer, up=True),
            AddAddress(link.peer, ip_interface("10.215.0.2/24")),
        )
    return near, far


def gbits(sender: Path | None, receiver: Path, address: str, port: int = PORT) -> float:
    """Send from a namespace, None is the present one, to a server on every address of another; return Gbit/s."""
    with subprocess.Popen(
        python_within(receiver, RECEIVE, str(port)), stdout=subprocess.PIPE, text=True
    ) as receiving:
        assert receiving.stdout is not None
        assert receiving.stdout.readline() == "ready\n"
        subprocess.run(python_within(sender, SEND, address, str(port), str(SECONDS)), check=True)
        return float(receiving.stdout.readline())


def python_within(path: Path | None, script: str, *words: str) -> list[str]:
    """Return the command that runs a script in a namespace, None is the present one."""
    return [*([] if path is None else ["nsenter", f"--net={path}"]), sys.executable, "-c", script, *words]
