"""Decide on a packet: answer it, forward it, or say nothing.

Pure: the view says what is known, the rota whose turn it is. Nothing that could be ours is forwarded: known
names of whatever type, single labels, ``name.network`` of any network of the node, and reverse names inside
our prefixes.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from cnm_resolver import wire
from cnm_resolver.service_names import port_named
from cnm_resolver.wire import Fault, Query
from cnm_resolver.zone import Entry, Record, Server, View, Zone

_SRV = struct.Struct("!HHH")
_ROTA_SIZE = 4096


class Response(msgspec.Struct, frozen=True, gc=False):
    """Send this packet."""

    packet: bytes


class Forward(msgspec.Struct, frozen=True):
    """Ask these servers, in this order."""

    query: Query
    servers: tuple[Server, ...]


class Drop(msgspec.Struct, frozen=True):
    """Send nothing."""


Outcome = Response | Forward | Drop
_DROP = Drop()


class Rota:
    """Whose turn it is to stand first, for each name and type; one a process, so that all sandboxes share."""

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns: dict[tuple[bytes, int], int] = {}

    def rotate(self, name: bytes, kind: int, addresses: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Begin with the address after the one that stood first the last time."""
        key = name, kind
        turn = self._turns.get(key, 0) % len(addresses)
        if turn == 0 and len(self._turns) >= _ROTA_SIZE:
            self._turns.clear()
        self._turns[key] = turn + 1
        return addresses[turn:] + addresses[:turn]


def answer(packet: bytes, view: View, rota: Rota, *, stream: bool = False) -> Outcome:
    """Decide on one packet of a client; ``stream`` says that it came over TCP, where size hardly matters."""
    query = wire.parse(packet)
    if isinstance(query, Fault):
        return Response(query.reply) if query.reply else _DROP
    if query.klass != wire.IN or query.kind in (wire.AXFR, wire.IXFR):
        return Response(wire.respond(query, wire.REFUSED))
    found = view.find(query.name)
    if found is not None:
        return Response(_known(query, view, rota, *found, stream=stream))
    if query.name.endswith(b"\4arpa\0"):
        return _reverse(query, view)
    return _unknown(query, view, rota, stream=stream)


def _known(query: Query, view: View, rota: Rota, zone: Zone | None, entry: Entry, *, stream: bool) -> bytes:
    """Answer for a name that we have; without a record of the type asked for the answer is empty."""
    kind, ttl_s = query.kind, view.ttl_s(zone)
    answers: list[bytes] = []
    if kind in (wire.A, wire.ANY):
        answers += _addresses(entry.name, rota, wire.A, ttl_s, entry.ipv4)
    if kind in (wire.AAAA, wire.ANY):
        answers += _addresses(entry.name, rota, wire.AAAA, ttl_s, entry.ipv6)
    return _sized(query, answers, stream=stream)


@lru_cache(maxsize=64)
def _head(kind: int, ttl_s: int) -> bytes:
    return wire.record_head(kind, ttl_s, 4 if kind == wire.A else 16)


def _addresses(name: bytes, rota: Rota, kind: int, ttl_s: int, addresses: tuple[bytes, ...]) -> list[bytes]:
    if len(addresses) > 1:
        addresses = rota.rotate(name, kind, addresses)
    head = _head(kind, ttl_s)
    return [head + address for address in addresses]


def _sized(query: Query, answers: Sequence[bytes], additional: Sequence[bytes] = (), *, stream: bool) -> bytes:
    limit = wire.MAX_SIZE if stream else query.size
    return wire.respond(query, wire.NOERROR, answers, additional, limit=limit, mark_truncated=not stream)


