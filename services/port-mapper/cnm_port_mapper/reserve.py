"""Bound sockets: a host port is ours because nobody else can bind it.

A listening socket completes connections before anybody serves them, so each is bound under a classic BPF filter
that drops all, which goes when translation stands (the kernel's Documentation/networking/filter.rst).
"""

import asyncio
import ctypes
import resource
import socket
import struct
from pathlib import Path

from cnm import types
from cnm.kernel import sockdiag
from cnm.kernel.rtnl import Rtnl
from cnm.types import Address
from cnm_port_mapper.binding import Place, Seat
from cnm_port_mapper.placement import Automatic
from cnm_port_mapper.ports import Bound

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
IP_PKTINFO = 8  # socket has no name for it before Python 3.12
IPPROTO_SCTP = 132
BACKLOG = 4096  # the kernel takes somaxconn if that is less
DESCRIPTORS = 1 << 19
SETTINGS = Path("/proc/sys/net/ipv4")

_DROP_ALL = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # ret #0
_FILTER = struct.pack("@HP", 1, ctypes.addressof(_DROP_ALL))  # struct sock_fprog
_KINDS: dict[types.Protocol, tuple[socket.SocketKind, int]] = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, IPPROTO_SCTP),
}


class BoundSockets:
    """Makes the sockets, in the namespace of the process."""

    def __init__(self) -> None:
        self.ipv6 = _can(socket.AF_INET6, "tcp")
        self._protocols = frozenset(protocol for protocol in _KINDS if _can(socket.AF_INET, protocol))
        _raise_descriptor_limit()

    def supports(self, protocol: types.Protocol) -> bool:
        """Tell whether this kernel has a protocol."""
        return protocol in self._protocols

    def automatic(self) -> Automatic:
        """Return the ports that the kernel itself would choose from."""
        try:
            reserved = (SETTINGS / "ip_local_reserved_ports").read_text()
            return Automatic.parse((SETTINGS / "ip_local_port_range").read_text(), reserved)
        except OSError:
            return Automatic()

    def addresses(self) -> tuple[Address, ...]:
        """Return the host's own addresses."""
        with Rtnl.open() as rtnl:
            return tuple(each.interface.ip for each in rtnl.addresses())

    def open(self, seat: Seat) -> Bound:
        """Bind a seat, and listen, while the kernel drops whatever comes; all its ports or none."""
        opened: list[socket.socket] = []
        try:
            for port in seat.ports:
                opened.append(_bind(seat, port))
                if seat.protocol != "udp":
                    opened[-1].listen(BACKLOG)
        except OSError:
            Bound(tuple(opened)).close()
            raise
        return Bound(tuple(opened))

    def hold(self, bound: Bound) -> None:
        """Drop whatever comes."""
        for each in bound.sockets:
            each.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _FILTER)

    def admit(self, bound: Bound) -> None:
        """End the dropping."""
        for each in bound.sockets:
            each.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def probe(self, place: Place) -> None:
        """Bind a place of one port and give it back at once; nobody is ever accepted."""
        _bind(Seat((place,)), place.port).close()

    async def holder(self, place: Place) -> str:
        """Name the process that has a place."""
        found = await asyncio.to_thread(sockdiag.find_holder, place.protocol, place.address, place.port)
        return "another process" if found is None else str(found)


def _bind(seat: Seat, port: int) -> socket.socket:
    place = seat.places[-1]  # of two the IPv6 one
    kind, number = _KINDS[place.protocol]
    six = place.address.version == 6
    bound = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind, number)
    try:
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _FILTER)
        if six:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, len(seat.places) == 1)
        if place.protocol != "udp":
            # Else connections in TIME_WAIT, and associations that go on, keep the port. With UDP it would let two
            # have one port.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif six:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            bound.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        bound.bind((str(place.address), port))
    except OSError:
        bound.close()
        raise
    return bound


def _can(family: int, protocol: types.Protocol) -> bool:
    try:
        socket.socket(family, *_KINDS[protocol]).close()
    except OSError:
        return False
    return True


def _raise_descriptor_limit() -> None:
    """Allow as many open files as this process may have: each port is two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (max(hard, DESCRIPTORS), hard):
        if limit <= soft:
            return
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        except (ValueError, PermissionError):
            continue  # more than fs.nr_open, or not ours to raise
        return
