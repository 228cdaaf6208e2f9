"""Dockerd as a contender: its HTTP API over a unix socket, kept-alive connections."""

import asyncio
import io
import json
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from bench.peers.contender import LANES, PORT, PUBLISHED, plain
from bench.peers.packages import Peer
from bench.peers.processes import Memory, family, of_processes
from bench.peers.room import Refused, Room

NETWORK, SUBNET = "bench", "10.240.0.0/16"
IMAGE = "bench:1"
READY_S, STOP_S = 60.0, 60.0
LOOK_S = 0.01

# Its mounts are its own, /run too; /sys shows the links of its network namespace, and keeps the control groups.
ENTER = """
set -e
mkdir -p "$1/groups"
mount --rbind /sys/fs/cgroup "$1/groups"
umount -l /sys
mount -t sysfs sysfs /sys
mount --rbind "$1/groups" /sys/fs/cgroup
mount -t tmpfs tmpfs /run
shift
exec "$@"
"""


class Dockerd:
    """A daemon in a room of its own, with the containerd that it starts."""

    name = "dockerd"

    def __init__(self, folder: Path, peer: Peer, groups: str) -> None:
        """``groups`` is the control group that its containers' are below."""
        folder.mkdir()
        self.room = Room(folder / "room")
        self._folder, self._peer, self._groups = folder, peer, groups
        self._socket = folder / "docker.sock"
        self._daemon: subprocess.Popen[bytes] | None = None
        self._session: aiohttp.ClientSession | None = None
        (folder / "daemon.json").write_text(
            json.dumps({"default-address-pools": [{"base": "10.128.0.0/10", "size": 24}], "log-level": "warn"})
        )

    async def start(self) -> float:
        """Start it; return the milliseconds until it answers."""
        command = [
            self._peer.program("dockerd"), f"--config-file={self._folder}/daemon.json",
            f"--data-root={self._folder}/data", f"--exec-root={self._folder}/exec",
            f"--pidfile={self._folder}/dockerd.pid", f"--host=unix://{self._socket}", "--storage-driver=vfs",
            f"--userland-proxy-path={self._peer.program('docker-proxy')}", f"--cgroup-parent=/{self._groups}",
        ]  # fmt: skip
        began = time.perf_counter()
        with (self._folder / "log").open("ab") as log:
            self._daemon = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", ENTER, "sh", str(self._folder), *command],
                env=self._peer.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        if self._session is None:
            connector = aiohttp.UnixConnector(path=str(self._socket), limit=0)
            self._session = aiohttp.ClientSession("http://docker", connector=connector)
        while True:
            try:
                await self._ask("GET", "/_ping")
                return (time.perf_counter() - began) * 1000
            except (aiohttp.ClientError, Refused):
                if self._daemon.poll() is not None or time.perf_counter() > began + READY_S:
                    raise Refused(f"dockerd did not start: {self._said()}") from None
                await asyncio.sleep(LOOK_S)

    def _said(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-500:]

    async def stop(self) -> None:
        """Stop it, and wait until it is gone."""
        assert self._daemon is not None
        self._daemon.terminate()
        await asyncio.to_thread(self._daemon.wait, STOP_S)

    async def _ask(self, method: str, path: str, body: Any = None, *, data: bytes | None = None) -> Any:
        assert self._session is not None
        async with self._session.request(method, path, json=body, data=data) as reply:
            text = await reply.text()
            if reply.status >= 400:
                raise Refused(f"dockerd: {method} {path}: {reply.status} {text.strip()[:300]}")
            return (
                json.loads(text) if reply.content_type == "application/json" and text.startswith(("{", "[")) else text
            )

    async def prepare(self, present: int) -> None:
        await self._ask("POST", f"/images/create?fromSrc=-&repo={IMAGE.partition(':')[0]}&tag=1", data=self._image())
        await self._ask(
            "POST",
            "/networks/create",
            {"Name": NETWORK, "Driver": "bridge", "IPAM": {"Config": [{"Subnet": SUBNET}]}},
        )
        published = {"80/tcp": [{"HostPort": str(PORT)}]}
        await asyncio.gather(
            *(self._container(plain(number), {}) for number in range(LANES)),
            self._container(PUBLISHED, published),
            *(self._container(f"c{number}", {}) for number in range(present)),
        )
        # Like a sandbox that has no network yet, which is quicker to attach than one with another network.
        for lane in (*map(plain, range(LANES)), PUBLISHED):
            await self.detach(lane)

    def _image(self) -> bytes:
        """Return the archive of an image that can sleep."""
        content = Path(self._peer.program("busybox")).read_bytes()
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            entry = tarfile.TarInfo("bin/busybox")
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
        return packed.getvalue()

    async def _container(self, name: str, ports: dict[str, Any]) -> None:
        body = {
            "Image": IMAGE,
            "Cmd": ["/bin/busybox", "sleep", "1000000"],
            "ExposedPorts": {port: {} for port in ports},
            "HostConfig": {"NetworkMode": NETWORK, "PortBindings": ports},
        }
        made = await self._ask("POST", f"/containers/create?name={name}", body)
        await self._ask("POST", f"/containers/{made['Id']}/start")

    async def attach(self, lane: str) -> float:
        return await self._timed("POST", f"/networks/{NETWORK}/connect", {"Container": lane})

    async def detach(self, lane: str) -> float:
        return await self._timed("POST", f"/networks/{NETWORK}/disconnect", {"Container": lane})

    async def _timed(self, method: str, path: str, body: Any = None) -> float:
        began = time.perf_counter()
        await self._ask(method, path, body)
        return (time.perf_counter() - began) * 1000

    async def recover(self, lane: str) -> None:
        try:
            await self._ask("POST", f"/networks/{NETWORK}/disconnect", {"Container": lane, "Force": True})
        except Refused:
            return

    async def network(self) -> tuple[float, float]:
        """Make a network and delete it; return the milliseconds of each."""
        made = await self._timed("POST", "/networks/create", {"Name": "brief", "Driver": "bridge"})
        return made, await self._timed("DELETE", "/networks/brief")

    async def inside(self) -> Path:
        """Return the namespace of an endpoint that is present."""
        shown = await self._ask("GET", "/containers/c0/json")
        return Path(f"/proc/{shown['State']['Pid']}/ns/net")

    def memory(self) -> dict[str, Memory]:
        """Return what the daemon takes, and what containerd does."""
        pid = int((self._folder / "dockerd.pid").read_text())
        return {"dockerd": of_processes([pid]), "containerd": of_processes(family(pid) - {pid})}

    async def end(self) -> None:
        assert self._session is not None
        await self._session.close()
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
