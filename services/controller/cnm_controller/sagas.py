"""Runs changes that touch several workers: intent first, then steps side by side, then one commit; or all undone.

A saga's entry in the journal holds its compensations, each of which may be said twice. Whoever finds an entry whose
lease has run out runs them: a change is either committed or undone, whoever died when.
"""

import asyncio
import dataclasses
import random
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from cnm import telemetry, trace
from cnm.bus import Bus, Call, current_call, set_current_call, subject_class, written
from cnm.errors import CnmError, Conflict, Invalid, NotFound, Timeout, Unavailable, Undelivered
from cnm.messages.ipam_driver import driver_subject
from cnm.messages.message import Command, decode_trusted, encode
from cnm.replies import KEPT_REPLY_S, Claimed, kept
from cnm.store import (
    Busy,
    Changes,
    Claims,
    Compensation,
    Document,
    Entry,
    NameTaken,
    Reply,
    Stale,
    Store,
)
from cnm_controller.saga_counts import SagaCount, SagaCounts

BUILT_IN = "default"
LEASE_MS = 2000
RENEW_PERIOD_S = 0.5
RECOVER_PERIOD_S = 1.0
UNDO_TIME_S = 8.0
FIRST_PAUSE_S = 0.004
LAST_PAUSE_S = 0.06

T = TypeVar("T")

log = structlog.get_logger()


