"""Decides about endpoints: what may be asked of one, and what a new one is."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from cnm.errors import Fault, Forbidden, Invalid
from cnm.messages.endpoint import CreateEndpoint, ServiceBackend, StaticRoute
from cnm.messages.sandbox import ConnectSandbox
from cnm.types import Address, canonical_mac
from cnm_controller.configuration import refuse_endpoints
from cnm_controller.documents import EndpointBody, NetworkBody
from cnm_controller.options import ENDPOINT_IFNAME, ENDPOINT_SYSCTLS, as_text
from cnm_controller.specs import LINK_LOCAL

_SYSCTL = re.compile(r"^net\.[a-z0-9]+\.[a-z0-9_]+\.(IFNAME|ifname)\.[a-z0-9_]+$")


def mac_of(network_id: str, name: str) -> str:
    """Return the MAC address of an endpoint that asks for none: locally administered, and no group's.

    It is as random as the network's id, and the same when an endpoint of the same name is made again: that one gets
    its former addresses too, so that what neighbours know of it stays true (ADR 18).
    """
    first, *rest = hashlib.blake2s(f"{network_id} {name}".encode(), digest_size=6).digest()
    return ":".join(f"{byte:02x}" for byte in ((first & 0xFC) | 0x02, *rest))


def decide_endpoint(
    command: CreateEndpoint | ConnectSandbox, network: NetworkBody, *, id: str, name: str, now: datetime
) -> EndpointBody:
    """Check a request for an endpoint and return it, its addresses still to be had.

    Raises:
        Invalid: an address of a family or pool that the network has not, a group's MAC, an unknown option.
        Forbidden: the network only holds a configuration; a fixed address or MAC on a network that hands none out.
    """
    refuse_endpoints(network)
    options = as_text(command.options)
    faults: list[Fault] = []
    for field in ("ipv4_address", "ipv6_address"):
        wanted: Address | None = getattr(command, field)
        if wanted is not None:
            _check_address(field, wanted, network, faults)
    if command.mac_address is not None and int(command.mac_address[:2], 16) & 1:
        reason = f"{command.mac_address} is a group's address, an interface needs one whose first byte is even"
        faults.append(Fault(field="mac_address", value=command.mac_address, reason=reason))
    faults += link_local_faults(command.link_local_addresses, network)
    faults += route_faults(command.routes, network)
    sysctls = _sysctls(command, options, faults)
    if turns_ipv6_off(sysctls) and command.ipv6_address is not None:
        reason = f"{command.ipv6_address} needs IPv6, which the endpoint's own sysctls turn off"
        faults.append(Fault(field="ipv6_address", value=str(command.ipv6_address), reason=reason))
    faults += [
        Fault(field=f"options.{option}", value=value, reason=f"unknown endpoint option {option!r}")
        for option, value in options.items()
        if option not in (ENDPOINT_IFNAME, ENDPOINT_SYSCTLS)
    ]
    if faults:
        raise Invalid.of(faults)
    service: ServiceBackend | None = getattr(command, "service", None)
    return EndpointBody(
        id=id,
        name=name,
        network_id=network.id,
        created=now,
        mac_address=canonical_mac(command.mac_address) if command.mac_address else mac_of(network.id, name),
        aliases=list(dict.fromkeys(command.aliases)),
        labels=getattr(command, "labels", {}),
        options=options,
        service=service,
        sysctls=sysctls,
        link_local=list(dict.fromkeys(command.link_local_addresses)),
        routes=list(dict.fromkeys(command.routes)),
        links=command.links,
        ready=command.ready,
    )


def turns_ipv6_off(sysctls: Mapping[str, str]) -> bool:
    """Say whether an endpoint's own settings turn IPv6 off on its interface: it gets no address then (modern 4)."""
    return any(sysctls.get(f"net.ipv6.conf.{word}.disable_ipv6") == "1" for word in ("IFNAME", "ifname"))


def link_local_faults(addresses: Sequence[Address], network: NetworkBody) -> Iterator[Fault]:
    """Yield what cannot be link-local addresses of an endpoint (inventory 33: IPv4 /16, IPv6 /64)."""
    for index, address in enumerate(addresses):
        where, within = f"link_local_addresses[{index}]", LINK_LOCAL[address.version]
        usable = int(within.network_address) < int(address) < int(within.broadcast_address)
        if not usable:
            reason = f"{address} is not a link-local address: inside {within}, and neither its first nor its last"
            yield Fault(field=where, value=str(address), reason=reason)
        elif network.driver != "bridge":
            reason = f"network {network.name!r} of driver {network.driver!r} has no interface to put {address} on"
            yield Fault(field=where, value=str(address), reason=reason)
        elif address.version == 6 and not network.enable_ipv6:
            reason = f"{address} needs IPv6, which network {network.name!r} has not"
            yield Fault(field=where, value=str(address), reason=reason)


