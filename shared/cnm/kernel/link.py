"""Links: the steps that make, change and delete them, and what a kernel tells of them."""

import errno
import struct
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

from .netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_ECHO,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    attribute,
    attributes,
    message,
    nest,
    read_text,
    read_u32,
    text,
    u8,
    u32,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
IFF_UP, IFF_LOWER_UP = 0x1, 0x10000

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
IFLA_IFALIAS, IFLA_STATS64, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 20, 23, 26, 27, 28
IFLA_LINK_NETNSID = 37
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
VETH_INFO_PEER = 1
IFLA_BR_MCAST_SNOOPING = 23
IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 33
IFLA_INET6_ADDR_GEN_MODE = 8
AF_INET6 = 10

_HEADER = struct.Struct("=BxHiII")  # struct ifinfomsg
_STATISTICS = struct.Struct("=8Q")

AddressMode = Literal["eui64", "none"]
_ADDRESS_MODES: Mapping[AddressMode, int] = {"eui64": 0, "none": 1}


def mac_bytes(mac: str) -> bytes:
    """Encode a MAC address."""
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(raw: bytes) -> str:
    """Write a MAC address as CNM shows it."""
    return raw.hex(":")


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of a link since it was made."""

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int


@dataclass(frozen=True, slots=True)
class Link:
    """A link as the kernel tells of it; ``peer`` is an index in the peer's own namespace."""

    index: int
    name: str
    kind: str = ""
    mac: str = ""
    mtu: int = 0
    up: bool = False
    carrier: bool = False
    master: int = 0
    group: int = 0
    alias: str = ""
    peer: int = 0
    peer_namespace_id: int | None = None
    hairpin: bool = False
    isolated: bool = False
    statistics: Statistics | None = None


def parse_link(body: bytes, *, statistics: bool = False) -> Link:
    """Decode the body of RTM_NEWLINK, its counters only where asked for."""
    _, _, index, flags, _ = _HEADER.unpack_from(body)
    found = attributes(body, 16)
    about = attributes(found.get(IFLA_LINKINFO, b""))
    port = attributes(about.get(IFLA_INFO_SLAVE_DATA, b""))
    counters = found.get(IFLA_STATS64) if statistics else None
    namespace = found.get(IFLA_LINK_NETNSID)
    return Link(
        index=index,
        name=read_text(found.get(IFLA_IFNAME, b"")),
        kind=read_text(about.get(IFLA_INFO_KIND, b"")),
        mac=mac_text(found.get(IFLA_ADDRESS, b"")),
        mtu=read_u32(found.get(IFLA_MTU, b"")),
        up=bool(flags & IFF_UP),
        carrier=bool(flags & IFF_LOWER_UP),
        master=read_u32(found.get(IFLA_MASTER, b"")),
        group=read_u32(found.get(IFLA_GROUP, b"")),
        alias=read_text(found.get(IFLA_IFALIAS, b"")),
        peer=read_u32(found.get(IFLA_LINK, b"")),
        peer_namespace_id=read_u32(namespace) if namespace else None,
        hairpin=port.get(IFLA_BRPORT_MODE, b"\0") != b"\0",
        isolated=port.get(IFLA_BRPORT_ISOLATED, b"\0") != b"\0",
        statistics=Statistics(*_STATISTICS.unpack_from(counters)) if counters else None,
    )


def header(*, index: int = 0, up: bool | None = None) -> bytes:
    """Encode struct ifinfomsg; ``up`` of None leaves the state alone."""
    change = 0 if up is None else IFF_UP
    return _HEADER.pack(0, 0, index, IFF_UP if up else 0, change)


def target(link: int | str, *, up: bool | None = None) -> bytes:
    """Encode which link is meant, by index or by name."""
    if isinstance(link, int):
        return header(index=link, up=up)
    return header(up=up) + text(IFLA_IFNAME, link)


def describe(link: int | str) -> str:
    """Write which link is meant as a command line would."""
    return f"dev {link}" if isinstance(link, str) else f"index {link}"


def _words(**parts: object) -> str:
    return "".join(f" {name} {value}" for name, value in parts.items() if value is not None)


def _properties(mac: str | None, mtu: int | None) -> bytes:
    encoded = b""
    if mac is not None:
        encoded += attribute(IFLA_ADDRESS, mac_bytes(mac))
    if mtu is not None:
        encoded += u32(IFLA_MTU, mtu)
    return encoded


