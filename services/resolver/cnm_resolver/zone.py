"""What a sandbox can see: records of endpoints, zones of networks, and its view of them.

A zone and the realm are live: one writer (the directory) changes them, and answering never suspends, so that
every answer sees one whole state. A zone's entries are values that are replaced whole. An endpoint is changed in
a time that does not depend on the number of endpoints or of sandboxes, because views refer to zones and hold
none of their names. Lookup follows section 38A.9 of the inventory; wildcards stand behind all that is written out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from cnm.types import Address, Prefix, Protocol
from cnm_resolver import wire

TTL_S = 10
MAX_SERVERS = 3
OWN_ADDRESS = IPv4Address("127.0.0.11")
OWN_ADDRESSES = (OWN_ADDRESS, IPv6Address("::ffff:127.0.0.11"))
NODE_NAME = "host.internal"
"""The node, as the sandbox that asks reaches it; a real name of the same text hides it."""

WILDCARD = b"\1*"
_NODE_NAME = wire.encode_name(NODE_NAME) or b""


@dataclass(frozen=True, slots=True)
class ServicePort:
    """Ports that an endpoint serves, found as ``_<number>._<protocol>.<name>``, and by label if they have one."""

    number: int
    protocol: Protocol = "tcp"
    label: str = ""
    last: int | None = None

    def meets(self, text: str, number: int | None) -> int | None:
        """Return the port that a label or a number means here; None when it means none of these."""
        if self.label and text == self.label.lower():
            return self.number
        serves = number is not None and self.number <= number <= (self.last or self.number)
        return number if serves else None


@dataclass(frozen=True, slots=True)
class Record:
    """The names and addresses of one endpoint; the first name is what a reverse lookup gives.

    A name ``*.app`` is carried by every name below ``app``, however deep, that nobody carries by itself.
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

    name: bytes
    records: tuple[Record, ...]
    ipv4: tuple[bytes, ...]
    ipv6: tuple[bytes, ...]


def entry_of(name: bytes, records: tuple[Record, ...], *, enable_ipv6: bool = True) -> Entry:
    """Collect the distinct addresses of the records that are ready, in their order."""
    ready = [record for record in records if record.ready]
    ipv4 = dict.fromkeys(record.ipv4.packed for record in ready if record.ipv4 is not None)
    ipv6 = dict.fromkeys(record.ipv6.packed for record in ready if record.ipv6 is not None)
    return Entry(name, records, tuple(ipv4), tuple(ipv6) if enable_ipv6 else ())


def host_entry(name: bytes, addresses: Iterable[Address]) -> Entry:
    """Collect the distinct addresses of a name that no endpoint carries."""
    found = dict.fromkeys(addresses)
    ipv4, ipv6 = (tuple(each.packed for each in found if each.version == version) for version in (4, 6))
    return Entry(name, (), ipv4, ipv6)


class Zone:
    """The names of one network. Names, reverse ones too, are in lower-case wire form, addresses as bytes.

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
        "wildcards",
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
        self.wildcards: set[bytes] = set()
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
        _move(self._reverse, endpoint_id, _reverse_names(old), _reverse_names(new), new)
        starred = {name for name in before | after if name.startswith(WILDCARD)}
        self.wildcards = self.wildcards - starred | starred & self._holders.keys()

    def find(self, name: bytes) -> Entry | None:
        """Give what a name answers, if anybody carries it."""
        entry = self._entries.get(name)
        if entry is None:
            holders = self._holders.get(name)
            if holders is None:
                return None
            entry = self._entries[name] = entry_of(name, tuple(holders.values()), enable_ipv6=self.enable_ipv6)
        return entry

    def owner_of(self, name: bytes) -> Record | None:
        """Give who holds the address of a reverse name, the oldest of several."""
        holders = self._reverse.get(name)
        return next(iter(holders.values())) if holders else None

    def full_name(self, record: Record) -> bytes | None:
        """Give the record's first name with the network's behind it, in wire form."""
        return wire.encode_name(f"{record.names[0]}.{self.network_name}") if record.names else None


def _wire_names(record: Record | None) -> set[bytes]:
    if record is None:
        return set()
    return {name for text in record.names if (name := wire.encode_name(text)) is not None}


def _reverse_names(record: Record | None) -> set[bytes]:
    if record is None or not record.names:
        return set()
    return {wire.reverse_name(address) for address in (record.ipv4, record.ipv6) if address is not None}


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

    __slots__ = ("_prefixes", "_servers", "suffixes")

    def __init__(self, servers: "NodeServers" = (), zones: Iterable[Zone] = ()) -> None:
        self._servers = servers
        self.suffixes: frozenset[bytes] = frozenset()
        self._prefixes: dict[tuple[int, int], set[int]] = {}
        self.cover(zones)

    @property
    def servers(self) -> tuple[Server, ...]:
        """The node's external servers, as they are now."""
        return usable(self._servers() if callable(self._servers) else self._servers)

    @servers.setter
    def servers(self, servers: "NodeServers") -> None:
        self._servers = servers

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


