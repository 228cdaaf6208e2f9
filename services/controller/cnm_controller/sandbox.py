"""Decides about sandboxes: what may be created, and where its files are."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import PurePosixPath

import msgspec

from cnm.errors import Conflict, Fault, Invalid
from cnm.messages.sandbox import AdoptNamespace, CreateSandbox, ExtraHost, PortRequest, UpdateSandbox
from cnm.types import parse_address
from cnm_controller.documents import SandboxBody
from cnm_controller.network import has_label
from cnm_controller.ports import NodeState
from cnm_controller.specs import HOST_GATEWAY

HOST_KEY = "host"


def check_create(command: CreateSandbox) -> None:
    """Refuse a contradictory request.

    Raises:
        Invalid: ``details["fields"]`` lists all that is wrong.
    """
    faults = [
        *_host_faults(command.extra_hosts),
        *_namespace_faults(command),
        *_exposed_faults(command),
        *request_faults(command.ports),
    ]
    faults += [
        Fault(field=f"sysctls.{name}", value=value, reason=f"{name!r} is not of a network namespace (net.*)")
        for name, value in command.sysctls.items()
        if not name.startswith("net.")
    ]
    if faults:
        raise Invalid.of(faults)


def new_sandbox(command: CreateSandbox, node: NodeState, *, id: str, now: datetime) -> SandboxBody:
    """Return the sandbox that a checked request asks for."""
    files = PurePosixPath(node.run_dir) / "sandboxes" / id
    own = str(PurePosixPath(node.run_dir) / "netns" / id[:12])
    source = namespace_source(command.netns, command.pid)
    return SandboxBody(
        id=id,
        name=command.name,
        node=node.name,
        created=now,
        key=HOST_KEY if command.use_default_sandbox else own,
        hosts_path=str(files / "hosts"),
        resolv_conf_path=str(files / "resolv.conf"),
        netns=source,
        pending=command.netns_later,
        hostname=command.name if command.hostname is None else command.hostname,
        domainname=command.domainname,
        extra_hosts=command.extra_hosts,
        dns=command.dns,
        requests=[] if command.use_default_sandbox else command.ports,
        exposed_ports=command.exposed_ports,
        use_default_sandbox=command.use_default_sandbox,
        sysctls=command.sysctls,
        labels=command.labels,
    )


def namespace_source(netns: str | None, pid: int | None) -> str | None:
    """Return the path of a namespace that is told by path or by a process that lives in it."""
    return f"/proc/{pid}/ns/net" if pid is not None else netns


def adopted(sandbox: SandboxBody, source: str) -> SandboxBody:
    """Return a sandbox as it is once it has its namespace.

    Raises:
        Conflict: it has one; the message names it.
    """
    if not sandbox.pending:
        raise Conflict(f"sandbox {sandbox.name!r} has its namespace already: {sandbox.netns or sandbox.key}")
    return msgspec.structs.replace(sandbox, netns=source, pending=False)


def check_adopt(command: AdoptNamespace) -> None:
    """Refuse a request that does not name one namespace.

    Raises:
        Invalid: ``details["fields"]`` lists all that is wrong.
    """
    faults = [*_source_faults(command.netns, command.pid)]
    if command.netns is None and command.pid is None:
        faults.append(Fault(field="netns", value=None, reason="say netns, a path, or pid, a process"))
    if faults:
        raise Invalid.of(faults)


def changed(sandbox: SandboxBody, command: UpdateSandbox) -> SandboxBody:
    """Return a sandbox with what a command changes of it."""
    said = {name: getattr(command, name) for name in ("hostname", "domainname", "extra_hosts", "dns", "labels")}
    return msgspec.structs.replace(sandbox, **{name: value for name, value in said.items() if value is not None})


def check_update(command: UpdateSandbox) -> None:
    """Refuse extra hosts that are none.

    Raises:
        Invalid: ``details["fields"]`` lists all that is wrong.
    """
    faults = list(_host_faults(command.extra_hosts or ()))
    if faults:
        raise Invalid.of(faults)


def _host_faults(extra_hosts: Sequence[ExtraHost]) -> Iterator[Fault]:
    for index, extra in enumerate(extra_hosts):
        if extra.ip == HOST_GATEWAY:
            continue
        try:
            parse_address(extra.ip)
        except ValueError as error:
            yield Fault(field=f"extra_hosts[{index}].ip", value=extra.ip, reason=f"{error} nor {HOST_GATEWAY!r}")


def _namespace_faults(command: CreateSandbox) -> Iterator[Fault]:
    yield from _source_faults(command.netns, command.pid)
    others = (("netns", command.netns), ("pid", command.pid), ("netns_later", command.netns_later or None))
    for field, value in others:
        if value is not None and command.use_default_sandbox:
            reason = "use_default_sandbox is the node's own namespace, it cannot adopt another"
            yield Fault(field=field, value=value, reason=reason)
        elif value is not None and field != "netns_later" and command.netns_later:
            reason = "with netns_later the namespace comes by sandbox.adopt, leave it out here"
            yield Fault(field=field, value=value, reason=reason)


def _source_faults(netns: str | None, pid: int | None) -> Iterator[Fault]:
    if netns is not None and (not netns.startswith("/") or "\0" in netns):
        yield Fault(field="netns", value=netns, reason=f"{netns!r} is no absolute path")
    if netns is not None and pid is not None:
        yield Fault(field="pid", value=pid, reason=f"netns names a namespace already, {netns!r}")


def _exposed_faults(command: CreateSandbox) -> Iterator[Fault]:
    for index, text in enumerate(command.exposed_ports):
        first, _, last = text.partition("/")[0].partition("-")
        if not 1 <= int(first) <= int(last or first) <= 65535:
            reason = f"{text!r} is no port or range of ports between 1 and 65535"
            yield Fault(field=f"exposed_ports[{index}]", value=text, reason=reason)


def request_faults(ports: Sequence[PortRequest]) -> Iterator[Fault]:
    """Yield what is contradictory in port requests, and between them."""
    for index, port in enumerate(ports):
        yield from _port_faults(port, f"ports[{index}]")
    yield from _overlap_faults(ports)


def _port_faults(port: PortRequest, where: str) -> Iterator[Fault]:
    count, hosts = 1, 1
    if port.allow is not None and not port.allow:
        reason = "an empty list would let nobody connect; leave it out to let everybody"
        yield Fault(field=f"{where}.allow", value=[], reason=reason)
    if port.container_port_end is not None:
        count = port.container_port_end - port.container_port + 1
        if count < 1:
            reason = f"the range ends at {port.container_port_end}, before it begins at {port.container_port}"
            yield Fault(field=f"{where}.container_port_end", value=port.container_port_end, reason=reason)
    if port.host_port_end is not None:
        hosts = port.host_port_end - (port.host_port or 0) + 1
        if not port.host_port:
            reason = "a range of host ports needs host_port, where it begins"
            yield Fault(field=f"{where}.host_port", value=port.host_port, reason=reason)
        elif hosts < 1:
            reason = f"the range ends at {port.host_port_end}, before it begins at {port.host_port}"
            yield Fault(field=f"{where}.host_port_end", value=port.host_port_end, reason=reason)
        elif count > hosts:
            reason = f"{count} container ports do not fit into the {hosts} host ports of the range"
            yield Fault(field=f"{where}.host_port_end", value=port.host_port_end, reason=reason)
    elif port.host_port and count > 1:
        reason = f"{count} container ports do not fit into host port {port.host_port} alone"
        yield Fault(field=f"{where}.host_port_end", value=None, reason=reason)


def _overlap_faults(ports: Sequence[PortRequest]) -> Iterator[Fault]:
    """Yield fixed host ports that the request itself asks for twice."""
    seen: dict[tuple[str, str, int], int] = {}
    for index, port in enumerate(ports):
        if not port.host_port or port.host_port_end is not None:
            continue
        key = (port.protocol, str(port.host_ip), port.host_port)
        if key in seen:
            reason = f"{port.protocol} port {port.host_port} is asked for by ports[{seen[key]}] already"
            yield Fault(field=f"ports[{index}].host_port", value=port.host_port, reason=reason)
        seen.setdefault(key, index)


def matches(sandbox: SandboxBody, filters: dict[str, list[str | bool]]) -> bool:
    """Say whether a sandbox passes all filters; of each filter any value."""
    return all(any(_matches_one(sandbox, name, str(value)) for value in values) for name, values in filters.items())


def _matches_one(sandbox: SandboxBody, name: str, value: str) -> bool:
    match name:
        case "name":
            return value in sandbox.name
        case "id":
            return sandbox.id.startswith(value)
        case "node":
            return sandbox.node == value
        case _:
            return has_label(sandbox.labels, value)
