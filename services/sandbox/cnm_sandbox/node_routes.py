"""What the node itself uses: prefixes that no pool may overlap, and the address where other nodes reach it."""

from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network

from cnm.kernel.address import LinkAddress
from cnm.kernel.link import Link
from cnm.kernel.route import Route
from cnm.kernel.rtnl import Rtnl
from cnm.messages.ipam import NodeRoute
from cnm.prefix import overlap
from cnm.types import Address, Prefix

MARK = "cnm:"
RTN_UNICAST = 1
SHORTEST = {4: 8, 6: 7}
"""Routes to larger prefixes are default routes in pieces, as VPNs set them (0.0.0.0/1, 128.0.0.0/1)."""
NAME_SERVER = "name server"
MOST = 4096
PRIVATE: tuple[Prefix, ...] = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv6Network("fc00::/7"),
)


def used(routes: Iterable[Route], links: Iterable[Link], servers: Iterable[Address]) -> list[NodeRoute]:
    """Return the prefixes in use, sorted, IPv4 first, each once for a link that leads there.

    Default routes are none, nor are routes on links that carry our mark; link-local and loopback prefixes belong to
    every node.
    """
    by_index = {link.index: link for link in links}
    found: dict[tuple[Prefix, str | None], NodeRoute] = {}
    for route in routes:
        link = by_index.get(route.index)
        if counts(route) and not (link is not None and is_ours(link)):
            found.setdefault((route.destination, link.name if link is not None else None), _shown(route, link))
    for server in servers:
        prefix = _host_prefix(server)
        if not _is_everywhere(prefix):
            found.setdefault((prefix, None), NodeRoute(prefix=prefix, by=NAME_SERVER))
    return sorted(fitting(found.values()), key=_order)


def fitting(found: Collection[NodeRoute]) -> Collection[NodeRoute]:
    """Return as many of the prefixes in use as a message has room for.

    Of more than ``MOST`` only private ones count, for no others are predefined pools by default; if these are still
    too many, as few larger ones around them as it takes.
    """
    if len(found) <= MOST:
        return found
    found = [each for each in found if any(overlap(each.prefix, private) for private in PRIVATE)]
    for bits in (28, 24, 20, 16, 12, 8):
        if len(found) <= MOST:
            break
        found = {(each.prefix, each.device): each for each in (_around(each, bits) for each in found)}.values()
    return found


def _around(used: NodeRoute, bits: int) -> NodeRoute:
    """Return a prefix in use, or that of so many bits around it; four times as many of IPv6."""
    most = bits if used.prefix.version == 4 else bits * 4
    if used.prefix.prefixlen <= most:
        return used
    return NodeRoute(prefix=used.prefix.supernet(new_prefix=most), by="several routes", device=used.device)


def counts(route: Route) -> bool:
    """Tell whether a route says that somebody uses its prefix, unless it is on a link of ours."""
    destination = route.destination
    short = destination.prefixlen < SHORTEST[destination.version]
    return route.kind == RTN_UNICAST and not short and not _is_everywhere(destination)


def is_ours(link: Link) -> bool:
    """Tell whether a link carries our mark."""
    return link.alias.startswith(MARK)


def _shown(route: Route, link: Link | None) -> NodeRoute:
    via = f" via {route.gateway}" if route.gateway is not None else ""
    on = f" on {link.name}" if link is not None else ""
    return NodeRoute(prefix=route.destination, by=f"route{via}{on}", device=link.name if link is not None else None)


def _host_prefix(address: Address) -> Prefix:
    if isinstance(address, IPv6Address):
        return IPv6Network(int(address))  # as a number it has no zone
    return IPv4Network(address)


def _is_everywhere(prefix: Prefix) -> bool:
    return prefix.is_loopback or prefix.is_multicast or (prefix.version == 6 and prefix.is_link_local)


def _order(used: NodeRoute) -> tuple[int, int, int, str]:
    prefix = used.prefix
    return prefix.version, int(prefix.network_address), prefix.prefixlen, used.device or ""


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


def read_used(servers: Iterable[Address]) -> tuple[list[NodeRoute], frozenset[int]]:
    """Return what the namespace of this thread uses, of all its routing tables, and the links it is on; it blocks."""
    with Rtnl.open() as rtnl:
        links = rtnl.links()
        found = used(rtnl.routes(every_table=True), links, servers)
    devices = {route.device for route in found}
    return found, frozenset(link.index for link in links if link.name in devices)


def read_strangers(indices: Iterable[int]) -> set[int]:
    """Return those of some links of the namespace of this thread that are not ours, or are gone; it blocks."""
    with Rtnl.open() as rtnl:
        return {index for index in indices if (link := rtnl.link(index)) is None or not is_ours(link)}


def read_address() -> Address | None:
    """Return the address by which the namespace of this thread is reached; it blocks."""
    with Rtnl.open() as rtnl:
        return address(rtnl.routes(), rtnl.addresses())
