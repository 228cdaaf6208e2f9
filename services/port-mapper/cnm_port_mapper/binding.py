"""What a request to publish means: where on the host, leading where, and how the result is shown.

A request without a host address means every address of the host, IPv4 and IPv6. Each place leads to the
sandbox's address of its own family, or to that of the other family, which only the proxy can serve.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses

import msgspec

from cnm.errors import Fault, Invalid
from cnm.messages.sandbox import PortBinding, PortRequest
from cnm.types import Address, Prefix, Protocol

LAST_PORT = 65535
EVERY_IPV4 = IPv4Address("0.0.0.0")  # noqa: S104  # what publishing means
EVERY_IPV6 = IPv6Address("::")


@dataclass(frozen=True, slots=True)
class Place:
    """A port of the host, or ``count`` in a row: ``0.0.0.0:8080/tcp``, ``[::1]:5000-5099/udp``."""

    protocol: Protocol
    address: Address
    port: int
    count: int = 1

    def __str__(self) -> str:
        address = f"[{self.address}]" if self.address.version == 6 else self.address
        end = f"-{self.last}" if self.count > 1 else ""
        return f"{address}:{self.port}{end}/{self.protocol}"

    @property
    def last(self) -> int:
        """Return its last port."""
        return self.port + self.count - 1

    @property
    def ports(self) -> range:
        """Return its ports."""
        return range(self.port, self.port + self.count)

    def overlaps(self, other: "Place") -> bool:
        """Tell whether a connection could mean both; IPv4 and IPv6 never meet."""
        return (
            self.port <= other.last
            and other.port <= self.last
            and self.protocol == other.protocol
            and self.address.version == other.address.version
            and (self.address == other.address or self.address.is_unspecified or other.address.is_unspecified)
        )

    def at(self, port: int) -> "Place":
        """Return one of its ports alone."""
        return Place(self.protocol, self.address, port)

    def singles(self) -> Iterator["Place"]:
        """Yield its ports one by one."""
        return (self.at(port) for port in self.ports)


@dataclass(frozen=True, slots=True)
class Seat:
    """What one bound socket a port keeps: a place, or the same ports on every IPv4 and IPv6 address.

    The latter are two places and half as many descriptors, of which a process may have but so many.
    """

    places: tuple[Place, ...]

    @property
    def protocol(self) -> Protocol:
        """Return the protocol of all its places."""
        return self.places[0].protocol

    @property
    def ports(self) -> range:
        """Return the ports of each of its places."""
        return self.places[0].ports


def seats_of(places: Iterable[Place]) -> tuple[Seat, ...]:
    """Return the sockets that keep places."""
    wanted = dict.fromkeys(places)
    found = []
    for place in wanted:
        pair = tuple(replace(place, address=address) for address in (EVERY_IPV4, EVERY_IPV6))
        if not place.address.is_unspecified or not all(half in wanted for half in pair):
            found.append(Seat((place,)))
        elif place == pair[0]:
            found.append(Seat(pair))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Target:
    """A port of a sandbox, or the first in a row; ``allow`` are the sources that may connect, None is everybody.

    They are of the family of the place that leads here.
    """

    address: Address
    port: int
    allow: tuple[Prefix, ...] | None = None

    def admits(self, source: Address) -> bool:
        """Tell whether somebody at an address may connect."""
        return self.allow is None or any(source in prefix for prefix in self.allow)

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Want:
    """A checked request: ``count`` consecutive ports, the same on every address.

    They lie within ``first`` to ``last``; without these any automatic port will do. ``field`` is where it was asked;
    it ``stands`` when the sandbox had it before.
    """

    protocol: Protocol
    addresses: tuple[Address, ...]
    container_port: int
    count: int = 1
    first: int | None = None
    last: int | None = None
    allow: tuple[Prefix, ...] | None = None
    stands: bool = field(default=False, compare=False)
    field: str = field(default="", compare=False)

    @property
    def fixed(self) -> bool:
        """Whether there is only one way to satisfy it."""
        return self.first is not None and self.last is not None and self.last - self.first + 1 == self.count

    @property
    def automatic(self) -> bool:
        """Whether any port will do."""
        return self.first is None

    def places(self, first: int) -> tuple[Place, ...]:
        """Return its places if the first host port is this one, one an address."""
        return tuple(Place(self.protocol, address, first, self.count) for address in self.addresses)


def default_addresses(*, ipv6: bool) -> tuple[Address, ...]:
    """Return what a request without a host address means."""
    return (EVERY_IPV4, EVERY_IPV6) if ipv6 else (EVERY_IPV4,)


def read_requests(requests: Sequence[PortRequest], *, ipv6: bool = True) -> tuple[Want, ...]:
    """Check requests and say what they want; ``ipv6`` tells whether the host has it.

    Raises:
        Invalid: ranges that contradict one another; every fault of every request.

    """
    faults = [fault for place, request in enumerate(requests) for fault in _faults(f"ports[{place}]", request)]
    if faults:
        raise Invalid.of(faults)
    return tuple(_want(f"ports[{place}]", request, ipv6=ipv6) for place, request in enumerate(requests))


def read_bound(bound: Iterable[PortBinding]) -> tuple[Want, ...]:
    """Say what bindings that stood before want: their own host ports. Routed ones have none and are left out."""
    return tuple(
        Want(
            protocol=binding.protocol,
            addresses=(binding.host_ip,),
            container_port=binding.container_port,
            count=_last(binding.container_port_end, binding.container_port) - binding.container_port + 1,
            first=binding.host_port,
            last=_last(binding.host_port_end, binding.host_port),
            field=f"bound[{place}]",
            allow=None if binding.allow is msgspec.UNSET else tuple(binding.allow),
            stands=True,
        )
        for place, binding in enumerate(bound)
        if binding.host_port is not None
    )


def _last(end: int | msgspec.UnsetType, first: int) -> int:
    return first if end is msgspec.UNSET else end


def _want(at: str, request: PortRequest, *, ipv6: bool) -> Want:
    count = (request.container_port_end or request.container_port) - request.container_port + 1
    addresses = default_addresses(ipv6=ipv6) if request.host_ip is None else (_plain(request.host_ip),)
    first = request.host_port or None
    last = None if first is None else request.host_port_end or first
    allow = None if request.allow is None else tuple(request.allow)
    return Want(request.protocol, addresses, request.container_port, count, first, last, allow, field=at)


def _plain(address: Address) -> Address:
    """Read an IPv4 address written as an IPv6 one as what it is."""
    return (address.version == 6 and address.ipv4_mapped) or address


def _faults(at: str, request: PortRequest) -> Iterator[Fault]:
    first, last = request.container_port, request.container_port_end or request.container_port
    host_first, host_last = request.host_port or 0, request.host_port_end or request.host_port or 0
    if request.host_ip is not None and request.host_ip.is_multicast:
        yield Fault(
            field=f"{at}.host_ip", value=str(request.host_ip), reason=f"{request.host_ip} is a group's address"
        )
    if last < first:
        reason = f"the range {first}-{last} ends before it begins"
        yield Fault(field=f"{at}.container_port_end", value=last, reason=reason)
    if host_first == 0 and host_last:
        reason = f"a range that ends at {host_last} needs a host_port to begin at"
        yield Fault(field=f"{at}.host_port_end", value=host_last, reason=reason)
    elif host_last < host_first:
        reason = f"the range {host_first}-{host_last} ends before it begins"
        yield Fault(field=f"{at}.host_port_end", value=host_last, reason=reason)
    elif host_first and host_last - host_first < last - first:
        size, host_size = last - first + 1, host_last - host_first + 1
        reason = f"{size} container ports do not fit into {host_size} host port{'s' * (host_size > 1)}"
        yield Fault(field=f"{at}.host_port_end", value=host_last, reason=reason)


def _of_family(allow: tuple[Prefix, ...] | None, version: int) -> tuple[Prefix, ...] | None:
    """Return the sources of a family, in order and none within another: sets of the firewall hold no overlaps."""
    if allow is None:
        return None
    found: tuple[Prefix, ...]
    if version == 4:
        found = tuple(collapse_addresses(each for each in allow if isinstance(each, IPv4Network)))
    else:
        found = tuple(collapse_addresses(each for each in allow if isinstance(each, IPv6Network)))
    return found


@dataclass(frozen=True)
class Publication:
    """A sandbox's ports as bound: of each want the first host port, and where everything leads.

    At least one address is there where there are wants.
    """

    label: str
    wants: tuple[Want, ...]
    ports: tuple[int, ...]
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    targets: Mapping[Place, Target] = field(init=False, compare=False)
    seats: tuple[Seat, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", dict(self._lead()))
        object.__setattr__(self, "seats", seats_of(self.targets))

    def _lead(self) -> Iterator[tuple[Place, Target]]:
        for want, first in zip(self.wants, self.ports, strict=True):
            allow = {version: _of_family(want.allow, version) for version in (4, 6)}
            for place in want.places(first):
                version = place.address.version
                yield place, Target(self._address(version), want.container_port, allow[version])

    def _address(self, version: int) -> Address:
        address: Address | None = self.ipv4 or self.ipv6 if version == 4 else self.ipv6 or self.ipv4
        assert address is not None
        return address

    def bindings(self) -> list[PortBinding]:
        """Show the ports as bound, in the order of the wants, one entry a want and address."""
        return [
            PortBinding(
                container_port=want.container_port,
                protocol=want.protocol,
                host_ip=address,
                host_port=first,
                container_ip=self._address(address.version),
                container_port_end=want.container_port + want.count - 1 if want.count > 1 else msgspec.UNSET,
                host_port_end=first + want.count - 1 if want.count > 1 else msgspec.UNSET,
                allow=msgspec.UNSET if want.allow is None else list(want.allow),
            )
            for want, first in zip(self.wants, self.ports, strict=True)
            for address in want.addresses
        ]
