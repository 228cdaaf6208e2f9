"""Sandboxes with listeners of their own, and external servers that do as they are told."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import uvloop
from dnslib import DNSRecord

from cnm.kernel import netns
from cnm.kernel.thread import NetlinkThread
from cnm_resolver.cache import Cache
from cnm_resolver.config import Limits
from cnm_resolver.directory import Directory
from cnm_resolver.forward import Forwarder
from cnm_resolver.listener import Listeners
from cnm_resolver.namespaces import KernelNamespaces
from cnm_resolver.upstream import SocketUpstream
from cnm_resolver.zone import Record, Server, Settings

LIMITS = Limits(backoff_s=0.05, attempt_s=0.5, overall_s=0.8, forwards=4, connections=3, idle_s=5.0)


def pytest_asyncio_loop_factories():
    """Run each test on both loops."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
def make_sandbox(namespace, shell) -> Callable[[str], Path]:
    """Make a namespace as the sandbox worker hands it over: its loopback is up."""

    def make(name: str) -> Path:
        path = namespace(name)
        shell.run(path, "ip", "link", "set", "lo", "up")
        return path

    return make


@pytest.fixture
def sandbox(make_sandbox: Callable[[str], Path]) -> Path:
    return make_sandbox("s1")


@dataclass
class World:
    """What a resolver process consists of, without its bus."""

    directory: Directory
    listeners: Listeners
    namespaces: KernelNamespaces

    async def open(self, settings: Settings, namespace: Path) -> None:
        view = self.directory.put_sandbox(settings)
        await self.listeners.open(settings.sandbox_id, namespace, view)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    directory = Directory()
    directory.put_network("n-web", "web", prefixes=(ip_network("172.28.0.0/16"),))
    directory.put_network("n-db", "db", prefixes=(ip_network("10.9.0.0/16"),))
    directory.put_record(Record("e-api", "n-web", ("api",), ip_address("172.28.0.2")))
    directory.put_record(Record("e-sql", "n-db", ("sql",), ip_address("10.9.0.2")))
    for number in range(100):
        directory.put_record(Record(f"e{number}", "n-web", ("many",), ip_address(f"172.28.1.{number}")))
    async with NetlinkThread() as thread, asyncio.TaskGroup() as tasks:
        namespaces = KernelNamespaces(thread)
        upstream = SocketUpstream(namespaces, secrets.token_bytes)
        external = Cache(Forwarder(upstream, limits=LIMITS), limits=LIMITS)
        listeners = Listeners(namespaces, external, tasks, limits=LIMITS)
        yield World(directory, listeners, namespaces)
        listeners.close_all()


Query = Callable[..., Awaitable[DNSRecord]]


async def query(namespace: Path, name: str, kind: str = "A", *, tcp: bool = False) -> DNSRecord:
    """Ask 127.0.0.11 port 53 from inside, as a client would."""
    packet = bytes(DNSRecord.question(name, kind).pack())
    return DNSRecord.parse(await exchange(namespace, packet, tcp=tcp))


async def exchange(namespace: Path, packet: bytes, *, tcp: bool = False) -> bytes:
    loop = asyncio.get_running_loop()
    with netns.open_socket(namespace, socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.11", 53))
        if not tcp:
            sock.send(packet)
            return await loop.sock_recv(sock, 65535)
        await loop.sock_sendall(sock, len(packet).to_bytes(2) + packet)
        data = b""
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2]):
            part = await loop.sock_recv(sock, 65535)
            assert part, "closed early"
            data += part
        return data[2:]


@pytest.fixture(name="query")
def query_fixture() -> Query:
    return query


@pytest.fixture(name="exchange")
def exchange_fixture() -> Callable[..., Awaitable[bytes]]:
    return exchange


@dataclass
class MockServer:
    """An external server, UDP and TCP on one port; ``reply`` maps a question to packets to send, in order."""

    reply: Callable[[DNSRecord], list[bytes]]
    server: Server
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def receive(self, transport: str, packet: bytes) -> list[bytes]:
        self.asked.append((transport, packet))
        self.heard.set()
        return self.reply(DNSRecord.parse(packet))


class _UdpMock(asyncio.DatagramProtocol):
    def __init__(self, mock: MockServer) -> None:
        self.mock = mock

    def connection_made(self, transport) -> None:
        self.transport = transport

    def datagram_received(self, packet: bytes, client) -> None:
        for reply in self.mock.receive("udp", packet):
            self.transport.sendto(reply, client)


class _TcpMock(asyncio.Protocol):
    def __init__(self, mock: MockServer) -> None:
        self.mock = mock

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, packet: bytes) -> None:
        for reply in self.mock.receive("tcp", packet[2:]):
            self.transport.write(len(reply).to_bytes(2) + reply)


@pytest.fixture
async def make_server() -> AsyncIterator[Callable[..., Awaitable[MockServer]]]:
    """Make a server on loopback, in the namespace given, or in the test's own."""
    loop = asyncio.get_running_loop()
    udp_transports, tcp_servers = [], []

    def open_socket(namespace: Path | None, kind: int, port: int) -> socket.socket:
        sock = netns.open_socket(namespace, socket.AF_INET, kind) if namespace else socket.socket(type=kind)
        sock.bind(("127.0.0.1", port))
        return sock

    async def make(reply: Callable[[DNSRecord], list[bytes]], namespace: Path | None = None) -> MockServer:
        tcp = open_socket(namespace, socket.SOCK_STREAM, 0)
        port = tcp.getsockname()[1]
        udp = open_socket(namespace, socket.SOCK_DGRAM, port)
        mock = MockServer(reply, Server(ip_address("127.0.0.1"), port, inside=namespace is not None))
        transport, _ = await loop.create_datagram_endpoint(lambda: _UdpMock(mock), sock=udp)
        udp_transports.append(transport)
        tcp_servers.append(await loop.create_server(lambda: _TcpMock(mock), sock=tcp))
        return mock

    yield make
    for transport in udp_transports:
        transport.close()
    for server in tcp_servers:
        server.close()
