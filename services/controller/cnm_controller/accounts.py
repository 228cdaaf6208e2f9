"""Compares what networks and endpoints should hold of IPAM's pools and addresses with what they hold. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from cnm.messages.drift import Difference
from cnm.messages.ipam import HeldAddress, Lease, Pool, ReconcileOwner
from cnm_controller.addressing import (
    endpoint_label,
    held_addresses,
    network_label,
    reconcile_endpoint,
    reconcile_network,
)
from cnm_controller.documents import EndpointBody, NetworkBody
from cnm_controller.sagas import BUILT_IN

WORKER = "cnm-ipam"
POOL_WITHOUT_OWNER = "pool without an owner"
LEASE_WITHOUT_OWNER = "lease without an owner"
OWNER_WITHOUT_POOL = "owner without its pool"
OWNER_WITHOUT_LEASE = "owner without its lease"


@dataclass(frozen=True, kw_only=True)
class Account:
    """What an owner seems to hold too little or too much of; ``kind`` is network or endpoint."""

    kind: str
    owner: str
    label: str
    lacks: tuple[str, ...] = ()
    surplus_pools: tuple[str, ...] = ()
    surplus_addresses: tuple[HeldAddress, ...] = ()

    def differs(self) -> bool:
        """Say whether there is anything to settle."""
        return bool(self.lacks or self.surplus_pools or self.surplus_addresses)


def accounts(
    networks: Mapping[str, NetworkBody],
    endpoints: Mapping[str, EndpointBody],
    pools: Iterable[Pool],
    leases: Iterable[Lease],
    *,
    busy: Collection[str],
) -> list[Account]:
    """Return the owners that do not hold what they should, networks first; those that are busy are left alone."""
    held_pools: dict[str, list[str]] = {}
    for pool in pools:
        if pool.owner is not None:
            held_pools.setdefault(pool.owner, []).append(pool.pool_id)
    held: dict[str, list[HeldAddress]] = {}
    labels: dict[str, str] = {}
    for lease in leases:
        if lease.owner is not None:
            held.setdefault(lease.owner, []).append(HeldAddress(pool_id=lease.pool_id, address=lease.address.ip))
            labels[lease.owner] = lease.holder
    built_in = {each.id: each for each in networks.values() if each.ipam_driver == BUILT_IN}
    found = [
        _of_network(network, held_pools.get(network.id, ()), held.get(network.id, ()))
        for network in built_in.values()
    ]
    found += [
        Account(kind="network", owner=owner, label=labels.get(owner, "nobody"), surplus_pools=tuple(pool_ids))
        for owner, pool_ids in held_pools.items()
        if owner not in networks
    ]
    found += [
        _of_endpoint(endpoint, built_in[endpoint.network_id], held.get(endpoint.id, ()))
        for endpoint in endpoints.values()
        if endpoint.network_id in built_in
    ]
    found += [
        Account(kind="endpoint", owner=owner, label=labels[owner], surplus_addresses=tuple(addresses))
        for owner, addresses in held.items()
        if owner not in networks and owner not in endpoints and owner not in held_pools
    ]
    return [account for account in found if account.differs() and account.owner not in busy]


def _of_network(network: NetworkBody, pool_ids: Sequence[str], addresses: Sequence[HeldAddress]) -> Account:
    expected = [pool.pool_id for pool in network.pools]
    own = [
        HeldAddress(pool_id=pool.pool_id, address=address)
        for pool in network.pools
        for address in (pool.gateway, *pool.aux_addresses.values())
        if address is not None
    ]
    return Account(
        kind="network",
        owner=network.id,
        label=network_label(network),
        lacks=(
            *(pool_id for pool_id in expected if pool_id not in pool_ids),
            *(str(each.address) for each in own if each not in addresses),
        ),
        surplus_pools=tuple(pool_id for pool_id in pool_ids if pool_id not in expected),
        surplus_addresses=tuple(each for each in addresses if each not in own and each.pool_id in expected),
    )


def _of_endpoint(endpoint: EndpointBody, network: NetworkBody, addresses: Sequence[HeldAddress]) -> Account:
    """Compare addresses alone: which of several pools with one subnet an address came from is IPAM's business."""
    expected = {each.address for each in held_addresses(endpoint, network)}
    return Account(
        kind="endpoint",
        owner=endpoint.id,
        label=endpoint_label(endpoint, network),
        lacks=tuple(sorted(map(str, expected - {each.address for each in addresses}))),
        surplus_addresses=tuple(each for each in addresses if each.address not in expected),
    )


def settlement(account: Account, network: NetworkBody | None, endpoint: EndpointBody | None) -> ReconcileOwner:
    """Return what settles an account by the documents as they are now: None where there is none."""
    if network is not None and endpoint is not None:
        return reconcile_endpoint(endpoint, network, surplus=account.surplus_addresses)
    if network is not None:
        return reconcile_network(network, surplus_pools=account.surplus_pools, surplus=account.surplus_addresses)
    return ReconcileOwner(
        owner=account.owner,
        owner_label=account.label,
        surplus_pools=list(account.surplus_pools),
        surplus_addresses=list(account.surplus_addresses),
    )


def differences(
    account: Account, restored: Iterable[str], given_back: Iterable[str], *, repaired: bool
) -> list[Difference]:
    """Return what a settlement found, or mended."""
    found = [(OWNER_WITHOUT_POOL if "/" in value else OWNER_WITHOUT_LEASE, value) for value in restored]
    found += [(POOL_WITHOUT_OWNER if "/" in value else LEASE_WITHOUT_OWNER, value) for value in given_back]
    return [_difference(account, what, value, repaired=repaired) for what, value in found]


def unsettled(account: Account, reason: str) -> list[Difference]:
    """Return what could not be settled, and why."""
    given = [*account.surplus_pools, *(str(each.address) for each in account.surplus_addresses)]
    return [
        msgspec.structs.replace(each, reason=reason)
        for each in differences(account, account.lacks, given, repaired=False)
    ]


def _difference(account: Account, what: str, value: str, *, repaired: bool) -> Difference:
    return Difference(worker=WORKER, what=what, about=account.label, id=account.owner, value=value, repaired=repaired)
