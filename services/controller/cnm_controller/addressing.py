"""Decides what the IPAM driver of a network is asked for networks and endpoints.

Driver ``default`` is the built-in one, ``null`` hands out nothing, any other is a worker that has announced itself
(docs/ipam-drivers.md).
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import msgspec

from cnm.errors import Unavailable
from cnm.messages.ipam import (
    AddressWanted,
    AllocateAddresses,
    AllocatedPool,
    AllocatePools,
    HeldAddress,
    PoolWanted,
    ReconcileOwner,
    ReleaseOwned,
)
from cnm.messages.network import PoolRequest
from cnm_controller.documents import EndpointBody, NetworkBody
from cnm_controller.drivers import DRIVERS
from cnm_controller.network import wanted_versions
from cnm_controller.options import parse_bridge
from cnm_controller.ports import IpamDriver
from cnm_controller.sagas import Step
from cnm_controller.specs import bridge_name

NULL = "null"
MAC_ADDRESS = "com.docker.network.endpoint.macaddress"
ENDPOINT_NAME = "com.docker.network.endpoint.name"


def network_label(network: NetworkBody) -> str:
    """Return how messages call a network."""
    return f"network {network.name!r}"


def endpoint_label(endpoint: EndpointBody, network: NetworkBody) -> str:
    """Return how messages call an endpoint."""
    return f"endpoint {endpoint.name!r} on {network_label(network)}"


def recall_of(endpoint: EndpointBody) -> str:
    """Return what an endpoint is remembered by: another one of its name on its network gets its addresses again."""
    return f"{endpoint.network_id}/{endpoint.name}"


def pools_step(network: NetworkBody) -> Step:
    """Return what reserves a network's pools."""
    return Step(command=pools_command(network), ipam_driver=network.ipam_driver)


def pools_command(network: NetworkBody) -> AllocatePools:
    """Return what reserves the pools that a network was made with."""
    driver = DRIVERS[network.driver]
    return AllocatePools(
        owner=network.id,
        owner_label=network_label(network),
        space=network.address_space,
        pools=[
            PoolWanted(request=request, ipv6=version == 6, gateway=has_gateway(network, version))
            for request, version in zip(network.wanted, wanted_versions(network), strict=True)
        ],
        options=network.ipam_options,
        exclusive=driver.exclusive,
        device=bridge_name(network) if driver.links else None,
    )


def more_pools(network: NetworkBody, requests: Sequence[PoolRequest], families: Sequence[int]) -> AllocatePools:
    """Return what tells which pools a network would get besides those that it has; nothing is reserved."""
    wanted = zip(requests, families, strict=True)
    return msgspec.structs.replace(
        pools_command(network),
        pools=[PoolWanted(request=request, ipv6=version == 6) for request, version in wanted],
        dry_run=True,
    )


def surplus_pools(network: NetworkBody, pools: Sequence[AllocatedPool]) -> ReconcileOwner:
    """Return what takes pools from a network again."""
    return ReconcileOwner(
        owner=network.id, owner_label=network_label(network), surplus_pools=[pool.pool_id for pool in pools]
    )


def has_gateway(network: NetworkBody, version: int) -> bool:
    """Say whether a network has a gateway of a family: not where nobody is to leave it, the node included."""
    return network.driver != "bridge" or parse_bridge(network.options, []).mode(version) != "isolated"


def check_pools(network: NetworkBody, pools: Sequence[AllocatedPool]) -> None:
    """Refuse what no driver may reply.

    Raises:
        Unavailable: not the families asked for, or a gateway outside of its subnet.
    """
    versions = [pool.subnet.version for pool in pools]
    strays = [pool for pool in pools if pool.gateway is not None and pool.gateway not in pool.subnet]
    if versions != wanted_versions(network):
        asked = ", ".join(f"IPv{version}" for version in wanted_versions(network))
        shown = ", ".join(str(pool.subnet) for pool in pools) or "nothing"
        raise Unavailable(f"IPAM driver {network.ipam_driver!r} was asked for {asked} and gave {shown}")
    if strays:
        reason = f"gateway {strays[0].gateway}, which is not in {strays[0].subnet}"
        raise Unavailable(f"IPAM driver {network.ipam_driver!r} gave {reason}")


