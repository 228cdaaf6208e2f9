"""Decides what it takes to put an endpoint into a sandbox, to take it out, a network onto nodes, and to undo each.

Pure: from the sandbox and its endpoints before and after come the steps for the node's workers.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from cnm.errors import Conflict, Forbidden
from cnm.messages.bridge import EnsureBridge, EnsuredBridge, PlugEndpoint, RemoveBridge, UnplugEndpoint
from cnm.messages.message import Command
from cnm.messages.names import ForgetZone, UpdateNames
from cnm.messages.namespace import EnsureSandbox, RouteSandbox
from cnm.messages.ports import PublishPorts, UnpublishPorts
from cnm_controller.configuration import refuse_endpoints
from cnm_controller.documents import NetworkBody, SandboxBody
from cnm_controller.options import parse_bridge
from cnm_controller.ports import NodeState
from cnm_controller.sagas import Step
from cnm_controller.specs import (
    Joined,
    attachment,
    bridge_network,
    leading_out,
    publish,
    record,
    resolver_sandbox,
    sandbox_spec,
    zone,
)

NODE_SET = "what neither comes from nor goes to a network of ours is forwarded no more than before"
UNBOUND = "no network of the sandbox leads out: its ports stay unbound"


def choose_ifname(network: NetworkBody, wanted: str | None, joined: Sequence[Joined]) -> str | None:
    """Choose the interface's name in the sandbox: the one asked for, else the lowest free number.

    Raises:
        Conflict: another endpoint of the sandbox has the name; the message names it.
    """
    if network.driver != "bridge":
        return None
    holders = {each.endpoint.ifname: each for each in joined if each.endpoint.ifname is not None}
    if wanted is None:
        prefix = parse_bridge(network.options, []).iface_prefix
        return next(name for number in range(len(holders) + 1) if (name := f"{prefix}{number}") not in holders)
    if wanted in holders:
        holder = holders[wanted]
        raise Conflict(
            f"interface name {wanted!r} is taken by endpoint {holder.endpoint.name!r} on network "
            f"{holder.network.name!r}",
            holder=holder.endpoint.id,
        )
    return wanted


def check_attach(sandbox: SandboxBody, network: NetworkBody, joined: Sequence[Joined]) -> None:
    """Refuse what cannot be attached.

    Raises:
        Forbidden: the node's own namespace joins only network host, and others never do; nobody joins what only holds
            a configuration.
        Conflict: the sandbox is on the network already.
    """
    refuse_endpoints(network)
    if sandbox.use_default_sandbox and network.driver != "host":
        raise Forbidden(
            f"sandbox {sandbox.name!r} uses the node's own namespace: it joins only network 'host', "
            f"not {network.name!r}"
        )
    if network.driver == "host" and not sandbox.use_default_sandbox:
        raise Forbidden(f"network 'host' is for sandboxes with use_default_sandbox, {sandbox.name!r} is none")
    for each in joined:
        if each.network.id == network.id:
            raise Conflict(
                f"sandbox {sandbox.name!r} is on network {network.name!r} already, as endpoint "
                f"{each.endpoint.name!r}",
                holder=each.endpoint.id,
            )
        if "null" in (each.network.driver, network.driver):
            raise Forbidden(f"network 'none' cannot be combined with others: sandbox {sandbox.name!r}")
        _refuse_overlap(sandbox, network, each)


def _refuse_overlap(sandbox: SandboxBody, network: NetworkBody, other: Joined) -> None:
    """Refuse a network whose addresses the sandbox has a route to already: over another network, or a static one."""
    known = [(f"network {other.network.name!r}", pool.subnet) for pool in other.network.pools]
    known += [(f"a route by network {other.network.name!r}", route.destination) for route in other.endpoint.routes]
    for pool in network.pools:
        for holder, prefix in known:
            if prefix.version == pool.subnet.version and prefix.overlaps(pool.subnet):
                raise Conflict(
                    f"{pool.subnet} of network {network.name!r} overlaps {prefix} of {holder}, which sandbox "
                    f"{sandbox.name!r} is on",
                    holder=other.endpoint.id,
                )


def attach_steps(sandbox: SandboxBody, before: Sequence[Joined], new: Joined) -> tuple[Step, ...]:
    """Return the one round that makes an endpoint with its addresses stand, side by side."""
    after = [*before, new]
    commands: list[Command[Any]] = []
    if new.network.driver == "bridge":
        if not sandbox.pending:
            commands.append(PlugEndpoint(attachment=attachment(sandbox, new, after)))
        commands.append(
            UpdateNames(
                sandbox=resolver_sandbox(sandbox, after),
                zones=[zone(new.network)],
                records=[record(new.endpoint, sandbox)],
            )
        )
    if sandbox_spec(sandbox, after) != sandbox_spec(sandbox, before):
        commands.append(EnsureSandbox(sandbox=sandbox_spec(sandbox, after)))
    commands += _port_commands(sandbox, before, after)
    return _on(sandbox, commands)


def detach_steps(sandbox: SandboxBody, before: Sequence[Joined], gone: Collection[str]) -> tuple[Step, ...]:
    """Return the first round that takes endpoints out of a sandbox; ``gone`` are their ids.

    A namespace that somebody removed, as when a container died first, does not keep its endpoints.
    """
    after = [each for each in before if each.endpoint.id not in gone]
    leaving = [each for each in before if each.endpoint.id in gone and each.network.driver == "bridge"]
    hard: list[Command[Any]] = [UnplugEndpoint(endpoint_id=each.endpoint.id) for each in leaving]
    hard += [each for each in _port_commands(sandbox, before, after) if isinstance(each, UnpublishPorts)]
    soft: list[Command[Any]] = []
    if leaving:
        forget = [each.endpoint.id for each in leaving]
        soft.append(UpdateNames(sandbox=resolver_sandbox(sandbox, after), forget_endpoints=forget))
    if sandbox_spec(sandbox, after) != sandbox_spec(sandbox, before):
        soft.append(EnsureSandbox(sandbox=sandbox_spec(sandbox, after)))
    return _on(sandbox, hard) + _on(sandbox, soft, lenient=True)


def route_steps(sandbox: SandboxBody, before: Sequence[Joined], gone: Collection[str]) -> tuple[Step, ...]:
    """Return the round that moves the default routes after endpoints left, if they have to move."""
    after = [each for each in before if each.endpoint.id not in gone]
    gateways = sandbox_spec(sandbox, after).gateways
    if gateways == sandbox_spec(sandbox, before).gateways or not gateways or sandbox.pending:
        return ()
    return _on(sandbox, [RouteSandbox(namespace=sandbox.key, gateways=gateways)])


def port_steps(sandbox: SandboxBody, before: Sequence[Joined], gone: Collection[str]) -> tuple[Step, ...]:
    """Return the round that moves the published ports after endpoints left, if they have to move."""
    after = [each for each in before if each.endpoint.id not in gone]
    return _on(sandbox, [each for each in _port_commands(sandbox, before, after) if isinstance(each, PublishPorts)])


def undo_attach(sandbox: SandboxBody, before: Sequence[Joined], endpoint_id: str) -> tuple[Step, ...]:
    """Return what undoes the round of an attach."""
    commands: list[Command[Any]] = [
        UnplugEndpoint(endpoint_id=endpoint_id),
        EnsureSandbox(sandbox=sandbox_spec(sandbox, before)),
        UpdateNames(
            sandbox=resolver_sandbox(sandbox, before),
            forget_endpoints=[endpoint_id],
        ),
    ]
    gateways = sandbox_spec(sandbox, before).gateways
    # Whichever comes first, this or the unplugging, the former default routes are what is left.
    if gateways and not sandbox.pending:
        commands.append(RouteSandbox(namespace=sandbox.key, gateways=gateways))
    if sandbox.requests:
        commands.append(publish(sandbox, before) or UnpublishPorts(sandbox_id=sandbox.id))
    return _on(sandbox, commands)


def restore_steps(sandbox: SandboxBody, joined: Sequence[Joined]) -> tuple[Step, ...]:
    """Return what makes a sandbox stand again with all its endpoints; undoes a detach."""
    linked = [each for each in joined if each.network.driver == "bridge"]
    commands: list[Command[Any]] = [
        PlugEndpoint(attachment=attachment(sandbox, each, joined)) for each in linked if not sandbox.pending
    ]
    if not sandbox.use_default_sandbox:
        commands.append(
            UpdateNames(
                sandbox=resolver_sandbox(sandbox, joined),
                zones=[zone(each.network) for each in linked],
                records=[record(each.endpoint, sandbox) for each in linked],
            )
        )
    published = publish(sandbox, joined)
    if published is not None:
        commands.append(published)
    return _on(sandbox, commands)


def naming_steps(
    sandbox: tuple[SandboxBody, SandboxBody], before: Sequence[Joined], after: Sequence[Joined]
) -> list[Step]:
    """Return what makes the resolver answer as a sandbox and its endpoints are afterwards, if it does otherwise."""
    old, new = sandbox
    records = [
        record(now.endpoint, new)
        for was, now in zip(before, after, strict=True)
        if now.network.driver == "bridge" and record(now.endpoint, new) != record(was.endpoint, old)
    ]
    served = resolver_sandbox(new, after)
    if served == resolver_sandbox(old, before):
        served = None
    if not records and served is None:
        return []
    return [Step(command=UpdateNames(sandbox=served, records=records), node=new.node)]


def gateway_moved(before: Sequence[Joined], after: Sequence[Joined]) -> bool:
    """Say whether a sandbox's way out, of either family, is another than before."""
    return any(_leader(before, version) != _leader(after, version) for version in (4, 6))


