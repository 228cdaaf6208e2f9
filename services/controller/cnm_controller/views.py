"""Shows networks, sandboxes and endpoints the way that clients see them."""

from collections.abc import Mapping, Sequence

import msgspec

from cnm.messages.endpoint import DriverInfo, Endpoint
from cnm.messages.ipam import PoolUsage
from cnm.messages.network import Network, NetworkEndpoint, NetworkIpam, NetworkPool
from cnm.messages.sandbox import Sandbox
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody
from cnm_controller.specs import Joined, gateway_of, leading_out

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
    return Network(
        id=network.id,
        name=network.name,
        driver=network.driver,
        scope=network.scope,
        created=network.created,
        internal=network.internal,
        attachable=network.attachable,
        ingress=network.ingress,
        config_only=False,
        config_from=None,
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


def endpoint_view(
    endpoint: EndpointBody, network: NetworkBody | None, revision: int, warnings: Sequence[str] = ()
) -> Endpoint:
    """Show an endpoint; its gateways are those of its network once it has joined."""
    joined = endpoint.sandbox_id is not None

    def gateway(version: int, address: object) -> str | None:
        found = gateway_of(network, version) if network is not None and joined and address is not None else None
        return _text(found)

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
        driver_info=DriverInfo(host_ifname=endpoint.host_ifname),
        labels=endpoint.labels,
        revision=revision,
        warnings=list(warnings) or msgspec.UNSET,
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
        ports=sandbox.bound,
        exposed_ports=sandbox.exposed_ports,
        use_default_sandbox=sandbox.use_default_sandbox,
        sysctls=sandbox.sysctls,
        labels=sandbox.labels,
        key=sandbox.key,
        hosts_path=sandbox.hosts_path,
        resolv_conf_path=sandbox.resolv_conf_path,
        endpoints=[endpoint_view(each.endpoint, each.network, revisions.get(each.endpoint.id, 0)) for each in joined],
        gateway_ipv4=leader4.endpoint.id if leader4 else None,
        gateway_ipv6=leader6.endpoint.id if leader6 else None,
        revision=revision,
        warnings=list(warnings) or msgspec.UNSET,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
