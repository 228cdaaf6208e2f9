"""Which host port each want gets: fixed ones first, then those that had one, then ranges, then automatic ports.

So a range or an automatic port never takes what another request of the same call insists on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cnm.errors import Conflict, Exhausted
from cnm.types import Protocol
from cnm_port_mapper.binding import LAST_PORT, Place, Want


@dataclass(frozen=True)
class Automatic:
    """Ports that may be chosen: those of the kernel's own range, none of its reserved ones."""

    first: int = 49153
    last: int = LAST_PORT
    reserved: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, port_range: str, reserved: str = "") -> "Automatic":
        """Read the texts of ``ip_local_port_range`` and ``ip_local_reserved_ports`` (kernel ip-sysctl)."""
        first, last = (int(word) for word in port_range.split())
        return cls(first, last, frozenset(_listed(reserved)))


def _listed(ports: str) -> set[int]:
    found: set[int] = set()
    for part in ports.replace(",", " ").split():
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return found


_ITSELF = "this very request"


class Occupancy:
    """Who has which place; one sandbox may be told of a place many times."""

    def __init__(self) -> None:
        self._owners: dict[tuple[Protocol, int], dict[Place, str]] = {}

    def claim(self, places: Sequence[Place], owner: str) -> None:
        """Give places to an owner."""
        for place in places:
            self._owners.setdefault((place.protocol, place.port), {})[place] = owner

    def release(self, places: Sequence[Place]) -> None:
        """Take places from whoever has them."""
        for place in places:
            here = self._owners.get((place.protocol, place.port), {})
            here.pop(place, None)
            if not here:
                self._owners.pop((place.protocol, place.port), None)

    def holder(self, place: Place, *, besides: str | None = None) -> str | None:
        """Return whose place meets this one, leaving one owner out of account."""
        here = self._owners.get((place.protocol, place.port))
        if not here:
            return None
        return next((owner for other, owner in here.items() if owner != besides and place.overlaps(other)), None)


@dataclass
class _Round:
    taken: Callable[[Place], str | None]
    automatic: Automatic
    after: Mapping[Protocol, int]
    own: Occupancy = field(default_factory=Occupancy)

    def free(self, want: Want, port: int) -> bool:
        return all(self.taken(place) is None and self.own.holder(place) is None for place in want.places_at(port))

    def fixed(self, want: Want, first: int) -> int:
        for place in want.places(first):
            holder = self.taken(place) or self.own.holder(place)
            if holder is not None:
                raise taken_by(place, holder)
        return first

    def kept(self, want: Want, former: int) -> int | None:
        within = want.first is None or want.last is None or want.first <= former <= want.last - want.count + 1
        return former if within and all(self.free(want, former + offset) for offset in range(want.count)) else None

    def chosen(self, want: Want) -> int:
        if want.first is None or want.last is None:
            return self._automatic(want)
        found = _run(want.first, want.last, want.count, lambda port: self.free(want, port))
        if found is None:
            raise _exhausted(want, want.first, want.last)
        return found

    def _automatic(self, want: Want) -> int:
        def free(port: int) -> bool:
            return port not in self.automatic.reserved and self.free(want, port)

        first, last = self.automatic.first, self.automatic.last
        start = self.after.get(want.protocol, last) + 1
        found = _run(start, last, want.count, free) if start > first else None
        if found is None:
            found = _run(first, last, want.count, free)
        if found is None:
            raise _exhausted(want, first, last)
        return found


def place(
    wants: Sequence[Want],
    *,
    taken: Callable[[Place], str | None],
    automatic: Automatic,
    after: Mapping[Protocol, int],
    former: Sequence[tuple[Want, int]] = (),
) -> tuple[int, ...]:
    """Choose the first host port of every want, in their order.

    ``taken`` names who holds a place; ``after`` is the automatic port that was handed out last; ``former`` are
    the choices of before: an equal want gets its port again.

    Raises:
        Conflict: a fixed port is held; the message names place and holder.
        Exhausted: a range has not so many free consecutive ports.

    """
    this = _Round(taken, automatic, after)
    chosen: dict[int, int] = {}

    def settle(index: int, port: int) -> None:
        chosen[index] = port
        this.own.claim(tuple(wants[index].places(port)), _ITSELF)

    for index, want in enumerate(wants):
        if want.fixed and want.first is not None:
            settle(index, this.fixed(want, want.first))
    remembered = list(former)
    for index in (index for index in range(len(wants)) if index not in chosen):
        again = next((choice for choice in remembered if choice[0] == wants[index]), None)
        if again is None:
            continue
        remembered.remove(again)
        kept = this.kept(*again)
        if kept is not None:
            settle(index, kept)
    rest = sorted(
        (index for index in range(len(wants)) if index not in chosen), key=lambda index: _width(wants[index])
    )
    for index in rest:
        settle(index, this.chosen(wants[index]))
    return tuple(chosen[index] for index in range(len(wants)))


def taken_by(place: Place, holder: str) -> Conflict:
    """Make the error of a port that is held."""
    return Conflict(
        f"host port {place} is taken by {holder}",
        host_ip=str(place.address),
        host_port=place.port,
        protocol=place.protocol,
        holder=holder,
    )


def _width(want: Want) -> int:
    """Order by how little choice there is; automatic ports have all."""
    return LAST_PORT + 1 if want.first is None or want.last is None else want.last - want.first


def _run(low: int, high: int, count: int, free: Callable[[int], bool]) -> int | None:
    """Return the first of so many consecutive free ports."""
    length = 0
    for port in range(low, high + 1):
        length = length + 1 if free(port) else 0
        if length == count:
            return port - count + 1
    return None


def _exhausted(want: Want, first: int, last: int) -> Exhausted:
    many = "no free host port" if want.count == 1 else f"no {want.count} consecutive free host ports"
    addresses = " and ".join(str(address) for address in want.addresses)
    return Exhausted(f"{many} in {first}-{last}/{want.protocol} on {addresses}")
