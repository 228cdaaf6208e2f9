"""CNM as a contender: requests through NATS, as any client would send them."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.client import Client
from bench.installation import Installation
from bench.peers.contender import LANES, PORT, PUBLISHED, plain
from bench.peers.processes import Memory, of_processes, processor_s
from bench.peers.room import Refused, Room

NETWORK, SUBNET = "bench", "10.210.0.0/16"
PATIENCE_S = 30.0


class Cnm:
    """An installation in a room of its own."""

    def __init__(self, folder: Path, name: str = "CNM") -> None:
        self.name = name
        self.room = Room(folder / "room")
        self.installation = Installation(folder)

    async def start(self) -> float:
        """Start it; return the milliseconds until all workers are ready."""
        began = time.perf_counter()
        self.installation.up()
        return (time.perf_counter() - began) * 1000

    async def stop(self) -> None:
        """Stop it."""
        self.installation.down()

    async def _timed(self, verb: str, body: dict[str, Any]) -> float:
        try:
            return await self._client.timed(verb, body)
        except RuntimeError as error:
            raise Refused(f"CNM: {error}") from None

    async def _surely(self, verb: str, body: dict[str, Any]) -> None:
        """Ask until it is done, as what is refused for a while on a busy machine may be asked again."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                await self._timed(verb, body)
            except Refused:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.1)
            else:
                return

    async def prepare(self, present: int) -> None:
        self._client = await Client.connect(self.installation.nats_url)
        await self._surely("network.create", {"name": NETWORK, "ipam": {"pools": [{"subnet": SUBNET}]}})
        for number in range(LANES):
            await self._surely("sandbox.create", {"name": plain(number)})
        ports = [{"container_port": 80, "host_port": PORT}]
        await self._surely("sandbox.create", {"name": PUBLISHED, "ports": ports})
        waiting = iter(range(present))
        await asyncio.gather(*(self._make(waiting) for _ in range(LANES)))

    async def _make(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            await self._surely("sandbox.create", {"name": f"c{number}"})
            await self._surely("sandbox.connect", {"sandbox": f"c{number}", "network": NETWORK})

    async def attach(self, lane: str) -> float:
        return await self._timed("sandbox.connect", {"sandbox": lane, "network": NETWORK})

    async def detach(self, lane: str) -> float:
        return await self._timed("sandbox.disconnect", {"sandbox": lane, "network": NETWORK})

    async def recover(self, lane: str) -> None:
        with suppress(Refused):  # it may be detached already
            await self.detach(lane)

    async def network(self) -> tuple[float, float]:
        """Make a network and delete it; return the milliseconds of each."""
        made = await self._timed("network.create", {"name": "brief"})
        return made, await self._timed("network.delete", {"network": "brief"})

    async def inside(self) -> Path:
        """Return the namespace of an endpoint that is present."""
        return Path((await self._client.ask("sandbox.get", {"sandbox": "c0"}))["key"])

    def _pids(self) -> dict[str, int]:
        return {
            path.stem: int(path.read_text().split()[0]) for path in (self.installation.run_dir / "pids").glob("*.pid")
        }

    def processor_s(self) -> float:
        """Return the processor seconds that all processes have had."""
        return sum(map(processor_s, {*self._pids().values(), self.installation.process}))

    def memory(self) -> dict[str, Memory]:
        """Return what the workers take, and what the servers and the supervisor do."""
        pids = self._pids()
        workers = {name: pid for name, pid in pids.items() if name.startswith("cnm-")}
        others = {pid for name, pid in pids.items() if name not in workers} | {self.installation.process}
        return {"workers": of_processes(workers.values()), "rest": of_processes(others)}

    async def end(self) -> None:
        await self._client.close()
        self.installation.down()
