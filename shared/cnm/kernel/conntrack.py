"""Connections that the kernel tracks: found and deleted by ctnetlink.

A flow goes on by its entry whatever the rules have become: UDP traffic to an unpublished port would still
reach its container.
"""

import errno
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from cnm.types import Address

from .element import nf_message
from .errors import KernelError
from .netlink import NETLINK_NETFILTER, NLM_F_ACK, NLMSG_ERROR, Channel, attribute, attributes, failure

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_ID, CTA_ZONE = 1, 2, 12, 18
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
NLA_F_NESTED = 0x8000
AF_INET, AF_INET6 = 2, 10
UDP = 17
DELETE_AT_ONCE = 256

Family = Literal[4, 6]
_NFGENMSG = struct.Struct(">BBH")
_UDP_NUMBER = attribute(CTA_PROTO_NUM, bytes((UDP,)))


@dataclass(frozen=True, slots=True)
class Flow:
    """One direction of a tracked connection; ports are 0 where the protocol has none."""

    protocol: int
    source: Address
    destination: Address
    source_port: int
    destination_port: int


@dataclass(frozen=True, slots=True)
class Connection:
    """A tracked connection: as it was begun, and as its replies come."""

    original: Flow
    reply: Flow
    key: bytes

    @property
    def version(self) -> Family:
        """Return the IP version of the direction that began it."""
        return self.original.source.version


def parse_connection(body: bytes) -> Connection:
    """Decode the body of a conntrack message, its nfgenmsg included."""
    found = attributes(body, 4)
    key = b"".join(
        attribute(kind | (NLA_F_NESTED if kind == CTA_TUPLE_ORIG else 0), found[kind])
        for kind in (CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE)
        if kind in found
    )
    return Connection(_flow(found[CTA_TUPLE_ORIG]), _flow(found[CTA_TUPLE_REPLY]), key)


def _flow(tuple_: bytes) -> Flow:
    parts = attributes(tuple_)
    ends = attributes(parts[CTA_TUPLE_IP])
    protocol = attributes(parts[CTA_TUPLE_PROTO])
    source: Address
    destination: Address
    if CTA_IP_V4_SRC in ends:
        source, destination = IPv4Address(ends[CTA_IP_V4_SRC]), IPv4Address(ends[CTA_IP_V4_DST])
    else:
        source, destination = IPv6Address(ends[CTA_IP_V6_SRC]), IPv6Address(ends[CTA_IP_V6_DST])
    return Flow(
        protocol=protocol[CTA_PROTO_NUM][0],
        source=source,
        destination=destination,
        source_port=int.from_bytes(protocol.get(CTA_PROTO_SRC_PORT, b""), "big"),
        destination_port=int.from_bytes(protocol.get(CTA_PROTO_DST_PORT, b""), "big"),
    )


class Conntrack:
    """One ctnetlink socket in one namespace; for one thread."""

    def __init__(self, namespace: Path | int | None = None) -> None:
        self._channel = Channel(NETLINK_NETFILTER, namespace)

    def close(self) -> None:
        """Close the socket; closing twice is fine."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connections(self, family: Family) -> list[Connection]:
        """Return all connections of a family."""
        return [parse_connection(body) for body in self._dump(family)]

    def delete_udp_by_host_port(self, port: int, address: Address | None = None, family: Family | None = None) -> int:
        """Forget UDP flows that were sent to a host port, and to that host address if one is given.

        Returns how many they were. The original destination counts, not where NAT led them.
        """
        mark = attribute(CTA_PROTO_DST_PORT, struct.pack(">H", port))

        def candidate(body: bytes) -> bool:
            return mark in body and _UDP_NUMBER in body

        def chosen(connection: Connection) -> bool:
            flow = connection.original
            fits = flow.protocol == UDP and flow.destination_port == port
            return fits and (address is None or flow.destination == address)

        return sum(self._delete(version, candidate, chosen) for version in _families(family, address))

    def delete_sent_to(self, protocol: int, ports: Iterable[tuple[int, Address | None, Family]]) -> int:
        """Forget a protocol's flows that were sent to any of these host ports, by address (None is all) and family.

        Returns how many they were. However many ports there are, each family is dumped once.
        """
        wanted = set(ports)
        number = attribute(CTA_PROTO_NUM, bytes((protocol,)))

        def candidate(body: bytes) -> bool:
            return number in body

        def chosen(connection: Connection) -> bool:
            flow = connection.original
            port, address, version = flow.destination_port, flow.destination, connection.version
            places = ((port, None, version), (port, address, version))
            return flow.protocol == protocol and not wanted.isdisjoint(places)

        return sum(self._delete(version, candidate, chosen) for version in {each[2] for each in wanted})

    def delete_by_address(self, address: Address) -> int:
        """Forget every connection that an address takes part in, before or after NAT; return how many."""

        def candidate(body: bytes) -> bool:
            return address.packed in body

        def chosen(connection: Connection) -> bool:
            flows = (connection.original, connection.reply)
            return any(address in (flow.source, flow.destination) for flow in flows)

        return self._delete(address.version, candidate, chosen)

    def _dump(self, family: Family) -> list[bytes]:
        kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET
        return self._channel.dump(kind, _NFGENMSG.pack(_af(family), 0, 0), what="conntrack -L")

    def _delete(
        self, family: Family, candidate: Callable[[bytes], bool], chosen: Callable[[Connection], bool]
    ) -> int:
        """Delete what is chosen; ``candidate`` spares the decoding of most of the others."""
        parsed = (parse_connection(body) for body in self._dump(family) if candidate(body))
        keys = [connection.key for connection in parsed if chosen(connection)]
        batches = (keys[start : start + DELETE_AT_ONCE] for start in range(0, len(keys), DELETE_AT_ONCE))
        return sum(self._delete_keys(family, batch) for batch in batches)

    def _delete_keys(self, family: Family, keys: list[bytes]) -> int:
        first = self._channel.reserve(len(keys))
        kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
        self._channel.write(
            b"".join(nf_message(kind, NLM_F_ACK, first + place, _af(family), key) for place, key in enumerate(keys))
        )
        outcome: dict[int, tuple[int, str]] = {}
        while len(outcome) < len(keys):
            for reply in self._channel.read():
                if reply.kind == NLMSG_ERROR and first <= reply.sequence < first + len(keys):
                    outcome[reply.sequence] = failure(reply)
        for number, reason in outcome.values():
            if number not in (0, errno.ENOENT):
                raise KernelError(number, step="conntrack -D", reason=reason)
        return sum(number == 0 for number, _ in outcome.values())


def _af(family: Family) -> int:
    return AF_INET if family == 4 else AF_INET6


def _families(family: Family | None, address: Address | None) -> Iterable[Family]:
    if address is not None:
        return (address.version,)
    return (4, 6) if family is None else (family,)


def delete_udp_by_host_port(
    port: int, address: Address | None = None, family: Family | None = None, *, namespace: Path | None = None
) -> int:
    """Do `Conntrack.delete_udp_by_host_port` with a socket of its own."""
    with Conntrack(namespace) as conntrack:
        return conntrack.delete_udp_by_host_port(port, address, family)


def delete_by_address(address: Address, *, namespace: Path | None = None) -> int:
    """Do `Conntrack.delete_by_address` with a socket of its own."""
    with Conntrack(namespace) as conntrack:
        return conntrack.delete_by_address(address)
