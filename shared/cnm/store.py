"""The store as the controller sees it: documents with revisions, a journal of sagas, an outbox of events.

A change of state goes through a *saga*: ``begin`` claims what it is about and writes down how to undo it,
``commit`` writes the new state, its events, and removes the entry, in one step. An entry that is still there when
its lease has run out belongs to a process that died: whoever finds it runs its compensations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from cnm.errors import CnmError


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """An object as stored. Names are unique within a scope; ``indexes`` are the lists it stands in."""

    kind: str
    id: str
    name: str
    scope: str = ""
    created_ms: int
    indexes: tuple[str, ...] = ()
    body: str
    revision: int = 0


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A document to find by full id, exact name, or unique prefix of the id, in that order.

    ``children`` is the head of an index: the documents of ``children_kind`` in ``<children>:<id found>`` come too.
    """

    kind: str
    key: str
    scope: str = ""
    children_kind: str = ""
    children: str = ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a lookup found: nothing, one document with its children, or several that the prefix fits."""

    document: Document | None = None
    ambiguous: bool = False
    children: tuple[Document, ...] = ()


class OutgoingEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event on its way to the stream; ``id`` is what the stream knows it by."""

    id: str
    subject: str
    body: str
    traceparent: str = ""
    """The span that caused it, in W3C's form; empty where nobody records."""


class RecalledEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as it stands in the stream."""

    sequence: int
    subject: str
    body: bytes


class Compensation(msgspec.Struct, frozen=True, kw_only=True):
    """A command, as sent, that undoes a step or finishes what a commit began."""

    subject: str
    body: str


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A saga's entry in the journal: rounds of compensations, run last to first, those of a round side by side."""

    id: str
    kind: str
    owner: str
    rounds: tuple[tuple[Compensation, ...], ...]
    trace_id: str = ""
    request_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a saga needs for itself, and what must not have changed since it was read.

    ``exclusive`` keys bar every other claim, ``shared`` ones only exclusive claims. ``unchanged`` are documents
    with the revision that was read; ``unique`` are (kind, scope, name) that must be free.
    """

    exclusive: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    unchanged: tuple[Document, ...] = ()
    unique: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The reply to a client's request that is carried out once; the fields are those of ``Replies.keep``."""

    key: str
    digest: str
    claim: str
    body: bytes
    for_s: int


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a commit writes.

    ``after`` are commands still to be run: the entry, by then without claims, stays until ``finish``. ``reply`` is
    kept together with the rest, so that whoever repeats the request hears what came of it.
    """

    puts: tuple[Document, ...] = ()
    deletes: tuple[Document, ...] = ()
    events: tuple[OutgoingEvent, ...] = ()
    after: tuple[Compensation, ...] = ()
    reply: Reply | None = None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The documents of some kinds at one moment, and the keys that sagas hold for themselves then.

    ``clock`` moves with every begin, commit and abort; documents are absent when it is the one already known.
    ``journal`` is there when it was asked for.
    """

    clock: int
    documents: dict[str, list[Document]] | None
    claimed: tuple[str, ...] = ()
    journal: tuple[Entry, ...] = ()


class Busy(Exception):
    """Another saga holds what this one needs; try again."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class Stale(Exception):
    """A document changed since it was read; read again."""


class NameTaken(Exception):
    """The name belongs to another document."""

    def __init__(self, kind: str, name: str, holder: str) -> None:
        super().__init__(name)
        self.kind, self.name, self.holder = kind, name, holder


class LeaseLost(CnmError):
    """The saga took longer than its lease and somebody else undid it."""

    code = "unavailable"
    status = 503


class Store(Protocol):
    """Documents, journal and outbox; every method raises ``Unavailable`` when the store cannot be reached."""

    async def find(self, *lookups: Lookup) -> list[Found]:
        """Find documents, in one go."""
        ...

    async def every(self, kind: str, *, index: str | None = None) -> list[Document]:
        """Return all documents of a kind, or those in an index, by creation, then id."""
        ...

    async def snapshot(
        self, kinds: Sequence[str], *, known_clock: int | None = None, journal: bool = False
    ) -> Snapshot:
        """Return all documents of several kinds as they stand at one moment."""
        ...

    async def begin(self, entry: Entry, claims: Claims, *, lease_ms: int) -> None:
        """Write a saga's intent and take its claims; beginning what has begun succeeds.

        Raises:
            Busy: another saga holds a claim.
            Stale: a document is not as it was read.
            NameTaken: a name is not free.

        """
        ...

    async def commit(self, entry: Entry, changes: Changes) -> list[Document]:
        """Write a saga's result and its events, and end it; return the documents put, with their revisions.

        Said again within a minute, it writes nothing and returns the same.

        Raises:
            LeaseLost: the entry is no longer ours.

        """
        ...

    async def finish(self, entry: Entry) -> None:
        """End a saga that was undone, or whose ``after`` commands were run; ending it twice is fine."""
        ...

    async def renew(self, entries: Sequence[str], *, lease_ms: int) -> None:
        """Keep entries from being taken over; a lease is never shortened, those that ended stay so."""
        ...

    async def expired(self, owner: str, *, lease_ms: int, limit: int = 16) -> list[Entry]:
        """Take over entries whose lease has run out.

        Each comes with an owner made for this take-over, so that whoever began it can no longer commit it, even
        within the same process.
        """
        ...

    async def server(self) -> str:
        """Return who keeps the store; it is another when the store was started anew."""
        ...


class Outbox(Protocol):
    """The events that were written with a change and are not in the stream yet."""

    async def read(self, limit: int) -> list[tuple[str, OutgoingEvent]]:
        """Return the oldest events, each with its position."""
        ...

    async def drop(self, positions: Sequence[str]) -> None:
        """Forget events that are in the stream."""
        ...

    async def wait(self, timeout_s: float) -> None:
        """Return when an event was written after the last one that was read, or when the time is over."""
        ...

    async def take(
        self, name: str, *, lease_ms: int, limit: int, dropped: Sequence[str] = ()
    ) -> list[tuple[str, OutgoingEvent]] | None:
        """Forget events that are in the stream, become or stay the one who relays, and return the oldest others.

        None when another relays.
        """
        ...

    async def resign(self, name: str) -> None:
        """Let another become the one who relays; who is not the one changes nothing."""
        ...
