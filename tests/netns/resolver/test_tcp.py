"""Connections by themselves, on loopback."""

import asyncio
import socket

import pytest

from cnm_resolver.config import Limits
from cnm_resolver.tcp import TcpServer


class Echo:
    """Answers each packet with itself, and an empty one never."""

    def serve(self, packet, send, *, stream):
        if packet:
            send(packet)
        return bool(packet)


@pytest.fixture
async def connect():
    servers, writers = [], []

    async def connect(**limits):
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        servers.append(await TcpServer.start(sock, Echo(), limits=Limits(**limits)))
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        writers.append(writer)
        return reader, writer

    yield connect
    for writer in writers:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
    for server in servers:
        server.close()
        await server.wait_closed()


async def test_idle_connection_is_closed(connect):
    reader, _ = await connect(idle_s=0.02)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await reader.readexactly(1)


async def test_connection_that_keeps_asking_is_not_idle(connect):
    reader, writer = await connect(idle_s=0.3)
    started = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < started + 0.6:
        writer.write(b"\0\3abc")
        assert await reader.readexactly(5) == b"\0\3abc"


async def test_message_without_reply_holds_nothing_up(connect):
    reader, writer = await connect()
    writer.write(b"\0\0\0\1a\0\0\0\1b\0\6incom")
    writer.write_eof()
    assert await reader.read() == b"\0\1a\0\1b"


async def test_bursts_are_answered_whole(connect):
    reader, writer = await connect(burst=1)
    writer.write(b"\0\1a" * 1000)
    assert await reader.readexactly(3000) == b"\0\1a" * 1000
