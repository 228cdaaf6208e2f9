"""What the resolver needs from outside: sockets in namespaces, and external servers."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from cnm_resolver.wire import Query
from cnm_resolver.zone import Server

Send = Callable[[bytes], None]
"""Send a reply to whoever asked; never raises."""


Pair = tuple[socket.socket, socket.socket]
"""The sockets of a sandbox: UDP, TCP."""


class Namespaces(Protocol):
    """Network namespaces, by path; None is the process's own."""

    async def open_socket(self, namespace: Path | None, family: int, kind: int) -> socket.socket:
        """Make a non-blocking socket that belongs to a namespace.

        Raises:
            OSError: there is no such namespace, or no descriptor is left.
        """
        ...

    async def take(self, name: str, namespace: Path) -> Pair | None:
        """Return the sockets that an earlier process left for a sandbox, if they are of this namespace."""
        ...

    async def leave(self, name: str, pair: Pair) -> None:
        """Leave a sandbox's sockets for the process that comes after, whatever becomes of this one."""
        ...

    async def forget(self, name: str) -> None:
        """Leave a sandbox's sockets to nobody."""
        ...

    async def holds(self, namespace: Path, opened: socket.socket) -> bool:
        """Tell whether a socket is of the namespace that is at a path now."""
        ...

    async def redirected(self, namespace: Path) -> tuple[int, int] | None:
        """Return the ports, UDP and TCP, to which 127.0.0.11 port 53 leads; None where it leads nowhere.

        Raises:
            OSError: there is no such namespace, or the kernel does not tell.
        """
        ...

    async def redirect(self, namespace: Path, udp_port: int, tcp_port: int) -> None:
        """Let 127.0.0.11 port 53 lead to these ports of it; again replaces.

        Raises:
            OSError: the kernel refused.
        """
        ...

    async def remove_redirect(self, namespace: Path) -> None:
        """Let port 53 lead nowhere again; a namespace that is gone is fine."""
        ...


class Upstream(Protocol):
    """One external server, asked once."""

    async def exchange(self, server: Server, query: Query, namespace: Path, *, stream: bool) -> bytes:
        """Return the server's reply, with the client's id; ``namespace`` is used when the server is inside.

        Raises:
            OSError: it cannot be reached, or closed the connection.
        """
        ...


class External(Protocol):
    """All that is not ours. A cache is one of these before another."""

    def recall(self, query: Query, servers: tuple[Server, ...], namespace: Path) -> bytes | None:
        """Return a reply that is at hand."""
        ...

    async def ask(self, query: Query, servers: tuple[Server, ...], namespace: Path, *, stream: bool) -> bytes:
        """Return a reply in any case."""
        ...


class Desk(Protocol):
    """Where a socket hands its packets over."""

    def serve(self, packet: bytes, send: Send, *, stream: bool) -> bool:
        """Answer a packet now or later; false when there will be no reply."""
        ...
