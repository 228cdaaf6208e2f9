"""Puts the predefined networks into a store that has none yet."""

import asyncio

import structlog

from cnm.errors import CnmError, Conflict
from cnm.store import Changes, Claims
from cnm_controller.events import event
from cnm_controller.network import predefined
from cnm_controller.sagas import Sagas
from cnm_controller.views import network_view

RETRY_S = 0.1

log = structlog.get_logger()


async def found(sagas: Sagas) -> None:
    """Make the predefined networks exist; waits for the store, and several controllers may do it at once."""
    while True:
        try:
            await _found_once(sagas)
        except CnmError as error:
            log.info("founding.waiting", error=error.message)
            await asyncio.sleep(RETRY_S)
        else:
            return


async def _found_once(sagas: Sagas) -> None:
    there = {document.name for document in await sagas.store.every("network")}
    for network in predefined():
        if network.name in there:
            continue
        claims = Claims(
            exclusive=(f"network:{network.id}", f"name:network/{network.name}"),
            unique=(("network", "", network.name),),
        )
        try:
            async with sagas.begin("network.found", claims, label=f"network {network.name!r}") as saga:
                made = event("network", "created", network.id, network_view(network, 1, []))
                await saga.commit(Changes(puts=(network.document(),), events=(made,)))
        except Conflict:
            continue  # another controller was faster
