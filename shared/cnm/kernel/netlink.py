"""Netlink messages and the socket that carries them (RFC 3549; linux/netlink.h)."""

import errno
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from . import netns
from .errors import KernelError

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_ECHO = 0x8
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_DUMP = 0x300
NLM_F_CAPPED = 0x100  # of an answer
NLM_F_ACK_TLVS = 0x200  # of an answer

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_LISTEN_ALL_NSID = 8
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33

BUFFER_BYTES = 4 << 20
RECEIVE_BYTES = 64 << 10
TIMEOUT_S = 10
DUMP_ATTEMPTS = 5

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Reply(NamedTuple):
    """One message from the kernel, without its header; ``port`` is whose request it answers, or tells others of."""

    kind: int
    flags: int
    sequence: int
    body: bytes
    port: int = 0


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Put the netlink header before a body that is padded already."""
    return _HEADER.pack(16 + len(body), kind, flags, sequence, 0) + body


def attribute(kind: int, payload: bytes) -> bytes:
    """Encode one attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + _PADDING[len(payload) & 3]


def nest(kind: int, *attributes: bytes) -> bytes:
    """Encode attributes within one."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def text(kind: int, value: str) -> bytes:
    """Encode text that ends with a NUL."""
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    """Encode a byte."""
    return attribute(kind, bytes((value,)))


def u32(kind: int, value: int) -> bytes:
    """Encode 32 bits in the machine's order."""
    return attribute(kind, value.to_bytes(4, sys.byteorder))


def be32(kind: int, value: int) -> bytes:
    """Encode 32 bits in network order, as netfilter has them."""
    return attribute(kind, value.to_bytes(4, "big"))


def read_u32(payload: bytes) -> int:
    """Decode 32 bits in the machine's order."""
    return int.from_bytes(payload[:4], sys.byteorder)


def read_text(payload: bytes) -> str:
    """Decode text up to its NUL."""
    return payload.partition(b"\0")[0].decode(errors="replace")


def attributes(payload: bytes, offset: int = 0) -> dict[int, bytes]:
    """Decode attributes by their kind; of a repeated kind the last counts."""
    return dict(each_attribute(payload, offset))


