"""Derives, from networks, sandboxes and endpoints, what each of a node's workers is told.

Commands and slices come from the same functions, so that what a command makes and what the whole comparison
expects are the same.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_interface
from typing import Literal

import msgspec

from cnm.messages.bridge import Attachment, BridgeNetwork, OpenPort
from cnm.messages.names import NameHost, NamePort, NameRecord, ResolverSandbox, ZoneSpec
from cnm.messages.namespace import Gateway, HostsEntry, SandboxSpec
from cnm.messages.ports import PublishPorts
from cnm.messages.sandbox import PortBinding, PortRequest
from cnm.types import Address, Interface, Prefix, Protocol, parse_address
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody
from cnm_controller.options import DEFAULT_GATEWAY, parse_bridge

HOST_GATEWAY = "host-gateway"
LINK_LOCAL: Mapping[int, Prefix] = {4: IPv4Network("169.254.0.0/16"), 6: IPv6Network("fe80::/64")}
UNSPECIFIED: Mapping[int, Address] = {4: IPv4Address(0), 6: IPv6Address(0)}


@dataclass(frozen=True, kw_only=True)
class Joined:
    """An endpoint in a sandbox, with its network."""

    endpoint: EndpointBody
    network: NetworkBody

    def gateway(self, version: int) -> Address | None:
        """Return the next hop that this endpoint offers its sandbox, if it leads out."""
        address = self.endpoint.ipv4 if version == 4 else self.endpoint.ipv6
        return None if address is None else gateway_of(self.network, version, address)


def gateway_of(network: NetworkBody, version: int, address: Interface) -> Address | None:
    """Return an endpoint's next hop: the gateway of its address's pool or one named besides, else the first pool's.

    Internal networks have none.
    """
    if network.internal:
        return None
    pools = [pool for pool in network.pools if pool.subnet.version == version]
    hops = [(pool, pool.aux_addresses.get(DEFAULT_GATEWAY[version], pool.gateway)) for pool in pools]
    own = (hop for pool, hop in hops if hop is not None and address.ip in pool.subnet)
    return next(own, next((hop for _, hop in hops if hop is not None), None))


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
        if pool.gateway is not None
        and not (options.inhibit_ipv4 and pool.gateway.version == 4)
        and options.mode(pool.gateway.version) != "isolated"
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
        ipv4_mode=options.ipv4_mode,
        ipv6_mode=options.ipv6_mode,
        snat_ipv4=options.snat_ipv4,
        snat_ipv6=options.snat_ipv6,
        trusted=options.trusted,
        announcements=options.announcements,
        announcement_ms=options.announcement_ms,
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
        addresses=[
            *(address for address in (one.endpoint.ipv4, one.endpoint.ipv6) if address is not None),
            *(
                ip_interface(f"{address}/{LINK_LOCAL[address.version].prefixlen}")
                for address in one.endpoint.link_local
            ),
        ],
        default_via=vias,
        sysctls=one.endpoint.sysctls,
        open_ports=open_ports(sandbox, one.network),
        routes=one.endpoint.routes,
        check_routes=sandbox.netns is not None,
        name=one.endpoint.name,
    )


def open_ports(sandbox: SandboxBody, network: NetworkBody) -> list[OpenPort]:
    """Return which ports of a sandbox are reached at its own address on a network: the published ones.

    Of a routed family from everywhere, whether or not the network leads out for the sandbox (modern 2); where the
    network trusts links, of a translated one from those. One that only some sources may reach is reached translated
    alone: here nobody asks who comes.
    """
    options = parse_bridge(network.options, [])
    families: tuple[tuple[Literal[4, 6], bool], ...] = ((4, network.enable_ipv4), (6, network.enable_ipv6))
    return [
        OpenPort(protocol=protocol, first=first, last=last, version=version)
        for version, on in families
        if on and not network.internal and (options.is_routed(version) or options.trusted)
        for protocol, first, last in _merged(_open_to_all(sandbox))
    ]


def routed_bindings(sandbox: SandboxBody, joined: Sequence[Joined]) -> list[PortBinding]:
    """Return the ports of a sandbox that are reached at its own addresses on routed networks, one an address."""
    found = []
    for each in joined:
        options = parse_bridge(each.network.options, [])
        for address in (each.endpoint.ipv4, each.endpoint.ipv6):
            if address is None or each.network.internal or not options.is_routed(address.version):
                continue
            found += [
                PortBinding(
                    container_port=first,
                    container_port_end=last if last != first else msgspec.UNSET,
                    protocol=protocol,
                    host_ip=UNSPECIFIED[address.version],
                    host_port=None,
                    container_ip=address.ip,
                )
                for protocol, first, last in _merged(_open_to_all(sandbox))
            ]
    return found


def _open_to_all(sandbox: SandboxBody) -> list[PortRequest]:
    return [each for each in sandbox.requests if each.allow is None]


def closed_warnings(sandbox: SandboxBody, joined: Sequence[Joined]) -> list[str]:
    """Say which ports are not opened at a sandbox's own addresses, for only some sources may reach them."""
    ports = [f"{each.container_port}/{each.protocol}" for each in sandbox.requests if each.allow is not None]
    networks = [
        each.network.name
        for each in joined
        if not each.network.internal
        and any(address is not None and _is_routed(each.network, address.version) for address in _own(each))
    ]
    reason = "stays closed there: who may connect is asked only where ports are translated"
    return [f"routed network {name!r}: port {', '.join(ports)} {reason}" for name in networks if ports]


