"""DNS messages as bytes: reading a question, writing an answer.

Sections named here are RFC 1035's unless they say otherwise. Nothing in this module raises on what a client
sends: what cannot be read becomes a ``Fault``.
"""

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

import msgspec

from cnm.types import Address

A, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, OPT, IXFR, AXFR, ANY = 1, 5, 6, 12, 15, 16, 28, 33, 41, 251, 252, 255
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
_TTL = struct.Struct("!I")

_OPTION = struct.Struct("!HH")
_NEIGHBOURLY = (10, 11, 12)
"""EDNS options between two neighbours alone: cookie (RFC 7873), keepalive (RFC 7828), padding (RFC 7830)."""

_IN_ADDR, _IP6 = b"\7in-addr\4arpa\0", b"\3ip6\4arpa\0"

_RESPONSE, _OPCODE, _TRUNCATED, _RECURSION = 0x8000, 0x7800, 0x0200, 0x0100
_COPIED = 0x0110  # RD and CD
_OURS = 0x8080  # QR and RA; never AA
_DO = 0x8000


class Query(msgspec.Struct, frozen=True, gc=False):
    """One question of a client: ``name`` is its lower-case wire form, ``size`` what it takes over UDP.

    ``portable`` is one whose answer others may be given, too: recursive, and without options that change it.
    """

    packet: bytes
    flags: int
    name: bytes
    kind: int
    klass: int
    end: int
    size: int
    edns: bytes
    portable: bool = False

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
        return Query(packet, flags, name, kind, klass, end, MIN_UDP_SIZE, b"", bool(flags & _RECURSION))
    try:
        size, option, plain = _edns(packet, end, answers + authorities, additionals)
    except (struct.error, IndexError, ValueError):
        return _fault(packet, flags, FORMERR)
    portable = plain and bool(flags & _RECURSION) and answers + authorities == 0
    query = Query(packet, flags, name, kind, klass, end, size, option, portable)
    if option and option[5]:
        return Fault(respond(query, NOERROR))  # BADVERS: the upper bits of the code stand in the option
    return query


def _edns(packet: bytes, offset: int, before: int, additionals: int) -> tuple[int, bytes, bool]:
    """Find the EDNS record; return the client's UDP size, the record that answers it, and whether it is all there is.

    It is not when other records are there, or options but those that are between two neighbours alone.
    """
    found: tuple[int, bytes] | None = None
    plain = additionals <= 1
    for index in range(before + additionals):
        root = packet[offset] == 0
        offset = _skip_name(packet, offset)
        kind, size, ttl, length = _RECORD.unpack_from(packet, offset)
        offset += 10 + length
        if offset > len(packet):
            raise ValueError("a record ends behind the packet")
        if kind != OPT or index < before:
            plain = False
            continue
        if found is not None or not root:
            raise ValueError("more than one EDNS record, or one with a name")
        version = ttl >> 16 & 0xFF
        found = max(size, MIN_UDP_SIZE), _OPT.pack(0, OPT, OWN_UDP_SIZE, (version > 0) << 24 | ttl & _DO, 0)
        plain = plain and _is_plain(packet[offset - length : offset])
    return *(found or (MIN_UDP_SIZE, b"")), plain


def _is_plain(options: bytes) -> bool:
    """Tell whether there are only EDNS options that change no answer."""
    offset = 0
    while offset + 4 <= len(options):
        code, length = _OPTION.unpack_from(options, offset)
        if code not in _NEIGHBOURLY:
            return False
        offset += 4 + length
    return offset == len(options)


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


def ask_for(name: bytes, kind: int) -> bytes:
    """Write a question for a name in wire form, recursion desired."""
    return _HEADER.pack(b"\0\0", 0x0100, 1, 0, 0, 0) + name + _QUESTION_END.pack(kind, IN)


@lru_cache(maxsize=4096)  # reverse lookups and services write the same names again and again
def encode_name(text: str) -> bytes | None:
    """Write a name in lower-case wire form; None when DNS cannot carry it (a label over 63 bytes)."""
    labels = text.lower().removesuffix(".").encode().split(b".")
    if any(not 0 < len(label) < 64 for label in labels):
        return None
    name = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    return name if len(name) <= 255 else None


