"""rtnetlink: links, addresses and routes of one namespace, many changes in one send.

Our own small writer, since encoding is what takes pyroute2 its time: an attach is two sends and 1.5 ms.
"""

import errno
import struct
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from cnm import telemetry
from cnm.types import Address

from .address import RTM_GETADDR, AddAddress, DeleteAddress, LinkAddress, parse_address
from .errors import KernelError
from .link import (
    IFLA_MASTER,
    RTM_GETLINK,
    RTM_NEWLINK,
    CreateBridge,
    CreateVeth,
    DeleteGroup,
    DeleteLink,
    Link,
    SetBridge,
    SetBridgePort,
    SetLink,
    Statistics,
    header,
    parse_link,
    target,
)
from .netlink import (
    NETLINK_ROUTE,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Channel,
    attribute,
    attributes,
    failure,
    message,
    u32,
)
from .route import (
    RT_TABLE_MAIN,
    RT_TABLE_UNSPEC,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    RTN_LOCAL,
    AddRoute,
    DeleteRoute,
    Route,
    dump_request,
    lookup_request,
    parse_route,
)

__all__ = [
    "AddAddress",
    "AddRoute",
    "CreateBridge",
    "CreateVeth",
    "DeleteAddress",
    "DeleteGroup",
    "DeleteLink",
    "DeleteRoute",
    "Link",
    "LinkAddress",
    "Route",
    "Rtnl",
    "SetBridge",
    "SetBridgePort",
    "SetLink",
    "Statistics",
    "Step",
]

LOOPBACK = 1
RTM_NEWNSID, RTM_GETNSID = 88, 90
NETNSA_NSID, NETNSA_FD = 1, 3
_RTGENMSG = bytes(4)

Outcome = dict[int, tuple[int, str]]
"""Of each step's place: errno, 0 for success, and the kernel's explanation."""


class Step(Protocol):
    """One change, whose text reads like ``ip``; errors it forgives mean that all is as it should be."""

    @property
    def forgiven(self) -> frozenset[int]: ...

    def encode(self, sequence: int) -> bytes: ...