def _own(joined: Joined) -> tuple[Interface | None, ...]:
    return joined.endpoint.ipv4, joined.endpoint.ipv6


def _merged(requests: Sequence[PortRequest]) -> list[tuple[Protocol, int, int]]:
    """Return the container ports of some requests as ranges that do not overlap, by protocol."""
    ranges: list[tuple[Protocol, int, int]] = []
    spans = sorted(
        (each.protocol, each.container_port, each.container_port_end or each.container_port) for each in requests
    )
    for protocol, first, last in spans:
        if ranges and ranges[-1][0] == protocol and first <= ranges[-1][2] + 1:
            ranges[-1] = (protocol, ranges[-1][1], max(last, ranges[-1][2]))
        else:
            ranges.append((protocol, first, last))
    return ranges


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
        source=sandbox.netns,
        pending=sandbox.pending,
        hostname=sandbox.hostname,
        domainname=sandbox.domainname,
        hosts_path=sandbox.hosts_path,
        resolv_conf_path=sandbox.resolv_conf_path,
        hosts=_hosts(sandbox, joined),
        enable_ipv6=any(each.network.enable_ipv6 for each in joined),
        servers=sandbox.dns.servers,
        search=[*sandbox.dns.search, *(name for each in joined for name in each.network.dns.search)],
        options=sandbox.dns.options,
        embedded=sandbox.dns.embedded is not False,
        sysctls=sandbox.sysctls,
        gateways=gateways,
    )


def _hosts(sandbox: SandboxBody, joined: Sequence[Joined]) -> list[HostsEntry]:
    entries = [HostsEntry(address=address, names=[name]) for name, address in _extra_hosts(sandbox, joined)]
    short = sandbox.hostname or sandbox.name
    names = [f"{short}.{sandbox.domainname}", short] if sandbox.domainname else [short]
    own = (address for each in joined for address in (each.endpoint.ipv4, each.endpoint.ipv6))
    return entries + [HostsEntry(address=address.ip, names=names) for address in own if address is not None]


def _extra_hosts(sandbox: SandboxBody, joined: Sequence[Joined]) -> list[tuple[str, Address]]:
    return [
        (extra.name, address)
        for extra in sandbox.extra_hosts
        for address in (_host_gateways(joined) if extra.ip == HOST_GATEWAY else [parse_address(extra.ip)])
    ]


def _host_gateways(joined: Sequence[Joined]) -> list[Address]:
    """Return the node's own addresses on the networks that lead out, one a family: not another gateway's."""
    leaders = ((version, leading_out(joined, version)) for version in (4, 6))
    return [
        pool.gateway
        for version, leader in leaders
        if leader is not None
        for pool in leader.network.pools
        if pool.gateway is not None and pool.gateway.version == version and _is_of(leader, pool.subnet)
    ]


def _is_of(joined: Joined, subnet: Prefix) -> bool:
    return any(address is not None and address.ip in subnet for address in _own(joined))


def publish(sandbox: SandboxBody, joined: Sequence[Joined]) -> PublishPorts | None:
    """Return what the port mapper is told of a sandbox, or None when it has nothing to map."""
    return _published(sandbox, joined, [] if sandbox.bound else sandbox.requests)


def publish_more(sandbox: SandboxBody, joined: Sequence[Joined], added: Sequence[PortRequest]) -> PublishPorts | None:
    """Return what the port mapper is told when a sandbox wants some ports more, or None when it maps none of them.

    Where nothing is bound, as after ports that could not move, all that it wants is asked for.
    """
    return _published(sandbox, joined, added if sandbox.bound else sandbox.requests)


