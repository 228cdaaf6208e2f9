"""Tells of what events have told and the store has lost.

A store that syncs every second loses the last second with the machine, and a replica that takes over what had not
reached it: acknowledged changes are as if they had never been, and what was deleted is there again. The kernel
follows the store, as ever. Whoever followed the events would not know; so whenever the store was started anew, the
last events are compared with it, and ``drift.found`` is published about each object that is not as they told.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec
import structlog

from cnm.errors import CnmError
from cnm.messages.drift import Difference
from cnm.messages.message import to_builtins
from cnm.store import Changes, Claims, Document, Outbox, RecalledEvent, Store
from cnm_controller.documents import EndpointBody, read
from cnm_controller.events import event
from cnm_controller.sagas import Sagas

WORKER = "cnm-controller"
LOST = "lost change"
KINDS = ("network", "sandbox", "endpoint")
RECALLED = 4000
"""So many events are looked at: more than are told in the second or two that can be lost."""
PENDING = 4000
LOOK_PERIOD_S = 1.0
AGAIN_S = 1.5
"""What is under way between two looks is no loss."""

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Told:
    """What was told last of an object; ``sequence`` is where in the stream."""

    kind: str
    id: str
    name: str
    participle: str
    sequence: int
    time: str
    revision: int
    is_there: bool


class _Difference(msgspec.Struct, frozen=True):
    what: str


class _Object(msgspec.Struct, frozen=True):
    id: str
    name: str = ""
    revision: int = 0
    differences: list[_Difference] = []


class _Body(msgspec.Struct, frozen=True):
    time: str
    object: _Object


_decoder = msgspec.json.Decoder(_Body)


def last_told(events: Iterable[RecalledEvent]) -> dict[str, Told]:
    """Return what was told last of each network, sandbox and endpoint, by id; what was told to be lost is settled."""
    found: dict[str, Told] = {}
    for each in events:
        noun, _, rest = each.subject.removeprefix("cnm.v1.event.").partition(".")
        participle = rest.partition(".")[0]
        if noun not in (*KINDS, "drift"):
            continue
        try:
            body = _decoder.decode(each.body)
        except msgspec.DecodeError:  # not of ours
            continue
        if noun in KINDS:
            found[body.object.id] = Told(
                kind=noun,
                id=body.object.id,
                name=body.object.name,
                participle=participle,
                sequence=each.sequence,
                time=body.time,
                revision=body.object.revision,
                is_there=participle != "deleted",
            )
        elif any(difference.what == LOST for difference in body.object.differences):
            found.pop(body.object.id, None)
    return found


def losses(told: Mapping[str, Told], documents: Iterable[Document], pending: Iterable[str]) -> dict[Told, str]:
    """Return what was told and is not so, and what is so instead; of ``pending`` ids more is to be told."""
    there = {each.id: each for each in documents}
    untold = set(pending)
    found = ((each, _instead(each, there.get(each.id))) for each in told.values() if each.id not in untold)
    return {each: instead for each, instead in found if instead is not None}


def _instead(told: Told, document: Document | None) -> str | None:
    if document is None:
        return "it is not there" if told.is_there else None
    if not told.is_there:
        return "it is there"
    if told.kind == "endpoint":
        sandbox = read(EndpointBody, document).sandbox_id
        if told.participle in ("joined", "left") and (told.participle == "joined") != (sandbox is not None):
            return f"it is in sandbox {sandbox}" if sandbox else "it is in no sandbox"
    if told.revision > document.revision:
        return f"it is at revision {document.revision}, and was at {told.revision}"
    return None


class Losses:
    """Looks for losses whenever the store was started anew; ``recall`` returns so many of the last events."""

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        recall: Callable[[int], Awaitable[list[RecalledEvent]]],
        sagas: Sagas,
        *,
        again_s: float = AGAIN_S,
        period_s: float = LOOK_PERIOD_S,
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._recall = recall
        self._sagas = sagas
        self._again_s = again_s
        self._period_s = period_s

    async def watch(self) -> None:
        """Look at once, and then whenever another server answers for the store, for ever."""
        known = ""
        while True:
            try:
                found = await self._store.server()
                if found != known:
                    await self.look()
                    self._sagas.doubtful.set()  # the books are to be checked, too
                    known = found
            except CnmError as error:
                log.info("losses.waiting", error=error.message)
            await asyncio.sleep(self._period_s)

    async def look(self) -> None:
        """Compare the last events with the store, and publish what is lost.

        Raises:
            Unavailable: the store or the stream cannot be reached.
        """
        first = await self._compare()
        if not first:
            return
        await asyncio.sleep(self._again_s)
        second = await self._compare()
        for told in first.keys() & second.keys():
            await self._tell(told, second[told])

    async def _compare(self) -> dict[Told, str]:
        pending = [row.subject.rpartition(".")[2] for _, row in await self._outbox.read(PENDING)]
        told = last_told(await self._recall(RECALLED))
        documents = (await self._store.snapshot(KINDS)).documents or {}
        return losses(told, (each for kind in KINDS for each in documents[kind]), pending)

    async def _tell(self, told: Told, instead: str) -> None:
        """Publish one loss; several controllers that saw it publish it once."""
        difference = Difference(
            worker=WORKER,
            what=LOST,
            about=f"{told.kind} {told.name}",
            id=told.id,
            value=f"{told.kind}.{told.participle}",
            reason=f"the store was started anew and has lost what was told at {told.time}: {instead}",
        )
        shown = {"id": told.id, "about": difference.about, "differences": [to_builtins(difference)]}
        lost = event("drift", "found", told.id, shown, id=f"lost-{told.id}-{told.sequence}")
        async with self._sagas.begin("lost", Claims(), ((),), label="lost change") as saga:
            await saga.commit(Changes(events=(lost,)))
        log.error("change.lost", about=difference.about, told=difference.value, instead=instead)
