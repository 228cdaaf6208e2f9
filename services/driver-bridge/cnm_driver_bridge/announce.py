"""Tell the neighbours whose address this is now, so that nobody sends to the MAC of its former holder.

A gratuitous ARP request (RFC 5227, section 3) and an unsolicited neighbour advertisement (RFC 4861, section 7.2.6).
"""

import contextlib
import errno
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface
from types import TracebackType
from typing import ClassVar, Self

from cnm.kernel.link import mac_bytes
from cnm.kernel.netlink import NLM_F_ACK, NLM_F_REPLACE, NLM_F_REQUEST, attribute, message
from cnm.types import Address, Interface

ETH_P_ARP, ETH_P_IPV6, ICMPV6 = 0x0806, 0x86DD, 58
BROADCAST = b"\xff" * 6
ALL_NODES_MAC = bytes.fromhex("333300000001")
ALL_NODES = socket.inet_pton(socket.AF_INET6, "ff02::1")
RTM_NEWNEIGH, NDA_DST, NDA_LLADDR, NUD_STALE = 28, 1, 2, 4
NEIGHBOUR_ADVERTISEMENT, OVERRIDE, TARGET_LINK_LAYER = 136, 0x20000000, 2


def frame(mac: str, interface: Interface) -> bytes:
    """Return the frame that announces an address."""
    sender = mac_bytes(mac)
    return _arp(sender, interface) if isinstance(interface, IPv4Interface) else _advertisement(sender, interface)


def _arp(sender: bytes, interface: IPv4Interface) -> bytes:
    address = interface.ip.packed
    packet = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + sender + address + bytes(6) + address
    return BROADCAST + sender + struct.pack("!H", ETH_P_ARP) + packet


def _advertisement(sender: bytes, interface: IPv6Interface) -> bytes:
    source = interface.ip.packed
    body = struct.pack("!I", OVERRIDE) + source + bytes((TARGET_LINK_LAYER, 1)) + sender
    pseudo = source + ALL_NODES + struct.pack("!II", len(body) + 4, ICMPV6)
    checksum = _checksum(pseudo + bytes((NEIGHBOUR_ADVERTISEMENT, 0, 0, 0)) + body)
    packet = struct.pack("!IHBB", 6 << 28, len(body) + 4, ICMPV6, 255) + source + ALL_NODES
    packet += struct.pack("!BBH", NEIGHBOUR_ADVERTISEMENT, 0, checksum) + body
    return ALL_NODES_MAC + sender + struct.pack("!H", ETH_P_IPV6) + packet


def _checksum(data: bytes) -> int:
    """Return the internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (total ^ 0xFFFF) & 0xFFFF


class Announcer:
    """A packet socket that sends out of the host's bridges; for one thread.

    One for all, kept open, in the host's namespace: closing a packet socket takes the kernel 10 ms, which a socket a
    sandbox would add to every attach.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)

    def announce(self, bridge: str, mac: str, addresses: Iterable[Interface]) -> None:
        """Send one frame for each address to all ports of a bridge; what cannot be sent is let go."""
        with contextlib.suppress(OSError):
            for address in addresses:
                self._socket.sendto(frame(mac, address), (bridge, 0))

    def close(self) -> None:
        """Close the socket; closing twice is fine."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class ReplaceNeighbour:
    """Correct the host's own entry of a neighbour, if it has one."""

    index: int
    address: Address
    mac: str

    forgiven: ClassVar[frozenset[int]] = frozenset((errno.ENOENT,))

    def __str__(self) -> str:
        return f"ip neigh change {self.address} lladdr {self.mac} nud stale dev index {self.index}"

    def encode(self, sequence: int) -> bytes:
        """Encode the message."""
        family = socket.AF_INET if self.address.version == 4 else socket.AF_INET6
        body = struct.pack("=BxxxiHBB", family, self.index, NUD_STALE, 0, 0)  # struct ndmsg
        body += attribute(NDA_DST, self.address.packed) + attribute(NDA_LLADDR, mac_bytes(self.mac))
        return message(RTM_NEWNEIGH, NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE, sequence, body)
