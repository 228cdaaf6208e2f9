"""What a sandbox can see: records of endpoints, zones of networks, and its view of them.

A zone and the realm are live: one writer (the directory) changes them, and answering never suspends, so that
every answer sees one whole state. A zone's entries are values that are replaced whole. An endpoint is changed in
a time that does not depend on the number of endpoints or of sandboxes, because views refer to zones and hold
none of their names. Lookup follows section 38A.9 of the inventory.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from cnm.types import Address, Prefix, Protocol
from cnm_resolver import wire

TTL_S = 10
MAX_SERVERS = 3
OWN_ADDRESS = IPv4Address("127.0.0.11")


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port that an endpoint serves, found as ``_<number>._<protocol>.<name>``, and by label if it has one."""

    number: int
    protocol: Protocol = "tcp"
    label: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """The names and addresses of one endpoint; the first name is what a reverse lookup gives.

    An endpoint that is not ``ready`` keeps its names and its reverse record, and lends them no address.
    """

    endpoint_id: str
    network_id: str
    names: tuple[str, ...]
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    ready: bool = True
    ports: tuple[ServicePort, ...] = ()


@dataclass(frozen=True, slots=True)
class Server:
    """An external server; ``inside`` is asked from the sandbox's namespace, others from the node's."""

    address: Address
    port: int = 53
    inside: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One name: the records that carry it, and the addresses it has now, as record data."""

    records: tuple[Record, ...]
    ipv4: tuple[bytes, ...]
    ipv6: tuple[bytes, ...]


def entry_of(records: tuple[Record, ...], *, enable_ipv6: bool = True) -> Entry:
    """Collect the distinct addresses of the records that are ready, in their order."""
    ready = [record for record in records if record.ready]
    ipv4 = dict.fromkeys(record.ipv4.packed for record in ready if record.ipv4 is not None)
    ipv6 = dict.fromkeys(record.ipv6.packed for record in ready if record.ipv6 is not None)
    return Entry(records, tuple(ipv4), tuple(ipv6) if enable_ipv6 else ())


class Zone:
    """The names of one network. Names are in lower-case wire form, addresses as bytes.

    What a name answers is collected when it is first asked for after a change, because a name may be carried by
    every endpoint of the network.
    """

    __slots__ = (
        "_entries",
        "_holders",
        "_reverse",
        "enable_ipv6",
        "network_id",
        "network_name",
        "prefixes",
        "records",
        "suffix",
        "ttl_s",
    )

    def __init__(
        self,
        network_id: str,
        network_name: str,
        *,
        enable_ipv6: bool = False,
        records: Iterable[Record] = (),
        prefixes: tuple[Prefix, ...] = (),
        ttl_s: int | None = None,
    ) -> None:
        self.network_id = network_id
        self.network_name = network_name
        self.enable_ipv6 = enable_ipv6
        self.prefixes = prefixes
        self.ttl_s = ttl_s
        self.suffix = wire.encode_name(network_name)
        self.records: dict[str, Record] = {}
        self._entries: dict[bytes, Entry] = {}
        self._holders: dict[bytes, dict[str, Record]] = {}
        self._reverse: dict[bytes, dict[str, Record]] = {}
        for record in records:
            self.put(record)

    def put(self, record: Record) -> None:
        """Add an endpoint's record, or replace it; replacing keeps its place among those of its name."""
        old = self.records.get(record.endpoint_id)
        if old != record:
            self.records[record.endpoint_id] = record
            self._change(record.endpoint_id, old, record)

    def drop(self, endpoint_id: str) -> None:
        """Remove an endpoint's record, if there is one."""
        old = self.records.pop(endpoint_id, None)
        if old is not None:
            self._change(endpoint_id, old, None)

    def _change(self, endpoint_id: str, old: Record | None, new: Record | None) -> None:
        before, after = _wire_names(old), _wire_names(new)
        for name in before | after:
            self._entries.pop(name, None)
        _move(self._holders, endpoint_id, before, after, new)
        _move(self._reverse, endpoint_id, _addresses(old), _addresses(new), new)

    def find(self, name: bytes) -> Entry | None:
        """Give what a name answers, if anybody carries it."""
        entry = self._entries.get(name)
        if entry is None:
            holders = self._holders.get(name)
            if holders is None:
                return None
            entry = self._entries[name] = entry_of(tuple(holders.values()), enable_ipv6=self.enable_ipv6)
        return entry

    def owner_of(self, address: Address) -> Record | None:
        """Give who holds an address, the oldest of several."""
        holders = self._reverse.get(address.packed)
        return next(iter(holders.values())) if holders else None

    def full_name(self, record: Record) -> bytes | None:
        """Give the record's first name with the network's behind it, in wire form."""
        return wire.encode_name(f"{record.names[0]}.{self.network_name}") if record.names else None


def _wire_names(record: Record | None) -> set[bytes]:
    if record is None:
        return set()
    return {name for text in record.names if (name := wire.encode_name(text)) is not None}


def _addresses(record: Record | None) -> set[bytes]:
    if record is None or not record.names:
        return set()
    return {address.packed for address in (record.ipv4, record.ipv6) if address is not None}


def _move(
    table: dict[bytes, dict[str, Record]],
    endpoint_id: str,
    before: set[bytes],
    after: set[bytes],
    record: Record | None,
) -> None:
    for key in before - after:
        holders = table[key]
        del holders[endpoint_id]
        if not holders:
            del table[key]
    if record is not None:
        for key in after:
            table.setdefault(key, {})[endpoint_id] = record