def _on_off(value: bool) -> str:
    return "on" if value else "off"


_CREATE = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO
_CHANGE = NLM_F_REQUEST | NLM_F_ACK


@dataclass(frozen=True, slots=True)
class CreateBridge:
    """Make a bridge; the reply is the new link, or None where ``exists_ok`` and it was there.

    The kernel ignores an alias in the message that makes a link, so `Rtnl.send` sets it after.
    """

    name: str
    _: KW_ONLY
    mac: str | None = None
    mtu: int | None = None
    alias: str | None = None
    up: bool = True
    multicast_snooping: bool | None = None
    exists_ok: bool = False

    def __str__(self) -> str:
        state = " up" if self.up else ""
        return f"ip link add {self.name}{_words(address=self.mac, mtu=self.mtu, alias=self.alias)}{state} type bridge"

    @property
    def forgiven(self) -> frozenset[int]:
        return frozenset((errno.EEXIST,)) if self.exists_ok else frozenset()

    def encode(self, sequence: int) -> bytes:
        options = b""
        if self.multicast_snooping is not None:
            options += u8(IFLA_BR_MCAST_SNOOPING, self.multicast_snooping)
        body = (
            header(up=self.up)
            + text(IFLA_IFNAME, self.name)
            + _properties(self.mac, self.mtu)
            + nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge"), nest(IFLA_INFO_DATA, options))
        )
        return message(RTM_NEWLINK, _CREATE, sequence, body)


@dataclass(frozen=True, slots=True)
class CreateVeth:
    """Make a pair of links, the host's end up, the peer in its namespace already.

    The reply is the host's link; its ``peer`` is the peer's index in the peer's namespace. The peer stays
    down: its namespace sets it up (a peer that is up at birth is refused with ENOTCONN). The alias is set
    after, as a bridge's.
    """

    name: str
    _: KW_ONLY
    peer_name: str
    peer_namespace_fd: int | None = None
    mac: str | None = None
    peer_mac: str | None = None
    mtu: int | None = None
    master: int | None = None
    alias: str | None = None
    group: int | None = None
    up: bool = True
    exists_ok: bool = False

    def __str__(self) -> str:
        host = _words(address=self.mac, mtu=self.mtu, master=self.master, group=self.group, alias=self.alias) + (
            " up" if self.up else ""
        )
        peer = _words(address=self.peer_mac, mtu=self.mtu, netns=self.peer_namespace_fd)
        return f"ip link add {self.name}{host} type veth peer {self.peer_name}{peer}"

    @property
    def forgiven(self) -> frozenset[int]:
        return frozenset((errno.EEXIST,)) if self.exists_ok else frozenset()

    def encode(self, sequence: int) -> bytes:
        peer = header() + text(IFLA_IFNAME, self.peer_name)
        peer += _properties(self.peer_mac, self.mtu)
        if self.peer_namespace_fd is not None:
            peer += u32(IFLA_NET_NS_FD, self.peer_namespace_fd)
        body = header(up=self.up) + text(IFLA_IFNAME, self.name)
        body += _properties(self.mac, self.mtu)
        if self.master is not None:
            body += u32(IFLA_MASTER, self.master)
        if self.group is not None:
            body += u32(IFLA_GROUP, self.group)
        pair = nest(IFLA_INFO_DATA, nest(VETH_INFO_PEER, peer))
        body += nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, "veth"), pair)
        return message(RTM_NEWLINK, _CREATE, sequence, body)


