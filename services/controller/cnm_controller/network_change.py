"""Decides about changes of networks: what may become different under endpoints that stay, and what takes it there."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cnm.errors import Conflict, Fault, Forbidden, Invalid, Unsupported
from cnm.messages.bridge import BridgeNetwork, EnsureBridge, PlugEndpoint
from cnm.messages.ipam import AllocatedPool
from cnm.messages.message import Command
from cnm.messages.names import UpdateNames
from cnm.messages.namespace import EnsureSandbox
from cnm.messages.network import PoolRequest, UpdateNetwork
from cnm.pool_faults import leaves_open, request_faults, space_faults
from cnm.types import Prefix
from cnm_controller.documents import NetworkBody, SandboxBody
from cnm_controller.network import dns_faults, enabled, mtu_faults, versions
from cnm_controller.options import (
    BRIDGE_NAME,
    DEFAULT_BRIDGE,
    GATEWAY_MODE,
    INHIBIT_IPV4,
    as_text,
    contradictions,
    parse_bridge,
)
from cnm_controller.ports import NodeState
from cnm_controller.sagas import BUILT_IN, Step
from cnm_controller.specs import Joined, attachment, bridge_network, resolver_sandbox, sandbox_spec, zone

PLAIN_MTU = 1500
_MODE = "what is joined has its routes and published ports by it"
FIXED = {
    BRIDGE_NAME: "the bridge would have to be made anew under its endpoints",
    DEFAULT_BRIDGE: "it says what the network is",
    INHIBIT_IPV4: "the bridge's address is the gateway of what is joined",
    **dict.fromkeys(GATEWAY_MODE, _MODE),
}
"""Options that stay as they were when the network was made, and why."""


def check_update(command: UpdateNetwork) -> None:
    """Refuse a request whose pools contradict themselves, whatever network it is about.

    Raises:
        Invalid: ``details["fields"]`` lists all that is wrong.
    """
    faults = [
        fault
        for index, request in enumerate(command.add_pools)
        for fault in request_faults(request, f"add_pools[{index}]")
    ]
    faults += [] if command.dns is None else dns_faults(command.dns)
    if faults:
        raise Invalid.of(faults)


def decide_update(command: UpdateNetwork, network: NetworkBody, revision: int) -> NetworkBody:
    """Check a change and return the network as it will be, but for the pools that IPAM has still to give.

    Raises:
        Forbidden: it is predefined.
        Invalid: ``details["fields"]`` lists all that is wrong.
        Unsupported: an option, or an IPAM driver to take more pools from, that cannot be served.
        Conflict: it was decided on another revision.
    """
    if network.predefined:
        raise Forbidden(f"network {network.name!r} is predefined and cannot be changed")
    options = _merged(network.options, command.options or {})
    added = added_versions(command.add_pools, network)
    enable_ipv4, enable_ipv6 = network.enable_ipv4 or 4 in added, network.enable_ipv6 or 6 in added
    faults = [
        *_option_faults(network, options, enable_ipv4=enable_ipv4, enable_ipv6=enable_ipv6),
        *_pool_faults(command.add_pools, network),
        *([] if command.dns is None else dns_faults(command.dns)),
    ]
    if faults:
        raise Invalid.of(faults)
    if command.revision is not None and command.revision != revision:
        reason = f"is at revision {revision}, the change was decided on revision {command.revision}"
        raise Conflict(f"network {network.name!r} {reason}", revision=revision)
    _refuse_unserved(command, network)
    return msgspec.structs.replace(
        network,
        labels=network.labels if command.labels is None else command.labels,
        options=options,
        dns=network.dns if command.dns is None else command.dns,
        enable_ipv4=enable_ipv4,
        enable_ipv6=enable_ipv6,
        wanted=[*network.wanted, *command.add_pools],
    )


def _merged(options: Mapping[str, str], changes: Mapping[str, str | int | bool | None]) -> dict[str, str]:
    kept = {name: value for name, value in options.items() if changes.get(name, "") is not None}
    return kept | as_text({name: value for name, value in changes.items() if value is not None})


def _option_faults(
    network: NetworkBody, options: Mapping[str, str], *, enable_ipv4: bool, enable_ipv6: bool
) -> Iterator[Fault]:
    if network.config_only:
        return
    found: list[Fault] = []
    mtu = parse_bridge(options, found).mtu
    found += mtu_faults(mtu, enable_ipv6=enable_ipv6)
    found += contradictions(options, internal=network.internal, enable_ipv4=enable_ipv4, enable_ipv6=enable_ipv6)
    yield from found
    faulty = {fault.field for fault in found}
    for name, why in FIXED.items():
        if network.options.get(name) != options.get(name) and f"options.{name}" not in faulty:
            reason = f"{name} is settled when a network is made: {why}"
            yield Fault(field=f"options.{name}", value=options.get(name), reason=reason)


def _refuse_unserved(command: UpdateNetwork, network: NetworkBody) -> None:
    if command.add_pools and not network.config_only and network.ipam_driver != BUILT_IN:
        raise Unsupported(f"add_pools: IPAM driver {network.ipam_driver!r} cannot give a network more pools")


def _pool_faults(requests: Sequence[PoolRequest], network: NetworkBody) -> Iterator[Fault]:
    known = [(f"pool {subnet} of network {network.name!r}", subnet) for subnet in _subnets(network)]
    families: set[int] = {subnet.version for _, subnet in known}
    for index, (request, version) in enumerate(zip(requests, added_versions(requests, network), strict=True)):
        where = f"add_pools[{index}]"
        yield from request_faults(request, where)
        if not network.config_only:
            if leaves_open(request.subnet):
                yield from space_faults(network.address_space, None, f"{where}.subnet")
            if network.internal and version in families:
                reason = f"an internal network has no gateway that leads from one IPv{version} pool to another"
                yield Fault(field=f"{where}.subnet", value=_text(request.subnet), reason=reason)
            families.add(version)
        if request.subnet is None or leaves_open(request.subnet):
            continue
        for holder, other in known:
            if other.version == version and other.overlaps(request.subnet):
                reason = f"{request.subnet} overlaps {holder}"
                yield Fault(field=f"{where}.subnet", value=str(request.subnet), reason=reason)
                break
        known.append((where, request.subnet))


def _text(subnet: Prefix | None) -> str | None:
    return None if subnet is None else str(subnet)


def _subnets(network: NetworkBody) -> list[Prefix]:
    pools: Iterable[PoolRequest | AllocatedPool] = network.wanted if network.config_only else network.pools
    return [pool.subnet for pool in pools if pool.subnet is not None and not leaves_open(pool.subnet)]


def added_versions(requests: Sequence[PoolRequest], network: NetworkBody) -> list[int]:
    """Return the IP version of each pool to be added; those that say none are of the network's families."""
    there = [PoolRequest(subnet=subnet) for subnet in _subnets(network)]
    found = versions([*there, *requests], enabled(network.enable_ipv4, network.enable_ipv6))
    return found[len(there) :]


