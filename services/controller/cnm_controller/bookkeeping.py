"""Keeps IPAM's books: finds leases without an owner and owners without a lease, and settles them.

What a worker left behind that was stopped in the middle of a request, or what a server lost, shows here. Each account
is settled in a saga of its own that holds the owner, so that no change of it is under way meanwhile.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

import msgspec
import structlog

from cnm.errors import CnmError, NotFound, Timeout, Unavailable
from cnm.messages.drift import Difference
from cnm.messages.ipam import Lease, LeasePage, ListLeases, ListPools, Pool, Pools, Reconciled, ReleaseOwned
from cnm.messages.message import decode_trusted, to_builtins
from cnm.store import Changes, Claims, Entry, Lookup
from cnm_controller.accounts import Account, accounts, differences, settlement, unsettled
from cnm_controller.addressing import endpoint_label, network_label, reconcile_endpoint, reconcile_network
from cnm_controller.controller import Controller
from cnm_controller.documents import EndpointBody, NetworkBody, read
from cnm_controller.events import event
from cnm_controller.ports import IpamDriver
from cnm_controller.sagas import Step

PAGE = 1000
CHECK_PERIOD_S = 300.0
REPLAY_PERIOD_S = 1.0
AFTER_DOUBT_S = 3.0
RETRY_S = 1.0

log = structlog.get_logger()


async def check(controller: Controller, *, repair: bool) -> list[Difference]:
    """Compare IPAM's books with the documents; with ``repair`` settle what differs, and tell of it as events."""
    pools, leases = await _pools(controller), await _leases(controller)
    snapshot = await controller.ledger.store.snapshot(("network", "endpoint"), journal=True)
    documents = snapshot.documents or {}
    busy = {claim.partition(":")[2] for claim in snapshot.claimed} | _releasing(snapshot.journal)
    networks = {each.id: read(NetworkBody, each) for each in documents["network"]}
    endpoints = {each.id: read(EndpointBody, each) for each in documents["endpoint"]}
    found: list[Difference] = []
    for account in accounts(networks, endpoints, pools, leases, busy=busy):
        try:
            found += await (_settle(controller, account) if repair else _look(controller, account))
        except CnmError as error:
            found += unsettled(account, error.message)
            log.warning("books.unsettled", about=account.label, error=error.message)
    return found


def _releasing(journal: Iterable[Entry]) -> set[str]:
    """Return the owners whose pools and addresses are still to go back after a commit, or are to be undone."""
    compensations = (each for entry in journal for compensations in entry.rounds for each in compensations)
    subject = ReleaseOwned.subject
    return {
        decode_trusted(ReleaseOwned, each.body.encode()).owner for each in compensations if each.subject == subject
    }


async def _pools(controller: Controller) -> list[Pool]:
    found: list[Pool] = []
    after: str | None = None
    while True:
        try:
            page: Pools = await controller.bus.ask(ListPools(limit=PAGE, after=after))
        except NotFound:  # the pool where the last page ended was released meanwhile
            found, after = [], None
            continue
        found += page.pools
        if len(page.pools) < PAGE:
            return found
        after = page.pools[-1].pool_id


async def _leases(controller: Controller) -> list[Lease]:
    found: list[Lease] = []
    after: str | None = None
    while True:
        page: LeasePage = await controller.bus.ask(ListLeases(limit=PAGE, after=after))
        found += page.leases
        after = page.after
        if after is None:
            return found


async def _documents(controller: Controller, account: Account) -> tuple[NetworkBody | None, EndpointBody | None]:
    """Return the documents of an owner as they are now."""
    kind = account.kind
    (found,) = await controller.ledger.store.find(Lookup(kind=kind, key=account.owner))
    if found.document is None or found.document.id != account.owner:
        return None, None
    if kind == "network":
        return read(NetworkBody, found.document), None
    endpoint = read(EndpointBody, found.document)
    return (await controller.ledger.network(endpoint.network_id)).body, endpoint


