"""Elements of nftables' sets and maps: keys, data, and the steps that add and delete them."""

import struct
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from cnm.types import Address

from .netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, attribute, be32, message, nest, text

NFPROTO_INET = 1
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWSETELEM, NFT_MSG_DELSETELEM, NFT_MSG_DESTROYSETELEM = 12, 14, 30  # the last since Linux 6.3

NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
NFTA_LIST_ELEM = 1
NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_FLAGS = 1, 2, 3
NFTA_SET_ELEM_USERDATA, NFTA_SET_ELEM_OBJREF, NFTA_SET_ELEM_KEY_END = 6, 9, 10
NFTA_DATA_VALUE = 1
NFT_SET_ELEM_INTERVAL_END = 1
UDATA_COMMENT = 0
COMMENT_BYTES = 128

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}

_NFGENMSG = struct.Struct(">BBH")


def nf_message(kind: int, flags: int, sequence: int, family: int, body: bytes, *, resource: int = 0) -> bytes:
    """Put the headers of nfnetlink before a body; ``kind`` holds the subsystem in its high byte."""
    return message(kind, NLM_F_REQUEST | flags, sequence, _NFGENMSG.pack(family, 0, resource) + body)


def nft_message(kind: int, flags: int, sequence: int, family: int, body: bytes) -> bytes:
    """Encode a message to nftables."""
    return nf_message(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, sequence, family, body)


def pack_protocol(protocol: str) -> bytes:
    """Encode a field of type inet_proto."""
    return bytes((PROTOCOLS[protocol], 0, 0, 0))


def pack_address(address: Address) -> bytes:
    """Encode a field of type ipv4_addr or ipv6_addr."""
    return address.packed


def pack_port(port: int) -> bytes:
    """Encode a field of type inet_service."""
    return struct.pack(">Hxx", port)


def pack_name(name: str) -> bytes:
    """Encode a field of type ifname: the name, filled with NULs to 16 bytes."""
    return name.encode().ljust(16, b"\0")


def pack_mark(mark: int) -> bytes:
    """Encode a field of type mark, in the machine's order as the kernel keeps it."""
    return struct.pack("=I", mark)


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a set or, with ``data``, of a map of values, or with ``counter``, of a map of named counters.

    ``key`` and ``data`` are fields packed one after another (`pack_port` and its like); a key of a single
    inet_proto or inet_service is that field without its padding (``single``). ``key_end`` makes a range of a
    concatenated key in a set with the flag interval; a range of a single field is two elements, the second
    with ``interval_end`` and a key one past the last.
    """

    table: str
    set_name: str
    key: bytes
    _: KW_ONLY
    key_end: bytes | None = None
    data: bytes | None = None
    counter: str | None = None
    comment: str | None = None
    interval_end: bool = False
    family: int = NFPROTO_INET

    def __str__(self) -> str:
        family = {1: "inet", 2: "ip", 10: "ip6"}.get(self.family, str(self.family))
        end = "" if self.key_end is None else f"-{self.key_end.hex()}"
        data = "" if self.data is None else f" : {self.data.hex()}"
        data = data if self.counter is None else f" : {self.counter}"
        return f"element {family} {self.table} {self.set_name} {{ {self.key.hex()}{end}{data} }}"

    def _encode(self, kind: int, flags: int, sequence: int, *, whole: bool) -> bytes:
        parts = [_value(NFTA_SET_ELEM_KEY, self.key)]
        if self.key_end is not None:
            parts.append(_value(NFTA_SET_ELEM_KEY_END, self.key_end))
        if self.interval_end:
            parts.append(be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END))
        if whole and self.data is not None:
            parts.append(_value(NFTA_SET_ELEM_DATA, self.data))
        if whole and self.counter is not None:
            parts.append(text(NFTA_SET_ELEM_OBJREF, self.counter))
        if whole and self.comment:
            parts.append(attribute(NFTA_SET_ELEM_USERDATA, pack_comment(self.comment)))
        body = (
            text(NFTA_SET_ELEM_LIST_TABLE, self.table)
            + text(NFTA_SET_ELEM_LIST_SET, self.set_name)
            + nest(NFTA_SET_ELEM_LIST_ELEMENTS, nest(NFTA_LIST_ELEM, *parts))
        )
        return nft_message(kind, flags, sequence, self.family, body)


def single(field: bytes, length: int) -> bytes:
    """Take the padding off a field that stands alone as a key or as data."""
    return field[:length]


def pack_comment(comment: str) -> bytes:
    """Encode a comment the way ``nft list`` reads it: kind, length, text, NUL; too long a one is cut."""
    cut = comment.encode()[: COMMENT_BYTES - 1].decode(errors="ignore")  # never within a character
    raw = cut.encode() + b"\0"
    return bytes((UDATA_COMMENT, len(raw))) + raw


def join(fields: Sequence[bytes]) -> bytes:
    """Concatenate packed fields."""
    return b"".join(fields)


def _value(kind: int, raw: bytes) -> bytes:
    return nest(kind, attribute(NFTA_DATA_VALUE, raw))


@dataclass(frozen=True, slots=True)
class AddElement:
    """Add an element.

    Where the key is there: with the same data it is refused with EEXIST, or accepted if not ``exclusive``;
    with other data always refused.
    """

    element: Element
    _: KW_ONLY
    exclusive: bool = True

    forgiven: ClassVar[frozenset[int]] = frozenset()

    def __str__(self) -> str:
        return f"nft {'create' if self.exclusive else 'add'} {self.element}"

    def encode(self, sequence: int) -> bytes:
        flags = NLM_F_ACK | NLM_F_CREATE | (NLM_F_EXCL if self.exclusive else 0)
        return self.element._encode(NFT_MSG_NEWSETELEM, flags, sequence, whole=True)


@dataclass(frozen=True, slots=True)
class DeleteElement:
    """Delete an element by its key; an absent one is fine, an absent set is not."""

    element: Element

    forgiven: ClassVar[frozenset[int]] = frozenset()

    def __str__(self) -> str:
        return f"nft destroy {self.element}"

    def encode(self, sequence: int) -> bytes:
        return self.element._encode(NFT_MSG_DESTROYSETELEM, NLM_F_ACK, sequence, whole=False)

    def encode_strictly(self, sequence: int) -> bytes:
        """Encode for a kernel before 6.3, which refuses an absent element with ENOENT."""
        return self.element._encode(NFT_MSG_DELSETELEM, NLM_F_ACK, sequence, whole=False)
