"""DNS over TCP (RFC 7766): serving connections with many questions each, and asking one server."""

import asyncio
import socket
from typing import Self, cast

from cnm_resolver import wire
from cnm_resolver.config import LIMITS, Limits
from cnm_resolver.ports import Desk
from cnm_resolver.zone import Server


class TcpServer:
    """Accepts a bounded number of connections; the ones beyond are closed at once."""

    def __init__(self, desk: Desk, *, limits: Limits = LIMITS) -> None:
        self.desk = desk
        self.limits = limits
        self._connections: set[Connection] = set()
        self._empty: asyncio.Event | None = None  # an Event takes 760 bytes, and every sandbox has one of us
        self._server: asyncio.Server | None = None

    @classmethod
    async def start(cls, sock: socket.socket, desk: Desk, *, limits: Limits = LIMITS) -> Self:
        """Serve a bound socket."""
        server = cls(desk, limits=limits)
        loop = asyncio.get_running_loop()
        server._server = await loop.create_server(lambda: Connection(server), sock=sock)
        return server

    def admit(self, connection: "Connection") -> bool:
        """Count a connection in, unless there are too many."""
        if len(self._connections) >= self.limits.connections:
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: "Connection") -> None:
        """Count a connection out, whether or not it was admitted."""
        self._connections.discard(connection)
        if self._empty is not None and not self._connections:
            self._empty.set()

    def close(self) -> None:
        """Stop accepting and drop the connections there are."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.abort()

    def finish(self) -> None:
        """Stop accepting, and close each connection once its client has what it is owed."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.finish()

    async def wait_closed(self) -> None:
        """Wait until the dropped connections are really closed, so that their clients know."""
        if self._connections:
            self._empty = asyncio.Event()
            await self._empty.wait()


class Connection(asyncio.Protocol):
    """One client: messages behind their length, answered as they become ready, closed when idle."""

    _transport: asyncio.Transport

    def __init__(self, server: TcpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._owed = 0
        self._timer: asyncio.TimerHandle | None = None
        self._heard_at = self._loop.time()
        self._paused = self._ended = self._scheduled = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the client, or close."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods alone
        if self._server.admit(self):
            self._timer = self._loop.call_later(self._server.limits.idle_s, self._check_idle)
        else:
            self.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget the client."""
        self._ended = True
        self._buffer.clear()
        self._server.forget(self)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        self._heard_at = self._loop.time()
        self._buffer += data
        if not self._scheduled:
            self._consume()

    def eof_received(self) -> bool:
        """Keep a client that only stopped asking until it has what it is owed."""
        self._ended = True
        self._close_if_done()
        return True

    def pause_writing(self) -> None:
        """Take no more questions from a client that does not read its answers."""
        self._paused = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on where it stopped."""
        self._paused = False
        self._schedule()

    def finish(self) -> None:
        """Take no more questions, and close once all are answered."""
        self._ended = True
        if not self._transport.is_closing():
            self._transport.pause_reading()
            self._close_if_done()

    def abort(self) -> None:
        """Drop the client."""
        self._transport.abort()

    def _consume(self) -> None:
        """Serve a bounded number of messages; with more at hand reading stops until the loop comes round."""
        self._scheduled = False
        buffer = self._buffer
        for _ in range(self._server.limits.burst):
            size = 2 + int.from_bytes(buffer[:2])
            if self._paused or len(buffer) < max(size, 2) or self._transport.is_closing():
                break
            packet = bytes(buffer[2:size])
            del buffer[:size]
            self._owed += 1
            if not self._server.desk.serve(packet, self._send, stream=True):
                self._owed -= 1
        else:
            self._transport.pause_reading()
            self._schedule()
            return
        if not self._paused:
            self._transport.resume_reading()
        self._close_if_done()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._consume)

    def _send(self, reply: bytes) -> None:
        self._owed -= 1
        if not self._transport.is_closing():
            self._transport.write(len(reply).to_bytes(2) + reply)
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._ended and not self._owed and not self._scheduled and not self._paused:
            self._transport.close()

    def _check_idle(self) -> None:
        left = self._heard_at + self._server.limits.idle_s - self._loop.time()
        if left <= 0:
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(left, self._check_idle)


async def exchange(sock: socket.socket, server: Server, packet: bytes, end: int) -> bytes:
    """Ask a server over a connection of its own.

    Raises:
        OSError: the server cannot be reached, or closed before it answered.
    """
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (str(server.address), server.port))
    await loop.sock_sendall(sock, len(packet).to_bytes(2) + packet)
    while True:
        size = int.from_bytes(await _read(sock, 2))
        reply = await _read(sock, size)
        if wire.answers_to(reply, packet, end):
            return reply


async def _read(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        part = await loop.sock_recv(sock, size - len(data))
        if not part:
            raise ConnectionResetError("closed before the whole message came")
        data += part
    return data
