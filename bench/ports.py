"""Published ports: what it costs to publish one among many, a long range, and what goes through them."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from bench.client import Client
from bench.installation import Installation
from bench.report import Section, percentile
from bench.throughput import gbits, python_within
from cnm.kernel import netns
from cnm.kernel.rtnl import AddAddress, CreateVeth, Rtnl, SetLink

PER_SANDBOX = 100
RANGE = 10000
SECONDS = 2.0
CONNECTING = 2
LAN, LAN_HOST, LAN6, LAN6_HOST = "10.216.0.2", "10.216.0.1", "fd16::2", "fd16::1"

ECHO = """
import selectors, socket, sys
server = socket.create_server(("", int(sys.argv[1])), backlog=4096)
print("ready", flush=True)
watched = selectors.DefaultSelector()
watched.register(server, selectors.EVENT_READ)
while True:
    for key, _ in watched.select():
        if key.fileobj is server:
            watched.register(server.accept()[0], selectors.EVENT_READ)
            continue
        try:
            said = key.fileobj.recv(64)
            if said:
                key.fileobj.send(said)
                continue
        except OSError:
            pass
        watched.unregister(key.fileobj)
        key.fileobj.close()
"""
CONNECT = """
import socket, struct, sys, time
address, count, failed = (sys.argv[1], int(sys.argv[2])), 0, 0
linger = struct.pack("ii", 1, 0)
began = time.perf_counter()
while time.perf_counter() - began < float(sys.argv[3]):
    try:
        with socket.create_connection(address, timeout=2) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.send(b"x")
            count += client.recv(1) == b"x"
    except OSError:
        failed += 1
