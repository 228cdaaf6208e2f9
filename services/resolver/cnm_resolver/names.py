"""The names of a node: what the controller said of them, and who is served with them."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cnm.bus import KeyedOrder
from cnm.errors import NotFound, Unavailable
from cnm.messages.drift import Difference
from cnm.messages.names import NameRecord, ResolverSandbox, ZoneSpec
from cnm.messages.node import NameSlice
from cnm.patrol import Patrol
from cnm.types import Address
from cnm_resolver.directory import Directory
from cnm_resolver.listener import Listeners
from cnm_resolver.zone import TTL_S, Record, Server, ServicePort, Settings


@dataclass
class Names:
    """Applies commands and slices to the directory and the listeners.

    ``_touched`` are the ids that commands meant since a slice was last asked for: it says nothing about them.
    """

    directory: Directory
    listeners: Listeners
    _touched: set[str] = field(default_factory=set)
    _order: KeyedOrder = field(default_factory=KeyedOrder)
    _patrol: Patrol[str] = field(default_factory=Patrol)

    def asking(self) -> None:
        """Note that a slice is being asked for: what commands touch from now on is newer."""
        self._touched = set()

    def touch(self, *ids: str) -> None:
        """Note that a command means these."""
        self._touched.update(ids)

    def put_zone(self, spec: ZoneSpec) -> None:
        """Know a network."""
        changed = self.directory.put_network(
            spec.network_id,
            spec.name,
            enable_ipv6=spec.enable_ipv6,
            prefixes=tuple(spec.prefixes),
            ttl_s=spec.ttl,
        )
        self._show(changed)

    def drop_zone(self, network_id: str) -> None:
        """Forget a network with its records."""
        self._show(self.directory.drop_network(network_id))

    def put_record(self, record: NameRecord) -> None:
        """Know an endpoint's names."""
        self.directory.put_record(
            Record(
                endpoint_id=record.endpoint_id,
                network_id=record.network_id,
                names=tuple(record.names),
                ipv4=record.ipv4_address,
                ipv6=record.ipv6_address,
                ready=record.ready,
                ports=tuple(ServicePort(each.first, each.protocol, last=each.last) for each in record.ports),
            )
        )

    async def serve(self, sandbox: ResolverSandbox) -> None:
        """Answer a sandbox as told.

        Raises:
            NotFound: its namespace is not there.
            Unavailable: the kernel refused the sockets.
        """
        async with self._order.turn(sandbox.sandbox_id):
            await self._serve(sandbox)

    async def _serve(self, sandbox: ResolverSandbox) -> None:
        settings = Settings(
            sandbox_id=sandbox.sandbox_id,
            networks=tuple(sandbox.networks),
            servers=tuple(Server(address, inside=True) for address in sandbox.servers),
            domains={domain: _network_servers(servers) for domain, servers in sandbox.domains.items()},
            ndots_set=sandbox.ndots_set,
            external=sandbox.external or bool(sandbox.servers),
            ttl_s=TTL_S,
            extra_hosts=tuple((each.name, each.address) for each in sandbox.hosts),
            links=sandbox.links,
            node_addresses=tuple(sandbox.node_addresses),
        )
        view = self.directory.put_sandbox(settings)
        try:
            await self.listeners.open(sandbox.sandbox_id, Path(sandbox.namespace), view)
        except FileNotFoundError:
            self.directory.drop_sandbox(sandbox.sandbox_id)
            raise NotFound(f"no namespace {sandbox.namespace} to answer in") from None
        except OSError as error:
            self.directory.drop_sandbox(sandbox.sandbox_id)
            raise Unavailable(f"no DNS sockets in {sandbox.namespace}: {error}") from None

    async def forget_sandbox(self, sandbox_id: str) -> None:
        """Stop answering a sandbox."""
        async with self._order.turn(sandbox_id):
            await self._forget(sandbox_id)

    async def _forget(self, sandbox_id: str) -> None:
        await self.listeners.close(sandbox_id)
        self.directory.drop_sandbox(sandbox_id)

    async def converge(self, wanted: NameSlice) -> list[str]:
        """Make the directory and the listeners what a slice says; return what was changed, in words.

        What sagas are changing right now, and what commands touched since the slice was asked for, is left alone.
        """
        busy = set(wanted.busy)

        def ours(about: str) -> bool:
            return about not in busy and about not in self._touched

        done = self._converge_zones(wanted.zones, ours)
        done += self._converge_records(wanted.records, ours)
        done += await self._converge_sandboxes(wanted.sandboxes, ours)
        return done

    def suspect_all(self) -> None:
        """Have every sandbox looked at in the next ``mend``."""
        self._patrol.suspect_all()

    async def mend(self, wanted: NameSlice) -> list[Difference]:
        """Look whether port 53 of each served sandbox leads to us, in turn, and lead it where it does not."""
        served = {each.sandbox_id: each for each in wanted.sandboxes if each.sandbox_id in self.listeners}
        found: list[Difference] = []
        for sandbox_id in self._patrol.turn({key: each.namespace for key, each in served.items()}):
            async with self._order.turn(sandbox_id):
                with suppress(KeyError, OSError):  # it, or its namespace, is gone
                    if await self.listeners.mend(sandbox_id):
                        found.append(_not_led(served[sandbox_id], repaired=True))
        return found

    async def compare(self, wanted: NameSlice) -> list[Difference]:
        """Return what ``converge`` and ``mend`` would do; nothing is changed."""
        found: list[Difference] = []
        for each in wanted.sandboxes:
            if each.sandbox_id in wanted.busy or each.sandbox_id in self._touched:
                continue
            try:
                led = await self.listeners.is_led(each.sandbox_id)
            except (KeyError, OSError):
                led = False
            if not led:
                found.append(_not_led(each, repaired=False))
        return found

    def _converge_zones(self, zones: Iterable[ZoneSpec], ours: Callable[[str], bool]) -> list[str]:
        there = {zone.network_id for zone in zones}
        stray = [each for each in self.directory.networks() if each not in there and ours(each)]
        for zone in zones:
            if ours(zone.network_id):
                self.put_zone(zone)
        for network_id in stray:
            self.drop_zone(network_id)
        return [f"forgot network {each}" for each in stray]

    def _converge_records(self, records: Iterable[NameRecord], ours: Callable[[str], bool]) -> list[str]:
        there = {record.endpoint_id for record in records}
        stray = [each for each in self.directory.endpoints() if each not in there and ours(each)]
        for record in records:
            if ours(record.endpoint_id):
                self.put_record(record)
        for endpoint_id in stray:
            self.directory.drop_record(endpoint_id)
        return [f"forgot endpoint {each}" for each in stray]

    async def _converge_sandboxes(
        self, sandboxes: Iterable[ResolverSandbox], ours: Callable[[str], bool]
    ) -> list[str]:
        done = []
        there = {sandbox.sandbox_id for sandbox in sandboxes}
        for sandbox_id in set(self.directory.sandboxes()) - there:
            async with self._order.turn(sandbox_id):
                if ours(sandbox_id):
                    await self._forget(sandbox_id)
                    done.append(f"stopped serving sandbox {sandbox_id}")
        for sandbox in sandboxes:
            async with self._order.turn(sandbox.sandbox_id):
                if ours(sandbox.sandbox_id):
                    done += await self._serve_if_possible(sandbox)
        return done

    async def _serve_if_possible(self, sandbox: ResolverSandbox) -> list[str]:
        new = sandbox.sandbox_id not in self.listeners
        try:
            await self._serve(sandbox)
        except (NotFound, Unavailable) as error:
            return [f"cannot serve sandbox {sandbox.sandbox_id} yet: {error.message}"]
        return [f"serving sandbox {sandbox.sandbox_id}"] if new else []

    def _show(self, sandboxes: Iterable[str]) -> None:
        for sandbox_id in sandboxes:
            self.listeners.update(self.directory.view(sandbox_id))


def _network_servers(addresses: Iterable[Address]) -> tuple[Server, ...]:
    """Return the servers that a network names: the node's own are asked from there, others from the sandbox."""
    return tuple(Server(address, inside=not address.is_loopback) for address in addresses)


def _not_led(sandbox: ResolverSandbox, *, repaired: bool) -> Difference:
    return Difference(
        worker="",
        what="redirect",
        about=f"sandbox {sandbox.sandbox_id[:12]}",
        id=sandbox.sandbox_id,
        value=f"lead 127.0.0.11 port 53 of {sandbox.namespace} to the embedded DNS",
        repaired=repaired,
    )
