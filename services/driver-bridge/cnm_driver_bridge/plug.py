"""An endpoint's link: the steps that put it into its sandbox, or mend one that is there.

An attach is three sends: make the pair with its far end already in the sandbox, finish the near end, and one batch
inside the sandbox. The near end gets its alias after it was made (the kernel ignores one at birth), so the pair is
born in a link group of ours: one of that group without an alias is what a crash left.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cnm.errors import Fault, Invalid
from cnm.kernel.rtnl import AddAddress, AddRoute, CreateVeth, Link, Route, SetBridgePort, SetLink, Step
from cnm.messages.bridge import Attachment, BridgeNetwork
from cnm.messages.endpoint import StaticRoute
from cnm.types import Address, Interface
from cnm_driver_bridge.bridge import mark

GROUP = 0x434E4D
LOOPBACK = 1
NAME_DIGITS = 7
PART_PATTERN = re.compile(r"^[A-Za-z0-9_-]+$")


def host_names(endpoint_id: str) -> Iterator[str]:
    """Yield the names that the host's end may have; a later one only where those before are another's."""
    for place in range(0, len(endpoint_id) - NAME_DIGITS + 1, NAME_DIGITS):
        yield f"veth{endpoint_id[place : place + NAME_DIGITS]}"


def sysctls(attachment: Attachment) -> dict[str, str]:
    """Return the endpoint's settings by their path under /proc/sys, the interface's name filled in.

    The name is filled in after the dots are gone: it may hold dots itself.

    Raises:
        Invalid: a name is not ``net.….IFNAME.…``; it lists all faults.

    """
    found: dict[str, str] = {}
    faults: list[Fault] = []
    for name, value in attachment.sysctls.items():
        parts = name.split(".")
        if parts[0] != "net" or "IFNAME" not in parts or not all(PART_PATTERN.match(part) for part in parts):
            reason = f"{name!r} is not a setting of an interface, such as net.ipv4.conf.IFNAME.log_martians"
            faults.append(Fault(field="attachment.sysctls", value=name, reason=reason))
            continue
        found["/".join(attachment.ifname if part == "IFNAME" else part for part in parts)] = value
    if faults:
        raise Invalid.of(faults)
    return found


def ipv6_setting(attachment: Attachment) -> str:
    """Return the path of the setting that turns IPv6 off on the sandbox's interface."""
    return f"net/ipv6/conf/{attachment.ifname}/disable_ipv6"


def wanted_addresses(attachment: Attachment) -> tuple[Interface, ...]:
    """Return the addresses to give: no IPv6 one where the endpoint's own settings turn IPv6 off."""
    off = sysctls(attachment).get(ipv6_setting(attachment)) == "1"
    return tuple(address for address in attachment.addresses if address.version == 4 or not off)


def needs_ipv6(attachment: Attachment) -> bool:
    """Tell whether IPv6 must be on at the sandbox's interface."""
    return any(address.version == 6 for address in wanted_addresses(attachment))


def create(attachment: Attachment, name: str, *, bridge: int, namespace_fd: int) -> CreateVeth:
    """Return the step that makes the pair; the host's end stays down until `plan_host` has named it."""
    return CreateVeth(
        name,
        peer_name=attachment.ifname,
        peer_namespace_fd=namespace_fd,
        peer_mac=attachment.mac_address.lower(),
        mtu=attachment.network.mtu,
        master=bridge,
        group=GROUP,
        up=False,
    )


def plan_host(endpoint_id: str, network: BridgeNetwork, link: Link, *, bridge: int) -> tuple[Step, ...]:
    """Plan what the host's end still needs.

    It has no IPv6 of its own: each end's router solicitations and group reports are flooded to all others.
    """
    steps: list[Step] = []
    if link.alias != mark(endpoint_id):
        steps.append(SetLink(link.index, alias=mark(endpoint_id), address_mode="none"))
    if link.master != bridge:
        steps.append(SetLink(link.index, master=bridge))
    if link.isolated is network.icc:
        steps.append(SetBridgePort(link.index, isolated=not network.icc))
    if network.mtu is not None and link.mtu != network.mtu:
        steps.append(SetLink(link.index, mtu=network.mtu))
    if not link.up:
        steps.append(SetLink(link.index, up=True))
    return tuple(steps)


@dataclass(frozen=True, slots=True)
class Inside:
    """What stands in the sandbox: the endpoint's interface, its addresses, default and other routes over it."""

    link: Link
    loopback_up: bool = False
    addresses: frozenset[Interface] = frozenset()
    defaults: frozenset[Address] = frozenset()
    routes: frozenset[StaticRoute] = frozenset()


def newborn(attachment: Attachment, index: int) -> Inside:
    """Return what stands in a sandbox whose interface was made this moment; nobody need look."""
    mtu = attachment.network.mtu or 0
    return Inside(Link(index, attachment.ifname, mac=attachment.mac_address.lower(), mtu=mtu))


def plan_inside(attachment: Attachment, found: Inside) -> tuple[Step, ...]:
    """Plan what the sandbox's end still needs: up, addresses, default routes."""
    index = found.link.index
    steps: list[Step] = []
    if not found.loopback_up:
        steps.append(SetLink(LOOPBACK, up=True))
    if found.link.mac != attachment.mac_address.lower():
        steps.append(SetLink(index, mac=attachment.mac_address.lower()))
    if attachment.network.mtu is not None and found.link.mtu != attachment.network.mtu:
        steps.append(SetLink(index, mtu=attachment.network.mtu))
    if not found.link.up:
        steps.append(SetLink(index, up=True))
    wanted = wanted_addresses(attachment)
    steps += (AddAddress(index, address, exists_ok=True) for address in wanted if address not in found.addresses)
    steps += (
        AddRoute(gateway=gateway, index=index, replace=True, onlink=not _reaches(wanted, gateway))
        for gateway in attachment.default_via
        if gateway not in found.defaults and (gateway.version == 4 or needs_ipv6(attachment))
    )
    steps += (
        AddRoute(route.destination, gateway=route.gateway, index=index, replace=True)
        for route in attachment.routes
        if route not in found.routes and (route.destination.version == 4 or needs_ipv6(attachment))
    )
    return tuple(steps)


def overlapping(attachment: Attachment, routes: Iterable[Route]) -> tuple[Interface, Route] | None:
    """Return an address of an endpoint whose network overlaps a route of the namespace, with that route; or None."""
    own = [address for address in attachment.addresses if not address.is_link_local]
    for route in routes:
        for address in own:
            other = route.destination
            if other.version == address.version and other.prefixlen and other.overlaps(address.network):
                return address, route
    return None


def _reaches(addresses: tuple[Interface, ...], gateway: Address) -> bool:
    return gateway.is_link_local or any(
        address.version == gateway.version and gateway in address.network for address in addresses
    )
