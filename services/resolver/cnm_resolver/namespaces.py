"""Sockets in namespaces, and their redirects, made by the thread that may enter namespaces."""

import asyncio
import socket
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from cnm.deposit import Depositor
from cnm.kernel import netns, nfnl
from cnm.kernel.thread import NetlinkThread
from cnm_resolver.ports import Pair


class KernelNamespaces:
    """The real kernel's namespaces."""

    def __init__(self, thread: NetlinkThread, depositor: Depositor | None = None) -> None:
        self._thread = thread
        self._depositor = depositor

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

    async def take(self, name: str, namespace: Path) -> Pair | None:
        """Return the sockets that an earlier process left for a sandbox, if they are of this namespace."""
        return None if self._depositor is None else await self._thread.run(_take, self._depositor, name, namespace)

    async def leave(self, name: str, pair: Pair) -> None:
        """Leave a sandbox's sockets for the process that comes after."""
        if self._depositor is not None:
            await self._thread.run(self._depositor.put, name, pair)

    async def forget(self, name: str) -> None:
        """Leave a sandbox's sockets to nobody."""
        if self._depositor is not None:
            await self._thread.run(self._depositor.drop, name)

    async def forget_all_but(self, names: Collection[str]) -> None:
        """Leave no sockets but those of some sandboxes."""
        if self._depositor is not None:
            await self._thread.run(self._depositor.retain, names)

    async def holds(self, namespace: Path, opened: socket.socket) -> bool:
        """Tell whether a socket is of the namespace that is at a path now."""
        return await self._thread.run(netns.is_of, namespace, opened)

    async def redirected(self, namespace: Path) -> tuple[int, int] | None:
        """Return the ports, UDP and TCP, to which 127.0.0.11 port 53 leads; None where it leads nowhere.

        Raises:
            OSError: there is no such namespace, or the kernel does not tell.
        """
        return await self._thread.run(nfnl.dns_redirect_leads, namespace)

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


def _take(depositor: Depositor, name: str, namespace: Path) -> Pair | None:
    match depositor.take(name):
        case (udp, tcp) if netns.is_of(namespace, udp) and netns.is_of(namespace, tcp):
            udp.setblocking(False)
            tcp.setblocking(False)
            return udp, tcp
        case others:
            for each in others:
                each.close()
            return None