class Rtnl:
    """One rtnetlink socket in one namespace; for one thread."""

    def __init__(self, namespace: Path | int | None = None) -> None:
        self._channel = Channel(NETLINK_ROUTE, namespace, strict=True)

    @classmethod
    def open(cls, namespace: Path | int | None = None) -> Self:
        """Open a socket in the namespace at a path or behind a descriptor; without one, in the thread's."""
        return cls(namespace)

    def close(self) -> None:
        """Close the socket; closing twice is fine."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, *steps: Step) -> list[Link | None]:
        """Carry out steps in one send; the reply of a step that made a link is that link.

        Raises:
            KernelError: of the first step that failed. The kernel carried out those after it all the same:
                ``applied`` lists what to undo.
        """
        if not steps:
            return []
        with telemetry.steps_span("rtnetlink", steps):
            made, outcome = self._exchange(steps)
            for place, step in enumerate(steps):
                # Linux before 6.2 does not tell of what it made. That it made a link says that this is its name.
                if isinstance(step, CreateBridge | CreateVeth) and made[place] is None and outcome[place][0] == 0:
                    made[place] = self.link(step.name)
            self._mark(steps, made)
            _raise_first(steps, outcome)
        return made

    def _mark(self, steps: Sequence[Step], made: list[Link | None]) -> None:
        """Set the aliases of new links; by name, in the same send, a stranger's link would get our mark."""
        marks: list[SetLink] = []
        for place, (step, link) in enumerate(zip(steps, made, strict=True)):
            if isinstance(step, CreateBridge | CreateVeth) and step.alias is not None and link is not None:
                marks.append(SetLink(link.index, alias=step.alias))
                made[place] = replace(link, alias=step.alias)
        if marks:
            _raise_first(marks, self._exchange(marks)[1])

    def _exchange(self, steps: Sequence[Step]) -> tuple[list[Link | None], Outcome]:
        """Send steps at once; return the link that each made, and how each ended."""
        first = self._channel.reserve(len(steps))
        self._channel.write(b"".join(step.encode(first + place) for place, step in enumerate(steps)))
        made: list[Link | None] = [None] * len(steps)
        outcome: Outcome = {}
        while len(outcome) < len(steps):
            for reply in self._channel.read():
                place = reply.sequence - first
                if not 0 <= place < len(steps):
                    continue  # the late answer to a call that was interrupted
                if reply.kind == NLMSG_ERROR:
                    outcome[place] = failure(reply)
                elif reply.kind == RTM_NEWLINK:
                    made[place] = parse_link(reply.body)
        return made, outcome

    def links(self, *, master: int | None = None, statistics: bool = False) -> list[Link]:
        """Return all links, or those of one bridge, in the order of their indices."""
        body = header() + (u32(IFLA_MASTER, master) if master is not None else b"")
        bodies = self._channel.dump(RTM_GETLINK, body, what="ip link show")
        return [parse_link(found, statistics=statistics) for found in bodies]

    def link(self, link: int | str, *, statistics: bool = False) -> Link | None:
        """Return one link by index or name, or None."""
        sequence = self._channel.reserve(1)
        self._channel.write(message(RTM_GETLINK, NLM_F_REQUEST | NLM_F_ACK, sequence, target(link)))
        found: Link | None = None
        while True:
            for reply in self._channel.read():
                if reply.sequence != sequence:
                    continue
                if reply.kind == RTM_NEWLINK:
                    found = parse_link(reply.body, statistics=statistics)
                elif reply.kind == NLMSG_ERROR:
                    number, reason = failure(reply)
                    if number not in (0, errno.ENODEV):
                        raise KernelError(number, step=f"ip link show {link}", reason=reason)
                    return found

    def addresses(self, index: int | None = None) -> list[LinkAddress]:
        """Return all addresses, or those of one link; of a link that is not there, none."""
        body = struct.pack("=BBBBi", 0, 0, 0, 0, index or 0)
        try:
            bodies = self._channel.dump(RTM_GETADDR, body, what="ip addr show")
        except KernelError as error:
            if error.errno == errno.ENODEV:
                return []
            raise
        return [parse_address(found) for found in bodies]

    def routes(self, *, every_table: bool = False) -> list[Route]:
        """Return the main table's routes, or those of all tables, IPv4 before IPv6."""
        table = RT_TABLE_UNSPEC if every_table else RT_TABLE_MAIN
        return [parse_route(found) for version in (4, 6) for found in self._dump_routes(version, table)]

    def namespace_id(self, namespace_fd: int) -> int:
        """Return the id of another namespace in this one, by which notifications tell of it; give it one if need be.

        Raises:
            KernelError: the kernel refuses.
        """
        found = self._look_up_namespace(namespace_fd)
        if found < 0:
            body = _RTGENMSG + u32(NETNSA_FD, namespace_fd) + attribute(NETNSA_NSID, struct.pack("=i", -1))
            sequence = self._channel.reserve(1)
            self._channel.write(message(RTM_NEWNSID, NLM_F_REQUEST | NLM_F_ACK, sequence, body))
            try:
                self._channel.answer(sequence, step="ip netns set auto")
            except KernelError as error:
                if error.errno != errno.EEXIST:  # a veth's far end was quicker
                    raise
            found = self._look_up_namespace(namespace_fd)
        return found

    def _look_up_namespace(self, namespace_fd: int) -> int:
        sequence = self._channel.reserve(1)
        body = _RTGENMSG + u32(NETNSA_FD, namespace_fd)
        self._channel.write(message(RTM_GETNSID, NLM_F_REQUEST, sequence, body))
        reply = self._channel.answer(sequence, step="ip netns list-id")
        return int.from_bytes(attributes(reply.body, 4)[NETNSA_NSID], sys.byteorder, signed=True)

    def is_local(self, address: Address) -> bool:
        """Tell whether packets to an address would be delivered here.

        An IPv6 address comes to be so only some time after it was added, by a worker of the kernel.
        """
        sequence = self._channel.reserve(1)
        self._channel.write(message(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_ACK, sequence, lookup_request(address)))
        found = False
        while True:
            for reply in self._channel.read():
                if reply.sequence != sequence:
                    continue
                if reply.kind == RTM_NEWROUTE:
                    found = parse_route(reply.body).kind == RTN_LOCAL
                elif reply.kind == NLMSG_ERROR:
                    return found

    def _dump_routes(self, version: int, table: int) -> list[bytes]:
        try:
            return self._channel.dump(RTM_GETROUTE, dump_request(version, table), what="ip route show")
        except KernelError as error:
            if error.errno == errno.ENOENT:  # a namespace that never had a route has no table yet
                return []
            raise


def _raise_first(steps: Sequence[Step], outcome: Outcome) -> None:
    for place, step in enumerate(steps):
        number, reason = outcome[place]
        if number and number not in step.forgiven:
            applied = [other for other, (result, _) in outcome.items() if result == 0]
            raise KernelError(number, step=str(step), reason=reason, index=place, applied=sorted(applied))
