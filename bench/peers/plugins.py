"""Netavark and the CNI bridge plugin as contenders: a process a call, over a namespace that is there already."""

import asyncio
import hashlib
import json
import subprocess
import time
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from bench.peers.contender import LANES, PORT, PUBLISHED, plain
from bench.peers.packages import Peer
from bench.peers.room import Refused, Room, command
from cnm.kernel import netns

NETWORK, SUBNET, GATEWAY = "bench", ip_network("172.30.0.0/16"), ip_address("172.30.0.1")
FIRST_LANE = 10000
"""Addresses of lanes begin so far into the subnet; those of who is present begin at 10."""


class Plugin(ABC):
    """What both have in common. Each endpoint has a number, and a namespace of its own."""

    name: str

    def __init__(self, folder: Path, peer: Peer, name: str) -> None:
        folder.mkdir()
        self.name = name
        (folder / "config").mkdir()
        self.room = Room(folder / "room")
        self._folder, self._peer = folder, peer
        self._environment = peer.environment
        self._lanes = {plain(number): FIRST_LANE + number for number in range(LANES)}
        self._lanes[PUBLISHED] = FIRST_LANE + LANES
        self._threads: ThreadPoolExecutor | None = None

    @abstractmethod
    def _join(self, number: int, port: int | None) -> None:
        """Attach the endpoint of a number."""

    @abstractmethod
    def _leave(self, number: int, port: int | None) -> None:
        """Detach it."""

    def _namespace(self, number: int) -> Path:
        return self._folder / "endpoints" / str(number)

    def _port(self, lane: str) -> int | None:
        return PORT if lane == PUBLISHED else None

    async def prepare(self, present: int) -> None:
        self._threads = ThreadPoolExecutor(LANES)  # its threads are born in the room, and so are their processes
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")  # of this thread's namespace, the room's
        for number in self._lanes.values():
            netns.create(self._namespace(number))
        for number in range(present):
            netns.create(self._namespace(number))
            self._join(number, None)

    async def attach(self, lane: str) -> float:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._timed, self._join, lane)

    async def detach(self, lane: str) -> float:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._timed, self._leave, lane)

    def _timed(self, call: Any, lane: str) -> float:
        began = time.perf_counter()
        call(self._lanes[lane], self._port(lane))
        return (time.perf_counter() - began) * 1000

    async def recover(self, lane: str) -> None:
        with suppress(Refused):
            self._leave(self._lanes[lane], self._port(lane))
        path = self._namespace(self._lanes[lane])
        subprocess.run(
            ["nsenter", f"--net={path}", "ip", "link", "delete", "eth0"], stderr=subprocess.DEVNULL, check=False
        )

    async def inside(self) -> Path:
        """Return the namespace of an endpoint that is present."""
        return self._namespace(0)

    async def end(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()


class Netavark(Plugin):
    """Netavark, with aardvark-dns for the names."""

    name = "netavark"

    def _join(self, number: int, port: int | None) -> None:
        self._call("setup", number, port)

    def _leave(self, number: int, port: int | None) -> None:
        self._call("teardown", number, port)

    def _call(self, verb: str, number: int, port: int | None) -> None:
        command(
            self._environment,
            self._peer.program("netavark"),
            f"--config={self._folder}/config",
            f"--aardvark-binary={self._peer.program('aardvark-dns')}",
            verb,
            str(self._namespace(number)),
            stdin=json.dumps(self._options(number, port)).encode(),
        )

    def _options(self, number: int, port: int | None) -> dict[str, Any]:
        address = str(SUBNET.network_address + 10 + number)
        published = {"container_port": 80, "host_ip": "", "host_port": port, "protocol": "tcp", "range": 1}
        network = {
            "name": NETWORK,
            "id": _id(NETWORK),
            "driver": "bridge",
            "network_interface": "bench0",
            "subnets": [{"subnet": str(SUBNET), "gateway": str(GATEWAY)}],
            "ipv6_enabled": False,
            "internal": False,
            "dns_enabled": True,
            "ipam_options": {"driver": "host-local"},
            "network_dns_servers": [],
        }
        return {
            "container_id": _id(str(number)),
            "container_name": f"c{number}",
            "networks": {
                NETWORK: {"static_ips": [address], "interface_name": "eth0", "aliases": [f"c{number}"]},
            },
            "network_info": {NETWORK: network},
            "port_mappings": [published] if port else [],
        }


class Cni(Plugin):
    """The plugins bridge and host-local, and portmap after them for a port."""

    name = "CNI bridge"

    def _join(self, number: int, port: int | None) -> None:
        result = self._call("bridge", "ADD", number, self._bridge())
        if port:
            self._call("portmap", "ADD", number, {**_portmap(port), "prevResult": json.loads(result)})

    def _leave(self, number: int, port: int | None) -> None:
        if port:
            self._call("portmap", "DEL", number, _portmap(port))
        self._call("bridge", "DEL", number, self._bridge())

    def _call(self, plugin: str, verb: str, number: int, configuration: dict[str, Any]) -> bytes:
        program = self._peer.program(plugin)
        asked = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": _id(str(number)),
            "CNI_NETNS": str(self._namespace(number)),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(Path(program).parent),
        }
        return command(self._environment | asked, program, stdin=json.dumps(configuration).encode())

    def _bridge(self) -> dict[str, Any]:
        return {
            "cniVersion": "0.4.0",
            "name": NETWORK,
            "type": "bridge",
            "bridge": "bench0",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": str(SUBNET)}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(self._folder / "addresses"),
            },
        }


def _portmap(port: int) -> dict[str, Any]:
    mappings = [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]
    return {
        "cniVersion": "0.4.0",
        "name": NETWORK,
        "type": "portmap",
        "snat": True,
        "runtimeConfig": {"portMappings": mappings},
    }


def _id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