NodeServers = tuple[Server, ...] | Callable[[], tuple[Server, ...]]
"""The node's external servers, or who knows them at any time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a sandbox asked for: its networks in order of priority, and how names are resolved in it.

    ``links`` maps an alias to a name, for this sandbox alone. ``node_addresses`` are the node's, as it reaches them.
    ``servers`` are its own external servers; without them the node's are asked, and none when ``external`` is false
    (only internal networks). ``domains`` names servers for a domain and all names below it, which are asked before
    any other; the longest one counts.
    """

    sandbox_id: str
    networks: tuple[str, ...] = ()
    extra_hosts: tuple[tuple[str, Address], ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    servers: tuple[Server, ...] = ()
    ndots_set: bool = False
    domains: Mapping[str, tuple[Server, ...]] = field(default_factory=dict)
    external: bool = True
    ttl_s: int = TTL_S
    node_addresses: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What one sandbox sees: its zones in order, and its settings."""

    settings: Settings
    zones: tuple[Zone, ...] = ()
    realm: Realm = field(default_factory=Realm)
    hosts: Mapping[bytes, Entry] = field(init=False)
    links: Mapping[bytes, bytes] = field(init=False)
    own_servers: tuple[Server, ...] = field(init=False)
    domains: Mapping[bytes, tuple[Server, ...]] = field(init=False)
    node: Entry = field(init=False)

    def __post_init__(self) -> None:
        """Translate the settings into wire names once, because every question looks them up."""
        object.__setattr__(self, "hosts", _hosts(self.settings.extra_hosts))
        object.__setattr__(self, "links", _links(self.settings.links))
        object.__setattr__(self, "own_servers", usable(self.settings.servers))
        domains = ((wire.encode_name(domain), usable(servers)) for domain, servers in self.settings.domains.items())
        object.__setattr__(self, "domains", {name: servers for name, servers in domains if name and servers})
        object.__setattr__(self, "node", host_entry(_NODE_NAME, self.settings.node_addresses))

    @property
    def servers(self) -> tuple[Server, ...]:
        """The external servers to ask, in order; none when there is no way out."""
        if self.own_servers:
            return self.own_servers
        return self.realm.servers if self.settings.external else ()

    def servers_for(self, name: bytes) -> tuple[Server, ...]:
        """Give the external servers of a lower-case wire name: those of its domain, else any name's."""
        for offset in wire.labels_of(name) if self.domains else ():
            servers = self.domains.get(name[offset:])
            if servers is not None:
                return servers
        return self.servers

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
            target = links.get(prefix)
            found = self._find_real(target) if target is not None else None
            if found is not None and found[0] in zones:
                return found
            for zone in zones:
                entry = zone.find(prefix) if target is None else None
                if entry is not None:
                    return zone, entry
        return (None, self.node) if name == _NODE_NAME else None

    def find_below(self, name: bytes) -> tuple[Zone, Entry] | None:
        """Look up the wildcard that covers a name, the longest of several; only for names that are not found."""
        if not any(zone.wildcards for zone in self.zones):
            return None
        best: tuple[int, Zone, bytes] | None = None
        for base, zones in ((name, self.zones), *self._candidates(name)):
            offsets = wire.labels_of(base)[1:]
            for zone in zones:
                for depth, offset in enumerate(offsets if zone.wildcards else ()):
                    star = WILDCARD + base[offset:]
                    if star in zone.wildcards and (best is None or depth < best[0]):
                        best = depth, zone, star
                        break
        if best is None:
            return None
        _, zone, star = best
        entry = zone.find(star)
        return None if entry is None else (zone, entry)

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

    def owner_of(self, name: bytes) -> tuple[Zone, Record] | None:
        """Find who holds the address of a reverse name, on a network of this sandbox."""
        for zone in self.zones:
            record = zone.owner_of(name)
            if record is not None:
                return zone, record
        return None


def _hosts(extra: tuple[tuple[str, Address], ...]) -> dict[bytes, Entry]:
    found: dict[bytes, list[Address]] = {}
    for text, address in extra:
        name = wire.encode_name(text)
        if name is not None:
            found.setdefault(name, []).append(address)
    return {name: host_entry(name, addresses) for name, addresses in found.items()}


def _links(links: Mapping[str, str]) -> dict[bytes, bytes]:
    pairs = ((wire.encode_name(alias), wire.encode_name(real)) for alias, real in links.items())
    return {alias: real for alias, real in pairs if alias is not None and real is not None}


def usable(servers: tuple[Server, ...]) -> tuple[Server, ...]:
    """Leave ourselves out, however written, and what is beyond the limit of the resolver library."""
    return tuple(server for server in servers if server.address not in OWN_ADDRESSES)[:MAX_SERVERS]