def _claims(account: Account) -> Claims:
    """Hold an owner: an endpoint as a whole, a network so that it is not deleted but endpoints may come and go."""
    key = (f"{account.kind}:{account.owner}",)
    return Claims(shared=key) if account.kind == "network" else Claims(exclusive=key)


async def _look(controller: Controller, account: Account) -> list[Difference]:
    network, endpoint = await _documents(controller, account)
    command = msgspec.structs.replace(settlement(account, network, endpoint), dry_run=True)
    found: Reconciled = await controller.bus.ask(command)
    return differences(account, found.restored, found.given_back, repaired=False)


async def _settle(controller: Controller, account: Account) -> list[Difference]:
    async with controller.sagas.begin("ipam.settle", _claims(account), ((),), label=account.label) as saga:
        network, endpoint = await _documents(controller, account)
        found: Reconciled
        (found,) = await saga.run(Step(command=settlement(account, network, endpoint)))
        settled = differences(account, found.restored, found.given_back, repaired=True)
        shown = {"id": account.owner, "about": account.label, "differences": to_builtins(settled)}
        told = ("found", "repaired") if settled else ()
        await saga.commit(Changes(events=tuple(event("drift", each, account.owner, shown) for each in told)))
    controller.drift.add(settled)
    for each in settled:
        log.warning("books.settled", what=each.what, about=each.about, value=each.value)
    return settled


async def keep(controller: Controller) -> None:
    """Check and settle the books: at once, at every turn of a slow timer, and after a saga that ended in doubt."""
    doubtful = controller.sagas.doubtful
    while True:
        doubtful.clear()
        try:
            await check(controller, repair=True)
        except CnmError as error:
            log.info("books.waiting", error=error.message)
            await asyncio.sleep(RETRY_S)
            continue
        with suppress(TimeoutError):
            async with asyncio.timeout(CHECK_PERIOD_S):
                await doubtful.wait()
                await asyncio.sleep(AFTER_DOUBT_S)


async def keep_replaying(controller: Controller) -> None:
    """Tell each driver that has started what is held of it, for ever."""
    while True:
        try:
            for driver in await controller.ipam_drivers.every():
                is_new = driver.requires_request_replay and driver.replayed != driver.instance
                if is_new and controller.is_heard(driver.last_seen):
                    await replay(controller, driver)
                    await controller.ipam_drivers.note_replayed(driver.name, driver.instance)
        except CnmError as error:
            log.info("replay.waiting", error=error.message)
        await asyncio.sleep(REPLAY_PERIOD_S)


async def replay(controller: Controller, driver: IpamDriver) -> None:
    """Tell a driver that has started what its networks and endpoints hold (inventory 34A.7).

    What it refuses is logged.

    Raises:
        Unavailable: it cannot be reached.
    """
    snapshot = await controller.ledger.store.snapshot(("network", "endpoint"))
    documents = snapshot.documents or {}
    every = (read(NetworkBody, each) for each in documents["network"])
    networks = {network.id: network for network in every if network.ipam_driver == driver.name}
    bodies = (read(EndpointBody, each) for each in documents["endpoint"])
    owners = [
        Account(kind="network", owner=network.id, label=network_label(network)) for network in networks.values()
    ]
    owners += [
        Account(kind="endpoint", owner=each.id, label=endpoint_label(each, networks[each.network_id]))
        for each in bodies
        if each.network_id in networks
    ]
    for account in owners:
        try:
            await _replay_one(controller, driver, account)
        except (Unavailable, Timeout):
            raise
        except CnmError as error:
            log.error("replay.refused", driver=driver.name, about=account.label, error=error.message)  # noqa: TRY400  # a refusal


async def _replay_one(controller: Controller, driver: IpamDriver, account: Account) -> None:
    async with controller.sagas.begin("ipam.replay", _claims(account), ((),), label=account.label) as saga:
        network, endpoint = await _documents(controller, account)
        steps = []
        if network is not None:
            command = reconcile_endpoint(endpoint, network) if endpoint is not None else reconcile_network(network)
            steps.append(Step(command=command, ipam_driver=driver.name))
        await saga.run(*steps)
        await saga.commit(Changes())
