"""All that the resolver of a node knows: networks, endpoints' records, and sandboxes. No I/O.

Changing an endpoint touches its network's zone alone; no view is rebuilt. Changing a network or a sandbox names
the sandboxes whose view is another one now.
"""

from dataclasses import replace

from cnm.types import Prefix
from cnm_resolver.zone import NodeServers, Realm, Record, Settings, View, Zone


class Directory:
    """Zones by network, records by endpoint, settings by sandbox. Every change may be repeated."""

    def __init__(self, node_servers: NodeServers = ()) -> None:
        self._realm = Realm(node_servers)
        self._zones: dict[str, Zone] = {}
        self._networks: dict[str, str] = {}
        self._waiting: dict[str, Record] = {}
        self._sandboxes: dict[str, Settings] = {}
        self._members: dict[str, dict[str, None]] = {}

    def put_network(
        self,
        network_id: str,
        network_name: str,
        *,
        enable_ipv6: bool = False,
        prefixes: tuple[Prefix, ...] = (),
        ttl_s: int | None = None,
    ) -> tuple[str, ...]:
        """Add or change a network, with the records it has; return the sandboxes whose view changed."""
        old = self._zones.get(network_id)
        facts = (network_name, enable_ipv6, prefixes, ttl_s)
        if old and facts == (old.network_name, old.enable_ipv6, old.prefixes, old.ttl_s):
            return ()
        waiting = [record for record in self._waiting.values() if record.network_id == network_id]
        for record in waiting:
            del self._waiting[record.endpoint_id]
        records = (*(old.records.values() if old else ()), *waiting)
        self._zones[network_id] = Zone(
            network_id, network_name, enable_ipv6=enable_ipv6, records=records, prefixes=prefixes, ttl_s=ttl_s
        )
        self._realm.cover(self._zones.values())
        return tuple(self._members.get(network_id, ()))

    def drop_network(self, network_id: str) -> tuple[str, ...]:
        """Forget a network and its records; return the sandboxes whose view changed."""
        zone = self._zones.pop(network_id, None)
        if zone is None:
            return ()
        for endpoint_id in zone.records:
            del self._networks[endpoint_id]
        self._realm.cover(self._zones.values())
        return tuple(self._members.get(network_id, ()))

    def put_record(self, record: Record) -> None:
        """Add or replace an endpoint's record; it waits when its network is not known yet."""
        if self._networks.get(record.endpoint_id, record.network_id) != record.network_id:
            self.drop_record(record.endpoint_id)
        self._networks[record.endpoint_id] = record.network_id
        zone = self._zones.get(record.network_id)
        if zone is None:
            self._waiting[record.endpoint_id] = record
        else:
            zone.put(record)

    def drop_record(self, endpoint_id: str) -> None:
        """Forget an endpoint, if it is known."""
        self._waiting.pop(endpoint_id, None)
        zone = self._zones.get(self._networks.pop(endpoint_id, ""))
        if zone is not None:
            zone.drop(endpoint_id)

    def set_ready(self, endpoint_id: str, *, ready: bool) -> None:
        """Give or take an endpoint's addresses to or from its names, if it is known."""
        record = self.record(endpoint_id)
        if record is not None:
            self.put_record(replace(record, ready=ready))

    def record(self, endpoint_id: str) -> Record | None:
        """Give an endpoint's record as it stands."""
        zone = self._zones.get(self._networks.get(endpoint_id, ""))
        return self._waiting.get(endpoint_id) if zone is None else zone.records.get(endpoint_id)

    def put_sandbox(self, settings: Settings) -> View:
        """Add or change a sandbox; return its view."""
        self._unlist(settings.sandbox_id)
        self._sandboxes[settings.sandbox_id] = settings
        for network_id in settings.networks:
            self._members.setdefault(network_id, {})[settings.sandbox_id] = None
        return self.view(settings.sandbox_id)

    def drop_sandbox(self, sandbox_id: str) -> None:
        """Forget a sandbox, if it is known."""
        self._unlist(sandbox_id)
        self._sandboxes.pop(sandbox_id, None)

    def settings(self, sandbox_id: str) -> Settings | None:
        """Give a sandbox's settings as they stand."""
        return self._sandboxes.get(sandbox_id)

    def view(self, sandbox_id: str) -> View:
        """Derive what a known sandbox sees; networks that are not known yet are left out.

        Raises:
            KeyError: the sandbox was never put.
        """
        settings = self._sandboxes[sandbox_id]
        zones = (self._zones.get(network_id) for network_id in settings.networks)
        return View(settings, tuple(zone for zone in zones if zone is not None), self._realm)

    def set_node_servers(self, servers: NodeServers) -> None:
        """Ask these from now on where a sandbox has no servers of its own; views need no change."""
        self._realm.servers = servers

    def networks(self) -> tuple[str, ...]:
        """List the networks that are known."""
        return tuple(self._zones)

    def endpoints(self) -> tuple[str, ...]:
        """List the endpoints that have a record."""
        return tuple(self._networks)

    def sandboxes(self) -> tuple[str, ...]:
        """List the sandboxes that are known."""
        return tuple(self._sandboxes)

    def _unlist(self, sandbox_id: str) -> None:
        settings = self._sandboxes.get(sandbox_id)
        for network_id in settings.networks if settings else ():
            members = self._members[network_id]
            members.pop(sandbox_id, None)
            if not members:
                del self._members[network_id]
