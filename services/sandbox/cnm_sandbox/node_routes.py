"""What the node itself uses: prefixes that no pool may overlap, and the address where other nodes reach it."""

from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network

from cnm.kernel.address import LinkAddress
from cnm.kernel.link import Link
from cnm.kernel.route import Route
from cnm.kernel.rtnl import Rtnl
from cnm.types import Address, Prefix

MARK = "cnm:"
RTN_UNICAST = 1


def taken(routes: Iterable[Route], ours: Collection[int], servers: Iterable[Address]) -> list[Prefix]:
    """Return the prefixes in use, sorted, IPv4 first.

    Default routes are none, nor are routes on ``ours``, the indices of links that CNM made; link-local and
    loopback prefixes belong to every node.
    """
    found: set[Prefix] = {
        route.destination
        for route in routes
        if route.kind == RTN_UNICAST and route.destination.prefixlen and route.index not in ours
    }
    found |= {_host_prefix(server) for server in servers}
    return sorted((prefix for prefix in found if not _is_everywhere(prefix)), key=_order)


def _host_prefix(address: Address) -> Prefix:
    if isinstance(address, IPv6Address):
        return IPv6Network(int(address))  # as a number it has no zone
    return IPv4Network(address)


def _is_everywhere(prefix: Prefix) -> bool:
    return prefix.is_loopback or prefix.is_multicast or (prefix.version == 6 and prefix.is_link_local)


def _order(prefix: Prefix) -> tuple[int, int, int]:
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def address(routes: Sequence[Route], addresses: Sequence[LinkAddress]) -> Address | None:
    """Return the address of the default route: its source, else the first global one of its interface."""
    defaults = [route for route in routes if not route.destination.prefixlen and route.kind == RTN_UNICAST]
    for route in sorted(defaults, key=lambda each: (each.destination.version, each.metric)):
        if route.source is not None:
            return route.source
        found = _first_address(addresses, route)
        if found is not None:
            return found
    return None


def _first_address(addresses: Sequence[LinkAddress], route: Route) -> Address | None:
    for each in addresses:
        candidate = each.interface.ip
        same = each.index == route.index and candidate.version == route.destination.version
        if same and each.scope == "global":
            return candidate
    return None


def ours(links: Iterable[Link]) -> frozenset[int]:
    """Return the indices of the links that carry our mark."""
    return frozenset(link.index for link in links if link.alias.startswith(MARK))


def read_taken(servers: Iterable[Address]) -> list[Prefix]:
    """Return what the namespace of this thread uses; it blocks."""
    with Rtnl.open() as rtnl:
        return taken(rtnl.routes(), ours(rtnl.links()), servers)


def read_address() -> Address | None:
    """Return the address by which the namespace of this thread is reached; it blocks."""
    with Rtnl.open() as rtnl:
        return address(rtnl.routes(), rtnl.addresses())