def _leader(joined: Sequence[Joined], version: int) -> str | None:
    found = leading_out(joined, version)
    return found.endpoint.id if found else None


def _port_commands(
    sandbox: SandboxBody, before: Sequence[Joined], after: Sequence[Joined]
) -> list[PublishPorts | UnpublishPorts]:
    if not sandbox.requests or not gateway_moved(before, after):
        return []
    return [publish(sandbox, after) or UnpublishPorts(sandbox_id=sandbox.id)]


def _on(sandbox: SandboxBody, commands: Iterable[Command[Any]], *, lenient: bool = False) -> tuple[Step, ...]:
    return tuple(Step(command=command, node=sandbox.node, lenient=lenient) for command in commands)


def ensure_on(nodes: Sequence[NodeState], network: NetworkBody) -> list[Step]:
    """Return the steps that make a network stand on nodes."""
    return [
        step
        for node in nodes
        for step in (
            Step(command=EnsureBridge(network=bridge_network(network)), node=node.name),
            Step(command=UpdateNames(zones=[zone(network)]), node=node.name),
        )
    ]


def node_warnings(steps: Sequence[Step], replies: Sequence[Any]) -> list[str]:
    """Say what was set on nodes so that a network works, and what works not as one may think."""
    found = []
    for step, reply in zip(steps, replies, strict=True):
        if isinstance(reply, EnsuredBridge):
            if reply.settings:
                found.append(f"on node {step.node!r} {', '.join(reply.settings)} was set: {NODE_SET}")
            found += [f"on node {step.node!r} {warning}" for warning in reply.warnings]
    return found


def remove_from(nodes: Sequence[NodeState], network: NetworkBody) -> list[Step]:
    """Return the steps that remove a network from nodes."""
    return [
        step
        for node in nodes
        for step in (
            Step(command=RemoveBridge(network=bridge_network(network)), node=node.name),
            Step(command=ForgetZone(network_id=network.id), node=node.name),
        )
    ]