def each_attribute(payload: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the payload of each attribute, in order."""
    end = len(payload)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < 4:
            break
        yield kind & NLA_TYPE_MASK, payload[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def messages(datagram: bytes) -> Iterator[Reply]:
    """Split what one read returned."""
    offset = 0
    while offset + 16 <= len(datagram):
        length, kind, flags, sequence, port = _HEADER.unpack_from(datagram, offset)
        if length < 16:
            break
        yield Reply(kind, flags, sequence, datagram[offset + 16 : offset + length], port)
        offset += (length + 3) & ~3


def failure(reply: Reply) -> tuple[int, str]:
    """Read an acknowledgement: its errno (0 is success) and the kernel's explanation."""
    number = -int.from_bytes(reply.body[:4], sys.byteorder, signed=True)
    if number == 0 or not reply.flags & NLM_F_ACK_TLVS:
        return number, ""
    start = 20 if reply.flags & NLM_F_CAPPED else 4 + ((read_u32(reply.body[4:8]) + 3) & ~3)
    return number, read_text(attributes(reply.body, start).get(NLMSGERR_ATTR_MSG, b""))


_of_thread = threading.local()


def _buffer() -> memoryview:
    """Return what this thread receives into: the kernel says little, and a buffer for much costs more than a read."""
    found: memoryview | None = getattr(_of_thread, "buffer", None)
    if found is None:
        found = _of_thread.buffer = memoryview(bytearray(RECEIVE_BYTES))
    return found


class Channel:
    """A netlink socket, made in a namespace and used from anywhere; one thread at a time."""

    def __init__(self, protocol: int, namespace: Path | int | None = None, *, strict: bool = False) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        if namespace is None:
            self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        else:
            self._socket = netns.open_socket(namespace, socket.AF_NETLINK, kind, protocol)
        self._sequence = int.from_bytes(os.urandom(3), "big")
        try:
            self._configure(strict)
        except OSError:
            self._socket.close()
            raise

    def _configure(self, strict: bool) -> None:
        set_option = self._socket.setsockopt
        try:
            set_option(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
            set_option(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_BYTES)
        except PermissionError:  # root of another user namespace: the limit of sysctl rmem_max applies
            set_option(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            set_option(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        set_option(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", TIMEOUT_S, 0))
        set_option(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        set_option(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        if strict:
            set_option(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)

    def close(self) -> None:
        """Close the socket; closing twice is fine."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    @property
    def port(self) -> int:
        """The address by which the kernel knows the socket; 0 before anything was sent or joined."""
        return int(self._socket.getsockname()[0])

    def join(self, *groups: int) -> None:
        """Have the kernel tell of what changes, by the numbers of its multicast groups."""
        self._socket.bind((0, 0))  # a socket without an address is passed over
        for group in groups:
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def join_everywhere(self, *groups: int) -> None:
        """Have the kernel tell of what changes in every namespace that has an id here, too; read it with `hear`."""
        self._socket.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, 1)
        self.join(*groups)

    def hear(self) -> Iterator[tuple[int | None, Reply]]:
        """Yield each notification that is there, and the id of the namespace that it is of, None for our own.

        Raises:
            OSError: ENOBUFS where some were lost.
        """
        space, buffer = socket.CMSG_SPACE(4), _buffer()
        while True:
            try:
                length, about, _, _ = self._socket.recvmsg_into((buffer,), space, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            namespace = next((read_u32(data) for _, kind, data in about if kind == NETLINK_LISTEN_ALL_NSID), None)
            for reply in messages(bytes(buffer[:length])):
                yield namespace, reply

    def reserve(self, count: int) -> int:
        """Return the first of so many fresh sequence numbers."""
        first = self._sequence + 1
        self._sequence += count
        if self._sequence > 0xF000_0000:
            self._sequence = 0
        return first

    def write(self, data: bytes) -> None:
        """Send messages in one call; the kernel has carried them out when it returns."""
        self._socket.send(data)

    def read(self) -> list[Reply]:
        """Return the messages of one datagram.

        Raises:
            KernelError: ENOBUFS, answers were lost; ETIMEDOUT, there is none.
        """
        try:
            return list(messages(self._receive()))
        except BlockingIOError:
            raise KernelError(errno.ETIMEDOUT, step="netlink") from None
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, step="netlink") from error

    def _receive(self, flags: int = 0) -> bytes:
        buffer = _buffer()
        return bytes(buffer[: self._socket.recv_into(buffer, 0, flags)])

    def answer(self, sequence: int, *, step: str) -> Reply:
        """Return the answer to a question that has one, an acknowledgement or what was asked for.

        Raises:
            KernelError: the kernel refuses.
        """
        while True:
            for reply in self.read():
                if reply.sequence != sequence:
                    continue
                number, reason = failure(reply) if reply.kind == NLMSG_ERROR else (0, "")
                if number:
                    raise KernelError(number, step=step, reason=reason)
                return reply

    def read_waiting(self) -> list[Reply]:
        """Return everything that is there already."""
        found: list[Reply] = []
        while True:
            try:
                found.extend(messages(self._receive(socket.MSG_DONTWAIT)))
            except BlockingIOError:
                return found

    def dump(self, kind: int, body: bytes, *, what: str) -> list[bytes]:
        """Return the bodies of a dump; one that a change disturbed is asked for again.

        Raises:
            KernelError: the kernel refuses it, or it was disturbed every time.
        """
        for _ in range(DUMP_ATTEMPTS):
            found = self._dump_once(kind, body, what)
            if found is not None:
                return found
        raise KernelError(errno.EINTR, step=what, reason="the table kept changing")

    def _dump_once(self, kind: int, body: bytes, what: str) -> list[bytes] | None:
        sequence = self.reserve(1)
        self.write(message(kind, NLM_F_REQUEST | NLM_F_DUMP, sequence, body))
        found: list[bytes] = []
        disturbed = False
        while True:
            for reply in self.read():
                if reply.sequence != sequence:
                    continue
                disturbed |= bool(reply.flags & NLM_F_DUMP_INTR)
                if reply.kind in (NLMSG_DONE, NLMSG_ERROR):
                    number, reason = failure(reply)
                    if number:
                        raise KernelError(number, step=what, reason=reason)
                    return None if disturbed else found
                found.append(reply.body)
