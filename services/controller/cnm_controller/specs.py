"""Derives, from networks, sandboxes and endpoints, what each of a node's workers is told.

Commands and slices come from the same functions, so that what a command makes and what the whole comparison
expects are the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_interface

from cnm.messages.bridge import Attachment, BridgeNetwork
from cnm.messages.names import NameRecord, ResolverSandbox, ZoneSpec
from cnm.messages.namespace import Gateway, HostsEntry, SandboxSpec
from cnm.messages.ports import PublishPorts
from cnm.messages.sandbox import PortRequest
from cnm.types import Address, Interface, parse_address
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody
from cnm_controller.options import parse_bridge

HOST_GATEWAY = "host-gateway"


@dataclass(frozen=True, kw_only=True)
class Joined:
    """An endpoint in a sandbox, with its network."""

    endpoint: EndpointBody
    network: NetworkBody

    def gateway(self, version: int) -> Address | None:
        """Return the next hop that this endpoint offers its sandbox, if it leads out."""
        address = self.endpoint.ipv4 if version == 4 else self.endpoint.ipv6
        return None if address is None else gateway_of(self.network, version)


def gateway_of(network: NetworkBody, version: int) -> Address | None:
    """Return a network's gateway of a family; internal networks have none."""
    if network.internal:
        return None
    for pool in network.pools:
        if pool.gateway is not None and pool.gateway.version == version:
            return pool.gateway
    return None


def leading_out(joined: Iterable[Joined], version: int) -> Joined | None:
    """Choose the endpoint that is a sandbox's gateway for a family.

    Each family is chosen for itself: highest priority first, then network name (API, small print).
    """
    offers = [each for each in joined if each.gateway(version) is not None]
    return min(offers, key=lambda each: (-each.endpoint.gw_priority, each.network.name), default=None)


def bridge_name(network: NetworkBody) -> str:
    """Return the name of a network's bridge."""
    return parse_bridge(network.options, []).bridge or f"br-{network.id[:12]}"


def bridge_network(network: NetworkBody) -> BridgeNetwork:
    """Return what the bridge driver is told of a network."""
    options = parse_bridge(network.options, [])
    addresses: list[Interface] = [
        ip_interface(f"{pool.gateway}/{pool.subnet.prefixlen}")
        for pool in network.pools
        if pool.gateway is not None and not (options.inhibit_ipv4 and pool.gateway.version == 4)
    ]
    return BridgeNetwork(
        network_id=network.id,
        name=network.name,
        bridge=bridge_name(network),
        subnets=[pool.subnet for pool in network.pools],
        bridge_addresses=addresses,
        enable_ipv6=network.enable_ipv6,
        internal=network.internal,
        icc=options.icc,
        masquerade=options.masquerade,
        mtu=options.mtu,
    )


def attachment(sandbox: SandboxBody, one: Joined, joined: Sequence[Joined]) -> Attachment:
    """Return what the bridge driver is told of an endpoint, among all that the sandbox then has."""
    vias = [
        gateway
        for version in (4, 6)
        if (leader := leading_out(joined, version)) is not None and leader.endpoint.id == one.endpoint.id
        if (gateway := one.gateway(version)) is not None
    ]
    return Attachment(
        endpoint_id=one.endpoint.id,
        sandbox_id=sandbox.id,
        network=bridge_network(one.network),
        namespace=sandbox.key,
        ifname=one.endpoint.ifname or "",
        mac_address=one.endpoint.mac_address,
        addresses=[address for address in (one.endpoint.ipv4, one.endpoint.ipv6) if address is not None],
        default_via=vias,
        sysctls=one.endpoint.sysctls,
    )


def sandbox_spec(sandbox: SandboxBody, joined: Sequence[Joined]) -> SandboxSpec:
    """Return what the sandbox worker is told of a sandbox with these endpoints."""
    gateways = [
        Gateway(ifname=leader.endpoint.ifname, address=gateway)
        for version in (4, 6)
        if (leader := leading_out(joined, version)) is not None and leader.endpoint.ifname is not None
        if (gateway := leader.gateway(version)) is not None
    ]
    return SandboxSpec(
        sandbox_id=sandbox.id,
        name=sandbox.name,
        namespace=sandbox.key,
        adopted=sandbox.netns is not None,
        hostname=sandbox.hostname,
        domainname=sandbox.domainname,
        hosts_path=sandbox.hosts_path,
        resolv_conf_path=sandbox.resolv_conf_path,
        hosts=_hosts(sandbox, joined),
        enable_ipv6=any(each.network.enable_ipv6 for each in joined),
        servers=sandbox.dns.servers,
        search=[*sandbox.dns.search, *(name for each in joined for name in each.network.dns.search)],
        options=sandbox.dns.options,
        sysctls=sandbox.sysctls,
        gateways=gateways,
    )