def _published(sandbox: SandboxBody, joined: Sequence[Joined], new: Sequence[PortRequest]) -> PublishPorts | None:
    leaders = {version: leader for version in (4, 6) if (leader := leading_out(joined, version)) is not None}
    routed = {version for version, leader in leaders.items() if _is_routed(leader.network, version)}
    ipv4 = leaders[4].endpoint.ipv4 if 4 in leaders.keys() - routed else None
    ipv6 = leaders[6].endpoint.ipv6 if 6 in leaders.keys() - routed else None
    if (ipv4 is None and ipv6 is None) or sandbox.use_default_sandbox or sandbox.pending:
        return None
    binding = parse_bridge(leaders[4].network.options, []).host_binding if 4 in leaders else None
    requests = [bound for each in new if (bound := _bound_to(each, binding, routed)) is not None]
    if not requests and not any(_bound_to(each, binding, routed) for each in sandbox.requests):
        return None
    return PublishPorts(
        sandbox_id=sandbox.id,
        label=sandbox_label(sandbox),
        ipv4_address=ipv4.ip if ipv4 else None,
        ipv6_address=ipv6.ip if ipv6 else None,
        bound=sandbox.bound,
        requests=requests,
    )


def _is_routed(network: NetworkBody, version: int) -> bool:
    return parse_bridge(network.options, []).is_routed(version)


def _bound_to(request: PortRequest, binding: Address | None, routed: Collection[int]) -> PortRequest | None:
    """Return a request with the network's default address, and only of families that are translated; None of none."""
    host_ip = request.host_ip or binding
    if host_ip is None and routed:
        host_ip = UNSPECIFIED[6 if 4 in routed else 4]
    if host_ip is not None and host_ip.version in routed:
        return None
    return msgspec.structs.replace(request, host_ip=host_ip)


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


def record(endpoint: EndpointBody, sandbox: SandboxBody) -> NameRecord:
    """Return what the resolver is told of an endpoint that has joined a sandbox."""
    return NameRecord(
        endpoint_id=endpoint.id,
        network_id=endpoint.network_id,
        names=list(dict.fromkeys([*endpoint.dns_names(), *_service_names(endpoint)])),
        ipv4_address=endpoint.ipv4.ip if endpoint.ipv4 else None,
        ipv6_address=endpoint.ipv6.ip if endpoint.ipv6 else None,
        ready=endpoint.ready,
        ports=[
            NamePort(protocol=protocol, first=first, last=last)
            for protocol, first, last in _merged([*sandbox.requests, *map(_exposed, sandbox.exposed_ports)])
        ],
    )


def _service_names(endpoint: EndpointBody) -> list[str]:
    """Return what a backend is found by besides: in turn with the others of its service, and its task's own name."""
    service = endpoint.service
    if service is None:
        return []
    return [service.name, f"tasks.{service.name}", *([service.task_name] if service.task_name else [])]


def _exposed(text: str) -> PortRequest:
    """Read an exposed port: ``80``, ``80/udp`` or ``8000-8010/tcp``."""
    ports, _, protocol = text.partition("/")
    first, _, last = ports.partition("-")
    request = PortRequest(container_port=int(first), container_port_end=int(last or first))
    return msgspec.structs.replace(request, protocol=protocol) if protocol else request


def resolver_sandbox(sandbox: SandboxBody, joined: Sequence[Joined]) -> ResolverSandbox | None:
    """Return what the resolver is told of a sandbox with these endpoints; None of one that it does not serve."""
    if sandbox.use_default_sandbox or sandbox.pending or sandbox.dns.embedded is False:
        return None
    served = sorted(
        (each for each in joined if each.network.driver == "bridge"),
        key=lambda each: (-each.endpoint.gw_priority, each.network.internal, each.network.name),
    )
    network_servers = [server for each in served for server in each.network.dns.servers]
    domains: dict[str, list[Address]] = {}
    for each in served:  # the first network that knows a domain
        domains = {**each.network.dns.domains, **domains}
    return ResolverSandbox(
        sandbox_id=sandbox.id,
        namespace=sandbox.key,
        networks=[each.network.id for each in served],
        servers=sandbox.dns.servers or network_servers,
        domains=domains,
        external=any(leading_out(joined, version) is not None for version in (4, 6)),
        ndots_set=any(option.startswith("ndots:") for option in sandbox.dns.options),
        hosts=[NameHost(name=name, address=address) for name, address in _extra_hosts(sandbox, joined)],
        links={
            alias: f"{name}.{each.network.name}"
            for each in reversed(served)
            for alias, name in each.endpoint.links.items()
        },
        node_addresses=_host_gateways(joined),
    )


def joined_of(endpoints: Iterable[EndpointBody], networks: Mapping[str, NetworkBody]) -> list[Joined]:
    """Pair endpoints with their networks, in the order of the endpoints."""
    return [
        Joined(endpoint=endpoint, network=networks[endpoint.network_id])
        for endpoint in endpoints
        if endpoint.network_id in networks
    ]