class RawBus(Bus, Protocol):
    """A bus that can also send what a journal holds."""

    async def ask_raw(self, subject: str, body: bytes, *, resend: bool = False) -> bytes:
        """Send a body to a subject, again when no reply comes for a while, and return the reply's."""
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command, for a node's worker or for a cluster's, or for an IPAM driver other than the built-in one.

    A ``lenient`` one may be refused because what it is about is gone or no more as it was; that fails nothing.
    """

    command: Command[Any]
    node: str | None = None
    lenient: bool = False
    ipam_driver: str = BUILT_IN

    @property
    def subject(self) -> str:
        """Return where it is sent."""
        if self.ipam_driver == BUILT_IN:
            return self.command.subject_on(self.node)
        return driver_subject(type(self.command), self.ipam_driver)

    def compensation(self) -> Compensation:
        """Return it the way that the journal keeps it."""
        return Compensation(subject=self.subject, body=encode(self.command).decode())


Rounds = Sequence[Sequence[Step]]


@dataclass
class Saga:
    """A saga under way; its rounds are run in the order of the compensations in ``entry``."""

    entry: Entry
    _runner: "Sagas"
    _to_undo: list[tuple[Compensation, ...]] = field(default_factory=list)
    committed: bool = False
    in_doubt: bool = False
    refused_step: str = ""

    async def run(self, *steps: Step) -> list[Any]:
        """Send the commands of the next round side by side, wait for all, and return the replies in order.

        Raises:
            CnmError: the gravest refusal, when one or more were refused.
        """
        undo = self.entry.rounds[len(self._to_undo)]
        self._to_undo.append(undo)
        outcomes = await asyncio.gather(*(self._runner.send(step) for step in steps), return_exceptions=True)
        failures = [
            outcome
            for step, outcome in zip(steps, outcomes, strict=True)
            if isinstance(outcome, BaseException)
            and not (step.lenient and isinstance(outcome, (NotFound, Invalid, Conflict)))
        ]
        if not failures:
            return list(outcomes)
        services = [_service(step.subject) for step in steps]
        reached = {
            service
            for service, outcome in zip(services, outcomes, strict=True)
            if not isinstance(outcome, Undelivered)
        }
        absent = set(services) - reached
        self._to_undo[-1] = tuple(each for each in undo if _service(each.subject) not in absent)
        gravest = min(failures, key=lambda each: isinstance(each, Unavailable))
        self.refused_step = subject_class(steps[outcomes.index(gravest)].subject)
        raise gravest

    async def commit(self, changes: Changes, *, answer: msgspec.Struct | None = None) -> list[Document]:
        """Write the result and its events; then run what the commit left to be done.

        ``answer`` is what the request is replied with: kept in the same step, a repeat of the request gets it though
        this process dies now.
        Once the store was asked, a deadline changes nothing any more. Where it is not known whether the store did it,
        nothing is undone here: an entry that is still in the journal is recovered, one that is not was committed.
        """
        call = current_call()
        claimed = call.claimed if call is not None and answer is not None else None
        if claimed is not None:
            changes = dataclasses.replace(changes, reply=_reply(claimed, answer))
        writing = asyncio.ensure_future(self._runner.store.commit(self.entry, changes))
        try:
            documents = await written(writing)
        except CnmError:
            self.in_doubt = True
            raise
        self.committed = True
        if claimed is not None:
            claimed.answered = True
        if changes.after:
            await self._runner.finish_in_time(self.entry, (changes.after,))
        return documents


def _reply(claimed: Claimed, answer: Any) -> Reply:
    body = kept(encode(answer), {})
    return Reply(key=claimed.key, digest=claimed.digest, claim=claimed.claim, body=body, for_s=KEPT_REPLY_S)


def _service(subject: str) -> str:
    """Return the part of a subject that says who answers it."""
    tokens = subject.split(".")
    return ".".join(tokens[:5] if tokens[2] == "on" else tokens[:3])


async def until_fresh(attempt: Callable[[], Awaitable[T]]) -> T:
    """Read, decide and run again for as long as what was read is out of date when the saga begins."""
    while True:
        try:
            return await attempt()
        except Stale:
            await asyncio.sleep(FIRST_PAUSE_S)


class Sagas:
    """Begins sagas, keeps their leases, and recovers those of the dead."""

    def __init__(self, store: Store, bus: RawBus) -> None:
        self.store = store
        self.bus = bus
        self.owner = secrets.token_hex(8)
        self.doubtful = asyncio.Event()
        """Set when somebody may have done what nobody heard of."""
        self.counted = SagaCounts()
        self._live: set[str] = set()
        self._working: set[asyncio.Future[bool]] = set()

    @asynccontextmanager
    async def begin(self, kind: str, claims: Claims, undo: Rounds = (), *, label: str = "") -> AsyncIterator[Saga]:
        """Write the intent and run the body; if it does not commit, undo what it attempted, last round first.

        ``undo`` undoes each round that may be run, and stands in the journal beforehand. Waits while another saga
        holds a claim.

        Raises:
            Stale: something was changed since it was read; read it again.
            Conflict: a name is taken; the message names the holder.
            Timeout: another saga held on to a claim until the deadline.
        """
        call = current_call()
        entry = Entry(
            id=secrets.token_hex(16),
            kind=kind,
            owner=self.owner,
            rounds=tuple(tuple(step.compensation() for step in steps) for steps in undo),
            trace_id=call.trace_id if call else "",
            request_id=call.request_id if call else "",
        )
        count = self.counted.saga(kind)
        with count.beginning():
            await self._claim(entry, claims, label or kind)
        saga = Saga(entry, self)
        self._live.add(entry.id)
        try:
            yield saga
            if not saga.committed:
                raise RuntimeError(f"saga {kind} ended without a commit")  # undone like any other
        except BaseException as error:
            if isinstance(error, (Unavailable, Timeout, asyncio.CancelledError)):
                self.doubtful.set()
            if not saga.committed:
                count.failed("commit" if saga.in_doubt else saga.refused_step, error)
            if saga.committed or saga.in_doubt:
                self._live.discard(entry.id)
                count.ended("committed" if saga.committed else "in_doubt")
            else:
                await self._undo_in_time(saga, call, count)
            raise
        else:
            self._live.discard(entry.id)
            count.ended("committed")

    async def _claim(self, entry: Entry, claims: Claims, label: str) -> None:
        call = current_call()
        give_up = time.monotonic() + (call.left_s() if call else UNDO_TIME_S) * 0.9
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await self.store.begin(entry, claims, lease_ms=LEASE_MS)
            except Busy as busy:
                if time.monotonic() + pause_s > give_up:
                    raise Timeout(f"{label}: another change of {busy.key} was under way all the time") from None
            except NameTaken as taken:
                raise Conflict(
                    f"{taken.kind} {taken.name!r} exists already: {taken.holder}", holder=taken.holder
                ) from None
            else:
                return
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # spreads retries, guards nothing
            pause_s = min(LAST_PAUSE_S, pause_s * 1.6)

    async def send(self, step: Step) -> Any:
        """Send one command and return its reply."""
        if step.ipam_driver == BUILT_IN:
            return await self.bus.ask(step.command, node=step.node)
        reply = await self.bus.ask_raw(step.subject, encode(step.command), resend=True)
        try:
            return decode_trusted(step.command.reply_type(), reply)
        except msgspec.DecodeError as error:  # a stranger's program
            reason = f"IPAM driver {step.ipam_driver!r} replied what it must not on {step.subject}: {error}"
            raise Unavailable(reason) from None

    async def _undo_in_time(self, saga: Saga, call: Call | None, count: SagaCount) -> None:
        """Undo a saga; what is not undone when the caller's time is over goes on behind its back."""
        undoing = asyncio.ensure_future(self._undo(saga, call, count))
        self._working.add(undoing)
        undoing.add_done_callback(self._working.discard)
        if call is None:
            await undoing
            return
        try:
            await asyncio.wait((undoing,), timeout=call.wait_s())
        except asyncio.CancelledError:  # the time to work is over, the time to undo is not
            await asyncio.wait((undoing,), timeout=call.wait_s())
            raise
        finally:
            call.progress.undoing = not undoing.done()

    async def _undo(self, saga: Saga, call: Call | None, count: SagaCount) -> bool:
        if call is not None:
            deadline = time.monotonic() + UNDO_TIME_S
            set_current_call(Call(request_id=call.request_id, trace_id=call.trace_id, deadline=deadline))
        try:
            with telemetry.span("undo"):
                undone = await self.finish(saga.entry, saga._to_undo)
            count.ended("undone" if undone else "unfinished")
            return undone
        finally:
            self._live.discard(saga.entry.id)

    async def finish(self, entry: Entry, rounds: Sequence[Sequence[Compensation]]) -> bool:
        """Run compensations, last round first, and end the saga; what fails is left for the recovery."""
        for compensations in reversed(rounds):
            outcomes = await asyncio.gather(*map(self._compensate, compensations), return_exceptions=True)
            failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            if failures:
                log.warning("saga.unfinished", saga=entry.kind, error=str(failures[0]))
                return False
        try:
            await self.store.finish(entry)
        except CnmError as error:
            log.warning("saga.unfinished", saga=entry.kind, error=error.message)
            return False
        return True

    async def finish_in_time(self, entry: Entry, rounds: Sequence[Sequence[Compensation]]) -> None:
        """Do what a commit left to be done; what the caller does not wait for goes on, or is recovered."""
        working = asyncio.ensure_future(self.finish(entry, rounds))
        self._working.add(working)
        working.add_done_callback(self._working.discard)
        with suppress(asyncio.CancelledError):
            await asyncio.shield(working)

    async def _compensate(self, each: Compensation) -> None:
        """Send what undoes a step; what is refused now would be refused for ever, and is left to the comparisons."""
        try:
            await self.bus.ask_raw(each.subject, each.body.encode(), resend=True)
        except (Unavailable, Timeout):
            raise
        except NotFound:
            return  # what was to be undone is gone
        except CnmError as error:
            log.error("saga.not_undone", subject=each.subject, error=error.message)  # noqa: TRY400  # a refusal

    async def keep_leases(self) -> None:
        """Keep the leases of our own sagas, for ever."""
        while True:
            await asyncio.sleep(RENEW_PERIOD_S)
            if self._live:
                await self._quietly(lambda: self.store.renew(sorted(self._live), lease_ms=LEASE_MS))

    async def recover(self) -> None:
        """Finish the sagas of those who died, for ever; one that cannot be finished holds up no other."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                for entry in await self._take_over():
                    tasks.create_task(self._recover(entry))
                await asyncio.sleep(RECOVER_PERIOD_S)

    async def recover_once(self) -> None:
        """Finish the sagas that can be taken over now."""
        await asyncio.gather(*(self._recover(entry) for entry in await self._take_over()))

    async def _take_over(self) -> list[Entry]:
        try:
            entries = await self.store.expired(self.owner, lease_ms=LEASE_MS)
        except CnmError as error:
            log.warning("sagas.waiting", error=error.message)
            return []
        return [entry for entry in entries if entry.id not in self._live]  # a stall of ours is no death

    async def _recover(self, entry: Entry) -> None:
        log.info("saga.recovering", saga=entry.kind, trace_id=entry.trace_id)
        self.doubtful.set()
        deadline = time.monotonic() + UNDO_TIME_S
        set_current_call(Call(request_id=entry.request_id, trace_id=entry.trace_id, deadline=deadline))
        trace.set_current_trace(trace.new_trace(entry.trace_id))
        self._live.add(entry.id)
        try:
            with telemetry.span("recover", attributes={"cnm.saga": entry.kind}):
                finished = await self.finish(entry, entry.rounds)
            self.counted.recovered.add("finished" if finished else "unfinished")
        finally:
            self._live.discard(entry.id)

    async def _quietly(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except CnmError as error:
            log.warning("sagas.waiting", error=error.message)