@dataclass(frozen=True, slots=True)
class SetLink:
    """Change what is not None of a link, meant by index or name; ``master`` 0 takes it off its bridge.

    A rename needs the link down before Linux 6.2. ``address_mode`` "none" keeps IPv6 from making a
    link-local address; it is refused in the message that creates a link (EAFNOSUPPORT), not in one after it.
    """

    link: int | str
    _: KW_ONLY
    up: bool | None = None
    name: str | None = None
    mac: str | None = None
    mtu: int | None = None
    master: int | None = None
    namespace_fd: int | None = None
    group: int | None = None
    alias: str | None = None
    address_mode: AddressMode | None = None

    forgiven: ClassVar[frozenset[int]] = frozenset()

    def __str__(self) -> str:
        state = "" if self.up is None else " up" if self.up else " down"
        words = _words(
            name=self.name, address=self.mac, mtu=self.mtu, master=self.master, netns=self.namespace_fd,
            group=self.group, alias=self.alias, addrgenmode=self.address_mode,
        )  # fmt: skip
        return f"ip link set {describe(self.link)}{words}{state}"

    def encode(self, sequence: int) -> bytes:
        if self.name is not None and isinstance(self.link, str):
            raise ValueError(f"to rename {self.link} its index is needed")
        body = target(self.link, up=self.up)
        if self.name is not None:
            body += text(IFLA_IFNAME, self.name)
        body += _properties(self.mac, self.mtu)
        if self.master is not None:
            body += u32(IFLA_MASTER, self.master)
        if self.group is not None:
            body += u32(IFLA_GROUP, self.group)
        if self.alias is not None:
            body += attribute(IFLA_IFALIAS, self.alias.encode())
        if self.namespace_fd is not None:
            body += u32(IFLA_NET_NS_FD, self.namespace_fd)
        if self.address_mode is not None:
            mode = u8(IFLA_INET6_ADDR_GEN_MODE, _ADDRESS_MODES[self.address_mode])
            body += nest(IFLA_AF_SPEC, nest(AF_INET6, mode))
        return message(RTM_NEWLINK, _CHANGE, sequence, body)


@dataclass(frozen=True, slots=True)
class SetBridge:
    """Change what is not None of a bridge."""

    link: int | str
    _: KW_ONLY
    multicast_snooping: bool | None = None

    forgiven: ClassVar[frozenset[int]] = frozenset()

    def __str__(self) -> str:
        words = _words(
            mcast_snooping=None if self.multicast_snooping is None else int(self.multicast_snooping),
        )
        return f"ip link set {describe(self.link)} type bridge{words}"

    def encode(self, sequence: int) -> bytes:
        options = b""
        if self.multicast_snooping is not None:
            options += u8(IFLA_BR_MCAST_SNOOPING, self.multicast_snooping)
        about = nest(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge"), nest(IFLA_INFO_DATA, options))
        return message(RTM_NEWLINK, _CHANGE, sequence, target(self.link) + about)


@dataclass(frozen=True, slots=True)
class SetBridgePort:
    """Change what is not None of a link as a port of its bridge."""

    link: int | str
    _: KW_ONLY
    hairpin: bool | None = None
    isolated: bool | None = None

    forgiven: ClassVar[frozenset[int]] = frozenset()

    def __str__(self) -> str:
        words = _words(
            hairpin=None if self.hairpin is None else _on_off(self.hairpin),
            isolated=None if self.isolated is None else _on_off(self.isolated),
        )
        return f"bridge link set {describe(self.link)}{words}"

    def encode(self, sequence: int) -> bytes:
        options = b""
        if self.hairpin is not None:
            options += u8(IFLA_BRPORT_MODE, self.hairpin)
        if self.isolated is not None:
            options += u8(IFLA_BRPORT_ISOLATED, self.isolated)
        # As slave data, unlike `bridge link set` (AF_BRIDGE), so that a link just made can be meant by name.
        about = nest(IFLA_LINKINFO, text(IFLA_INFO_SLAVE_KIND, "bridge"), nest(IFLA_INFO_SLAVE_DATA, options))
        return message(RTM_NEWLINK, _CHANGE, sequence, target(self.link) + about)


@dataclass(frozen=True, slots=True)
class DeleteLink:
    """Delete a link and its peer; an absent one is fine. It costs the kernel 20 ms: see `DeleteGroup`."""

    link: int | str

    forgiven: ClassVar[frozenset[int]] = frozenset((errno.ENODEV,))

    def __str__(self) -> str:
        return f"ip link del {describe(self.link)}"

    def encode(self, sequence: int) -> bytes:
        return message(RTM_DELLINK, _CHANGE, sequence, target(self.link))


@dataclass(frozen=True, slots=True)
class DeleteGroup:
    """Delete all links of a group at once, about 1 ms each for 50; an empty group is fine.

    Group 0 holds every link that was not put elsewhere; the kernel refuses it (EPERM).
    """

    group: int

    forgiven: ClassVar[frozenset[int]] = frozenset((errno.ENODEV,))

    def __str__(self) -> str:
        return f"ip link del group {self.group}"

    def encode(self, sequence: int) -> bytes:
        return message(RTM_DELLINK, _CHANGE, sequence, header() + u32(IFLA_GROUP, self.group))