def _reverse(query: Query, view: View) -> Outcome:
    """Answer for an address; what lies inside a network of ours is never asked elsewhere."""
    owner = view.owner_of(query.name)
    if owner is not None:
        zone, record = owner
        name = zone.full_name(record)
        if name is None or query.kind not in (wire.PTR, wire.ANY):
            return Response(wire.respond(query, wire.NOERROR))
        head = wire.record_head(wire.PTR, view.ttl_s(zone), len(name))
        return Response(wire.respond(query, wire.NOERROR, [head + name]))
    parsed = wire.reverse_address(query.name)
    if parsed is None:
        return _elsewhere(query, view)
    address, length = parsed
    if view.realm.holds(address, length):
        # a name that stops early exists (RFC 8020): there may be addresses below it
        code = wire.NXDOMAIN if length == address.max_prefixlen else wire.NOERROR
        return Response(wire.respond(query, code))
    return _elsewhere(query, view)


def _unknown(query: Query, view: View, rota: Rota, *, stream: bool) -> Outcome:
    """Answer for a name that nobody has written out.

    It is a service of one, below a wildcard, one that can only be ours, or any other.
    """
    labels = wire.labels_of(query.name)
    plain = query.name
    if len(labels) > 2 and plain[1:2] == plain[labels[1] + 1 : labels[1] + 2] == b"_":
        plain = plain[labels[2] :]
        labels = labels[2:]
        found = view.find(plain) or view.find_below(plain)
        if found is not None:
            return _service(query, view, *found, stream=stream)
    covered = view.find_below(query.name)
    if covered is not None:
        return Response(_known(query, view, rota, *covered, stream=stream))
    if len(labels) == 1 or (labels and plain in view.links):
        # section 36.2 of the inventory: with ndots set by the user the search list goes on after an empty answer
        empty = view.settings.ndots_set and query.kind in (wire.A, wire.AAAA)
        return Response(wire.respond(query, wire.NOERROR if empty else wire.NXDOMAIN))
    if labels and plain[labels[1] :] in view.realm.suffixes:
        return Response(wire.respond(query, wire.NXDOMAIN))
    return _elsewhere(query, view)


def _service(query: Query, view: View, zone: Zone | None, entry: Entry, *, stream: bool) -> Outcome:
    """Answer ``_port._protocol.name`` (RFC 2782) with the endpoints that serve the port, and their addresses."""
    text, protocol = _service_labels(query.name)
    number = port_named(text, protocol)
    matches = [
        (record, port)
        for record in entry.records
        for each in record.ports
        if each.protocol == protocol and (port := each.meets(text, number)) is not None
    ]
    if not matches or zone is None:
        return Response(wire.respond(query, wire.NXDOMAIN))
    if query.kind not in (wire.SRV, wire.ANY):
        return Response(wire.respond(query, wire.NOERROR))
    ttl_s = view.ttl_s(zone)
    answers, additional = [], []
    for record, port in matches:
        target = zone.full_name(record)
        if target is not None and record.ready:
            answers.append(_service_record(port, target, ttl_s))
            additional += _glue(record, target, ttl_s, enable_ipv6=zone.enable_ipv6)
    return Response(_sized(query, answers, list(dict.fromkeys(additional)), stream=stream))


def _service_labels(name: bytes) -> tuple[str, str]:
    second = name[0] + 1
    port = name[2:second].decode(errors="replace")
    return port, name[second + 2 : second + 1 + name[second]].decode(errors="replace")


def _service_record(port: int, target: bytes, ttl_s: int) -> bytes:
    rdata = _SRV.pack(0, 0, port) + target
    return wire.record_head(wire.SRV, ttl_s, len(rdata)) + rdata


def _glue(record: Record, target: bytes, ttl_s: int, *, enable_ipv6: bool) -> list[bytes]:
    found = []
    if record.ipv4 is not None:
        found.append(wire.record(target, wire.A, ttl_s, record.ipv4.packed))
    if record.ipv6 is not None and enable_ipv6:
        found.append(wire.record(target, wire.AAAA, ttl_s, record.ipv6.packed))
    return found


def _elsewhere(query: Query, view: View) -> Outcome:
    servers = view.servers_for(query.name)
    if not servers:
        return Response(wire.respond(query, wire.SERVFAIL))
    return Forward(query, servers)
