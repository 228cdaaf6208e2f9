"""Sandboxes being served: for each, 127.0.0.11 over UDP and TCP inside its namespace, all in one loop."""

import asyncio
import errno
import socket
import time
from contextlib import suppress
from pathlib import Path

from cnm_resolver import wire
from cnm_resolver.answer import Forward, Response, Rota, answer
from cnm_resolver.config import LIMITS, Limits
from cnm_resolver.counters import Counters
from cnm_resolver.ports import External, Namespaces, Pair, Send
from cnm_resolver.tcp import TcpServer
from cnm_resolver.udp import UdpServer
from cnm_resolver.zone import OWN_ADDRESS, View

CLOSING_S = 0.5


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
        counters: Counters,
        limits: Limits = LIMITS,
    ) -> None:
        self._counters = counters
        self.namespace = namespace
        self.view = view
        self._rota = rota
        self._external = external
        self._tasks = tasks
        self._limits = limits
        self._forwards: set[asyncio.Task[None]] = set()
        self._udp: UdpServer | None = None
        self._tcp: TcpServer | None = None
        self._ports: tuple[int, int] = (0, 0)
        self._bound: socket.socket | None = None

    @property
    def forwards(self) -> int:
        """How many questions are under way outside."""
        return len(self._forwards)

    async def start(self, namespaces: Namespaces) -> None:
        """Go on with the sockets that an earlier process left, or listen on other ports; lead port 53 to them.

        Other ports, so that the sandbox may use port 53 itself: those where it leads already, else random ones. What
        was sent to the sockets while no process read them is answered now.

        Raises:
            OSError: the namespace is gone, or the kernel refused; nothing stays open then.
        """
        name = self.view.settings.sandbox_id
        left = await namespaces.take(name, self.namespace)
        pair = left or await self._bind(namespaces)
        self._ports = pair[0].getsockname()[1], pair[1].getsockname()[1]
        self._bound = pair[0]
        try:
            self._udp = UdpServer(pair[0], self, limits=self._limits)
            self._tcp = await TcpServer.start(pair[1], self, limits=self._limits)
            await self.mend(namespaces)
            if left is None:
                await namespaces.leave(name, pair)
        except BaseException:  # cancelled or refused: leave no socket behind
            self.close()
            pair[1].close()
            raise

    async def mend(self, namespaces: Namespaces) -> bool:
        """Lead port 53 to the sockets where it does not; tell whether it did not.

        Raises:
            OSError: the namespace is gone, or the kernel refused.
        """
        if await self.is_led(namespaces):
            return False
        udp_port, tcp_port = self._ports
        await namespaces.redirect(self.namespace, udp_port, tcp_port)
        return True

    async def is_home(self, namespaces: Namespaces) -> bool:
        """Tell whether the sockets are of the namespace that is at the path now."""
        return self._bound is not None and await namespaces.holds(self.namespace, self._bound)

    async def is_led(self, namespaces: Namespaces) -> bool:
        """Tell whether port 53 leads to the sockets.

        Raises:
            OSError: the namespace is gone, or the kernel does not tell.
        """
        return await namespaces.redirected(self.namespace) == self._ports

    async def _bind(self, namespaces: Namespaces) -> Pair:
        """Bind where port 53 leads already, if it does and nobody else is there: then no rule changes."""
        opened: list[socket.socket] = []
        ports = await namespaces.redirected(self.namespace) or (0, 0)
        try:
            for kind, port in zip((socket.SOCK_DGRAM, socket.SOCK_STREAM), ports, strict=True):
                opened.append(await namespaces.open_socket(self.namespace, socket.AF_INET, kind))
                _bind(opened[-1], port)
        except BaseException:
            for each in opened:
                each.close()
            raise
        return opened[0], opened[1]

    async def drain(self) -> None:
        """Read no more, and answer what was read; whoever reads the sockets after us has the rest."""
        if self._udp is not None:
            self._udp.pause()
        if self._tcp is not None:
            self._tcp.finish()
        if self._forwards:
            await asyncio.wait(self._forwards, timeout=self._limits.overall_s)
        if self._tcp is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSING_S):
                    await self._tcp.wait_closed()

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
        began = self._counters.begin()
        outcome = answer(packet, self.view, self._rota, stream=stream)
        if isinstance(outcome, Response):
            send(outcome.packet)
            self._counters.count("own", packet, outcome.packet, self.view, began=began)
            return True
        if isinstance(outcome, Forward):
            self._forward(outcome, send, stream=stream)
            return True
        self._counters.count("dropped", packet, None, self.view)
        return False

    def _forward(self, forward: Forward, send: Send, *, stream: bool) -> None:
        query = forward.query
        known = self._external.recall(query, forward.servers, self.namespace)
        if known is not None:
            send(known if stream else wire.cut(known, query))
            self._counters.count("kept", query.packet, known, self.view)
            return
        if len(self._forwards) >= self._limits.forwards:
            refused = wire.respond(query, wire.REFUSED)
            send(refused)
            self._counters.count("own", query.packet, refused, self.view)
            return
        task = self._tasks.create_task(self._ask(forward, send, stream=stream))
        self._forwards.add(task)
        task.add_done_callback(self._forwards.discard)

    async def resolve(self, packet: bytes) -> bytes:
        """Return the reply to a packet, the way that a client over TCP gets it."""
        replied: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.serve(packet, lambda reply: None if replied.done() else replied.set_result(reply), stream=True)
        return await replied

    async def _ask(self, forward: Forward, send: Send, *, stream: bool) -> None:
        query, began = forward.query, time.perf_counter()
        reply = await self._external.ask(query, forward.servers, self.namespace, stream=stream)
        send(reply if stream else wire.cut(reply, query))
        self._counters.count("outside", query.packet, reply, self.view, began=began)


