"""Fakes for tests: store, replies, outbox and bus inside one process.

They are held to the same contract suites as the real ones (``tests/contract/shared``). Each gives way once before it
acts, as something across a socket would, so that tasks interleave.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from cnm.bus import DEFAULT_DEADLINE_MS, Call, KeyedOrder, Route, current_call, set_current_call
from cnm.errors import CnmError, ErrorReply, Timeout, Unavailable, Undelivered, from_reply, to_reply
from cnm.messages.message import Command, decode, decode_trusted, encode
from cnm.replies import MOST_KEPT
from cnm.store import (
    Busy,
    Changes,
    Claims,
    Document,
    Entry,
    Found,
    LeaseLost,
    Lookup,
    NameTaken,
    OutgoingEvent,
    Reply,
    Snapshot,
    Stale,
)
from cnm.trace import current_trace, new_trace

R = TypeVar("R")


@dataclass
class ManualClock:
    """A clock that stands still until a test moves it."""

    ms: int = 1_000_000

    def __call__(self) -> int:
        return self.ms

    def move(self, ms: int) -> None:
        """Let time pass."""
        self.ms += ms


@dataclass
class MemoryOutbox:
    """``Outbox`` in memory; ``down`` makes it unreachable."""

    rows: list[tuple[str, OutgoingEvent]] = field(default_factory=list)
    down: bool = False
    clock: Callable[[], int] = field(default_factory=ManualClock)
    _written: int = 0
    _seen: int = 0
    _leader: tuple[str, int] = ("", 0)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def write(self, events: Sequence[OutgoingEvent]) -> None:
        """Add events, as a commit does."""
        for event in events:
            self._written += 1
            self.rows.append((f"{self._written}-0", event))
        self._news.set()

    async def read(self, limit: int) -> list[tuple[str, OutgoingEvent]]:
        await _reach(self.down)
        found = self.rows[:limit]
        if found:
            self._seen = int(found[-1][0].partition("-")[0])
        return found

    async def wait(self, timeout_s: float) -> None:
        await _reach(self.down)
        try:
            async with asyncio.timeout(timeout_s):
                while self._written <= self._seen:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return

    async def take(
        self, name: str, *, lease_ms: int, limit: int, dropped: Sequence[str] = ()
    ) -> list[tuple[str, OutgoingEvent]] | None:
        await self.drop(dropped)
        leader, until_ms = self._leader
        if leader not in ("", name) and until_ms > self.clock():
            return None
        self._leader = (name, self.clock() + lease_ms)
        return await self.read(limit)

    async def resign(self, name: str) -> None:
        await _reach(self.down)
        if self._leader[0] == name:
            self._leader = ("", 0)

    async def drop(self, positions: Sequence[str]) -> None:
        await _reach(self.down)
        self.rows = [row for row in self.rows if row[0] not in positions]


class MemoryStore:
    """``Store`` in memory; ``down`` makes it unreachable, ``clock`` gives milliseconds."""

    def __init__(self, clock: Callable[[], int] | None = None) -> None:
        self.down = False
        self._now_ms = clock or ManualClock()
        self.replies = MemoryReplies(clock=self._now_ms)
        self.outbox = MemoryOutbox(clock=self._now_ms)
        self.journal: dict[str, Entry] = {}
        self.exclusive: dict[str, str] = {}
        self.shared: dict[str, set[str]] = {}
        self._documents: dict[tuple[str, str], Document] = {}
        self._names: dict[tuple[str, str, str], str] = {}
        self._leases: dict[str, int] = {}
        self._committed: dict[str, list[Document]] = {}
        self.name = "memory"
        self._clock = 0
        self._takeovers = 0

    async def find(self, *lookups: Lookup) -> list[Found]:
        await _reach(self.down)
        return [self._find_one(lookup) for lookup in lookups]

    def _find_one(self, lookup: Lookup) -> Found:
        found = self._documents.get((lookup.kind, lookup.key))
        if found is not None and lookup.scope not in ("", found.scope):
            found = None
        if found is None and (id_ := self._names.get((lookup.kind, lookup.scope, lookup.key))) is not None:
            found = self._documents[lookup.kind, id_]
        if found is None:
            fitting = [
                each
                for each in self._documents.values()
                if (each.kind, each.scope) == (lookup.kind, lookup.scope) and each.id.startswith(lookup.key)
            ]
            if len(fitting) > 1:
                return Found(ambiguous=True)
            if not fitting:
                return Found()
            found = fitting[0]
        children: list[Document] = []
        if lookup.children:
            children = self._list(lookup.children_kind, f"{lookup.children}:{found.id}")
        return Found(document=found, children=tuple(children))

    async def every(self, kind: str, *, index: str | None = None) -> list[Document]:
        await _reach(self.down)
        return self._list(kind, index)

    def _list(self, kind: str, index: str | None = None) -> list[Document]:
        found = [
            each for each in self._documents.values() if each.kind == kind and (not index or index in each.indexes)
        ]
        return sorted(found, key=lambda each: (each.created_ms, each.id))

    async def snapshot(
        self, kinds: Sequence[str], *, known_clock: int | None = None, journal: bool = False
    ) -> Snapshot:
        await _reach(self.down)
        if known_clock == self._clock:
            return Snapshot(clock=self._clock, documents=None)
        documents = {kind: self._list(kind) for kind in kinds}
        entries = tuple(self.journal.values()) if journal else ()
        return Snapshot(clock=self._clock, documents=documents, claimed=tuple(self.exclusive), journal=entries)

    async def begin(self, entry: Entry, claims: Claims, *, lease_ms: int) -> None:
        await _reach(self.down)
        if entry.id in self.journal:
            return
        self._check(claims)
        self.exclusive |= dict.fromkeys(claims.exclusive, entry.id)
        for key in claims.shared:
            self.shared.setdefault(key, set()).add(entry.id)
        self.journal[entry.id] = entry
        self._leases[entry.id] = self._now_ms() + lease_ms
        self._clock += 1

    def _check(self, claims: Claims) -> None:
        for key in claims.exclusive:
            if key in self.exclusive or key in self.shared:
                raise Busy(key)
        for key in claims.shared:
            if key in self.exclusive:
                raise Busy(key)
        for each in claims.unchanged:
            known = self._documents.get((each.kind, each.id))
            if known is None or known.revision != each.revision:
                raise Stale(each.id)
        for kind, scope, name in claims.unique:
            if (holder := self._names.get((kind, scope, name))) is not None:
                raise NameTaken(kind, name, holder)

    async def commit(self, entry: Entry, changes: Changes) -> list[Document]:
        await _reach(self.down)
        if entry.id in self._committed:
            return self._committed[entry.id]
        if not self._is_ours(entry):
            raise LeaseLost("the saga outlived its lease and was undone; try again")
        put = [self._put(each) for each in changes.puts]
        for each in changes.deletes:
            self._forget(each.kind, each.id)
        self.outbox.write(changes.events)
        if changes.reply is not None:
            self.replies.write(changes.reply)
        self._clock += 1
        self._committed[entry.id] = put
        if changes.after:
            self._drop_held(entry.id)
            self.journal[entry.id] = msgspec.structs.replace(entry, rounds=(changes.after,))
        else:
            self._end(entry.id)
        return put

    def _is_ours(self, entry: Entry) -> bool:
        known = self.journal.get(entry.id)
        return known is not None and known.owner == entry.owner

    def _put(self, document: Document) -> Document:
        old = self._forget(document.kind, document.id)
        new = msgspec.structs.replace(document, revision=old.revision + 1 if old else 1)
        self._documents[document.kind, document.id] = new
        self._names[document.kind, document.scope, document.name] = document.id
        return new

    def _forget(self, kind: str, id_: str) -> Document | None:
        old = self._documents.pop((kind, id_), None)
        if old is not None and self._names.get((kind, old.scope, old.name)) == id_:
            del self._names[kind, old.scope, old.name]
        return old

    def _end(self, saga: str) -> None:
        self._drop_held(saga)
        self.journal.pop(saga, None)
        self._leases.pop(saga, None)

    def _drop_held(self, saga: str) -> None:
        self.exclusive = {key: holder for key, holder in self.exclusive.items() if holder != saga}
        without = {key: holders - {saga} for key, holders in self.shared.items()}
        self.shared = {key: holders for key, holders in without.items() if holders}

    async def finish(self, entry: Entry) -> None:
        await _reach(self.down)
        if self._is_ours(entry):
            self._end(entry.id)
            self._clock += 1

    async def renew(self, entries: Sequence[str], *, lease_ms: int) -> None:
        await _reach(self.down)
        for saga in entries:
            if saga in self._leases:
                self._leases[saga] = max(self._leases[saga], self._now_ms() + lease_ms)

    async def expired(self, owner: str, *, lease_ms: int, limit: int = 16) -> list[Entry]:
        await _reach(self.down)
        due = sorted((until, saga) for saga, until in self._leases.items() if until <= self._now_ms())
        taken = []
        for _, saga in due[:limit]:
            self._takeovers += 1
            entry = msgspec.structs.replace(self.journal[saga], owner=f"{owner}#{self._takeovers}")
            self.journal[saga] = entry
            self._leases[saga] = self._now_ms() + lease_ms
            taken.append(entry)
        return taken

    async def server(self) -> str:
        await _reach(self.down)
        return self.name


@dataclass
class _Kept:
    digest: str
    claim: str | None
    reply: bytes | None
    until_ms: int


class MemoryReplies:
    """``Replies`` in memory; ``down`` makes them unreachable, ``clock`` gives milliseconds."""

    def __init__(self, clock: Callable[[], int] | None = None, *, most: int = MOST_KEPT) -> None:
        self.down = False
        self._most = most
        self._now_ms = clock or ManualClock()
        self._kept: dict[str, _Kept] = {}

    def _known(self, key: str) -> _Kept | None:
        known = self._kept.get(key)
        if known is not None and known.until_ms <= self._now_ms():
            del self._kept[key]
            return None
        return known

    async def claim(self, key: str, digest: str, claim: str, *, lease_ms: int) -> tuple[str, bytes]:
        await _reach(self.down)
        known = self._known(key)
        if known is None:
            if len(self._kept) >= self._most:
                now = self._now_ms()
                self._kept = {each: kept for each, kept in self._kept.items() if kept.until_ms > now}
            if len(self._kept) >= self._most:
                return "full", b""
            self._kept[key] = _Kept(digest, claim, None, self._now_ms() + lease_ms)
            return "new", b""
        if known.digest != digest:
            return "other", b""
        if known.reply is not None:
            return "done", known.reply
        return ("new" if known.claim == claim else "pending"), b""

    async def renew(self, key: str, claim: str, *, lease_ms: int) -> None:
        await _reach(self.down)
        if (known := self._known(key)) is not None and known.claim == claim:
            known.until_ms = self._now_ms() + lease_ms

    async def keep(self, key: str, digest: str, claim: str, reply: bytes, *, for_s: int) -> None:
        await _reach(self.down)
        self.write(Reply(key=key, digest=digest, claim=claim, body=reply, for_s=for_s))

    def write(self, reply: Reply) -> None:
        """Keep a reply at once."""
        known = self._known(reply.key)
        if known is None or known.claim == reply.claim:
            self._kept[reply.key] = _Kept(reply.digest, None, reply.body, self._now_ms() + reply.for_s * 1000)

    async def drop(self, key: str, claim: str) -> None:
        await _reach(self.down)
        if (known := self._known(key)) is not None and known.claim == claim:
            del self._kept[key]


async def _reach(down: bool) -> None:
    await asyncio.sleep(0)
    if down:
        raise Unavailable("the store cannot be reached")


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A command that was sent, whatever became of it."""

    command: Command[Any]
    subject: str
    request_id: str | None = None


