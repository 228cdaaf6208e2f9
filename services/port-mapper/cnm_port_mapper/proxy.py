"""The proxy: one in the process, for what translation cannot serve, on the very sockets that keep the ports.

That is ``[::1]``, IPv6 clients of a sandbox that has only IPv4, and whatever comes while translation does not
stand. A port costs a reader of the loop; a TCP connection two tasks while it lasts, a UDP client a socket until
it has been quiet for a while (inventory section 45).
"""

import asyncio
import errno
import select
import socket
import struct
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any, NamedTuple

from cnm.types import Address, Protocol
from cnm_port_mapper import association
from cnm_port_mapper.binding import Seat, Target
from cnm_port_mapper.config import Settings
from cnm_port_mapper.ports import Bound
from cnm_port_mapper.reserve import IP_PKTINFO

CHUNK_BYTES = 64 << 10
FIRST_BYTES, LARGEST_BYTES = 16 << 10, 1 << 20
"""What a connection's buffer is at first, each way, and how large it may grow."""
AT_ONCE = 64
"""How many connections or datagrams are taken before the loop turns to others."""
BREATH_S = 0.5
"""How long nothing is accepted after descriptors ran out."""

_PKTINFO4 = struct.Struct("=i4s4s")
_PKTINFO6 = struct.Struct("=16si")
_RESET = struct.pack("=ii", 1, 0)
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class _Client(NamedTuple):
    """Who sent a datagram, to which of a seat's ports and of the host's addresses, through which link."""

    peer: tuple[Any, ...]
    offset: int
    local: bytes
    link: int


@dataclass
class _Session:
    seat: Seat
    client: _Client
    backend: socket.socket
    quiet_since: float


@dataclass
class _Port:
    """A seat that is served; with more than one socket all are watched through one descriptor of the loop's."""

    seat: Seat
    sockets: tuple[socket.socket, ...]
    targets: tuple[Target, ...]
    poll: select.epoll | None = None
    offsets: dict[int, int] = field(default_factory=dict)
    connections: set[asyncio.Task[None]] = field(default_factory=set)
    sessions: set[_Client] = field(default_factory=set)
    pause: asyncio.TimerHandle | None = None


