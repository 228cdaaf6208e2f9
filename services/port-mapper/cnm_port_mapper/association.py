"""SCTP associations, relayed message by message: each with its stream, its payload protocol and its order.

As a stream of bytes, a message would lose where it ends and what it is. The structures are of RFC 6458. There is no
half-close: whose peer ends can say no more (RFC 9260, section 9.2).
"""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass

from cnm_port_mapper.binding import Target

SCTP = 132  # the protocol, and the level of its options
INITMSG, NODELAY, STATUS, RECVRCVINFO = 2, 3, 14, 32
SNDINFO, RCVINFO = 2, 3
UNORDERED = 1
CHUNK_BYTES = 64 << 10
MESSAGE_BYTES = 1 << 20
"""No message is longer: a sender's buffer is not, unless somebody raised ``net.core.wmem_max``."""
STREAMS = 1024
"""How many streams to a client there are at most; an association pays 24 bytes for each."""

_INITMSG = struct.Struct("=HHHH")
_STATUS = struct.Struct("=iiIHHHH")
_SNDINFO = struct.Struct("=HHIIi")
_RCVINFO = struct.Struct("=HHH2xIIIIi")


@dataclass(frozen=True, slots=True)
class Message:
    """What one end said; the payload protocol is opaque to us, in network order."""

    payload: bytes
    stream: int
    unordered: bool
    payload_protocol: int


def offer_streams(bound: socket.socket) -> None:
    """Let associations that are accepted from here on have more streams than the kernel's ten."""
    bound.setsockopt(SCTP, INITMSG, _INITMSG.pack(STREAMS, 0, 0, 0))


def open_backend(client: socket.socket, target: Target) -> socket.socket:
    """Return a socket to connect to a sandbox, with as many streams as the client's association has.

    It has the one address that leads there: the sandbox need not learn of the node's others.

    Raises:
        OSError: no way there, or no descriptor is left.

    """
    family = socket.AF_INET6 if target.address.version == 6 else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as way:
        way.connect((str(target.address), target.port))
        source = way.getsockname()[0]
    backend = socket.socket(family, socket.SOCK_STREAM, SCTP)
    try:
        backend.setblocking(False)
        backend.bind((source, 0))
        *_, incoming, outgoing = _STATUS.unpack_from(client.getsockopt(SCTP, STATUS, 256))
        backend.setsockopt(SCTP, INITMSG, _INITMSG.pack(incoming, outgoing, 0, 0))
    except OSError:
        backend.close()
        raise
    return backend


async def join(client: socket.socket, backend: socket.socket) -> None:
    """Pass messages both ways until one end has ended, which ends the other.

    Raises:
        OSError: an association was aborted.

    """
    for end in (client, backend):
        end.setsockopt(SCTP, NODELAY, 1)
        end.setsockopt(SCTP, RECVRCVINFO, 1)
    ways = [asyncio.ensure_future(_pass_on(*pair)) for pair in ((client, backend), (backend, client))]
    try:
        # Whoever ended an association himself is never told that it is over, so the second is not waited for.
        done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in done:
            way.result()
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    while (message := await _receive(source)) is not None:
        with suppress(BrokenPipeError):  # what crosses the sink's own end is lost, as it is without us
            await _send(sink, message)
    with suppress(OSError):  # until nothing is left, or it has ended as well
        sink.shutdown(socket.SHUT_WR)
        while sink.recv(CHUNK_BYTES):  # unread, it would make an abort of the closing
            pass


async def _receive(source: socket.socket) -> Message | None:
    """Return the next message, put together from its parts; None when there will be none."""
    parts = bytearray()
    while True:
        try:
            payload, notes, flags, _ = source.recvmsg(CHUNK_BYTES, 256)
        except BlockingIOError:
            loop = asyncio.get_running_loop()
            await _ready(source, loop.add_reader, loop.remove_reader)
            continue
        if not payload:
            return None
        parts += payload
        if len(parts) > MESSAGE_BYTES:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if flags & socket.MSG_EOR:
            return _message(bytes(parts), notes)


def _message(payload: bytes, notes: list[tuple[int, int, bytes]]) -> Message:
    for level, kind, raw in notes:
        if (level, kind) == (SCTP, RCVINFO):
            stream, _, flags, payload_protocol, *_ = _RCVINFO.unpack_from(raw)
            return Message(payload, stream, bool(flags & UNORDERED), payload_protocol)
    return Message(payload, 0, False, 0)


async def _send(sink: socket.socket, message: Message) -> None:
    about = _SNDINFO.pack(message.stream, UNORDERED * message.unordered, message.payload_protocol, 0, 0)
    while True:
        try:
            sink.sendmsg([message.payload], [(SCTP, SNDINFO, about)])
        except BlockingIOError:
            loop = asyncio.get_running_loop()
            await _ready(sink, loop.add_writer, loop.remove_writer)
        else:
            return


async def _ready(
    end: socket.socket,
    watch: Callable[[socket.socket, Callable[[], None]], None],
    forget: Callable[[socket.socket], object],
) -> None:
    """Wait until an end can be read or written."""
    waiting = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not waiting.done():
            waiting.set_result(None)

    watch(end, wake)
    try:
        await waiting
    finally:
        with suppress(OSError):
            forget(end)
