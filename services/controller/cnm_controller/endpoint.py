"""Decides about endpoints: what may be asked of one, and what a new one is."""

import re
import secrets
from datetime import datetime

from cnm.errors import Fault, Forbidden, Invalid
from cnm.messages.endpoint import CreateEndpoint, ServiceBackend
from cnm.messages.sandbox import ConnectSandbox
from cnm.types import Address, canonical_mac
from cnm_controller.documents import EndpointBody, NetworkBody
from cnm_controller.options import ENDPOINT_IFNAME, ENDPOINT_SYSCTLS, as_text

_SYSCTL = re.compile(r"^net\.[a-z0-9]+\.[a-z0-9_]+\.(IFNAME|ifname)\.[a-z0-9_]+$")


def random_mac() -> str:
    """Make a random MAC address that is locally administered and no group's."""
    first, *rest = secrets.token_bytes(6)
    return ":".join(f"{byte:02x}" for byte in ((first & 0xFC) | 0x02, *rest))


def decide_endpoint(
    command: CreateEndpoint | ConnectSandbox, network: NetworkBody, *, id: str, name: str, now: datetime
) -> EndpointBody:
    """Check a request for an endpoint and return it, its addresses still to be had.

    Raises:
        Invalid: an address of a family or pool that the network has not, a group's MAC, an unknown option.
        Forbidden: a fixed address or MAC on a network that hands none out.
    """
    options = as_text(command.options)
    faults: list[Fault] = []
    for field in ("ipv4_address", "ipv6_address"):
        wanted: Address | None = getattr(command, field)
        if wanted is not None:
            _check_address(field, wanted, network, faults)
    if command.mac_address is not None and int(command.mac_address[:2], 16) & 1:
        reason = f"{command.mac_address} is a group's address, an interface needs one whose first byte is even"
        faults.append(Fault(field="mac_address", value=command.mac_address, reason=reason))
    sysctls = _sysctls(command, options, faults)
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
        mac_address=canonical_mac(command.mac_address) if command.mac_address else random_mac(),
        aliases=list(dict.fromkeys(command.aliases)),
        labels=getattr(command, "labels", {}),
        options=options,
        service=service,
        sysctls=sysctls,
    )


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
