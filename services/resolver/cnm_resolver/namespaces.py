"""Sockets in namespaces, and their redirects, made by the thread that may enter namespaces."""

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

from cnm.kernel import netns, nfnl
from cnm.kernel.thread import NetlinkThread


class KernelNamespaces:
    """The real kernel's namespaces."""

    def __init__(self, thread: NetlinkThread) -> None:
        self._thread = thread

    async def open_socket(self, namespace: Path | None, family: int, kind: int) -> socket.socket:
        """Make a non-blocking socket that belongs to a namespace; one nobody waits for any more is closed.

        Raises:
            OSError: there is no such namespace, or no descriptor is left.
        """
        kind |= socket.SOCK_NONBLOCK
        if namespace is None:
            return socket.socket(family, kind)
        opened: list[socket.socket] = []
        abandoned: list[bool] = []

        def work() -> socket.socket:
            sock = netns.open_socket(namespace, family, kind)
            opened.append(sock)
            if abandoned:
                sock.close()
            return sock

        try:
            return await self._thread.run(work)
        except asyncio.CancelledError:
            # the thread goes on by itself: whichever of the two comes second sees the other and closes
            abandoned.append(True)
            for sock in opened:
                sock.close()
            raise

    async def redirect(self, namespace: Path, udp_port: int, tcp_port: int) -> None:
        """Let 127.0.0.11 port 53 lead to these ports of it; again replaces.

        Raises:
            OSError: there is no such namespace, or the kernel refused.
        """
        await self._thread.run(nfnl.dns_redirect, namespace, udp_port, tcp_port)

    async def remove_redirect(self, namespace: Path) -> None:
        """Let port 53 lead nowhere again; a namespace that is gone is fine."""
        with suppress(FileNotFoundError):
            await self._thread.run(nfnl.remove_dns_redirect, namespace)