class Realm:
    """What is ours whoever asks: the names and prefixes of every network, and the node's external servers."""

    __slots__ = ("_prefixes", "servers", "suffixes")

    def __init__(self, servers: tuple[Server, ...] = (), zones: Iterable[Zone] = ()) -> None:
        self.servers = usable(servers)
        self.suffixes: frozenset[bytes] = frozenset()
        self._prefixes: dict[tuple[int, int], set[int]] = {}
        self.cover(zones)

    def cover(self, zones: Iterable[Zone]) -> None:
        """Learn anew which networks there are. A prefix of length 0 (the null driver's) covers nothing."""
        zones = tuple(zones)
        self.suffixes = frozenset(zone.suffix for zone in zones if zone.suffix is not None)
        self._prefixes = {}
        for prefix in (prefix for zone in zones for prefix in zone.prefixes if prefix.prefixlen):
            shift = prefix.max_prefixlen - prefix.prefixlen
            found = self._prefixes.setdefault((prefix.version, prefix.prefixlen), set())
            found.add(int(prefix.network_address) >> shift)

    def holds(self, address: Address, length: int) -> bool:
        """Tell whether an address, of which ``length`` bits are given, lies inside a network of ours."""
        return any(
            version == address.version and bits <= length and int(address) >> (address.max_prefixlen - bits) in found
            for (version, bits), found in self._prefixes.items()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a sandbox asked for: its networks in order of priority, and how names are resolved in it.

    ``links`` maps an alias to a name, for this sandbox alone. ``servers`` are its own external servers; without
    them the node's are asked, and none when ``external`` is false (only internal networks).
    """

    sandbox_id: str
    networks: tuple[str, ...] = ()
    extra_hosts: tuple[tuple[str, Address], ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    servers: tuple[Server, ...] = ()
    ndots_set: bool = False
    external: bool = True
    ttl_s: int = TTL_S


@dataclass(frozen=True, slots=True)
class View:
    """What one sandbox sees: its zones in order, and its settings."""

    settings: Settings
    zones: tuple[Zone, ...] = ()
    realm: Realm = field(default_factory=Realm)
    hosts: Mapping[bytes, Entry] = field(init=False)
    links: Mapping[bytes, bytes] = field(init=False)
    own_servers: tuple[Server, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Translate the settings into wire names once, because every question looks them up."""
        object.__setattr__(self, "hosts", _hosts(self.settings.extra_hosts))
        object.__setattr__(self, "links", _links(self.settings.links))
        object.__setattr__(self, "own_servers", usable(self.settings.servers))

    @property
    def servers(self) -> tuple[Server, ...]:
        """The external servers to ask, in order; none when there is no way out."""
        if self.own_servers:
            return self.own_servers
        return self.realm.servers if self.settings.external else ()

    def ttl_s(self, zone: Zone | None) -> int:
        """Give the life time of a zone's records: the network's, else the sandbox's."""
        return self.settings.ttl_s if zone is None or zone.ttl_s is None else zone.ttl_s

    def find(self, name: bytes) -> tuple[Zone | None, Entry] | None:
        """Look a lower-case wire name up; the first network that has it wins.

        An alias of the sandbox hides a real name of the same text, even when it leads nowhere.
        """
        host = self.hosts.get(name)
        if host is not None:
            return None, host
        links = self.links
        if links:
            target = links.get(name)
            if target is not None:
                return self._find_real(target)
        for zone in self.zones:
            entry = zone.find(name)
            if entry is not None:
                return zone, entry
        for prefix, zones in self._candidates(name):
            real = links.get(prefix, prefix)
            for zone in zones:
                entry = zone.find(real)
                if entry is not None:
                    return zone, entry
        return None

    def _find_real(self, name: bytes) -> tuple[Zone, Entry] | None:
        everywhere = (name, self.zones)
        for prefix, zones in (everywhere, *self._candidates(name)):
            for zone in zones:
                entry = zone.find(prefix)
                if entry is not None:
                    return zone, entry
        return None

    def _candidates(self, name: bytes) -> Iterator[tuple[bytes, tuple[Zone, ...]]]:
        """Split off a network's name at the end, the shortest first: ``a.b`` in ``c``, then ``a`` in ``b.c``."""
        if name[0] + 2 >= len(name):
            return
        for offset in reversed(wire.labels_of(name)[1:]):
            suffix = name[offset:]
            zones = tuple(zone for zone in self.zones if zone.suffix == suffix)
            if zones:
                yield name[:offset] + b"\0", zones

    def owner_of(self, address: Address) -> tuple[Zone, Record] | None:
        """Find who holds an address on a network of this sandbox."""
        for zone in self.zones:
            record = zone.owner_of(address)
            if record is not None:
                return zone, record
        return None


def _hosts(extra: tuple[tuple[str, Address], ...]) -> dict[bytes, Entry]:
    found: dict[bytes, list[Address]] = {}
    for text, address in extra:
        name = wire.encode_name(text)
        if name is not None:
            found.setdefault(name, []).append(address)
    return {
        name: Entry(
            (),
            tuple(dict.fromkeys(address.packed for address in addresses if address.version == 4)),
            tuple(dict.fromkeys(address.packed for address in addresses if address.version == 6)),
        )
        for name, addresses in found.items()
    }


def _links(links: Mapping[str, str]) -> dict[bytes, bytes]:
    pairs = ((wire.encode_name(alias), wire.encode_name(real)) for alias, real in links.items())
    return {alias: real for alias, real in pairs if alias is not None and real is not None}


def usable(servers: tuple[Server, ...]) -> tuple[Server, ...]:
    """Leave ourselves out, and what is beyond the limit of the resolver library."""
    return tuple(server for server in servers if server.address != OWN_ADDRESS)[:MAX_SERVERS]
