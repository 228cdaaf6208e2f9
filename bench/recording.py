"""What it costs an attach to record everything: installations that record and that do not, side by side, in turns."""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.client import Client
from bench.installation import Installation
from bench.report import Section

SINK = """
import asyncio, re

async def take(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            await reader.readexactly(int(re.search(rb"(?i)content-length: *(\\d+)", head)[1]))
            writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def main():
    server = await asyncio.start_server(take, "127.0.0.1", 4318)
    print("ready", flush=True)
    await server.serve_forever()

asyncio.run(main())
"""
OTLP = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
A_TENTH = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
MODES = {
    "off": {},
    "off again": {},
    "into the store (`nats`)": {"OTEL_TRACES_EXPORTER": "nats"},
    "by OTLP, HTTP": OTLP,
    "one in ten, by OTLP": OTLP
    | {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
}
TURN = 10


class Side:
    """An installation, and what was measured of it so far."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.installation = Installation(folder, **settings)
        self.attached: list[float] = []
        self.detached: list[float] = []
        self.cpu_s = 0.0
        self.client: Client | None = None

    async def prepare(self) -> None:
        self.client = await Client.connect(self.installation.nats_url)
        await self.client.timed("network.create", {"name": "b", "ipam": {"pools": [{"subnet": "10.210.0.0/16"}]}})
        await self.client.timed("sandbox.create", {"name": "s"})

    async def turn(self, pairs: int, *, counts: bool) -> None:
        assert self.client is not None
        body = {"sandbox": "s", "network": "b"}
        began = self._cpu_s()
        for _ in range(pairs):
            attached = await self.client.timed("sandbox.connect", body)
            detached = await self.client.timed("sandbox.disconnect", body)
            if counts:
                self.attached.append(attached)
                self.detached.append(detached)
        if counts:
            self.cpu_s += self._cpu_s() - began

    async def clear(self) -> None:
        assert self.client is not None
        await self.client.timed("sandbox.delete", {"sandbox": "s"})
        await self.client.timed("network.delete", {"network": "b"})
        await self.client.close()

    def _cpu_s(self) -> float:
        """Return the CPU seconds of all processes of the installation."""
        ticks = 0
        for path in (self.installation.run_dir / "pids").glob("*.pid"):
            fields = Path(f"/proc/{path.read_text().split()[0]}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


async def section(pairs: int) -> Section:
    """Attach and detach so often in each installation, ten at a time in turns, and compare."""
    with _sink(), tempfile.TemporaryDirectory(prefix="cnm-bench-") as folder, ExitStack() as stack:
        sides = {}
        for number, (mode, settings) in enumerate(MODES.items()):
            sides[mode] = Side(Path(folder) / str(number), settings)
            sides[mode].installation.up()
            stack.callback(sides[mode].installation.down)
            await sides[mode].prepare()
            await sides[mode].turn(TURN, counts=False)
        began = time.perf_counter()
        for _ in range(max(1, pairs // TURN)):
            for side in sides.values():
                await side.turn(TURN, counts=True)
        took_s = time.perf_counter() - began
        for side in sides.values():
            await side.clear()
    plain = sides["off"]
    return Section(
        title="What recording costs",
        note=f"Attach and detach, one client, {TURN} pairs in each of {len(MODES)} installations in turn, "
        f"{took_s:.0f} s in all; milliseconds, and the ratio to where nothing is recorded (`off again` is noise). "
        "CPU is of all processes.",
        head=["spans", "attach p50", "ratio", "detach p50", "ratio", "CPU a pair", "ratio"],
        rows=[
            [
                mode,
                *_with_ratio(statistics.median(side.attached), statistics.median(plain.attached)),
                *_with_ratio(statistics.median(side.detached), statistics.median(plain.detached)),
                *_with_ratio(side.cpu_s / len(side.attached) * 1000, plain.cpu_s / len(plain.attached) * 1000),
            ]
            for mode, side in sides.items()
        ],
    )


def _with_ratio(value: float, plain: float) -> list[str]:
    return [f"{value:.1f}", f"{value / plain:.2f}" if plain else "-"]


@contextmanager
def _sink():
    """Take OTLP, and forget it."""
    with subprocess.Popen([sys.executable, "-c", SINK], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    from bench import report

    if os.environ.get("CNM_BENCH_INSIDE") is None:
        command = ["unshare", "--net", "--mount", sys.executable, "-m", "bench.recording", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env={**os.environ, "CNM_BENCH_INSIDE": "1"}, check=False).returncode)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    print(report.page([asyncio.run(section(int(sys.argv[1]) if sys.argv[1:] else 200))]))
