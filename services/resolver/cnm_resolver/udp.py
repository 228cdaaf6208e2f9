"""DNS over UDP: serving a socket without a task a packet, and asking one server."""

import asyncio
import socket
from contextlib import suppress
from functools import partial
from typing import Any

from cnm.kernel.netlink import SO_RCVBUFFORCE
from cnm_resolver import wire
from cnm_resolver.config import LIMITS, Limits
from cnm_resolver.ports import Desk
from cnm_resolver.zone import Server

_PACKET_SIZE = 4096
_BUFFER_BYTES = 1 << 20
"""What may wait in a socket: the kernel's usual 208 KiB hold 190 questions, and a client waits 5 s for a lost one."""


class UdpServer:
    """Reads a bounded burst of packets each time its socket is readable, so that other sandboxes get their turn."""

    def __init__(self, sock: socket.socket, desk: Desk, *, limits: Limits = LIMITS) -> None:
        self._socket = sock
        self._desk = desk
        self._burst = range(limits.burst)
        self._loop = asyncio.get_running_loop()
        with suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._loop.add_reader(sock.fileno(), self._read)

    def _read(self) -> None:
        receive, serve = self._socket.recvfrom, self._desk.serve
        for _ in self._burst:
            try:
                packet, client = receive(_PACKET_SIZE)
            except OSError:  # nothing there any more; or an error of one client, and epoll calls again
                return
            serve(packet, partial(self._send, client), stream=False)

    def _send(self, client: Any, reply: bytes) -> None:
        try:
            self._socket.sendto(reply, client)
        except OSError:  # a full buffer, a firewall, or a socket that was closed meanwhile: the client asks again
            return

    def pause(self) -> None:
        """Stop reading."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())

    def close(self) -> None:
        """Stop reading and close the socket."""
        self.pause()
        self._socket.close()


async def exchange(sock: socket.socket, server: Server, packet: bytes, end: int) -> bytes:
    """Ask a server through a fresh socket, whose random port no one else knows; strangers' packets are ignored.

    A connected socket takes packets of that address and port only, and learns of an unreachable one at once.

    Raises:
        OSError: the server cannot be reached.
    """
    loop = asyncio.get_running_loop()
    sock.connect((str(server.address), server.port))
    sock.send(packet)
    while True:
        reply = await loop.sock_recv(sock, wire.MAX_SIZE)
        if wire.answers_to(reply, packet, end):
            return reply
