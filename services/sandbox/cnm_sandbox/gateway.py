"""The default routes of a sandbox: one a family, exactly those that were told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from cnm.kernel.route import AddRoute, DeleteRoute, Route
from cnm.messages.namespace import Gateway

RTN_UNICAST = 1
RTPROT_KERNEL, RTPROT_RA = 2, 9
EVERYWHERE = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}
METRIC = {4: 0, 6: 1024}  # what the kernel gives a route that names none

Step = AddRoute | DeleteRoute


@dataclass(frozen=True)
class Hop:
    """A gateway whose interface has been found; ``index`` is the interface's."""

    gateway: Gateway
    index: int


def find(gateways: Sequence[Gateway], indices: Mapping[str, int]) -> tuple[tuple[Hop, ...], tuple[Gateway, ...]]:
    """Split gateways into those whose interface is there, and those still without."""
    there = tuple(Hop(gateway, indices[gateway.ifname]) for gateway in gateways if gateway.ifname in indices)
    return there, tuple(gateway for gateway in gateways if gateway.ifname not in indices)


def plan(hops: Sequence[Hop], routes: Sequence[Route], *, versions: Sequence[int] = (4, 6)) -> tuple[Step, ...]:
    """Return the steps from the routes that stand to the default routes wanted, of these IP versions.

    A route is replaced, not deleted and added, so that the sandbox is never without. Routes that the kernel made
    by itself or heard from a router are left alone.
    """
    steps: list[Step] = []
    for version in versions:
        wanted = next((hop for hop in hops if hop.gateway.address.version == version), None)
        standing = [route for route in routes if _is_default(route, version)]
        steps.extend(_change(wanted, standing, version))
    return tuple(steps)


def _is_default(route: Route, version: int) -> bool:
    return (
        route.destination == EVERYWHERE[version]
        and route.kind == RTN_UNICAST
        and route.protocol not in (RTPROT_KERNEL, RTPROT_RA)
    )


def _change(wanted: Hop | None, standing: Sequence[Route], version: int) -> list[Step]:
    if wanted is None:
        return [_delete(route) for route in standing]
    address, index = wanted.gateway.address, wanted.index
    right = next((route for route in standing if route.gateway == address and route.index == index), None)
    if right is not None:
        return [_delete(route) for route in standing if route is not right]
    replaced = next((route for route in standing if route.metric == METRIC[version]), None)
    return [
        AddRoute(gateway=address, index=index, replace=True),
        *(_delete(route) for route in standing if route is not replaced),
    ]


def _delete(route: Route) -> DeleteRoute:
    return DeleteRoute(
        route.destination, gateway=route.gateway, index=route.index or None, metric=route.metric or None
    )