def text_of(name: bytes) -> str:
    """Write a name in wire form for people; what is not ASCII is escaped."""
    labels = (name[offset + 1 : offset + 1 + name[offset]] for offset in labels_of(name))
    return ".".join(label.decode("ascii", "backslashreplace") for label in labels) or "."


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


def reverse_name(address: Address) -> bytes:
    """Write the name below which an address is looked up, in lower-case wire form."""
    if address.version == 4:
        return b"".join(b"%c%d" % (len(str(octet)), octet) for octet in reversed(address.packed)) + _IN_ADDR
    return b"".join(b"\1" + digit.encode() for digit in reversed(address.packed.hex())) + _IP6


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


def addresses_of(reply: bytes) -> list[Address]:
    """Read the addresses out of a reply's answers; other records, and what cannot be read, are passed over."""
    found: list[Address] = []
    with suppress(IndexError, ValueError, struct.error):
        questions, answers, _, _ = struct.unpack_from("!HHHH", reply, 4)
        offset = 12
        for _ in range(questions):
            offset = _skip_name(reply, offset) + _QUESTION_END.size
        for _ in range(answers):
            offset = _skip_name(reply, offset)
            kind, _, _, length = _RECORD.unpack_from(reply, offset)
            offset += _RECORD.size + length
            if (kind, length) in ((A, 4), (AAAA, 16)):
                found.append(ip_address(reply[offset - length : offset]))
    return found


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


class Reply(msgspec.Struct, frozen=True, gc=False):
    """An answer that may be given again: ``body`` is all behind the question but the EDNS record.

    ``ttls`` are the places of life times in it. It lives ``life_s``, which for one that says that there is nothing is
    what the zone says of that (RFC 2308); 0 is not at all. ``answered`` tells the two apart.
    """

    flags: int
    counts: tuple[int, int, int]
    body: bytes
    ttls: tuple[int, ...]
    life_s: int
    answered: bool

    def to(self, query: Query, age_s: int = 0, *, ttl_s: int | None = None) -> bytes:
        """Write it as the reply to a question: life times so much shorter, or all of them one."""
        body = bytearray(self.body)
        for place in self.ttls:
            left = ttl_s if ttl_s is not None else max(0, _TTL.unpack_from(body, place)[0] - age_s)
            _TTL.pack_into(body, place, left)
        edns = query.edns
        answers, authorities, additionals = self.counts
        header = _HEADER.pack(
            query.packet[:2],
            self.flags | query.flags & _RECURSION,
            1,
            answers,
            authorities,
            additionals + (1 if edns else 0),
        )
        return b"".join((header, query.question, body, edns))


def read_reply(packet: bytes, query: Query) -> Reply | None:
    """Read a reply that may be given again; None of one that was cut, makes no sense, or says nothing."""
    try:
        return _read_reply(packet, query)
    except (struct.error, IndexError, ValueError):
        return None


def _read_reply(packet: bytes, query: Query) -> Reply | None:
    flags, questions, *counts = _COUNTS.unpack_from(packet, 2)
    if flags & _TRUNCATED or questions != 1 or packet[12 : query.end].lower() != query.question.lower():
        return None
    offset = last = query.end
    ttls: list[int] = []
    lives: list[int] = []
    absent_s, answered, options = 0, False, 0
    for section, count in enumerate(counts):
        for _ in range(count):
            if options:
                return None  # what comes behind an EDNS record would have to move
            offset = _skip_name(packet, offset)
            kind, _, ttl_s, length = _RECORD.unpack_from(packet, offset)
            end = offset + _RECORD.size + length
            if end > len(packet):
                return None
            if kind == OPT:
                if section < 2 or ttl_s & ~_DO:  # an extended code, or another version
                    return None
                options += 1
                continue
            ttl_s = 0 if ttl_s >> 31 else ttl_s  # RFC 2181, section 8
            ttls.append(offset + 4 - query.end)
            if section < 2:
                lives.append(ttl_s)
            answered |= section == 0 and query.kind in (kind, ANY)
            if section == 1 and kind == SOA:
                absent_s = min(ttl_s, _TTL.unpack_from(packet, end - 4)[0])
            offset = last = end
    answered &= flags & 0x0F == NOERROR
    if not answered:
        lives.append(absent_s)
    return Reply(
        flags=flags & ~_RECURSION,
        counts=(counts[0], counts[1], counts[2] - options),
        body=packet[query.end : last],
        ttls=tuple(ttls),
        life_s=min(lives),
        answered=answered,
    )
