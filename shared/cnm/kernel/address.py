"""Addresses of links: the steps that add and delete them, and what a kernel tells of them."""

import errno
import ipaddress
import struct
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

from cnm.types import Interface

from .netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    attribute,
    attributes,
    message,
    read_u32,
)

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
AF_INET, AF_INET6 = 2, 10
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS, IFA_PROTO = 1, 2, 4, 8, 11
IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE = 0x02, 0x08, 0x40

Scope = Literal["global", "link", "host"]
SCOPES: Mapping[Scope, int] = {"global": 0, "link": 253, "host": 254}
_SCOPE_NAMES: Mapping[int, Scope] = {number: name for name, number in SCOPES.items()}

_HEADER = struct.Struct("=BBBBi")  # struct ifaddrmsg


def family_of(version: int) -> int:
    """Return the address family of an IP version."""
    return AF_INET if version == 4 else AF_INET6


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address as the kernel tells of it."""

    index: int
    interface: Interface
    scope: Scope = "global"
    tentative: bool = False
    duplicate: bool = False
    protocol: int = 0


def parse_address(body: bytes) -> LinkAddress:
    """Decode the body of RTM_NEWADDR."""
    _, length, flags, scope, index = _HEADER.unpack_from(body)
    found = attributes(body, 8)
    raw = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    flags |= read_u32(found.get(IFA_FLAGS, b""))
    return LinkAddress(
        index=index,
        interface=ipaddress.ip_interface((raw, length)),
        scope=_SCOPE_NAMES.get(scope, "global"),
        tentative=bool(flags & IFA_F_TENTATIVE),
        duplicate=bool(flags & IFA_F_DADFAILED),
        protocol=found.get(IFA_PROTO, b"\0")[0],
    )


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Give a link an address; an IPv4 one with its broadcast address, an IPv6 one without DAD unless asked.

    ``protocol`` says who gave it, as kernels from 5.18 on remember.
    """

    index: int
    interface: Interface
    _: KW_ONLY
    nodad: bool = True
    scope: Scope = "global"
    exists_ok: bool = False
    protocol: int = 0

    def __str__(self) -> str:
        scope = "" if self.scope == "global" else f" scope {self.scope}"
        nodad = " nodad" if self.nodad and self.interface.version == 6 else ""
        return f"ip addr add {self.interface} dev index {self.index}{scope}{nodad}"

    @property
    def forgiven(self) -> frozenset[int]:
        return frozenset((errno.EEXIST,)) if self.exists_ok else frozenset()

    def encode(self, sequence: int) -> bytes:
        flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
        body = _place(self.index, self.interface, nodad=self.nodad, scope=self.scope)
        network = self.interface.network
        if network.version == 4 and network.prefixlen < 31:
            body += attribute(IFA_BROADCAST, network.broadcast_address.packed)
        if self.protocol:
            body += attribute(IFA_PROTO, bytes((self.protocol,)))
        return message(RTM_NEWADDR, flags, sequence, body)


@dataclass(frozen=True, slots=True)
class DeleteAddress:
    """Take an address from a link; an absent address or link is fine."""

    index: int
    interface: Interface

    forgiven: ClassVar[frozenset[int]] = frozenset((errno.EADDRNOTAVAIL, errno.ENODEV))

    def __str__(self) -> str:
        return f"ip addr del {self.interface} dev index {self.index}"

    def encode(self, sequence: int) -> bytes:
        body = _place(self.index, self.interface, nodad=False, scope="global")
        return message(RTM_DELADDR, NLM_F_REQUEST | NLM_F_ACK, sequence, body)


def _place(index: int, interface: Interface, *, nodad: bool, scope: Scope) -> bytes:
    version = interface.version
    length = interface.network.prefixlen
    flags = IFA_F_NODAD if nodad and version == 6 else 0
    body = _HEADER.pack(family_of(version), length, flags, SCOPES[scope], index)
    packed = interface.packed
    return body + attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
