"""Which host port each want gets: fixed ones first, then those that had one, then ranges, then automatic ports.

So a range or an automatic port never takes what another request of the same call insists on.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, TypeVar

from cnm.errors import Conflict, Exhausted
from cnm.types import Protocol
from cnm_port_mapper.binding import LAST_PORT, Place, Want

V = TypeVar("V")


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


ITSELF = "this very request"


class Collision(NamedTuple):
    """Why a place cannot be had: those of its ports that somebody has, and who."""

    place: Place
    holder: str


class PlaceMap(Generic[V]):
    """Values by place, found by whatever meets it, however many places there are."""

    def __init__(self) -> None:
        self._single: dict[tuple[Protocol, int], dict[Place, V]] = {}
        self._ports: dict[Protocol, list[int]] = {}  # of the single ones, in order
        self._rows: dict[Protocol, dict[Place, V]] = {}

    def put(self, places: Iterable[Place], value: V) -> None:
        """Give places a value, whatever they had."""
        for place in places:
            if place.count > 1:
                self._rows.setdefault(place.protocol, {})[place] = value
                continue
            key = (place.protocol, place.port)
            if key not in self._single:
                insort(self._ports.setdefault(place.protocol, []), place.port)
            self._single.setdefault(key, {})[place] = value

    def drop(self, places: Iterable[Place]) -> None:
        """Take places out; those that are not in are fine."""
        for place in places:
            if place.count > 1:
                self._rows.get(place.protocol, {}).pop(place, None)
                continue
            key = (place.protocol, place.port)
            here = self._single.get(key, {})
            if here.pop(place, None) is not None and not here:
                del self._single[key]
                ports = self._ports[place.protocol]
                del ports[bisect_left(ports, place.port)]

    def meeting(self, place: Place) -> Iterator[tuple[Place, V]]:
        """Yield what a connection to a place could mean as well."""
        for other, value in self._rows.get(place.protocol, {}).items():
            if place.overlaps(other):
                yield other, value
        ports = self._ports.get(place.protocol, [])
        for port in ports[bisect_left(ports, place.port) : bisect_right(ports, place.last)]:
            for other, value in self._single[place.protocol, port].items():
                if place.overlaps(other):
                    yield other, value

    def collision(self: "PlaceMap[str]", place: Place, *, besides: str | None = None) -> Collision | None:
        """Return whose place meets this one, leaving one holder out of account."""
        for other, holder in self.meeting(place):
            if holder != besides:
                first, last = max(place.port, other.port), min(place.last, other.last)
                return Collision(replace(place, port=first, count=last - first + 1), holder)
        return None


@dataclass
class _Round:
    taken: Callable[[Place], Collision | None]
    automatic: Automatic
    after: Mapping[Protocol, int]
    own: PlaceMap[str] = field(default_factory=PlaceMap)

    def collision(self, want: Want, first: int) -> Collision | None:
        for place in want.places(first):
            found = self.taken(place) or self.own.collision(place)
            if found is not None:
                return found
        return None

    def fixed(self, want: Want, first: int) -> int:
        found = self.collision(want, first)
        if found is not None:
            raise taken_by(found)
        return first

    def kept(self, want: Want, former: int) -> int | None:
        within = want.first is None or want.last is None or want.first <= former <= want.last - want.count + 1
        return former if within and self.collision(want, former) is None else None

    def chosen(self, want: Want) -> int:
        if want.first is None or want.last is None:
            return self._automatic(want)
        found = self._lowest(want, want.first, want.last)
        if found is None:
            raise _exhausted(want, want.first, want.last)
        return found

    def _automatic(self, want: Want) -> int:
        first, last = self.automatic.first, self.automatic.last
        start = self.after.get(want.protocol, last) + 1
        found = self._lowest(want, start, last, self.automatic.reserved) if start > first else None
        if found is None:
            found = self._lowest(want, first, last, self.automatic.reserved)
        if found is None:
            raise _exhausted(want, first, last)
        return found

    def _lowest(self, want: Want, low: int, high: int, reserved: Collection[int] = ()) -> int | None:
        """Return the first of the lowest consecutive free ports: each one that is taken rules out those up to it."""
        while low + want.count - 1 <= high:
            hindrance = next((port for port in range(low, low + want.count) if port in reserved), None)
            if hindrance is None:
                found = self.collision(want, low)
                if found is None:
                    return low
                hindrance = found.place.last
            low = hindrance + 1
        return None


def place(
    wants: Sequence[Want],
    *,
    taken: Callable[[Place], Collision | None],
    automatic: Automatic,
    after: Mapping[Protocol, int],
    former: Sequence[tuple[Want, int]] = (),
    label: str = ITSELF,
) -> tuple[int, ...]:
    """Choose the first host port of every want, in their order.

    ``taken`` tells who holds a place; ``after`` is the automatic port that was handed out last; ``former`` are
    the choices of before: an equal want gets its port again. ``label`` is whose wants they are.

    Raises:
        Conflict: a fixed port is held; the message names place and holder.
        Exhausted: a range has not so many free consecutive ports.

    """
    this = _Round(taken, automatic, after)
    chosen: dict[int, int] = {}

    def settle(index: int, port: int) -> None:
        chosen[index] = port
        this.own.put(wants[index].places(port), label if wants[index].stands else ITSELF)

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


def taken_by(collision: Collision) -> Conflict:
    """Make the error of a port that is held."""
    place, holder = collision.place.at(collision.place.port), collision.holder
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


def _exhausted(want: Want, first: int, last: int) -> Exhausted:
    many = "no free host port" if want.count == 1 else f"no {want.count} consecutive free host ports"
    addresses = " and ".join(str(address) for address in want.addresses)
    return Exhausted(f"{many} in {first}-{last}/{want.protocol} on {addresses}")