def _hosts(sandbox: SandboxBody, joined: Sequence[Joined]) -> list[HostsEntry]:
    entries = []
    for extra in sandbox.extra_hosts:
        address = _host_gateway(joined) if extra.ip == HOST_GATEWAY else parse_address(extra.ip)
        if address is not None:
            entries.append(HostsEntry(address=address, names=[extra.name]))
    short = sandbox.hostname or sandbox.name
    names = [f"{short}.{sandbox.domainname}", short] if sandbox.domainname else [short]
    own = (address for each in joined for address in (each.endpoint.ipv4, each.endpoint.ipv6))
    return entries + [HostsEntry(address=address.ip, names=names) for address in own if address is not None]


def _host_gateway(joined: Sequence[Joined]) -> Address | None:
    for version in (4, 6):
        leader = leading_out(joined, version)
        if leader is not None:
            return leader.gateway(version)
    return None


def publish(sandbox: SandboxBody, joined: Sequence[Joined]) -> PublishPorts | None:
    """Return what the port mapper is told of a sandbox, or None when nothing of it can be reached from outside."""
    leader4, leader6 = leading_out(joined, 4), leading_out(joined, 6)
    ipv4: IPv4Address | None = leader4.endpoint.ipv4.ip if leader4 and leader4.endpoint.ipv4 else None
    ipv6: IPv6Address | None = leader6.endpoint.ipv6.ip if leader6 and leader6.endpoint.ipv6 else None
    if not sandbox.requests or (ipv4 is None and ipv6 is None) or sandbox.use_default_sandbox:
        return None
    binding = parse_bridge(leader4.network.options, []).host_binding if leader4 else None
    return PublishPorts(
        sandbox_id=sandbox.id,
        label=sandbox_label(sandbox),
        ipv4_address=ipv4,
        ipv6_address=ipv6,
        bound=sandbox.bound,
        requests=[] if sandbox.bound else [_bound_to(request, binding) for request in sandbox.requests],
    )


def _bound_to(request: PortRequest, binding: Address | None) -> PortRequest:
    if binding is None or request.host_ip is not None:
        return request
    return PortRequest(**{**{name: getattr(request, name) for name in request.__struct_fields__}, "host_ip": binding})


def sandbox_label(sandbox: SandboxBody) -> str:
    """Return how messages call a sandbox."""
    return f"sandbox {sandbox.name!r}"


def zone(network: NetworkBody) -> ZoneSpec:
    """Return what the resolver is told of a network."""
    return ZoneSpec(
        network_id=network.id,
        name=network.name,
        prefixes=[pool.subnet for pool in network.pools],
        enable_ipv6=network.enable_ipv6,
        ttl=network.dns.ttl,
    )


def record(endpoint: EndpointBody) -> NameRecord:
    """Return what the resolver is told of a joined endpoint."""
    return NameRecord(
        endpoint_id=endpoint.id,
        network_id=endpoint.network_id,
        names=endpoint.dns_names(),
        ipv4_address=endpoint.ipv4.ip if endpoint.ipv4 else None,
        ipv6_address=endpoint.ipv6.ip if endpoint.ipv6 else None,
        ready=endpoint.ready,
    )


def resolver_sandbox(sandbox: SandboxBody, joined: Sequence[Joined]) -> ResolverSandbox:
    """Return what the resolver is told of a sandbox with these endpoints."""
    served = sorted(
        (each for each in joined if each.network.driver == "bridge"),
        key=lambda each: (-each.endpoint.gw_priority, each.network.internal, each.network.name),
    )
    network_servers = [server for each in served for server in each.network.dns.servers]
    return ResolverSandbox(
        sandbox_id=sandbox.id,
        namespace=sandbox.key,
        networks=[each.network.id for each in served],
        servers=sandbox.dns.servers or network_servers,
        external=any(leading_out(joined, version) is not None for version in (4, 6)),
        ndots_set=any(option.startswith("ndots:") for option in sandbox.dns.options),
    )


def joined_of(endpoints: Iterable[EndpointBody], networks: Mapping[str, NetworkBody]) -> list[Joined]:
    """Pair endpoints with their networks, in the order of the endpoints."""
    return [
        Joined(endpoint=endpoint, network=networks[endpoint.network_id])
        for endpoint in endpoints
        if endpoint.network_id in networks
    ]
