"""A network's bridge on a node: what should stand, what was found, and the steps from one to the other.

What is not there yet has no index, so a plan for a missing bridge makes only the bridge; the plan after it gives it
its addresses. Settings and addresses follow `drivers/bridge` (section 25 of the inventory), with differences that
are on purpose: duplicate address detection is off on the bridge (the host's link-local address would be tentative
for two seconds and forwarded IPv6 fail silently), and frames within a bridge do not visit the IP firewall (it
breaks hairpin).
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Interface
from typing import Literal

from cnm.errors import Conflict, Fault, Invalid
from cnm.kernel.rtnl import AddAddress, CreateBridge, DeleteAddress, DeleteLink, Link, SetLink
from cnm.messages.bridge import BridgeNetwork
from cnm.types import Interface

MARK = "cnm:"
NAME_PATTERN = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}$")
ROUTER_LINK_LOCAL = IPv6Interface("fe80::1/64")

ADDRESS_PROTOCOL = 0x43
"""Marks the addresses that we give to a user's bridge, so that they go with the network, and no others."""

FORWARDING_V4 = "net/ipv4/ip_forward"
FORWARDING_V6 = ("net/ipv6/conf/all/forwarding", "net/ipv6/conf/default/forwarding")
BRIDGE_FILTERS = tuple(f"net/bridge/bridge-nf-call-{family}tables" for family in ("ip", "ip6", "arp"))


def mark(identity: str) -> str:
    """Return the alias of a link that we make for a network or an endpoint."""
    return MARK + identity


def marked(link: Link) -> str | None:
    """Return the id of the network or endpoint for which we made a link, or None when it is not ours."""
    identity = link.alias.removeprefix(MARK)
    return identity if identity != link.alias and re.fullmatch(r"[0-9a-f]{64}", identity) else None


def bridge_mac(network_id: str) -> str:
    """Derive the bridge's MAC from its network.

    A bridge without an address of its own takes that of its lowest port, and neighbours lose it when ports change.
    """
    return "02:42:" + ":".join(network_id[place : place + 2] for place in range(0, 8, 2))


def check(network: BridgeNetwork) -> None:
    """Refuse what no bridge could be.

    Raises:
        Invalid: the name, a subnet or an address cannot be; it lists all faults.

    """
    faults = list(_faults(network))
    if faults:
        raise Invalid.of(faults)


def _faults(network: BridgeNetwork) -> Iterator[Fault]:
    if not NAME_PATTERN.fullmatch(network.bridge) or network.bridge in (".", ".."):
        reason = f"{network.bridge!r} is not an interface name: at most 15 letters, digits, '_', '.', '-'"
        yield Fault(field="network.bridge", value=network.bridge, reason=reason)
    if network.mtu is not None and not 68 <= network.mtu <= 65535:
        yield Fault(field="network.mtu", value=network.mtu, reason=f"{network.mtu} is not within 68 and 65535")
    for place, address in enumerate(network.bridge_addresses):
        if address.version == 6 and not network.enable_ipv6:
            reason = f"{address} is an IPv6 address, and enable_ipv6 is false"
            yield Fault(field=f"network.bridge_addresses[{place}]", value=str(address), reason=reason)


@dataclass(frozen=True, slots=True)
class Setting:
    """Write one setting under /proc/sys; its undo writes what was there.

    One that is not ``required`` is left as it is where the kernel has none, or forbids it.
    """

    name: str
    value: str
    previous: str | None = None
    required: bool = True

    def __str__(self) -> str:
        return f"sysctl -w {self.name.replace('/', '.')}={self.value}"


def node_settings(steps: Iterable[str], bridge: str) -> list[str]:
    """Return which settings of the node itself some steps wrote, such as ``net.ipv4.ip_forward=1``."""
    written = (step.removeprefix("sysctl -w ") for step in steps if step.startswith("sysctl -w "))
    return [each for each in written if f".conf.{bridge}." not in each]


def opens_forwarding(setting: Setting) -> int | None:
    """Return the IP version that a setting makes the node forward where it did not, or None."""
    if setting.value != "1" or setting.previous != "0":
        return None
    return {FORWARDING_V4: 4, FORWARDING_V6[0]: 6}.get(setting.name)


BridgeStep = CreateBridge | SetLink | AddAddress | DeleteLink | DeleteAddress | Setting


@dataclass(frozen=True, slots=True)
class BridgeFound:
    """What stands; ``given`` are addresses that we gave a user's, ``settings`` those that exist, by name."""

    link: Link | None = None
    addresses: frozenset[Interface] = frozenset()
    given: frozenset[Interface] = frozenset()
    settings: Mapping[str, str] = field(default_factory=dict)