class Proxy:
    """Serves bound sockets; tasks run in a group of the caller's."""

    def __init__(self, tasks: asyncio.TaskGroup, settings: Settings) -> None:
        self._tasks = tasks
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._ports: dict[Seat, _Port] = {}
        self._sessions: OrderedDict[tuple[Seat, _Client], _Session] = OrderedDict()
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def sessions(self) -> int:
        """How many UDP sessions there are."""
        return len(self._sessions)

    def relayed(self) -> dict[Protocol, int]:
        """Return how many connections and sessions there are, by protocol."""
        found: dict[Protocol, int] = {"tcp": 0, "udp": len(self._sessions), "sctp": 0}
        for port in self._ports.values():
            found[port.seat.protocol] += len(port.connections)
        return found

    def serve(self, seat: Seat, bound: Bound, targets: tuple[Target, ...]) -> None:
        """Accept at a seat and lead to the target of each place; served already, new connections lead there."""
        port = self._ports.get(seat)
        if port is None:
            port = self._ports[seat] = _Port(seat, bound.sockets, targets)
            if len(port.sockets) > 1:
                _watch(port)
            if seat.protocol == "sctp":
                for each in port.sockets:
                    association.offer_streams(each)
            self._read(port)
        elif port.targets != targets:
            port.targets = targets
            self._end_sessions(port)

    def stop(self, seat: Seat) -> None:
        """Accept no more at a seat and end what goes through it; the sockets stay open."""
        port = self._ports.pop(seat, None)
        if port is None:
            return
        if port.pause is not None:
            port.pause.cancel()
        self._loop.remove_reader(_watched(port))
        if port.poll is not None:
            port.poll.close()
        self._end_sessions(port)
        for connection in port.connections:
            connection.cancel()

    def close(self) -> None:
        """Stop serving everywhere."""
        for seat in tuple(self._ports):
            self.stop(seat)

    def _read(self, port: _Port) -> None:
        port.pause = None
        self._loop.add_reader(_watched(port), self._ready, port)

    def _wait(self, port: _Port) -> None:
        self._loop.remove_reader(_watched(port))
        port.pause = self._loop.call_later(BREATH_S, self._read, port)

    def _ready(self, port: _Port) -> None:
        work = self._datagrams if port.seat.protocol == "udp" else self._accept
        if port.poll is None:
            work(port, 0)
            return
        for descriptor, _ in port.poll.poll(0, AT_ONCE):
            work(port, port.offsets[descriptor])
            if port.pause is not None:
                return

    # TCP and SCTP

    def _accept(self, port: _Port, offset: int) -> None:
        for _ in range(AT_ONCE):
            try:
                client, peer = port.sockets[offset].accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF_FILES:
                    self._wait(port)
                    return
                continue  # that client has gone already
            target = _target(port, offset, peer)
            if not target.admits(_source(peer)):  # where there is no firewall to refuse it
                _reset(client)
                client.close()
                continue
            client.setblocking(False)
            connection = self._tasks.create_task(self._relay(client, port.seat, target))
            port.connections.add(connection)
            connection.add_done_callback(port.connections.discard)

    async def _relay(self, client: socket.socket, seat: Seat, target: Target) -> None:
        with client:
            try:
                backend = await self._connect(client, seat, target)
            except OSError:
                _reset(client)
                return
            with backend:
                try:
                    await (association.join if seat.protocol == "sctp" else _join)(client, backend)
                except* OSError:
                    _reset(client)
                    _reset(backend)

    async def _connect(self, client: socket.socket, seat: Seat, target: Target) -> socket.socket:
        if seat.protocol == "sctp":
            backend = association.open_backend(client, target)
        else:
            backend = _backend(target, socket.SOCK_STREAM)
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await self._loop.sock_connect(backend, (str(target.address), target.port))
        except BaseException:
            backend.close()
            raise
        return backend

    # UDP

    def _datagrams(self, port: _Port, offset: int) -> None:
        for _ in range(AT_ONCE):
            try:
                payload, notes, _, peer = port.sockets[offset].recvmsg(CHUNK_BYTES, 128)
            except OSError:
                return
            session = self._session(port, _client(port.seat, offset, notes, peer))
            if session is None:
                return
            try:
                session.backend.send(payload)
            except OSError:
                continue  # refused, or no room: a datagram may be lost

    def _session(self, port: _Port, client: _Client) -> _Session | None:
        key = (port.seat, client)
        session = self._sessions.get(key)
        if session is None:
            session = self._begin(port, client)
        if session is not None:
            self._touch(key, session)
        return session

    def _begin(self, port: _Port, client: _Client) -> _Session | None:
        target = _target(port, client.offset, client.peer)
        if not target.admits(_source(client.peer)):
            return None
        if len(self._sessions) >= self._settings.udp_sessions:
            self._end(next(iter(self._sessions)))
        try:
            backend = _backend(target, socket.SOCK_DGRAM)
        except OSError:
            self._wait(port)
            return None
        try:
            backend.connect((str(target.address), target.port))
        except OSError:  # no route: the sandbox is not there yet
            backend.close()
            return None
        session = _Session(port.seat, client, backend, self._loop.time())
        self._sessions[port.seat, client] = session
        port.sessions.add(client)
        self._loop.add_reader(backend, self._answers, port, session)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._settings.udp_timeout_s, self._end_quiet)
        return session

    def _answers(self, port: _Port, session: _Session) -> None:
        for _ in range(AT_ONCE):
            try:
                payload = session.backend.recv(CHUNK_BYTES)
            except BlockingIOError:
                return
            except OSError:
                return  # connection refused: the sandbox may listen later
            self._touch((session.seat, session.client), session)
            try:
                port.sockets[session.client.offset].sendmsg([payload], _from(session), 0, session.client.peer)
            except OSError:
                continue  # no room: a datagram may be lost

    def _touch(self, key: tuple[Seat, _Client], session: _Session) -> None:
        session.quiet_since = self._loop.time()
        self._sessions.move_to_end(key)

    def _end_quiet(self) -> None:
        self._sweep = None
        limit = self._loop.time() - self._settings.udp_timeout_s
        while self._sessions:
            key, session = next(iter(self._sessions.items()))
            if session.quiet_since > limit:
                self._sweep = self._loop.call_later(session.quiet_since - limit, self._end_quiet)
                return
            self._end(key)

    def _end(self, key: tuple[Seat, _Client]) -> None:
        session = self._sessions.pop(key)
        port = self._ports.get(session.seat)
        if port is not None:
            port.sessions.discard(session.client)
        self._loop.remove_reader(session.backend)
        session.backend.close()
        if not self._sessions and self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _end_sessions(self, port: _Port) -> None:
        for client in tuple(port.sessions):
            self._end((port.seat, client))
        port.sessions.clear()


