"""DNS messages as bytes: reading a question, writing an answer.

Sections named here are RFC 1035's unless they say otherwise. Nothing in this module raises on what a client
sends: what cannot be read becomes a ``Fault``.
"""

import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

import msgspec

from cnm.types import Address

A, SOA, PTR, MX, TXT, AAAA, SRV, OPT, IXFR, AXFR, ANY = 1, 6, 12, 15, 16, 28, 33, 41, 251, 252, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)

MIN_UDP_SIZE = 512
MAX_SIZE = 65535
OWN_UDP_SIZE = 1232
"""What we tell others we take over UDP: https://www.dnsflagday.net/2020/."""

_COUNTS = struct.Struct("!HHHHH")
_QUESTION_END = struct.Struct("!HH")
_HEADER = struct.Struct("!2sHHHHH")
_RECORD = struct.Struct("!HHIH")
_OPT = struct.Struct("!BHHIH")

_RESPONSE, _OPCODE, _TRUNCATED = 0x8000, 0x7800, 0x0200
_COPIED = 0x0110  # RD and CD
_OURS = 0x8080  # QR and RA; never AA
_DO = 0x8000


class Query(msgspec.Struct, frozen=True, gc=False):
    """One question of a client: ``name`` is its lower-case wire form, ``size`` what it takes over UDP."""

    packet: bytes
    flags: int
    name: bytes
    kind: int
    klass: int
    end: int
    size: int
    edns: bytes

    @property
    def question(self) -> bytes:
        """The question section as it was asked, letter case included."""
        return self.packet[12 : self.end]


class Fault(msgspec.Struct, frozen=True):
    """A packet that holds no question for us; ``reply`` is what to send back, empty for nothing."""

    reply: bytes


_DROP = Fault(b"")


def parse(packet: bytes) -> Query | Fault:
    """Read the one question of a packet, and what its EDNS record says (RFC 6891)."""
    length = len(packet)
    if length < 12:
        return _DROP
    flags, questions, answers, authorities, additionals = _COUNTS.unpack_from(packet, 2)
    if flags & _RESPONSE:
        return _DROP
    if flags & _OPCODE:
        return _fault(packet, flags, NOTIMP)
    if questions != 1:  # RFC 9619: more than one is an error
        return _fault(packet, flags, FORMERR)
    end = 12
    while end < length and (step := packet[end]):
        if step > 63:  # a pointer in the question could only point at the header
            return _fault(packet, flags, FORMERR)
        end += step + 1
    if end + 5 > length or end > 12 + 254:
        return _fault(packet, flags, FORMERR)
    name = packet[12 : end + 1].lower()  # lengths are below 64, so this changes letters alone
    kind, klass = _QUESTION_END.unpack_from(packet, end + 1)
    end += 5
    if not (answers or authorities or additionals):
        return Query(packet, flags, name, kind, klass, end, MIN_UDP_SIZE, b"")
    try:
        size, option = _edns(packet, end, answers + authorities, additionals)
    except (struct.error, IndexError, ValueError):
        return _fault(packet, flags, FORMERR)
    query = Query(packet, flags, name, kind, klass, end, size, option)
    if option and option[5]:
        return Fault(respond(query, NOERROR))  # BADVERS: the upper bits of the code stand in the option
    return query


def _edns(packet: bytes, offset: int, before: int, additionals: int) -> tuple[int, bytes]:
    """Find the EDNS record; return the client's UDP size and the record that answers it."""
    found: tuple[int, bytes] | None = None
    for index in range(before + additionals):
        root = packet[offset] == 0
        offset = _skip_name(packet, offset)
        kind, size, ttl, length = _RECORD.unpack_from(packet, offset)
        offset += 10 + length
        if offset > len(packet):
            raise ValueError("a record ends behind the packet")
        if kind != OPT or index < before:
            continue
        if found is not None or not root:
            raise ValueError("more than one EDNS record, or one with a name")
        version = ttl >> 16 & 0xFF
        found = max(size, MIN_UDP_SIZE), _OPT.pack(0, OPT, OWN_UDP_SIZE, (version > 0) << 24 | ttl & _DO, 0)
    return found or (MIN_UDP_SIZE, b"")


def _skip_name(packet: bytes, offset: int) -> int:
    while step := packet[offset]:
        if step >= 0xC0:
            return offset + 2
        if step > 63:
            raise ValueError("neither a label nor a pointer")
        offset += step + 1
    return offset + 1


def _fault(packet: bytes, flags: int, code: int) -> Fault:
    head = _RESPONSE | flags & (_OPCODE | _COPIED) | 0x80 | code
    return Fault(_HEADER.pack(packet[:2], head, 0, 0, 0, 0))


