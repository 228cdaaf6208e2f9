"""Routes: the steps that add and delete them, and what a kernel tells of them."""

import errno
import ipaddress
import struct
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from cnm.types import Address, Prefix

from .address import family_of
from .netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    attribute,
    attributes,
    message,
    read_u32,
    u32,
)

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 6, 7, 15
RT_TABLE_UNSPEC, RT_TABLE_MAIN = 0, 254
RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE = 7, 11
RTPROT_BOOT = 3
RT_SCOPE_LINK, RT_SCOPE_NOWHERE = 253, 255
RTN_UNICAST, RTN_LOCAL = 1, 2
RTNH_F_ONLINK = 4

_HEADER = struct.Struct("=BBBBBBBBI")  # struct rtmsg


@dataclass(frozen=True, slots=True)
class Route:
    """A route as the kernel tells of it; ``kind`` 1 is unicast, ``protocol`` 2 the kernel's own, 3 ours."""

    destination: Prefix
    gateway: Address | None = None
    index: int = 0
    source: Address | None = None
    metric: int = 0
    protocol: int = RTPROT_BOOT
    scope: int = 0
    table: int = RT_TABLE_MAIN
    kind: int = RTN_UNICAST


def parse_route(body: bytes) -> Route:
    """Decode the body of RTM_NEWROUTE."""
    family, length, _, _, table, protocol, scope, kind, _ = _HEADER.unpack_from(body)
    found = attributes(body, 12)
    nowhere = bytes(4 if family == family_of(4) else 16)
    gateway = found.get(RTA_GATEWAY)
    source = found.get(RTA_PREFSRC)
    return Route(
        destination=ipaddress.ip_network((found.get(RTA_DST, nowhere), length)),
        gateway=ipaddress.ip_address(gateway) if gateway else None,
        index=read_u32(found.get(RTA_OIF, b"")),
        source=ipaddress.ip_address(source) if source else None,
        metric=read_u32(found.get(RTA_PRIORITY, b"")),
        protocol=protocol,
        scope=scope,
        table=read_u32(found[RTA_TABLE]) if RTA_TABLE in found else table,
        kind=kind,
    )


def dump_request(version: int, table: int = RT_TABLE_MAIN) -> bytes:
    """Encode the body that asks for the routes of a family in one table, or in all with ``RT_TABLE_UNSPEC``."""
    return _HEADER.pack(family_of(version), 0, 0, 0, table, 0, 0, 0, 0)


def lookup_request(address: Address) -> bytes:
    """Encode the body that asks for the route that a packet to an address takes."""
    length = address.max_prefixlen
    return _HEADER.pack(family_of(address.version), length, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, address.packed)


@dataclass(frozen=True, slots=True)
class AddRoute:
    """Add a route to a prefix, or the default route of the gateway's family where ``destination`` is None.

    ``replace`` takes the place of one to the same prefix. A gateway outside the link's prefixes needs
    ``onlink``.
    """

    destination: Prefix | None = None
    _: KW_ONLY
    gateway: Address | None = None
    index: int | None = None
    source: Address | None = None
    metric: int | None = None
    onlink: bool = False
    replace: bool = False
    exists_ok: bool = False

    def __str__(self) -> str:
        verb = "replace" if self.replace else "add"
        onlink = " onlink" if self.onlink else ""
        return (
            f"ip route {verb} {_words(self.destination, self.gateway, self.index, self.source, self.metric)}{onlink}"
        )

    @property
    def forgiven(self) -> frozenset[int]:
        return frozenset((errno.EEXIST,)) if self.exists_ok else frozenset()

    def encode(self, sequence: int) -> bytes:
        flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | (NLM_F_REPLACE if self.replace else NLM_F_EXCL)
        version = _version(self.destination, self.gateway)
        scope = RT_SCOPE_LINK if self.gateway is None and version == 4 else 0
        body = _place(
            self.destination, self.gateway, self.index, self.source, self.metric,
            scope=scope, onlink=self.onlink,
        )  # fmt: skip
        return message(RTM_NEWROUTE, flags, sequence, body)


@dataclass(frozen=True, slots=True)
class DeleteRoute:
    """Delete the route that fits what is not None; an absent one is fine."""

    destination: Prefix | None = None
    _: KW_ONLY
    gateway: Address | None = None
    index: int | None = None
    source: Address | None = None
    metric: int | None = None

    forgiven: ClassVar[frozenset[int]] = frozenset((errno.ESRCH, errno.ENODEV))

    def __str__(self) -> str:
        return f"ip route del {_words(self.destination, self.gateway, self.index, self.source, self.metric)}"

    def encode(self, sequence: int) -> bytes:
        body = _place(self.destination, self.gateway, self.index, self.source, self.metric, scope=RT_SCOPE_NOWHERE)
        return message(RTM_DELROUTE, NLM_F_REQUEST | NLM_F_ACK, sequence, body)


def _version(destination: Prefix | None, gateway: Address | None) -> int:
    known = destination or gateway
    if known is None:
        raise ValueError("a default route without a gateway needs its destination, 0.0.0.0/0 or ::/0")
    return known.version


def _place(
    destination: Prefix | None, gateway: Address | None, index: int | None,
    source: Address | None, metric: int | None, *, scope: int, onlink: bool = False,
) -> bytes:  # fmt: skip
    version = _version(destination, gateway)
    length = destination.prefixlen if destination is not None else 0
    flags = RTNH_F_ONLINK if onlink else 0
    body = _HEADER.pack(family_of(version), length, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, flags)
    if destination is not None and length:
        body += attribute(RTA_DST, destination.network_address.packed)
    if gateway is not None:
        body += attribute(RTA_GATEWAY, gateway.packed)
    if index is not None:
        body += u32(RTA_OIF, index)
    if source is not None:
        body += attribute(RTA_PREFSRC, source.packed)
    if metric is not None:
        body += u32(RTA_PRIORITY, metric)
    return body


def _words(
    destination: Prefix | None, gateway: Address | None, index: int | None,
    source: Address | None, metric: int | None,
) -> str:  # fmt: skip
    parts = ["default" if destination is None else str(destination)]
    if gateway is not None:
        parts.append(f"via {gateway}")
    if index is not None:
        parts.append(f"dev index {index}")
    if source is not None:
        parts.append(f"src {source}")
    if metric is not None:
        parts.append(f"metric {metric}")
    return " ".join(parts)