@dataclass
class _Trouble:
    """What a test made of a command: refused with ``error``, else hanging or its reply lost."""

    error: CnmError | None = None
    reply_lost: bool = False
    times: int | None = None


_Task = asyncio.Task[bytes | ErrorReply]


class MemoryBus:
    """``Bus`` within one process: commands go to routes as JSON, and their replies and refusals come back so.

    A handler runs in a task of its own, as in another process: it goes on when whoever asked is cancelled.
    """

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.events: list[OutgoingEvent] = []
        self._routes: dict[str, Route] = {}
        self._orders: dict[int, KeyedOrder] = {}
        self._troubles: dict[type[Command[Any]], _Trouble] = {}
        self._tasks: set[_Task] = set()

    def serve(self, routes: Sequence[Route], *, node: str | None = None) -> None:
        """Answer with these routes, on a node when they are a node worker's."""
        order = KeyedOrder()
        for route in routes:
            self._routes[route.command.subject_on(node)] = route
            self._orders[id(route)] = order

    def refuse(self, command: type[Command[Any]], error: CnmError, *, times: int | None = None) -> None:
        """Let a command be refused without its handler being run, so many times, or until ``heal``."""
        self._troubles[command] = _Trouble(error=error, times=times)

    def vanish(self, command: type[Command[Any]], *, times: int | None = None) -> None:
        """Let nobody be there to take a command."""
        self.refuse(command, Undelivered(f"nobody answers on {command.subject}"), times=times)

    def hang(self, command: type[Command[Any]], *, times: int | None = None) -> None:
        """Let a command be taken and never be answered, nor be carried out."""
        self._troubles[command] = _Trouble(times=times)

    def lose_reply(self, command: type[Command[Any]], *, times: int | None = None) -> None:
        """Let a command be carried out, and its reply never arrive."""
        self._troubles[command] = _Trouble(reply_lost=True, times=times)

    def heal(self, command: type[Command[Any]]) -> None:
        """End what ``refuse``, ``vanish``, ``hang`` or ``lose_reply`` began."""
        self._troubles.pop(command, None)

    def commands(self, *kinds: type[Command[Any]]) -> list[Command[Any]]:
        """Return the commands that were sent, of some kinds or of all, in order."""
        return [each.command for each in self.sent if not kinds or isinstance(each.command, kinds)]

    async def settled(self) -> None:
        """Wait until no handler runs any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def ask(self, command: Command[R], *, node: str | None = None) -> R:
        reply = await self.ask_raw(command.subject_on(node), encode(command))
        return decode_trusted(command.reply_type(), reply)  # type: ignore[no-any-return]  # it is R by declaration

    async def ask_raw(
        self,
        subject: str,
        body: bytes,
        *,
        request_id: str | None = None,
        deadline_ms: int | None = None,
        resend: bool = False,  # noqa: ARG002  # nothing is lost here that saying it again would mend
    ) -> bytes:
        """Send a body to a subject and return the reply's.

        Raises:
            CnmError: what the owner refused with, or the test; ``Undelivered`` when no route answers.
        """
        route = self._routes.get(subject)
        if route is None:
            raise Undelivered(f"nobody answers on {subject}")
        call = current_call()
        left_s = call.left_s() if call else (deadline_ms or DEFAULT_DEADLINE_MS) / 1000
        command = decode(route.command, body, check=route.check)
        self.sent.append(Sent(command=command, subject=subject, request_id=request_id))
        trouble = self._trouble(route.command)
        if trouble is not None and trouble.error is not None:
            await asyncio.sleep(0)
            raise trouble.error
        try:
            async with asyncio.timeout(left_s):
                if trouble is None or trouble.reply_lost:
                    reply = await asyncio.shield(self._begin(route, command, request_id, left_s))
                if trouble is not None:
                    await asyncio.get_running_loop().create_future()
        except TimeoutError:
            raise Timeout(f"no reply on {subject} within {left_s:.1f} s") from None
        if isinstance(reply, ErrorReply):
            raise from_reply(reply)
        return reply

    def _trouble(self, command: type[Command[Any]]) -> _Trouble | None:
        trouble = self._troubles.get(command)
        if trouble is not None and trouble.times is not None:
            trouble.times -= 1
            if trouble.times <= 0:
                del self._troubles[command]
        return trouble

    def _begin(self, route: Route, command: Command[Any], request_id: str | None, left_s: float) -> "_Task":
        above = current_call()
        trace = current_trace() or new_trace()
        origin = request_id or (above.request_id if above else f"request-{len(self.sent)}")
        call = Call(request_id=origin, trace_id=trace.trace_id, deadline=time.monotonic() + left_s)
        answering = self._answer(route, command, call)
        task = asyncio.get_running_loop().create_task(answering, context=copy_context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(self, route: Route, command: Command[Any], call: Call) -> bytes | ErrorReply:
        set_current_call(call)
        try:
            async with asyncio.timeout(call.left_s()):
                if route.order_by is None:
                    return encode(await route.handler(command))
                async with self._orders[id(route)].turn(route.order_by(command)):
                    return encode(await route.handler(command))
        except TimeoutError:
            return to_reply(Timeout("not finished before the deadline; what had been done was undone"))
        except CnmError as error:
            return to_reply(error)

    async def publish_event(self, event: OutgoingEvent) -> None:
        """Put an event into ``events``, unless it is there."""
        await asyncio.sleep(0)
        if all(known.id != event.id for known in self.events):
            self.events.append(event)
