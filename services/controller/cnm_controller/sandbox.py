"""Decides about sandboxes: what may be created, and where its files are."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import PurePosixPath

from cnm.errors import Fault, Invalid
from cnm.messages.sandbox import CreateSandbox, PortRequest
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
        *_host_faults(command),
        *_namespace_faults(command),
        *_exposed_faults(command),
        *(fault for index, port in enumerate(command.ports) for fault in port_faults(port, f"ports[{index}]")),
        *_overlap_faults(command.ports),
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
    return SandboxBody(
        id=id,
        name=command.name,
        node=node.name,
        created=now,
        key=HOST_KEY if command.use_default_sandbox else command.netns or own,
        hosts_path=str(files / "hosts"),
        resolv_conf_path=str(files / "resolv.conf"),
        netns=command.netns,
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


def _host_faults(command: CreateSandbox) -> Iterator[Fault]:
    for index, extra in enumerate(command.extra_hosts):
        if extra.ip == HOST_GATEWAY:
            continue
        try:
            parse_address(extra.ip)
        except ValueError as error:
            yield Fault(field=f"extra_hosts[{index}].ip", value=extra.ip, reason=f"{error} nor {HOST_GATEWAY!r}")


def _namespace_faults(command: CreateSandbox) -> Iterator[Fault]:
    if command.netns is None:
        return
    if command.use_default_sandbox:
        reason = "use_default_sandbox is the node's own namespace, it cannot adopt another"
        yield Fault(field="netns", value=command.netns, reason=reason)
    if not command.netns.startswith("/") or "\0" in command.netns:
        reason = f"{command.netns!r} is no absolute path"
        yield Fault(field="netns", value=command.netns, reason=reason)


def _exposed_faults(command: CreateSandbox) -> Iterator[Fault]:
    for index, text in enumerate(command.exposed_ports):
        first, _, last = text.partition("/")[0].partition("-")
        if not 1 <= int(first) <= int(last or first) <= 65535:
            reason = f"{text!r} is no port or range of ports between 1 and 65535"
            yield Fault(field=f"exposed_ports[{index}]", value=text, reason=reason)


def port_faults(port: PortRequest, where: str) -> Iterator[Fault]:
    """Yield what is contradictory in one port request."""
    count, hosts = 1, 1
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


def _overlap_faults(ports: list[PortRequest]) -> Iterator[Fault]:
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
