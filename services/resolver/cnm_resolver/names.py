"""The names of a node: what the controller said of them, and who is served with them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cnm.errors import NotFound, Unavailable
from cnm.messages.names import NameRecord, ResolverSandbox, ZoneSpec
from cnm.messages.node import NameSlice
from cnm_resolver.directory import Directory
from cnm_resolver.listener import Listeners
from cnm_resolver.zone import TTL_S, Record, Server, Settings


@dataclass
class Names:
    """Applies commands and slices to the directory and the listeners.

    ``_touched`` are the ids that commands meant since a slice was last asked for: it says nothing about them.
    """

    directory: Directory
    listeners: Listeners
    _touched: set[str] = field(default_factory=set)

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
            )
        )

    async def serve(self, sandbox: ResolverSandbox) -> None:
        """Answer a sandbox as told.

        Raises:
            NotFound: its namespace is not there.
            Unavailable: the kernel refused the sockets.
        """
        settings = Settings(
            sandbox_id=sandbox.sandbox_id,
            networks=tuple(sandbox.networks),
            servers=tuple(Server(address, inside=True) for address in sandbox.servers),
            ndots_set=sandbox.ndots_set,
            external=sandbox.external or bool(sandbox.servers),
            ttl_s=TTL_S,
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
        await self.listeners.close(sandbox_id)
        self.directory.drop_sandbox(sandbox_id)

    async def converge(self, wanted: NameSlice) -> list[str]:
        """Make the directory and the listeners what a slice says; return what was changed, in words.

        What sagas are changing right now, and what commands touched since the slice was asked for, is left alone.
        """
        hands_off = {*wanted.busy, *self._touched}
        done: list[str] = []
        done += self._converge_zones(wanted.zones, hands_off)
        done += self._converge_records(wanted.records, hands_off)
        done += await self._converge_sandboxes(wanted.sandboxes, hands_off)
        return done

    def _converge_zones(self, zones: Iterable[ZoneSpec], hands_off: set[str]) -> list[str]:
        there = {zone.network_id for zone in zones}
        stray = [each for each in self.directory.networks() if each not in there | hands_off]
        for zone in zones:
            if zone.network_id not in hands_off:
                self.put_zone(zone)
        for network_id in stray:
            self.drop_zone(network_id)
        return [f"forgot network {each}" for each in stray]

    def _converge_records(self, records: Iterable[NameRecord], hands_off: set[str]) -> list[str]:
        there = {record.endpoint_id for record in records}
        stray = [each for each in self.directory.endpoints() if each not in there | hands_off]
        for record in records:
            if record.endpoint_id not in hands_off:
                self.put_record(record)
        for endpoint_id in stray:
            self.directory.drop_record(endpoint_id)
        return [f"forgot endpoint {each}" for each in stray]

    async def _converge_sandboxes(self, sandboxes: Iterable[ResolverSandbox], hands_off: set[str]) -> list[str]:
        done = []
        there = {sandbox.sandbox_id for sandbox in sandboxes}
        for sandbox_id in self.directory.sandboxes():
            if sandbox_id not in there | hands_off:
                await self.forget_sandbox(sandbox_id)
                done.append(f"stopped serving sandbox {sandbox_id}")
        for sandbox in sandboxes:
            if sandbox.sandbox_id in hands_off:
                continue
            new = sandbox.sandbox_id not in self.listeners
            try:
                await self.serve(sandbox)
            except (NotFound, Unavailable) as error:
                done.append(f"cannot serve sandbox {sandbox.sandbox_id} yet: {error.message}")
            else:
                done += [f"serving sandbox {sandbox.sandbox_id}"] if new else []
        return done

    def _show(self, sandboxes: Iterable[str]) -> None:
        for sandbox_id in sandboxes:
            self.listeners.update(self.directory.view(sandbox_id))
