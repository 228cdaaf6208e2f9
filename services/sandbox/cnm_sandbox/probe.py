"""What this kernel can do, found out by doing it in a namespace that is gone afterwards.

A link of a kind, a security association or a netlink family whose module is not loaded yet makes the kernel load
it, as the first real use would.
"""

import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from cnm.kernel import libc, netns
from cnm.kernel.errors import KernelError
from cnm.kernel.link import IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINK, IFLA_LINKINFO, RTM_NEWLINK, header
from cnm.kernel.netlink import (
    NETLINK_NETFILTER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Channel,
    attribute,
    failure,
    message,
    nest,
    text,
    u32,
)
from cnm.kernel.rtnl import Rtnl

NETLINK_XFRM, NETLINK_GENERIC = 6, 16
NFT_MSG_GETGEN = (10 << 8) | 16  # linux/netfilter/nf_tables.h
CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, GENL_ID_CTRL = 3, 2, 16  # linux/genetlink.h
XFRM_MSG_NEWSA, XFRMA_ALG_AEAD = 16, 18  # linux/xfrm.h
IFLA_VXLAN_ID, IFLA_VLAN_ID, IFLA_MACVLAN_MODE, IFLA_IPVLAN_MODE = 1, 1, 1, 1
MACVLAN_MODE_BRIDGE = 4
BR_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")

LOWER_KINDS = ("veth", "dummy", "bridge")


@dataclass(frozen=True)
class CreateLink:
    """Make a link of any kind, on a lower one where its kind needs that."""

    kind: str
    options: bytes = b""
    lower: int = 0

    forgiven: ClassVar[frozenset[int]] = frozenset()

    def __str__(self) -> str:
        lower = f" link index {self.lower}" if self.lower else ""
        return f"ip link add probe-{self.kind}{lower} type {self.kind}"

    def encode(self, sequence: int) -> bytes:
        """Write the message; the name leaves ``veth0``, which the kernel gives to the peer, free."""
        about = text(IFLA_INFO_KIND, self.kind)
        if self.options:
            about += nest(IFLA_INFO_DATA, self.options)
        body = header() + text(IFLA_IFNAME, f"probe-{self.kind}")
        if self.lower:
            body += u32(IFLA_LINK, self.lower)
        flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
        return message(RTM_NEWLINK, flags, sequence, body + nest(IFLA_LINKINFO, about))


VXLAN = CreateLink("vxlan", u32(IFLA_VXLAN_ID, 1))
WIREGUARD = CreateLink("wireguard")
VLAN = CreateLink("vlan", attribute(IFLA_VLAN_ID, struct.pack("=H", 7)))
MACVLAN = CreateLink("macvlan", u32(IFLA_MACVLAN_MODE, MACVLAN_MODE_BRIDGE))
IPVLAN = CreateLink("ipvlan", attribute(IFLA_IPVLAN_MODE, struct.pack("=H", 0)))


def probe() -> Mapping[str, bool]:
    """Return what this kernel can do, by name; it blocks for some milliseconds, longer where modules are loaded."""
    with _scratch_namespace(), Rtnl.open() as rtnl:
        found = {kind: _can_link(rtnl, CreateLink(kind)) for kind in LOWER_KINDS}
        lowers = [link.index for link in rtnl.links() if link.kind in LOWER_KINDS] or [0]
        # a link carries macvlans or ipvlans, not both, so that each has another below it
        links = (VXLAN, WIREGUARD, replace(VLAN, lower=lowers[0]), replace(MACVLAN, lower=lowers[0]))
        found |= {link.kind: _can_link(rtnl, link) for link in (*links, replace(IPVLAN, lower=lowers[-1]))}
        found |= {name: _works(attempt) for name, attempt in _ATTEMPTS.items()}
    return dict(sorted(found.items()))


@contextmanager
def _scratch_namespace() -> Iterator[None]:
    """Move the thread into a namespace that ends, with all that is in it, when the thread comes back."""
    home = netns.current_fd()
    try:
        libc.unshare(libc.CLONE_NEWNET)
        try:
            yield
        finally:
            libc.setns(home, libc.CLONE_NEWNET)
    finally:
        os.close(home)


def _can_link(rtnl: Rtnl, link: CreateLink) -> bool:
    try:
        rtnl.send(link)
    except KernelError:
        return False
    return True


def _works(attempt: Callable[[], bool]) -> bool:
    try:
        return attempt()
    except OSError:
        return False


def _ask(protocol: int, kind: int, body: bytes, *, create: bool = False) -> bool:
    """Tell whether the kernel does what it is asked over a netlink protocol."""
    with Channel(protocol) as channel:
        sequence = channel.reserve(1)
        flags = NLM_F_REQUEST | NLM_F_ACK | (NLM_F_CREATE | NLM_F_EXCL if create else 0)
        channel.write(message(kind, flags, sequence, body))
        while True:
            for reply in channel.read():
                if reply.sequence == sequence and reply.kind == NLMSG_ERROR:
                    return failure(reply)[0] == 0


def _has_ipvs() -> bool:
    body = struct.pack("=BBH", CTRL_CMD_GETFAMILY, 1, 0) + text(CTRL_ATTR_FAMILY_NAME, "IPVS")
    return _ask(NETLINK_GENERIC, GENL_ID_CTRL, body)


def _has_nftables() -> bool:
    return _ask(NETLINK_NETFILTER, NFT_MSG_GETGEN, struct.pack("=BBH", 0, 0, 0))


def _has_br_netfilter() -> bool:
    return BR_NETFILTER.exists()


def _has_sctp() -> bool:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    return True


def _has_esp() -> bool:
    """Tell whether a transport-mode association with AES-GCM, which encrypted overlays use, can be made."""
    address = bytes((127, 0, 0, 1)) + bytes(12)
    selector = bytes(40) + struct.pack("=H", socket.AF_INET) + bytes(14)
    identity = address + struct.pack(">IB3x", 0x1000, socket.IPPROTO_ESP)
    limits = struct.pack("=4Q", *[2**64 - 1] * 4) + bytes(32)
    rest = struct.pack("=IIHBBB", 0, 0, socket.AF_INET, 0, 0, 0) + bytes(7)
    association = selector + identity + address + limits + bytes(32) + bytes(12) + rest
    algorithm = b"rfc4106(gcm(aes))".ljust(64, b"\0") + struct.pack("=II", 160, 128) + bytes(20)
    return _ask(NETLINK_XFRM, XFRM_MSG_NEWSA, association + attribute(XFRMA_ALG_AEAD, algorithm), create=True)


_ATTEMPTS: Mapping[str, Callable[[], bool]] = {
    "ipvs": _has_ipvs,
    "nftables": _has_nftables,
    "br_netfilter": _has_br_netfilter,
    "sctp": _has_sctp,
    "xfrm_esp": _has_esp,
}
