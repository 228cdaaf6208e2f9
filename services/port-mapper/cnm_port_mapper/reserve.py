"""Bound sockets: a host port is ours because nobody else can bind it.

A listening socket completes connections before anybody serves them, so each is bound under a classic BPF filter
that drops all, which goes when translation stands (the kernel's Documentation/networking/filter.rst).
"""

import asyncio
import ctypes
import errno
import resource
import socket
import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from cnm import types
from cnm.deposit import AT_ONCE, Depositor
from cnm.kernel import sockdiag
from cnm.kernel.rtnl import Rtnl
from cnm.kernel.thread import NetlinkThread
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
    """Makes the sockets, in the namespace of the process, and leaves duplicates to the process that comes after.

    Where there is nobody to keep them nothing is left, and nothing inherited.
    """

    def __init__(self, depositor: Depositor | None = None, thread: NetlinkThread | None = None) -> None:
        self.ipv6 = _can(socket.AF_INET6, "tcp")
        self._protocols = frozenset(protocol for protocol in _KINDS if _can(socket.AF_INET, protocol))
        self._depositor, self._thread = depositor, thread
        self._inherited: dict[Seat, Bound] = {}
        _raise_descriptor_limit()

    async def inherit(self, seats: Collection[Seat]) -> None:
        """Have at hand what an earlier process left of these seats, and let go of all else that it left."""
        if self._depositor is not None and self._thread is not None:
            self._inherited = await self._thread.run(_take, self._depositor, tuple(seats))

    async def let_go(self, but: Collection[Seat] = ()) -> None:
        """Let go of what was inherited and nobody opened, but for some seats."""
        for seat in [seat for seat in self._inherited if seat not in but]:
            self._inherited.pop(seat).close()
            await self.leave({}, [seat])

    async def leave(self, left: Mapping[Seat, Bound], gone: Collection[Seat] = ()) -> None:
        """Leave sockets to the process that comes after, whatever becomes of this one; of seats that go, none."""
        if self._depositor is not None and self._thread is not None and (left or gone):
            await self._thread.run(_leave, self._depositor, dict(left), tuple(gone))

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
        """Bind a seat, and listen, while the kernel drops whatever comes; all its ports or none.

        One that was inherited is open already, and what came to it meanwhile waits in it.
        """
        inherited = self._inherited.pop(seat, None)
        if inherited is not None:
            return inherited
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
            try:
                each.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
            except OSError as error:
                if error.errno != errno.ENOENT:  # an inherited one has none
                    raise

    def probe(self, place: Place) -> None:
        """Bind a place of one port and give it back at once; nobody is ever accepted."""
        _bind(Seat((place,)), place.port).close()

    async def holder(self, place: Place) -> str:
        """Name the process that has a place."""
        found = await asyncio.to_thread(sockdiag.find_holder, place.protocol, place.address, place.port)
        return "another process" if found is None else str(found)


def _names(seat: Seat) -> Sequence[str]:
    """Return under which names a seat's sockets are left, as many under each as a message carries."""
    addresses = "+".join(str(place.address) for place in seat.places)
    first, last = seat.ports[0], seat.ports[-1]
    return [f"{seat.protocol} {addresses} {first}-{last} {at}" for at in range(0, len(seat.ports), AT_ONCE)]


def _take(depositor: Depositor, seats: Sequence[Seat]) -> dict[Seat, Bound]:
    depositor.retain([name for seat in seats for name in _names(seat)])
    found: dict[Seat, Bound] = {}
    for seat in seats:
        taken = Bound(tuple(each for name in _names(seat) for each in depositor.take(name)))
        for each in taken.sockets:
            each.setblocking(False)
        if [each.getsockname()[1] for each in taken.sockets] == list(seat.ports):
            found[seat] = taken
        elif taken.sockets:
            taken.close()
            depositor.drop(*_names(seat))
    return found


def _leave(depositor: Depositor, left: Mapping[Seat, Bound], gone: Sequence[Seat]) -> None:
    if gone:
        depositor.drop(*(name for seat in gone for name in _names(seat)))
    for seat, bound in left.items():
        for number, name in enumerate(_names(seat)):
            depositor.put(name, bound.sockets[number * AT_ONCE : (number + 1) * AT_ONCE])


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