def check_addresses(
    network: NetworkBody, wanted: Sequence[AddressWanted], given: Sequence[IPv4Interface | IPv6Interface]
) -> None:
    """Refuse what no driver may reply.

    Raises:
        Unavailable: not as many addresses as were asked for, or one that is in no pool of the network, or has not the
            prefix length of its pool.
    """
    subnets = [pool.subnet for pool in network.pools]
    strays = [each for each in given if each.network not in subnets]
    if len(given) != len(wanted) or strays:
        shown = ", ".join(map(str, given)) or "nothing"
        reason = f"was asked for {len(wanted)} addresses of network {network.name!r} and gave {shown}"
        raise Unavailable(f"IPAM driver {network.ipam_driver!r} {reason}")


def release(network: NetworkBody, owner: str, *, unused: bool = False) -> list[Step]:
    """Return what gives back all that a network, or an endpoint on it, holds; what is undone is ``unused``."""
    if network.ipam_driver == NULL:
        return []
    return [Step(command=ReleaseOwned(owner=owner, unused=unused), ipam_driver=network.ipam_driver)]


def wanted_addresses(
    network: NetworkBody, ipv4: IPv4Address | None, ipv6: IPv6Address | None, *, without_ipv6: bool = False
) -> list[AddressWanted]:
    """Return what to ask IPAM for: one address of each family that has pools, fixed where one is asked for."""
    wanted = []
    for version, fixed in ((4, ipv4), (6, ipv6)):
        pool_ids = [pool.pool_id for pool in network.pools if pool.subnet.version == version]
        if pool_ids and not (version == 6 and without_ipv6):
            wanted.append(AddressWanted(pool_id=pool_ids[0], address=fixed, others=pool_ids[1:]))
    return wanted


def addresses_step(
    endpoint: EndpointBody, network: NetworkBody, wanted: Sequence[AddressWanted], driver: IpamDriver | None
) -> Step:
    """Return what reserves an endpoint's addresses."""
    options = dict(network.ipam_options)
    if driver is not None:
        options[ENDPOINT_NAME] = endpoint.name
    if driver is not None and driver.requires_mac_address:
        options[MAC_ADDRESS] = endpoint.mac_address
    command = AllocateAddresses(
        owner=endpoint.id,
        owner_label=endpoint_label(endpoint, network),
        addresses=list(wanted),
        options=options,
        recall=recall_of(endpoint),
    )
    return Step(command=command, ipam_driver=network.ipam_driver)


def reconcile_network(
    network: NetworkBody, *, surplus_pools: Sequence[str] = (), surplus: Sequence[HeldAddress] = ()
) -> ReconcileOwner:
    """Return what makes a network hold the pools of its document, and of what is surplus only what is in it."""
    driver = DRIVERS[network.driver]
    kept = {pool.pool_id for pool in network.pools}
    own = {address for pool in network.pools for address in (pool.gateway, *pool.aux_addresses.values())}
    return ReconcileOwner(
        owner=network.id,
        owner_label=network_label(network),
        pools=network.pools,
        surplus_pools=[pool_id for pool_id in surplus_pools if pool_id not in kept],
        surplus_addresses=[each for each in surplus if each.address not in own],
        options=network.ipam_options,
        exclusive=driver.exclusive,
        device=bridge_name(network) if driver.links else None,
    )


def held_addresses(endpoint: EndpointBody, network: NetworkBody) -> list[HeldAddress]:
    """Return the addresses that an endpoint should hold, each in the first pool that it lies in."""
    held = []
    for interface in (endpoint.ipv4, endpoint.ipv6):
        pool_ids = [pool.pool_id for pool in network.pools if interface is not None and interface.ip in pool.subnet]
        if interface is not None and pool_ids:
            held.append(HeldAddress(pool_id=pool_ids[0], address=interface.ip))
    return held


def reconcile_endpoint(
    endpoint: EndpointBody, network: NetworkBody, *, surplus: Sequence[HeldAddress] = ()
) -> ReconcileOwner:
    """Return what makes an endpoint hold the addresses of its document, and of what is surplus only what is in it."""
    held = held_addresses(endpoint, network)
    addresses = {each.address for each in held}
    return ReconcileOwner(
        owner=endpoint.id,
        owner_label=endpoint_label(endpoint, network),
        addresses=held,
        surplus_addresses=[each for each in surplus if each.address not in addresses],
        recall=recall_of(endpoint),
    )