def settings(network: BridgeNetwork, *, ours: bool) -> tuple[Setting, ...]:
    """Say which settings the network needs, those of the bridge itself last.

    A bridge that a user made keeps its own, but for what carrying the network takes.
    """
    wanted = [Setting(name, "0", required=False) for name in BRIDGE_FILTERS]
    if not network.internal:
        wanted.append(Setting(FORWARDING_V4, "1"))
    if network.enable_ipv6 and not network.internal:
        wanted += [Setting(name, "1") for name in FORWARDING_V6]
    return (*wanted, *_own_settings(network, ours=ours))


def _own_settings(network: BridgeNetwork, *, ours: bool) -> Iterator[Setting]:
    v4, v6 = f"net/ipv4/conf/{network.bridge}", f"net/ipv6/conf/{network.bridge}"
    if ours:
        yield Setting(f"{v6}/accept_ra", "0", required=network.enable_ipv6)
    if ours or network.enable_ipv6:
        yield Setting(f"{v6}/accept_dad", "0", required=network.enable_ipv6)
        without = not network.enable_ipv6 or network.ipv6_mode == "isolated"
        yield Setting(f"{v6}/disable_ipv6", "1" if without else "0", required=network.enable_ipv6)
    if not network.internal:
        # For ports published on 127.0.0.1; a rule drops what comes to 127.0.0.0/8 from the bridge.
        yield Setting(f"{v4}/route_localnet", "1", required=False)


def plan_bridge(
    network: BridgeNetwork, found: BridgeFound, gone: Collection[Interface] = ()
) -> tuple[BridgeStep, ...]:
    """Plan the next steps towards the bridge, and away from addresses that it had; none when it stands.

    A bridge that a user made keeps those that were there before.

    Raises:
        Conflict: the device of that name is no bridge, or is another network's.

    """
    own = found.link is None or marked(found.link) == network.network_id
    refuse_stranger(network, found.link)
    steps: list[BridgeStep] = []
    for setting in settings(network, ours=own):
        previous = found.settings.get(setting.name)
        of_bridge = f"/conf/{network.bridge}/" in setting.name
        missing = previous is None and (not setting.required or (of_bridge and found.link is None))
        if previous != setting.value and not missing:
            steps.append(Setting(setting.name, setting.value, previous, required=setting.required))
    if found.link is None:
        return (*steps, _create(network))
    steps += _addressing(network, found.link, found.addresses, own=own)
    steps += (
        DeleteAddress(found.link.index, address)
        for address in gone
        if address in (found.addresses if own else found.given) and address not in network.bridge_addresses
    )
    if own and network.mtu is not None and found.link.mtu != network.mtu:
        steps.append(SetLink(found.link.index, mtu=network.mtu))
    if not found.link.up:
        steps.append(SetLink(found.link.index, up=True))
    return tuple(steps)


def refuse_stranger(network: BridgeNetwork, link: Link | None) -> None:
    """Refuse a device that cannot be the network's bridge.

    Raises:
        Conflict: it is no bridge, or is another network's.

    """
    if link is None:
        return
    if link.kind != "bridge":
        kind = link.kind or "device"
        raise Conflict(f"{network.bridge} exists and is no bridge but a {kind}", ifname=network.bridge, kind=kind)
    holder = marked(link)
    if holder not in (None, network.network_id):
        raise Conflict(f"bridge {network.bridge} belongs to network {holder}", ifname=network.bridge, holder=holder)


def _create(network: BridgeNetwork) -> CreateBridge:
    # Down, so that its settings come before its first link-local address.
    return CreateBridge(
        network.bridge,
        mac=bridge_mac(network.network_id),
        mtu=network.mtu,
        alias=mark(network.network_id),
        up=False,
    )


def _addressing(
    network: BridgeNetwork, link: Link, present: frozenset[Interface], *, own: bool
) -> Iterator[AddAddress]:
    wanted = list(network.bridge_addresses)
    if own and network.enable_ipv6 and network.ipv6_mode != "isolated":
        wanted.append(ROUTER_LINK_LOCAL)
    for address in wanted:
        if address not in present:
            scope: Literal["link", "global"] = "link" if address.is_link_local and address.version == 6 else "global"
            yield AddAddress(
                link.index, address, scope=scope, exists_ok=True, protocol=0 if own else ADDRESS_PROTOCOL
            )


def undo(step: BridgeStep) -> BridgeStep | None:
    """Return the step that takes a step back, or None where nothing need be."""
    match step:
        case CreateBridge(name=name):
            return DeleteLink(name)
        case AddAddress(index=index, interface=interface):
            return DeleteAddress(index, interface)
        case DeleteAddress(index=index, interface=interface):
            return AddAddress(index, interface, exists_ok=True)
        case Setting(name=name, value=value, previous=previous) if previous is not None:
            return Setting(name, previous, value, required=False)
        case SetLink(link=link, up=True):
            return SetLink(link, up=False)
        case _:
            return None
