"""A node's workers and IPAM as they look to the controller: every command does what it says, to plain values."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_interface, ip_network

from cnm.bus import Route
from cnm.errors import Conflict
from cnm.messages.bridge import EnsureBridge, PlugEndpoint, Plugged, RemoveBridge, UnplugEndpoint
from cnm.messages.ipam import (
    AllocateAddresses,
    AllocatedAddresses,
    AllocatedPool,
    AllocatedPools,
    AllocatePools,
    CountPools,
    PoolUsages,
    Reconciled,
    ReconcileOwner,
    ReleaseOwned,
)
from cnm.messages.message import Empty
from cnm.messages.names import ForgetSandbox, ForgetZone, UpdateNames
from cnm.messages.namespace import EnsureSandbox, RemoveSandbox, RouteSandbox
from cnm.messages.node import NodeWorker
from cnm.messages.ports import CheckPorts, PublishedPorts, PublishPorts, UnpublishPorts
from cnm.messages.sandbox import PortBinding
from cnm.testing import MemoryBus, MemoryStore
from cnm_controller.controller import Controller
from cnm_controller.ledger import Ledger
from cnm_controller.ports import NodeState
from cnm_controller.sagas import Sagas

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class OneNode:
    """``Nodes`` with one node, which is well."""

    async def report(self, heartbeat, *, now, dead_before, joined, left) -> None:
        pass

    async def every(self) -> list[NodeState]:
        workers = [
            NodeWorker(name=name, state="ready", version="0", pid=1, last_seen=NOW)
            for name in ("cnm-driver-bridge", "cnm-port-mapper", "cnm-resolver", "cnm-sandbox")
        ]
        return [NodeState(name="n1", run_dir="/run/cnm", workers=workers)]


@dataclass
class World:
    """What stands: bridges, links, files, routes, names, ports, pools and leases."""

    bridges: dict = field(default_factory=dict)
    links: dict = field(default_factory=dict)
    shapes: dict = field(default_factory=dict)
    sandboxes: dict = field(default_factory=dict)
    gateways: dict = field(default_factory=dict)
    served: dict = field(default_factory=dict)
    records: dict = field(default_factory=dict)
    zones: dict = field(default_factory=dict)
    ports: dict = field(default_factory=dict)
    pools: dict = field(default_factory=dict)
    leases: dict = field(default_factory=dict)
    taken_ports: dict = field(default_factory=dict)

    def seen(self) -> dict:
        """Return a copy of everything, to compare with later."""
        return {
            name: dict(value) if isinstance(value, dict) else set(value)
            for name, value in vars(self).items()
            if name != "taken_ports"
        }

    async def ensure_bridge(self, command: EnsureBridge) -> Empty:
        network = command.network
        mtu, _, addresses, _ = self.bridges.get(network.bridge, (1500, True, frozenset(), ()))
        addresses = (addresses - set(command.gone)) | set(network.bridge_addresses)
        rules = (network.icc, network.masquerade, tuple(network.subnets))
        self.bridges[network.bridge] = (network.mtu or mtu, network.enable_ipv6, addresses, rules)
        return Empty()

    async def remove_bridge(self, command: RemoveBridge) -> Empty:
        self.bridges.pop(command.network.bridge, None)
        return Empty()

    async def plug(self, command: PlugEndpoint) -> Plugged:
        attachment = command.attachment
        self.links[attachment.endpoint_id] = attachment.ifname
        mtu, _ = self.shapes.get(attachment.endpoint_id, (1500, True))
        self.shapes[attachment.endpoint_id] = (attachment.network.mtu or mtu, attachment.network.icc)
        if attachment.default_via:
            self.gateways[attachment.namespace] = attachment.ifname
        return Plugged(host_ifname=f"veth{attachment.endpoint_id[:7]}")

    async def unplug(self, command: UnplugEndpoint) -> Empty:
        self.shapes.pop(command.endpoint_id, None)
        ifname = self.links.pop(command.endpoint_id, None)
        self.gateways = {key: value for key, value in self.gateways.items() if value != ifname}
        return Empty()

    async def ensure_sandbox(self, command: EnsureSandbox) -> Empty:
        spec = command.sandbox
        lines = tuple((str(line.address), tuple(line.names)) for line in spec.hosts)
        self.sandboxes[spec.namespace] = (lines, spec.enable_ipv6, tuple(spec.search), spec.pending, spec.source)
        return Empty()

    async def route_sandbox(self, command: RouteSandbox) -> Empty:
        for gateway in command.gateways:
            self.gateways[command.namespace] = gateway.ifname
        return Empty()

    async def remove_sandbox(self, command: RemoveSandbox) -> Empty:
        self.sandboxes.pop(command.sandbox.namespace, None)
        return Empty()

    async def update_names(self, command: UpdateNames) -> Empty:
        self.zones |= {zone.network_id: zone for zone in command.zones}
        self.records |= {record.endpoint_id: tuple(record.names) for record in command.records}
        for endpoint_id in command.forget_endpoints:
            self.records.pop(endpoint_id, None)
        if command.sandbox is not None:
            self.served[command.sandbox.sandbox_id] = (command.sandbox.networks, command.sandbox.servers)
        return Empty()

    async def forget_sandbox(self, command: ForgetSandbox) -> Empty:
        self.served.pop(command.sandbox_id, None)
        return Empty()

    async def forget_zone(self, command: ForgetZone) -> Empty:
        self.zones.pop(command.network_id, None)
        return Empty()

    async def publish(self, command: PublishPorts) -> PublishedPorts:
        bound = [
            PortBinding(
                container_port=port.container_port,
                protocol="tcp",
                host_ip=port.host_ip or ip_interface("0.0.0.0").ip,
                host_port=port.host_port,
                container_ip=command.ipv4_address,
            )
            for port in (*command.bound, *command.requests)
        ]
        await self.check_ports(CheckPorts(sandbox_id=command.sandbox_id, label="", requests=command.requests))
        self.ports[command.sandbox_id] = tuple((each.host_port, str(each.container_ip)) for each in bound)
        return PublishedPorts(ports=bound)

    async def unpublish(self, command: UnpublishPorts) -> Empty:
        self.ports.pop(command.sandbox_id, None)
        return Empty()

    async def check_ports(self, command: CheckPorts) -> Empty:
        for port in command.requests:
            if port.host_port in self.taken_ports:
                raise Conflict(f"port {port.host_port} is held by {self.taken_ports[port.host_port]}")
        return Empty()

    async def allocate_pools(self, command: AllocatePools) -> AllocatedPools:
        pools = []
        for wanted in command.pools:
            subnet = wanted.request.subnet or ip_network(f"172.{17 + len(self.pools)}.0.0/16")
            if any(f"L/{subnet}" in held for owner, held in self.pools.items() if owner != command.owner):
                raise Conflict(f"pool {subnet} is taken")
            pools.append(AllocatedPool(pool_id=f"L/{subnet}", subnet=subnet, gateway=subnet[1]))
        if not command.dry_run:
            self.pools[command.owner] = tuple(pool.pool_id for pool in pools)
        return AllocatedPools(pools=pools)

    async def reconcile(self, command: ReconcileOwner) -> Reconciled:
        kept = [pool_id for pool_id in self.pools.get(command.owner, ()) if pool_id not in command.surplus_pools]
        held = dict.fromkeys((*kept, *(pool.pool_id for pool in command.pools)))
        self.pools[command.owner] = tuple(held)
        return Reconciled()

    async def allocate(self, command: AllocateAddresses) -> AllocatedAddresses:
        subnet = ip_network(command.addresses[0].pool_id[2:])
        number = next(n for n in range(2, 99) if str(subnet[n]) not in self.leases.values())
        address = command.addresses[0].address or subnet[number]
        self.leases[command.owner] = str(address)
        return AllocatedAddresses(addresses=[ip_interface(f"{address}/{subnet.prefixlen}")])

    async def release(self, command: ReleaseOwned) -> Empty:
        self.leases.pop(command.owner, None)
        self.pools.pop(command.owner, None)
        return Empty()

    async def count(self, command: CountPools) -> PoolUsages:
        return PoolUsages(usages=[])


class NoIpamDrivers:
    """``IpamDrivers`` where none announced itself."""

    async def every(self) -> list:
        return []


def serve(bus: MemoryBus, world: World) -> None:
    """Let a world answer on a bus."""

    def route(command, handler, key) -> Route:
        return Route(command=command, handler=handler, order_by=key)

    bus.serve(
        [
            route(EnsureBridge, world.ensure_bridge, lambda c: c.network.network_id),
            route(RemoveBridge, world.remove_bridge, lambda c: c.network.network_id),
            route(PlugEndpoint, world.plug, lambda c: c.attachment.endpoint_id),
            route(UnplugEndpoint, world.unplug, lambda c: c.endpoint_id),
            route(EnsureSandbox, world.ensure_sandbox, lambda c: c.sandbox.namespace),
            route(RouteSandbox, world.route_sandbox, lambda c: c.namespace),
            route(RemoveSandbox, world.remove_sandbox, lambda c: c.sandbox.namespace),
            route(UpdateNames, world.update_names, lambda c: c.sandbox.sandbox_id if c.sandbox else ""),
            route(ForgetSandbox, world.forget_sandbox, lambda c: c.sandbox_id),
            route(ForgetZone, world.forget_zone, lambda c: c.network_id),
            route(PublishPorts, world.publish, lambda c: c.sandbox_id),
            route(UnpublishPorts, world.unpublish, lambda c: c.sandbox_id),
            route(CheckPorts, world.check_ports, lambda c: c.sandbox_id),
        ],
        node="n1",
    )
    bus.serve(
        [
            route(AllocatePools, world.allocate_pools, lambda c: c.owner),
            route(AllocateAddresses, world.allocate, lambda c: c.owner),
            route(ReconcileOwner, world.reconcile, lambda c: c.owner),
            route(ReleaseOwned, world.release, lambda c: c.owner),
            route(CountPools, world.count, lambda _: ""),
        ]
    )


def controller_of(store: MemoryStore, bus: MemoryBus) -> Controller:
    """Make a controller; several of one store are rivals."""
    sagas = Sagas(store, bus)
    return Controller(
        ledger=Ledger(store), sagas=sagas, bus=bus, nodes=OneNode(), ipam_drivers=NoIpamDrivers(), now=lambda: NOW
    )
