"""What a network, or an endpoint with open ports, adds to the frame: a handful of elements, and counters."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cnm.messages.bridge import Attachment, BridgeNetwork
from cnm.types import Address, Prefix
from cnm_driver_bridge.frame import CONTAINERS, FILTER, NAT

NAME_SHOWN = 40

Field = str | tuple[Address, Address] | tuple[int, int]
"""A name of a link, a family or a protocol; addresses or ports from the first to the last."""


@dataclass(frozen=True, slots=True)
class Member:
    """An element of a set, or of a map with what it leads to."""

    table: str
    container: str
    key: tuple[Field, ...]
    value: str = ""

    def __str__(self) -> str:
        key = " . ".join(map(_shown, self.key))
        if not self.value:
            return key
        counter = CONTAINERS[self.table, self.container].value == "counter"
        return f'{key} : "{self.value}"' if counter else f"{key} : {self.value}"


def _shown(part: Field) -> str:
    if isinstance(part, str):
        return part if part in ("tcp", "udp", "sctp", "ipv4", "ipv6") else f'"{part}"'
    first, last = part
    return str(first) if first == last else f"{first}-{last}"


@dataclass(frozen=True, slots=True)
class Block:
    """What an owner needs: elements, counters by name, and the comment that names it in both."""

    owner: str
    comment: str
    members: frozenset[Member]
    counters: frozenset[str] = frozenset()


def short(identity: str) -> str:
    """Return the part of a network's or endpoint's id that comments and counters carry."""
    return identity[:12]


def owner_of(comment: str | None) -> str:
    """Read whose an element is from its comment; "" of one that is nobody's."""
    found = re.match(r"cnm ([0-9a-f]{12}(?:/[0-9a-f]{12})?)(?: |$)", comment or "")
    return found[1] if found else ""


def network_of(owner: str) -> str:
    """Return the short id of the network that an owner is, or belongs to."""
    return owner.partition("/")[0]


def block(network: BridgeNetwork) -> Block:
    """Return what a network needs."""
    key = short(network.network_id)
    reasons = list(_reasons(network))
    members = {*_filtered(network), *(() if network.internal else _translated(network))}
    members.update(Member(FILTER, f"{reason}_drops", (network.bridge,), f"{reason}-{key}") for reason in reasons)
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", network.name)[:NAME_SHOWN]
    counters = frozenset(f"{reason}-{key}" for reason in reasons)
    return Block(key, f"cnm {key} network {name}", frozenset(members), counters)


def _reasons(network: BridgeNetwork) -> Iterator[str]:
    yield from ("internal",) if network.internal else ("isolation", "direct")
    if not network.icc:
        yield "icc"


def _filtered(network: BridgeNetwork) -> Iterator[Member]:
    bridge = network.bridge
    yield Member(FILTER, "bridges", (bridge,))
    yield Member(FILTER, "same_bridge", (bridge, bridge))
    if not network.icc:
        yield Member(FILTER, "icc_off", (bridge,))
    if network.internal:
        yield Member(FILTER, "internal", (bridge,))
        return
    for version, mode in ((4, network.ipv4_mode), (6, network.ipv6_mode)):
        if mode == "nat-unprotected":
            yield Member(FILTER, f"open{version}", (bridge,))
        if mode == "routed":
            yield Member(FILTER, f"routed{version}", (bridge,))
    yield from (Member(FILTER, "trusted", (link, bridge)) for link in network.trusted)


def _translated(network: BridgeNetwork) -> Iterator[Member]:
    bridge = network.bridge
    yield Member(NAT, "bridges", (bridge,))
    yield Member(NAT, "same_bridge", (bridge, bridge))
    modes = {4: network.ipv4_mode, 6: network.ipv6_mode}
    for subnet in network.subnets if network.masquerade else ():
        if modes[subnet.version].startswith("nat"):
            yield Member(NAT, f"masquerade{subnet.version}", (bridge, span(subnet)))
    for source in (network.snat_ipv4, network.snat_ipv6):
        if source is not None:
            yield Member(NAT, f"snat{source.version}", (bridge,), str(source))


def span(subnet: Prefix) -> tuple[Address, Address]:
    """Return the first and last address of a prefix."""
    return subnet.network_address, subnet.broadcast_address


def ports_block(attachment: Attachment) -> Block:
    """Return what an endpoint needs whose ports are reached at its own address."""
    owner = f"{short(attachment.network.network_id)}/{short(attachment.endpoint_id)}"
    members = {
        Member(
            FILTER,
            f"ports{address.version}",
            (attachment.network.bridge, (address.ip, address.ip), port.protocol, (port.first, port.last)),
        )
        for port in attachment.open_ports
        for address in attachment.addresses
        if port.version in (None, address.version)
    }
    return Block(owner, f"cnm {owner} open ports", frozenset(members))
