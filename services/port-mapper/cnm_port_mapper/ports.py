"""What the port mapper needs of the host it runs on."""

import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from cnm import types
from cnm.types import Address
from cnm_port_mapper.binding import Place, Seat, Target
from cnm_port_mapper.placement import Automatic
from cnm_port_mapper.rules import Remake, Step, Translation


@dataclass(frozen=True, eq=False)
class Bound:
    """The sockets of a seat, one a port, in order."""

    sockets: tuple[socket.socket, ...]

    def close(self) -> None:
        """Give the ports back."""
        for each in self.sockets:
            each.close()


class Sockets(Protocol):
    """Bound sockets, which keep host ports from everybody else."""

    @property
    def ipv6(self) -> bool:
        """Whether this host has IPv6."""
        ...

    def supports(self, protocol: types.Protocol) -> bool:
        """Tell whether this kernel has a protocol."""
        ...

    def automatic(self) -> Automatic:
        """Return the ports that may be chosen."""
        ...

    def addresses(self) -> tuple[Address, ...]:
        """Return the host's own addresses."""
        ...

    async def inherit(self, seats: Collection[Seat]) -> None:
        """Have at hand what an earlier process left of these seats, and let go of all else that it left."""
        ...

    async def let_go(self, but: Collection[Seat] = ()) -> None:
        """Let go of what was inherited and nobody opened, but for some seats."""
        ...

    async def leave(self, left: Mapping[Seat, Bound], gone: Collection[Seat] = ()) -> None:
        """Leave sockets to the process that comes after, whatever becomes of this one; of seats that go, none."""
        ...

    def open(self, seat: Seat) -> Bound:
        """Bind a seat, and listen, while the kernel drops whatever comes; all its ports or none.

        One that was inherited is open already.

        Raises:
            OSError: EADDRINUSE, EADDRNOTAVAIL and the like.

        """
        ...

    def hold(self, bound: Bound) -> None:
        """Drop whatever comes."""
        ...

    def admit(self, bound: Bound) -> None:
        """End the dropping."""
        ...

    def probe(self, place: Place) -> None:
        """Bind a place of one port and give it back at once.

        Raises:
            OSError: as ``open``.

        """
        ...

    async def holder(self, place: Place) -> str:
        """Name the process that has a place."""
        ...


class Firewall(Protocol):
    """The maps that translate host ports; whatever is given is one transaction."""

    async def apply(self, steps: Sequence[Step], *, forget: Collection[Place] = ()) -> None:
        """Carry out steps, then forget the UDP and SCTP flows that were sent to some places.

        Raises:
            OSError: the kernel refuses; nothing was changed.

        """
        ...

    async def observe(self) -> dict[Place, Translation]:
        """Return what the maps hold."""
        ...

    async def repair(
        self, desired: Mapping[Place, Translation], *, leave: Collection[str] = ()
    ) -> tuple[Step | Remake, ...]:
        """Make the table and its maps as desired, but for the owners to leave; return the steps that it took."""
        ...

    async def compare(
        self, desired: Mapping[Place, Translation], *, leave: Collection[str] = ()
    ) -> tuple[Step | Remake, ...]:
        """Return the steps that ``repair`` would take."""
        ...

    def watching(self, heard: Callable[[], None]) -> AbstractContextManager[None]:
        """Call back when others change the table, while the block runs."""
        ...


class Relay(Protocol):
    """Serves what reaches a bound socket itself."""

    def serve(self, seat: Seat, bound: Bound, targets: tuple[Target, ...]) -> None:
        """Accept at a seat and lead to the target of each place; served already, new connections lead there."""
        ...

    def stop(self, seat: Seat) -> None:
        """Accept no more at a seat and end what goes through it; the sockets stay open."""
        ...

    def relayed(self) -> Mapping[types.Protocol, int]:
        """Return how many connections and sessions there are, by protocol."""
        ...
