"""A steady load for a long time: nothing may grow. Prints each process's memory and file descriptors in quarters.

``python -m bench.soak`` runs for an hour in a network namespace of its own; CNM_SOAK_SECONDS makes it shorter.
"""

import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.client import Client
from bench.installation import Installation, installation

INSIDE = "CNM_BENCH_INSIDE"
SECONDS = float(os.environ.get("CNM_SOAK_SECONDS", "3600"))
CLIENTS = 4
PAUSE_S = 0.3
SAMPLE_S = 5.0
QUESTION = """
import socket, struct, sys
question = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0)
question += b"".join(bytes([len(part)]) + part for part in sys.argv[1].encode().split(b".")) + bytes(1)
line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
line.settimeout(5)
line.connect(("127.0.0.11", 53))
for _ in range(20):
    line.send(question + struct.pack(">2H", 1, 1))
    assert line.recv(512)[3] & 15 == 0
"""


@dataclass
class Held:
    """What a process held at each sample."""

    rss_kib: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)


def processes(own: Installation) -> dict[str, int]:
    """Return the processes of an installation by name: servers, workers, and who keeps them."""
    found = {"cnm up": own.process}
    for path in (own.run_dir / "pids").glob("*.pid"):
        found[path.stem] = int(path.read_text().split()[0])
    return found


def sample(pid: int) -> tuple[int, int]:
    """Return the resident KiB and the open descriptors of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    rss = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(rss.split()[1]), len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def persist(client: Client, verb: str, body: dict[str, Any], request: str, late: list[str]) -> None:
    """Ask under a request id until it is carried out; what was too late for its deadline is asked again, and told."""
    while True:
        try:
            await client.ask(verb, body, {"Cnm-Request-Id": request})
        except RuntimeError as error:
            if "deadline" not in str(error):
                raise
            late.append(str(error))
        else:
            return


async def live(own: Installation, number: int, until: float, done: list[int], late: list[str]) -> None:
    """One client: make, join, publish, ask, change, leave and delete, over and over."""
    client = await Client.connect(own.nats_url)
    network = f"soak{number}"
    try:
        for turn in itertools.count():
            if time.monotonic() > until:
                return
            box, request = f"box{number}-{turn}", f"{os.getpid()}-{number}-{turn}"
            steps: list[tuple[str, dict[str, Any]]] = [
                ("network.create", {"name": network}),
                ("sandbox.create", {"name": box, "ports": [{"container_port": 80}]}),
                ("sandbox.connect", {"sandbox": box, "network": network}),
                ("sandbox.publish", {"sandbox": box, "ports": [{"container_port": 81, "protocol": "udp"}]}),
                ("endpoint.update", {"network": network, "endpoint": box, "aliases": [f"alias{turn}"]}),
            ]
            for verb, body in steps:
                await persist(client, verb, body, request, late)
                await asyncio.sleep(PAUSE_S * 0.1)
            key = (await client.ask("sandbox.get", {"sandbox": box}))["key"]
            asking = await asyncio.create_subprocess_exec(
                "nsenter", f"--net={key}", sys.executable, "-c", QUESTION, f"alias{turn}"
            )
            if await asking.wait() != 0:
                raise RuntimeError(f"the embedded DNS did not answer for alias{turn}")
            for verb, body in (
                ("network.list", {}),
                ("sandbox.disconnect", {"sandbox": box, "network": network}),
                ("sandbox.delete", {"sandbox": box}),
                ("network.delete", {"network": network}),
            ):
                await persist(client, verb, body, request, late)
            done[0] += len(steps) + 25
            await asyncio.sleep(PAUSE_S)
    finally:
        await client.close()


async def watch(own: Installation, until: float) -> dict[str, Held]:
    """Sample every process until the end."""
    pids, held = processes(own), dict[str, Held]()
    while time.monotonic() < until:
        for name, pid in pids.items():
            rss, descriptors = sample(pid)
            each = held.setdefault(name, Held())
            each.rss_kib.append(rss)
            each.descriptors.append(descriptors)
        await asyncio.sleep(SAMPLE_S)
    return held


def quarters(values: list[int]) -> list[float]:
    """Return the median of each quarter."""
    size = max(1, len(values) // 4)
    return [statistics.median(values[at * size : (at + 1) * size] or values[-1:]) for at in range(4)]


def table(held: dict[str, Held]) -> str:
    """Write the quarters of every process."""
    lines = [f"{'':<18}{'MiB by quarter':<34}{'last : 2nd':<12}descriptors by quarter"]
    for name, each in sorted(held.items()):
        mib = [kib / 1024 for kib in quarters(each.rss_kib)]
        counts = quarters(each.descriptors)
        shown = "".join(f"{value:8.1f}" for value in mib)
        lines.append(f"{name:<18}{shown}  {mib[3] / mib[1]:8.3f}    " + "".join(f"{value:7.0f}" for value in counts))
    return "\n".join(lines)


async def soak() -> None:
    with installation() as own:
        until, done, late = time.monotonic() + SECONDS, [0], list[str]()
        watching = asyncio.ensure_future(watch(own, until))
        await asyncio.gather(*(live(own, number, until, done, late) for number in range(CLIENTS)))
        print(
            f"{SECONDS:g} s, {CLIENTS} clients, {done[0]} requests and questions, of which {len(late)} came too late"
        )
        for each in late[:10]:
            print(f"  {each}")
        print(table(await watching))


def main() -> None:
    if os.environ.get(INSIDE) is None:
        command = ["unshare", "--net", "--mount", sys.executable, "-m", "bench.soak"]
        sys.exit(subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    asyncio.run(soak())


if __name__ == "__main__":
    main()
