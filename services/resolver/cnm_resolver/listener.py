"""Sandboxes being served: for each, 127.0.0.11 over UDP and TCP inside its namespace, all in one loop."""

import asyncio
import socket
from pathlib import Path

from cnm_resolver import wire
from cnm_resolver.answer import Forward, Response, Rota, answer
from cnm_resolver.config import LIMITS, Limits
from cnm_resolver.ports import External, Namespaces, Send
from cnm_resolver.tcp import TcpServer
from cnm_resolver.udp import UdpServer
from cnm_resolver.zone import OWN_ADDRESS, View


class Listener:
    """One sandbox: its view, its two sockets, and its questions under way outside."""

    def __init__(
        self,
        namespace: Path,
        view: View,
        *,
        rota: Rota,
        external: External,
        tasks: asyncio.TaskGroup,
        limits: Limits = LIMITS,
    ) -> None:
        self.namespace = namespace
        self.view = view
        self._rota = rota
        self._external = external
        self._tasks = tasks
        self._limits = limits
        self._forwards: set[asyncio.Task[None]] = set()
        self._udp: UdpServer | None = None
        self._tcp: TcpServer | None = None

    @property
    def forwards(self) -> int:
        """How many questions are under way outside."""
        return len(self._forwards)

    async def start(self, namespaces: Namespaces) -> None:
        """Listen on random ports, so that the sandbox may use port 53 itself, then lead port 53 to them.

        Raises:
            OSError: the namespace is gone, or the kernel refused; nothing stays open then.
        """
        try:
            udp = await self._bind(namespaces, socket.SOCK_DGRAM)
            self._udp = UdpServer(udp, self, limits=self._limits)
            tcp = await self._bind(namespaces, socket.SOCK_STREAM)
            self._tcp = await TcpServer.start(tcp, self, limits=self._limits)
            await namespaces.redirect(self.namespace, udp.getsockname()[1], tcp.getsockname()[1])
        except BaseException:  # cancelled or refused: leave no socket behind
            self.close()
            raise

    async def _bind(self, namespaces: Namespaces, kind: int) -> socket.socket:
        sock = await namespaces.open_socket(self.namespace, socket.AF_INET, kind)
        try:
            sock.bind((str(OWN_ADDRESS), 0))
        except OSError:
            sock.close()
            raise
        return sock

    def close(self) -> None:
        """Close the sockets and give up what is under way; closing twice is fine."""
        for task in self._forwards:
            task.cancel()
        if self._udp is not None:
            self._udp.close()
        if self._tcp is not None:
            self._tcp.close()
        self._udp = None

    async def stop(self, namespaces: Namespaces) -> None:
        """Close, then take the redirect away: without it a client would not hear that its connection ended."""
        self.close()
        if self._tcp is not None:
            await self._tcp.wait_closed()
        await namespaces.remove_redirect(self.namespace)

    def serve(self, packet: bytes, send: Send, *, stream: bool) -> bool:
        """Answer a packet from the view, or ask outside; false when there will be no reply."""
        outcome = answer(packet, self.view, self._rota, stream=stream)
        if isinstance(outcome, Response):
            send(outcome.packet)
            return True
        if isinstance(outcome, Forward):
            self._forward(outcome, send, stream=stream)
            return True
        return False

    def _forward(self, forward: Forward, send: Send, *, stream: bool) -> None:
        if len(self._forwards) >= self._limits.forwards:
            send(wire.respond(forward.query, wire.REFUSED))
            return
        task = self._tasks.create_task(self._ask(forward, send, stream=stream))
        self._forwards.add(task)
        task.add_done_callback(self._forwards.discard)

    async def _ask(self, forward: Forward, send: Send, *, stream: bool) -> None:
        query = forward.query
        reply = await self._external.ask(query, forward.servers, self.namespace, stream=stream)
        send(reply if stream else wire.cut(reply, query))


class Listeners:
    """The listeners of a node, by sandbox. ``tasks`` outlives them; a task of theirs that dies is a bug."""

    def __init__(
        self,
        namespaces: Namespaces,
        external: External,
        tasks: asyncio.TaskGroup,
        *,
        limits: Limits = LIMITS,
    ) -> None:
        self._namespaces = namespaces
        self._external = external
        self._tasks = tasks
        self._limits = limits
        self._rota = Rota()
        self._listeners: dict[str, Listener] = {}

    async def open(self, sandbox_id: str, namespace: Path, view: View) -> None:
        """Serve a sandbox; again with the same namespace only changes the view, with another one moves.

        Calls for one sandbox must not overlap: the sandbox's owner does one thing at a time.

        Raises:
            OSError: the namespace is gone, or the kernel refused; a former listener goes on then.
        """
        former = self._listeners.get(sandbox_id)
        if former is not None and former.namespace == namespace:
            former.view = view
            return
        listener = Listener(
            namespace,
            view,
            rota=self._rota,
            external=self._external,
            tasks=self._tasks,
            limits=self._limits,
        )
        await listener.start(self._namespaces)
        self._listeners[sandbox_id] = listener
        if former is not None:
            await former.stop(self._namespaces)

    def update(self, view: View) -> None:
        """Let a sandbox see something else from the next question on; an unknown one is left alone."""
        listener = self._listeners.get(view.settings.sandbox_id)
        if listener is not None:
            listener.view = view

    async def close(self, sandbox_id: str) -> None:
        """Stop serving a sandbox, if it is served, and leave nothing of ours in its namespace."""
        listener = self._listeners.pop(sandbox_id, None)
        if listener is not None:
            await listener.stop(self._namespaces)

    def close_all(self) -> None:
        """Stop serving. The redirects stay: the next process to serve these sandboxes replaces them."""
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()

    def __contains__(self, sandbox_id: str) -> bool:
        """Tell whether a sandbox is served."""
        return sandbox_id in self._listeners

    def __len__(self) -> int:
        """Count the sandboxes served."""
        return len(self._listeners)