def _watch(port: _Port) -> None:
    """Watch all sockets of a seat through one descriptor: a reader of the loop each would cost ten times as much."""
    port.poll = select.epoll(len(port.sockets))
    for offset, each in enumerate(port.sockets):
        port.offsets[each.fileno()] = offset
        port.poll.register(each.fileno(), select.EPOLLIN)


def _watched(port: _Port) -> socket.socket | select.epoll:
    return port.sockets[0] if port.poll is None else port.poll


def _target(port: _Port, offset: int, peer: tuple[Any, ...]) -> Target:
    """Return where a peer is led: of two targets IPv4 peers, written ``::ffff:10.0.0.1``, to the first."""
    target = port.targets[0] if len(port.targets) == 1 or peer[0].startswith("::ffff:") else port.targets[1]
    return replace(target, port=target.port + offset) if offset else target


def _source(peer: tuple[Any, ...]) -> Address:
    """Return a peer's address; IPv4 peers of an IPv6 socket are written ``::ffff:10.0.0.1``."""
    return ip_address(str(peer[0]).removeprefix("::ffff:").partition("%")[0])


def _backend(target: Target, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if target.address.version == 6 else socket.AF_INET
    backend = socket.socket(family, kind)
    backend.setblocking(False)
    return backend


async def _join(client: socket.socket, backend: socket.socket) -> None:
    """Copy both ways until both have ended; one side's end is passed on and leaves the other way open."""
    for end in (client, backend):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    async with asyncio.TaskGroup() as ways:
        ways.create_task(_copy(client, backend))
        ways.create_task(_copy(backend, client))


async def _copy(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    buffer = memoryview(bytearray(FIRST_BYTES))
    while count := await loop.sock_recv_into(source, buffer):
        await loop.sock_sendall(sink, buffer[:count])
        if count == len(buffer) < LARGEST_BYTES:  # whoever sends as much as that sends more
            buffer = memoryview(bytearray(4 * count))
    sink.shutdown(socket.SHUT_WR)


def _reset(end: socket.socket) -> None:
    """Let closing tell the other side that something is lost, rather than that all is said."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def _client(seat: Seat, offset: int, notes: list[tuple[int, int, bytes]], peer: tuple[Any, ...]) -> _Client:
    for level, kind, raw in notes:
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            local, link = _PKTINFO6.unpack_from(raw)
            return _Client(peer, offset, local, link if local[:2] == b"\xfe\x80" else 0)
        if level == socket.IPPROTO_IP and kind == IP_PKTINFO:
            _, local, _ = _PKTINFO4.unpack_from(raw)
            return _Client(peer, offset, local, 0)
    return _Client(peer, offset, seat.places[-1].address.packed, 0)


def _from(session: _Session) -> list[tuple[int, int, bytes]]:
    """Let an answer come from the address that the client sent to."""
    client = session.client
    if len(client.local) == 16:
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(client.local, client.link))]
    return [(socket.IPPROTO_IP, IP_PKTINFO, _PKTINFO4.pack(0, client.local, b"\0\0\0\0"))]
