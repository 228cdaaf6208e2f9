"""Decides which ports a sandbox wants, and which of them stay bound, when some come or go while it runs."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from cnm.errors import Conflict, Fault, Forbidden, Invalid, NotFound
from cnm.messages.sandbox import PortBinding, PortRequest, PortSelection, PublishOnSandbox, UnpublishFromSandbox
from cnm.types import Address
from cnm_controller.documents import SandboxBody
from cnm_controller.sandbox import request_faults
from cnm_controller.specs import UNSPECIFIED

LAST_PORT = 65535


def check_publish(command: PublishOnSandbox) -> None:
    """Refuse requests that contradict themselves or one another.

    Raises:
        Invalid: ``details["fields"]`` lists all that is wrong.
    """
    faults = [*_nothing(command.ports), *request_faults(command.ports)]
    if faults:
        raise Invalid.of(faults)


def check_unpublish(command: UnpublishFromSandbox) -> None:
    """Refuse a request that closes nothing.

    Raises:
        Invalid: ``details["fields"]`` says so.
    """
    faults = _nothing(command.ports)
    if faults:
        raise Invalid.of(faults)


def _nothing(ports: Sequence[PortRequest] | Sequence[PortSelection]) -> list[Fault]:
    return [] if ports else [Fault(field="ports", value=[], reason="say at least one port")]


def with_more(sandbox: SandboxBody, ports: Sequence[PortRequest]) -> SandboxBody:
    """Return a sandbox that wants more ports than it did.

    Raises:
        Forbidden: it has no ports of its own to publish.
        Conflict: it waits for one of the host ports itself; the message names which of its ports does.
    """
    if sandbox.use_default_sandbox:
        raise Forbidden(f"sandbox {sandbox.name!r} is in the node's own namespace: it publishes nothing")
    waiting = [] if sandbox.bound else sandbox.requests  # what is bound is compared where the sockets are
    for new in ports:
        for old in waiting:
            if _meet(old, new):
                raise Conflict(
                    f"host port {new.host_port}/{new.protocol} is taken by sandbox {sandbox.name!r} itself, for its "
                    f"port {old.container_port}",
                    holder=sandbox.id,
                )
    return msgspec.structs.replace(sandbox, requests=[*sandbox.requests, *ports])


def _meet(one: PortRequest, other: PortRequest) -> bool:
    """Tell whether two requests insist on one host port; a request without an address may mean any."""
    first, last = _fixed(one)
    other_first, other_last = _fixed(other)
    insist = first and other_first and first <= other_last and other_first <= last
    if not insist or one.protocol != other.protocol:
        return False
    if one.host_ip is None or other.host_ip is None:
        return one.host_ip == other.host_ip or (one.host_ip or other.host_ip) in UNSPECIFIED.values()
    anywhere = one.host_ip.is_unspecified or other.host_ip.is_unspecified
    return one.host_ip == other.host_ip or (anywhere and one.host_ip.version == other.host_ip.version)


def _fixed(request: PortRequest) -> tuple[int, int]:
    """Return the host ports that a request insists on, or zeros when it leaves a choice."""
    first = request.host_port or 0
    last = request.host_port_end or first
    count = (request.container_port_end or request.container_port) - request.container_port
    return (first, last) if first and last - first == count else (0, 0)


def without(sandbox: SandboxBody, selections: Sequence[PortSelection]) -> SandboxBody:
    """Return a sandbox without some of its published ports.

    A request of which only one address goes becomes one for the address that stays.

    Raises:
        NotFound: one of them is not published; the message names it, and the range that it lies within.
    """
    origins = _origins(sandbox)
    for selection in selections:
        every: list[PortBinding | PortRequest] = [*sandbox.bound]
        every += (request for request, bound in origins if not bound)
        if not any(_selects(selection, each) for each in every):
            raise NotFound(_unknown(sandbox, selection, every))
    requests: list[PortRequest] = []
    for request, bound in origins:
        if bound:
            left = [each for each in bound if not any(_selects(selection, each) for selection in selections)]
            narrowed = [msgspec.structs.replace(request, host_ip=each.host_ip) for each in left]
            requests += [request] if left == bound else narrowed
        else:
            requests += _unbound_rest(request, selections)
    return msgspec.structs.replace(
        sandbox,
        requests=requests,
        bound=[each for each in sandbox.bound if not any(_selects(one, each) for one in selections)],
    )


def _unbound_rest(request: PortRequest, selections: Sequence[PortSelection]) -> list[PortRequest]:
    """Return what is left of a request that is not bound: all, nothing, or one family of those it means."""
    chosen = [each for each in selections if _selects(each, request)]
    if not chosen:
        return [request]
    if request.host_ip is not None or any(each.host_ip is None for each in chosen):
        return []
    gone = {each.host_ip for each in chosen}
    return [msgspec.structs.replace(request, host_ip=each) for each in UNSPECIFIED.values() if each not in gone]


def _selects(selection: PortSelection, entry: PortBinding | PortRequest) -> bool:
    """Tell whether a binding, or a request that is not bound, is among those meant."""
    same = (selection.container_port, selection.protocol) == (entry.container_port, entry.protocol)
    if not same or (selection.host_port and selection.host_port != entry.host_port):
        return False
    if selection.host_ip is None or selection.host_ip == entry.host_ip:
        return True
    return entry.host_ip is None and selection.host_ip.is_unspecified


def _origins(sandbox: SandboxBody) -> list[tuple[PortRequest, list[PortBinding]]]:
    """Pair every request with the bindings that came of it; those that leave least choice have theirs first."""
    rest: dict[tuple[int, str], list[PortBinding]] = {}
    for binding in sandbox.bound:
        rest.setdefault((binding.container_port, binding.protocol), []).append(binding)
    found: dict[int, list[PortBinding]] = {}
    for index in sorted(range(len(sandbox.requests)), key=lambda index: _choice(sandbox.requests[index])):
        request = sandbox.requests[index]
        here = rest.get((request.container_port, request.protocol), [])
        found[index] = _of_request(request, here)
        rest[request.container_port, request.protocol] = [each for each in here if each not in found[index]]
    return [(request, found[index]) for index, request in enumerate(sandbox.requests)]


def _of_request(request: PortRequest, bound: Sequence[PortBinding]) -> list[PortBinding]:
    """Return those of the bindings left over that came of a request: they have one host port."""
    mine = [each for each in bound if _came_of(each, request)]
    if not mine:
        return []
    # A request for one address came of a port that is on one address, if there is such.
    sizes = Counter(each.host_port for each in bound) if request.host_ip else Counter[int | None]()
    chosen = min(mine, key=lambda each: sizes[each.host_port])
    return [each for each in mine if each.host_port == chosen.host_port]


def _choice(request: PortRequest) -> tuple[bool, int]:
    first, last = request.host_port or 1, request.host_port_end or request.host_port or LAST_PORT
    return request.host_ip is None, last - first


def _came_of(binding: PortBinding, request: PortRequest) -> bool:
    if binding.host_port is None or (binding.container_port, binding.protocol, _end(binding.container_port_end)) != (
        request.container_port,
        request.protocol,
        _end(request.container_port_end, request.container_port),
    ):
        return False
    first, last = request.host_port or 1, request.host_port_end or request.host_port or LAST_PORT
    allow = None if binding.allow is msgspec.UNSET else binding.allow
    here = first <= binding.host_port <= last and request.host_ip in (None, binding.host_ip)
    return here and request.allow == allow


def _end(last: int | msgspec.UnsetType | None, first: int | None = None) -> int | None:
    """Return where a range ends, or None of a single port."""
    return last if isinstance(last, int) and last != first else None


def _unknown(sandbox: SandboxBody, selection: PortSelection, every: Sequence[PortBinding | PortRequest]) -> str:
    asked = f"port {selection.container_port}/{selection.protocol}"
    if selection.host_ip is not None or selection.host_port:
        asked += f" at {_shown(selection.host_ip)}:{selection.host_port or '*'}"
    message = f"sandbox {sandbox.name!r} has not published {asked}"
    for each in every:
        last = _end(each.container_port_end) or each.container_port
        if each.protocol == selection.protocol and each.container_port < selection.container_port <= last:
            return f"{message} by itself: it is one of the range {each.container_port}-{last}"
    return message


def _shown(address: Address | None) -> str:
    return "*" if address is None else f"[{address}]" if address.version == 6 else str(address)