def _bind(opened: socket.socket, port: int) -> None:
    """Bind to a port, or to a random one where somebody else has it."""
    if (
        opened.type == socket.SOCK_STREAM
    ):  # else connections in TIME_WAIT would keep it; nobody listens beside another
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((str(OWN_ADDRESS), port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        opened.bind((str(OWN_ADDRESS), 0))


class Listeners:
    """The listeners of a node, by sandbox. ``tasks`` outlives them; a task of theirs that dies is a bug."""

    def __init__(
        self,
        namespaces: Namespaces,
        external: External,
        tasks: asyncio.TaskGroup,
        *,
        limits: Limits = LIMITS,
        counters: Counters | None = None,
    ) -> None:
        self.counters = counters or Counters()
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
        await self._begin(sandbox_id, namespace, view)
        if former is not None:
            await former.stop(self._namespaces)

    async def _begin(self, sandbox_id: str, namespace: Path, view: View) -> None:
        listener = Listener(
            namespace,
            view,
            rota=self._rota,
            external=self._external,
            tasks=self._tasks,
            counters=self.counters,
            limits=self._limits,
        )
        await listener.start(self._namespaces)
        self._listeners[sandbox_id] = listener

    async def resolve(self, sandbox_id: str, packet: bytes) -> bytes:
        """Answer a packet of our own as a sandbox is answered.

        Raises:
            KeyError: the sandbox is not served.
        """
        return await self._listeners[sandbox_id].resolve(packet)

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
            await self._namespaces.forget(sandbox_id)

    async def mend(self, sandbox_id: str) -> bool:
        """Lead a served sandbox's port 53 to us where it does not; tell whether it did not.

        A namespace that was made anew at the same path gets new sockets.

        Raises:
            KeyError: the sandbox is not served.
            OSError: the namespace is gone, or the kernel refused.
        """
        listener = self._listeners[sandbox_id]
        if await listener.is_home(self._namespaces):
            return await listener.mend(self._namespaces)
        await self._begin(sandbox_id, listener.namespace, listener.view)
        listener.close()
        return True

    async def is_led(self, sandbox_id: str) -> bool:
        """Tell whether a served sandbox's port 53 leads to us.

        Raises:
            KeyError: the sandbox is not served.
            OSError: the namespace is gone, or the kernel does not tell.
        """
        listener = self._listeners[sandbox_id]
        return await listener.is_home(self._namespaces) and await listener.is_led(self._namespaces)

    async def drain(self) -> None:
        """Read no more, and answer what was read."""
        await asyncio.gather(*(listener.drain() for listener in self._listeners.values()))

    def close_all(self) -> None:
        """Stop serving. Redirects and what was left for it stay: the next process takes them, or replaces them."""
        for listener in self._listeners.values():
            listener.close()
        self._listeners.clear()

    def __contains__(self, sandbox_id: str) -> bool:
        """Tell whether a sandbox is served."""
        return sandbox_id in self._listeners

    def __len__(self) -> int:
        """Count the sandboxes served."""
        return len(self._listeners)