@dataclass(frozen=True, kw_only=True)
class Home:
    """A sandbox that is on a network, with all its endpoints."""

    sandbox: SandboxBody
    joined: Sequence[Joined]

    def with_network(self, network: NetworkBody) -> list[Joined]:
        """Return its endpoints as they are when a network is like that."""
        return [
            Joined(endpoint=each.endpoint, network=network) if each.network.id == network.id else each
            for each in self.joined
        ]


def change_steps(
    nodes: Sequence[NodeState], homes: Sequence[Home], before: NetworkBody, after: NetworkBody
) -> list[Step]:
    """Return the round that takes a network and its endpoints from one state to another, whichever comes first.

    A sandbox whose namespace somebody removed, as when a container died first, keeps no network from changing.
    """
    told, was = _told(after, before), bridge_network(before)
    gone = [address for address in was.bridge_addresses if address not in told.bridge_addresses]
    names = [node.name for node in nodes]
    steps: list[Step] = []
    if told != was:
        steps += [Step(command=EnsureBridge(network=told, gone=gone), node=name) for name in names]
    if zone(after) != zone(before):
        steps += [Step(command=UpdateNames(zones=[zone(after)]), node=name) for name in names]
    for home in homes:
        if home.sandbox.node in names:
            commands = commands_at(home, before, after)
            steps += [Step(command=command, node=home.sandbox.node, lenient=True) for command in commands]
    return steps


def commands_at(home: Home, before: NetworkBody, after: NetworkBody) -> list[Command[Any]]:
    """Return what a sandbox's node is told of it; nothing when the change does not concern it."""
    sandbox, was, now = home.sandbox, home.with_network(before), home.with_network(after)
    found: list[Command[Any]] = []
    for old, new in zip(was, now, strict=True):
        plugged = msgspec.structs.replace(attachment(sandbox, new, now), network=_told(after, before))
        if new.network.id == after.id and plugged != attachment(sandbox, old, was):
            found.append(PlugEndpoint(attachment=plugged))
    spec, served = sandbox_spec(sandbox, now), resolver_sandbox(sandbox, now)
    if (spec, served) != (sandbox_spec(sandbox, was), resolver_sandbox(sandbox, was)):
        found += [EnsureSandbox(sandbox=spec), UpdateNames(sandbox=served)]
    return found


def _told(network: NetworkBody, other: NetworkBody) -> BridgeNetwork:
    """Return what the bridge driver is told: it leaves an MTU alone when told of none, so the plain one is said."""
    told = bridge_network(network)
    if told.mtu is None and bridge_network(other).mtu is not None:
        return msgspec.structs.replace(told, mtu=PLAIN_MTU)
    return told