def respond(
    query: Query,
    code: int,
    answers: Sequence[bytes] = (),
    additional: Sequence[bytes] = (),
    *,
    limit: int = MAX_SIZE,
    mark_truncated: bool = False,
) -> bytes:
    """Write a response; records that do not fit into ``limit`` are left out from the end.

    ``mark_truncated`` sets TC when an *answer* was left out; additional records may go silently (RFC 2181,
    section 9).
    """
    flags = _OURS | query.flags & _COPIED | code
    edns = query.edns
    room = limit - query.end - len(edns)
    if sum(map(len, answers)) + sum(map(len, additional)) > room:
        fitting = _fitting(answers, room)
        if len(fitting) < len(answers) and mark_truncated:
            flags |= _TRUNCATED
        answers, additional = fitting, _fitting(additional, room - sum(map(len, fitting)))
    count = len(additional) + (1 if edns else 0)
    packet = query.packet
    header = _HEADER.pack(packet[:2], flags, 1, len(answers), 0, count)
    return b"".join((header, packet[12 : query.end], *answers, *additional, edns))


def _fitting(records: Sequence[bytes], room: int) -> Sequence[bytes]:
    for index, record in enumerate(records):
        room -= len(record)
        if room < 0:
            return records[:index]
    return records


def record_head(kind: int, ttl_s: int, length: int) -> bytes:
    """Begin a record whose owner is the name asked for; its data of ``length`` bytes follow."""
    return b"\xc0\x0c" + _RECORD.pack(kind, IN, ttl_s, length)


def record(owner: bytes, kind: int, ttl_s: int, rdata: bytes) -> bytes:
    """Write a whole record; ``owner`` is a name in wire form."""
    return owner + _RECORD.pack(kind, IN, ttl_s, len(rdata)) + rdata


def encode_name(text: str) -> bytes | None:
    """Write a name in lower-case wire form; None when DNS cannot carry it (a label over 63 bytes)."""
    labels = text.lower().removesuffix(".").encode().split(b".")
    if any(not 0 < len(label) < 64 for label in labels):
        return None
    name = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return name if len(name) <= 255 else None


def labels_of(name: bytes) -> list[int]:
    """Give the offset of each label of a well-formed name in wire form; the root has none."""
    offsets, offset = [], 0
    while step := name[offset]:
        offsets.append(offset)
        offset += step + 1
    return offsets


def reverse_address(name: bytes) -> tuple[Address, int] | None:
    """Read a name below ``in-addr.arpa`` or ``ip6.arpa`` as an address and the length of what it gives.

    A name that stops early (``28.172.in-addr.arpa``) is the prefix 172.28.0.0 of 16 bits; None for others.
    """
    labels = [name[offset + 1 : offset + 1 + name[offset]] for offset in reversed(labels_of(name))]
    match labels[:2]:
        case [b"arpa", b"in-addr"] if len(labels) <= 6 and all(map(_is_octet, labels[2:])):
            octets = bytes(int(label) for label in labels[2:])
            return IPv4Address(octets.ljust(4, b"\0")), 8 * len(octets)
        case [b"arpa", b"ip6"] if len(labels) <= 34 and all(map(_is_nibble, labels[2:])):
            digits = b"".join(labels[2:]).decode()
            return IPv6Address(int(digits.ljust(32, "0"), 16)), 4 * len(digits)
        case _:
            return None


def _is_octet(label: bytes) -> bool:
    return label.isdigit() and len(label) <= 3 and int(label) < 256 and str(int(label)).encode() == label


def _is_nibble(label: bytes) -> bool:
    return len(label) == 1 and label in b"0123456789abcdef"


def with_id(packet: bytes, identifier: bytes) -> bytes:
    """Give a message another id, of two bytes."""
    return identifier + packet[2:]


def answers_to(reply: bytes, asked: bytes, end: int) -> bool:
    """Tell whether a reply belongs to what was asked: same id, and same question, whose end is given.

    A server may leave the question out of an error (RFC 1035 asks for it, some refuse so).
    """
    if len(reply) < 12 or reply[:2] != asked[:2] or not reply[2] & 0x80:
        return False
    if reply[4:6] == b"\0\0":
        return code_of(reply) not in (NOERROR, NXDOMAIN)
    return reply[4:6] == b"\0\1" and reply[12:end].lower() == asked[12:end].lower()


def code_of(reply: bytes) -> int:
    """Give the response code of a message."""
    return reply[3] & 0x0F


def cut(reply: bytes, query: Query) -> bytes:
    """Pass on a reply over UDP: whole when the client takes its size, else empty and marked truncated."""
    if len(reply) <= query.size:
        return reply
    flags = int.from_bytes(reply[2:4]) | _TRUNCATED
    header = _HEADER.pack(reply[:2], flags, 1, 0, 0, 1 if query.edns else 0)
    return header + query.question + query.edns


def family_of(address: Address) -> socket.AddressFamily:
    """Give the socket family that reaches an address."""
    return socket.AF_INET if address.version == 4 else socket.AF_INET6
