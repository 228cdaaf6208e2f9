"""Shows networks, sandboxes and endpoints the way that clients see them."""

from collections.abc import Mapping, Sequence

import msgspec

from cnm.messages.endpoint import DriverInfo, Endpoint
from cnm.messages.ipam import PoolUsage
from cnm.messages.network import Network, NetworkEndpoint, NetworkIpam, NetworkPool, PoolRequest
from cnm.messages.sandbox import Sandbox
from cnm.types import Interface
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody
from cnm_controller.specs import Joined, gateway_of, leading_out, routed_bindings

NO_USAGE: Mapping[str, PoolUsage] = {}


def network_view(
    network: NetworkBody,
    revision: int,
    endpoints: Sequence[EndpointBody],
    usages: Mapping[str, PoolUsage] = NO_USAGE,
    warnings: Sequence[str] = (),
) -> Network:
    """Show a network with its endpoints and how full its pools are."""
    pools = [
        NetworkPool(
            subnet=pool.subnet,
            range=pool.range,
            gateway=pool.gateway,
            aux_addresses=pool.aux_addresses,
            in_use=usages[pool.pool_id].in_use if pool.pool_id in usages else 0,
            available=usages[pool.pool_id].available if pool.pool_id in usages else 0,
        )
        for pool in network.pools
    ]
    pools += [_held_pool(request) for request in network.wanted if network.config_only and request.subnet is not None]
    return Network(
        id=network.id,
        name=network.name,
        driver=network.driver,
        scope=network.scope,
        created=network.created,
        internal=network.internal,
        attachable=network.attachable,
        ingress=network.ingress,
        config_only=network.config_only,
        config_from=network.config_from,
        enable_ipv4=network.enable_ipv4,
        enable_ipv6=network.enable_ipv6,
        ipam=NetworkIpam(driver=network.ipam_driver, options=network.ipam_options, pools=pools),
        dns=network.dns,
        options=network.options,
        labels=network.labels,
        revision=revision,
        endpoints=[
            NetworkEndpoint(
                id=endpoint.id,
                name=endpoint.name,
                sandbox=endpoint.sandbox_id,
                mac_address=endpoint.mac_address,
                ipv4_address=_text(endpoint.ipv4),
                ipv6_address=_text(endpoint.ipv6),
            )
            for endpoint in endpoints
        ],
        warnings=list(warnings) or msgspec.UNSET,
    )


def _held_pool(request: PoolRequest) -> NetworkPool:
    """Show a pool that a configuration network holds for others: nothing of it is reserved."""
    return NetworkPool(**{name: getattr(request, name) for name in request.__struct_fields__})


def endpoint_view(
    endpoint: EndpointBody,
    network: NetworkBody | None,
    revision: int,
    warnings: Sequence[str] = (),
    *,
    home: SandboxBody | None = None,
) -> Endpoint:
    """Show an endpoint; its gateways are those of its network once it has joined, and it has ports at ``home``."""
    joined = endpoint.sandbox_id is not None

    def gateway(version: int, address: Interface | None) -> str | None:
        if network is None or not joined or address is None:
            return None
        return _text(gateway_of(network, version, address))

    return Endpoint(
        id=endpoint.id,
        name=endpoint.name,
        network=endpoint.network_id,
        sandbox=endpoint.sandbox_id,
        node=endpoint.node,
        ipv4_address=_text(endpoint.ipv4),
        ipv6_address=_text(endpoint.ipv6),
        mac_address=endpoint.mac_address,
        ifname=endpoint.ifname,
        ready=endpoint.ready,
        gateway_ipv4=gateway(4, endpoint.ipv4),
        gateway_ipv6=gateway(6, endpoint.ipv6),
        aliases=endpoint.aliases,
        dns_names=endpoint.dns_names(),
        state="joined" if joined else "created",
        driver_info=_driver_info(endpoint, network, home),
        labels=endpoint.labels,
        revision=revision,
        link_local_addresses=endpoint.link_local or msgspec.UNSET,
        routes=endpoint.routes or msgspec.UNSET,
        links=endpoint.links or msgspec.UNSET,
        warnings=list(warnings) or msgspec.UNSET,
    )


def _driver_info(endpoint: EndpointBody, network: NetworkBody | None, home: SandboxBody | None) -> DriverInfo:
    if home is None or endpoint.sandbox_id is None:
        return DriverInfo(host_ifname=endpoint.host_ifname)
    own = {address.ip for address in (endpoint.ipv4, endpoint.ipv6) if address is not None}
    routed = routed_bindings(home, [Joined(endpoint=endpoint, network=network)]) if network is not None else []
    return DriverInfo(
        host_ifname=endpoint.host_ifname,
        exposed_ports=home.exposed_ports or msgspec.UNSET,
        ports=[*(each for each in home.bound if each.container_ip in own), *routed] or msgspec.UNSET,
    )


def sandbox_view(
    sandbox: SandboxBody,
    revision: int,
    joined: Sequence[Joined],
    revisions: Mapping[str, int],
    warnings: Sequence[str] = (),
) -> Sandbox:
    """Show a sandbox with its endpoints; ``revisions`` are the endpoints' by id."""
    leader4, leader6 = leading_out(joined, 4), leading_out(joined, 6)
    return Sandbox(
        id=sandbox.id,
        name=sandbox.name,
        node=sandbox.node,
        created=sandbox.created,
        netns=sandbox.netns,
        hostname=sandbox.hostname,
        domainname=sandbox.domainname,
        extra_hosts=sandbox.extra_hosts,
        dns=sandbox.dns,
        ports=[*sandbox.bound, *routed_bindings(sandbox, joined)],
        exposed_ports=sandbox.exposed_ports,
        use_default_sandbox=sandbox.use_default_sandbox,
        sysctls=sandbox.sysctls,
        labels=sandbox.labels,
        key=sandbox.key,
        hosts_path=sandbox.hosts_path,
        resolv_conf_path=sandbox.resolv_conf_path,
        endpoints=[
            endpoint_view(each.endpoint, each.network, revisions.get(each.endpoint.id, 0), home=sandbox)
            for each in joined
        ],
        gateway_ipv4=leader4.endpoint.id if leader4 else None,
        gateway_ipv6=leader6.endpoint.id if leader6 else None,
        revision=revision,
        warnings=list(warnings) or msgspec.UNSET,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