def route_faults(routes: Sequence[StaticRoute], network: NetworkBody) -> Iterator[Fault]:
    """Yield what cannot be routes by an endpoint: next hops have to be on its network, destinations beyond it."""
    subnets = [pool.subnet for pool in network.pools]
    for index, route in enumerate(routes):
        where, destination, gateway = f"routes[{index}]", route.destination, route.gateway
        shown = str(destination)
        own = next(
            (each for each in subnets if each.version == destination.version and each.overlaps(destination)), None
        )
        if network.driver != "bridge":
            reason = f"network {network.name!r} of driver {network.driver!r} has no interface to route by"
            yield Fault(field=f"{where}.destination", value=shown, reason=reason)
        elif destination.prefixlen == 0:
            reason = "the default route is the gateway's affair: see gw_priority"
            yield Fault(field=f"{where}.destination", value=shown, reason=reason)
        elif own is not None:
            reason = f"{destination} overlaps {own} of network {network.name!r} itself"
            yield Fault(field=f"{where}.destination", value=shown, reason=reason)
        elif not any(each.version == destination.version for each in subnets):
            reason = f"{destination} needs IPv{destination.version}, which network {network.name!r} has not"
            yield Fault(field=f"{where}.destination", value=shown, reason=reason)
        elif gateway is not None and gateway.version != destination.version:
            reason = f"{gateway} is of another family than {destination}"
            yield Fault(field=f"{where}.gateway", value=str(gateway), reason=reason)
        elif gateway is not None and not any(gateway in each for each in subnets):
            reason = f"{gateway} is not on network {network.name!r}, which has {', '.join(map(str, subnets))}"
            yield Fault(field=f"{where}.gateway", value=str(gateway), reason=reason)


def _check_address(field: str, wanted: Address, network: NetworkBody, faults: list[Fault]) -> None:
    if network.driver != "bridge":
        raise Forbidden(f"{field}: network {network.name!r} of driver {network.driver!r} hands out no addresses")
    enabled = network.enable_ipv4 if wanted.version == 4 else network.enable_ipv6
    if not enabled:
        reason = f"{wanted} needs IPv{wanted.version}, which network {network.name!r} has not"
        faults.append(Fault(field=field, value=str(wanted), reason=reason))
    subnets = [pool.subnet for pool in network.pools if pool.subnet.version == wanted.version]
    if enabled and subnets and not any(wanted in subnet for subnet in subnets):
        shown = ", ".join(map(str, subnets))
        reason = f"{wanted} is not inside the pool {shown} of network {network.name!r}"
        faults.append(Fault(field=field, value=str(wanted), reason=reason))


def _sysctls(
    command: CreateEndpoint | ConnectSandbox, options: dict[str, str], faults: list[Fault]
) -> dict[str, str]:
    found: dict[str, str] = dict(getattr(command, "sysctls", {}))
    for entry in filter(None, options.get(ENDPOINT_SYSCTLS, "").split(",")):
        name, separator, value = entry.strip().partition("=")
        if separator:
            found[name] = value
        else:
            reason = f"{entry!r} is not of the form net.X.Y.IFNAME.Z=value"
            faults.append(Fault(field=f"options.{ENDPOINT_SYSCTLS}", value=entry, reason=reason))
    faults += [sysctl_fault(name, value) for name, value in found.items() if not _SYSCTL.match(name)]
    return found


def sysctl_fault(name: str, value: str) -> Fault:
    """Return the fault of an endpoint's sysctl that does not name its interface."""
    reason = f"{name!r} is not of the form net.X.Y.IFNAME.Z"
    return Fault(field=f"sysctls.{name}", value=value, reason=reason)


def check_join_sysctls(sysctls: dict[str, str]) -> None:
    """Refuse sysctls of a join that do not name the interface.

    Raises:
        Invalid: naming each of them.
    """
    faults = [sysctl_fault(name, value) for name, value in sysctls.items() if not _SYSCTL.match(name)]
    if faults:
        raise Invalid.of(faults)