print(count / (time.perf_counter() - began), failed)
"""


async def publish_section(client: Client, count: int, levels: list[int]) -> Section:
    """Measure publishing and unpublishing one port with so many published."""
    await client.timed("network.create", {"name": "ports", "ipam": {"pools": [{"subnet": "10.217.0.0/16"}]}})
    await _sandbox(client, "one", [])
    rows: list[list[str]] = []
    sandboxes, first = 0, 0.0
    for level in levels:
        while sandboxes * PER_SANDBOX < level:
            begin = 10000 + sandboxes * PER_SANDBOX
            many = min(PER_SANDBOX, level)
            await _sandbox(client, f"many{sandboxes}", [_port(begin + offset) for offset in range(many)])
            sandboxes += 1
        opened, closed = await _in_turn(client, count)
        both = percentile([one + other for one, other in zip(opened, closed, strict=True)], 0.5)
        first = first or both
        shown = [f"{percentile(times, part):.1f}" for times in (opened, closed) for part in (0.5, 0.99)]
        rows.append([str(level), *shown, f"{both:.1f}", f"{both / first:.2f}"])
        if level < PER_SANDBOX:
            await client.timed("sandbox.delete", {"sandbox": "many0"})
            sandboxes = 0
    for number in range(sandboxes):
        await client.timed("sandbox.delete", {"sandbox": f"many{number}"})
    await client.timed("sandbox.delete", {"sandbox": "one"})
    await client.timed("network.delete", {"network": "ports"})
    return Section(
        title="Publishing a port",
        note="`sandbox.publish` and `sandbox.unpublish` of one TCP port of a running sandbox, both families, while "
        f"so many ports of others are published, {PER_SANDBOX} a sandbox; one client, milliseconds.",
        head=["published", "publish p50", "publish p99", "unpublish p50", "unpublish p99", "together p50", "ratio"],
        rows=rows,
    )


async def range_section(client: Client, own: Installation) -> Section:
    """Measure a range, and one port of the same sandbox beside it."""
    await client.timed("network.create", {"name": "range", "ipam": {"pools": [{"subnet": "10.218.0.0/24"}]}})
    await _sandbox(client, "one", [], network="range")
    mapper = own.worker("port_mapper")
    rows = []
    for protocol in ("udp", "tcp"):
        for shift in (0, RANGE):
            first = 10000 + shift
            ports = _port(first, protocol) | {"container_port_end": first + RANGE - 1}
            ports |= {"host_port": 10000, "host_port_end": 10000 + RANGE - 1}
            before = _resident_mb(mapper)
            opened = await client.timed("sandbox.publish", {"sandbox": "one", "ports": [ports]})
            after = _resident_mb(mapper)
            beside, gone = await _in_turn(client, 20)
            which = {"container_port": first, "protocol": protocol}
            closed = await client.timed("sandbox.unpublish", {"sandbox": "one", "ports": [which]})
            both = percentile([one + other for one, other in zip(beside, gone, strict=True)], 0.5)
            rows.append(
                [
                    protocol,
                    "others" if shift else "the same",
                    f"{opened:.0f}",
                    f"{closed:.0f}",
                    f"{both:.1f}",
                    f"{after - before:.1f}",
                ]
            )
    await client.timed("sandbox.delete", {"sandbox": "one"})
    await client.timed("network.delete", {"network": "range"})
    return Section(
        title=f"A range of {RANGE} ports",
        note="On both families, of one sandbox; milliseconds, and megabytes by which the port mapper grew. Beside it "
        "one more port of the same sandbox is published and unpublished. Ports that keep their numbers are one "
        "element of the firewall, others one each; a socket each they are in any case.",
        head=["protocol", "numbers inside", "publish", "unpublish", "one port beside, p50", "MB"],
        rows=rows,
    )


async def path_section(client: Client) -> Section:
    """Measure what goes through a port: by translation, by the proxy, and without one."""
    await client.timed("network.create", {"name": "path", "ipam": {"pools": [{"subnet": "10.219.0.0/24"}]}})
    ports = [_port(7000) | {"host_port": 7000}, _port(7001) | {"host_port": 7001}]
    body = await _sandbox(client, "path", ports, network="path")
    inside = Path(body["key"])
    address = "10.219.0.10"
    rows = []
    with (
        _lan() as lan,
        subprocess.Popen(python_within(inside, ECHO, "7000"), stdout=subprocess.PIPE, text=True) as echo,
    ):
        assert echo.stdout is not None
        assert echo.stdout.readline() == "ready\n"
        for where, path, sender, target in (
            ("the node", "none, the sandbox's own address", None, address),
            ("the node", "translation", None, LAN_HOST),
            ("the node", "the proxy, `::1`", None, "::1"),
            ("another machine", "translation", lan, LAN_HOST),
            ("another machine", "the proxy, IPv6 to IPv4", lan, LAN6_HOST),
        ):
            rate, failed = _connections(sender, target, 7000)
            speed = gbits(sender, inside, target, 7001)
            rows.append([where, path, f"{rate:.0f}", str(failed), f"{speed:.1f}"])
        echo.kill()
    await client.timed("sandbox.delete", {"sandbox": "path"})
    await client.timed("network.delete", {"network": "path"})
    return Section(
        title="Through a published port",
        note=f"TCP connections a second ({CONNECTING} clients, a byte there and back, clients and server in Python) "
        "and Gbit/s of one stream.",
        head=["from", "through", "connections/s", "failed", "Gbit/s"],
        rows=rows,
    )


async def _sandbox(client: Client, name: str, ports: list[dict[str, Any]], network: str = "ports") -> Any:
    body = await client.ask("sandbox.create", {"name": name, "ports": ports})
    joining = {"sandbox": name, "network": network}
    await client.timed("sandbox.connect", joining | ({"ipv4_address": "10.219.0.10"} if network == "path" else {}))
    return body


def _port(number: int, protocol: str = "tcp") -> dict[str, Any]:
    return {"container_port": number, "host_port": number, "protocol": protocol}


async def _in_turn(client: Client, count: int) -> tuple[list[float], list[float]]:
    opened, closed = [], []
    for _ in range(count):
        body = {"sandbox": "one", "ports": [{"container_port": 80, "host_port": 8080}]}
        opened.append(await client.timed("sandbox.publish", body))
        body = {"sandbox": "one", "ports": [{"container_port": 80}]}
        closed.append(await client.timed("sandbox.unpublish", body))
    return opened, closed


def _resident_mb(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@contextmanager
def _lan() -> Iterator[Path]:
    """Make another machine beside the node, for as long as a body runs."""
    with tempfile.TemporaryDirectory(prefix="cnm-lan-") as folder:
        lan = Path(folder) / "lan"
        netns.create(lan)
        with Rtnl.open() as here, Rtnl.open(lan) as there, lan.open("rb") as namespace:
            (link,) = here.send(CreateVeth("lan0", peer_name="lan0", peer_namespace_fd=namespace.fileno()))
            assert link is not None
            here.send(*(AddAddress(link.index, ip_interface(each)) for each in (f"{LAN_HOST}/24", f"{LAN6_HOST}/64")))
            there.send(
                SetLink(link.peer, up=True),
                *(AddAddress(link.peer, ip_interface(each)) for each in (f"{LAN}/24", f"{LAN6}/64")),
            )
        try:
            yield lan
        finally:
            netns.remove(lan)


def _connections(sender: Path | None, address: str, port: int) -> tuple[float, int]:
    command = python_within(sender, CONNECT, address, str(port), str(SECONDS))
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(CONNECTING)]
    told = [process.communicate()[0].split() for process in running]
    return sum(float(rate) for rate, _ in told), sum(int(failed) for _, failed in told)
