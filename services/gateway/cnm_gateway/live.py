"""Keeps the topology up to date: lists at first, then each event, and now and then the lists again.

What browsers are told of it is a history of messages; each browser is a place in it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from cnm.bus import Bus
from cnm.errors import CnmError, Exhausted
from cnm.messages.endpoint import ListEndpoints
from cnm.messages.message import encode, to_builtins
from cnm.messages.network import ListNetworks
from cnm.messages.node import ListNodes
from cnm.messages.sandbox import ListSandboxes
from cnm_gateway.config import LIMITS, Limits
from cnm_gateway.history import Behind, History
from cnm_gateway.ports import Events, Heard
from cnm_gateway.sse import message
from cnm_gateway.topology import Change, Topology, changes, is_doubtful, listed, node_row, noun_and_participle

PAUSE_S = 0.5
NOT_YET = "the first state has not come yet"

log = structlog.get_logger()


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether what is shown is what is; ``why`` says what is amiss, ``since`` when the one became the other."""

    live: bool
    why: str | None
    since: datetime


class State(msgspec.Struct, frozen=True, kw_only=True):
    """All that the page draws; ``sequence`` is the last event of the stream in it, ``events`` are the last ones."""

    sequence: int
    health: Health
    nodes: list[Any]
    networks: list[Any]
    sandboxes: list[Any]
    endpoints: list[Any]
    drift: list[Any]
    events: list[msgspec.Raw] = []


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Live:
    """The topology now, and what was told of it."""

    bus: Bus
    events: Events
    limits: Limits = LIMITS
    now: Callable[[], datetime] = _now
    topology: Topology = field(default_factory=Topology)
    sequence: int = 0
    health: Health = field(init=False)
    watchers: int = 0
    history: History = field(init=False)
    _folded_from: int = 0
    _known: bool = False
    _doubtful: bool = False
    _closed: bool = False
    _controller: str | None = None
    _while_listing: list[Heard] | None = None
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when nodes or lists are to be asked for soon."""
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _abouts: dict[str, str] = field(default_factory=dict)
    _encoded: tuple[int, bytes] = (-1, b"")

    def __post_init__(self) -> None:
        self.health = Health(live=False, why=NOT_YET, since=self.now())
        self.history = History(most=self.limits.messages, most_bytes=self.limits.message_bytes)

    # What happens.

    async def follow(self) -> None:
        """Follow the stream for ever, and say when that fails."""
        while True:
            try:
                last = await self.events.last()
                if not self._known or last < self.sequence:
                    await self._begin(last)
                async for heard in self.events.follow(self.sequence):
                    if heard is not None:
                        self._take(heard)
                    if heard is None or heard.sequence >= last:
                        self._is_live()
            except CnmError as error:
                self._is_stale(error.message)
                await asyncio.sleep(PAUSE_S)

    async def _begin(self, last: int) -> None:
        """Begin with what the lists tell, which holds all that the stream has told until then."""
        self.topology = await self._listed()
        if self._known:
            log.warning("gateway.stream_began_anew", last=last, known=self.sequence)
            self.history.forget()
        self._folded_from = last
        self.sequence = max(0, last - self.limits.shown_events)
        self._known = True
        self._tell(b"")

    async def _listed(self) -> Topology:
        nodes, networks, sandboxes, endpoints = await asyncio.gather(
            self.bus.ask(ListNodes()),
            self.bus.ask(ListNetworks()),
            self.bus.ask(ListSandboxes()),
            self.bus.ask(ListEndpoints()),
        )
        return listed(nodes, networks, sandboxes, endpoints, self.topology.drift)

    def _take(self, heard: Heard) -> None:
        self.sequence = heard.sequence
        if heard.event is None:
            return
        made: tuple[Change, ...] = ()
        if heard.sequence > self._folded_from:
            made = changes(self.topology, heard.subject, heard.event)
            self.topology = self.topology.after(made)
            self._doubtful |= is_doubtful(self.topology, heard.subject, heard.event)
            if self._doubtful or noun_and_participle(heard.subject)[0] == "node":
                self._wanted.set()
        if self._while_listing is not None:
            self._while_listing.append(heard)
        self._note_about(heard)
        body = {"sequence": heard.sequence, "subject": heard.subject, "event": heard.event, "changes": made}
        self._tell(message("change", encode(body), id=heard.sequence), sequence=heard.sequence)

    def _note_about(self, heard: Heard) -> None:
        """Remember what a trace was about, for the headings of waterfalls."""
        if heard.event is None or noun_and_participle(heard.subject) != ("endpoint", "joined"):
            return
        shown = heard.event.object
        network = self.topology.networks.get(str(shown.get("network")))
        sandbox = self.topology.sandboxes.get(str(shown.get("sandbox")))
        self._abouts[heard.event.trace_id] = (
            f"{sandbox.name if sandbox else shown.get('name')} on {network.name if network else 'a network'}"
        )
        while len(self._abouts) > self.limits.messages:
            del self._abouts[next(iter(self._abouts))]

    def about(self, trace_id: str) -> str | None:
        """Return what an attach with this trace put where, if that was a short while ago."""
        return self._abouts.get(trace_id)

    async def keep_asking(self) -> None:
        """Ask for the nodes again for ever, and for the lists while somebody looks: not all that changes is told."""
        lists_at = time.monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.limits.nodes_period_s):
                    await self._wanted.wait()
            self._wanted.clear()
            if not self._known:
                continue
            try:
                due = time.monotonic() - lists_at >= self.limits.lists_period_s
                if self._doubtful or (self.watchers and due):
                    await self._list_again()
                    lists_at = time.monotonic()
                else:
                    await self._ask_nodes()
            except CnmError as error:
                self._controller_is(error.message)
            else:
                self._controller_is(None)

    async def _ask_nodes(self) -> None:
        asked = await self.bus.ask(ListNodes())
        rows = {each.name: node_row(to_builtins(each)) for each in asked.nodes}
        made = [Change("node", name, row) for name, row in rows.items() if row != self.topology.nodes.get(name)]
        made += [Change("node", name, None) for name in self.topology.nodes.keys() - rows.keys()]
        if made:
            self.topology = self.topology.after(made)
            self._tell(message("change", encode({"sequence": self.sequence, "changes": made})))

    async def _list_again(self) -> None:
        self._doubtful = False
        self._while_listing = []
        try:
            found = await self._listed()
            for heard in self._while_listing:
                if heard.event is not None:
                    found = found.after(changes(found, heard.subject, heard.event))
        except CnmError:
            self._doubtful = True
            raise
        finally:
            self._while_listing = None
        before, self.topology = self.topology, found
        if not found.shows(before):
            log.info("gateway.lists_differed", sequence=self.sequence)
            self._tell(b"")

    # Whether it is so.

    def _is_live(self) -> None:
        if not self.health.live or self.health.why != self._controller:
            self._set_health(live=True, why=self._controller)

    def _is_stale(self, why: str) -> None:
        if self.health.live or self.health.why != why:
            self._set_health(live=False, why=why)

    def _controller_is(self, failing: str | None) -> None:
        self._controller = failing
        if self.health.live:
            self._is_live()

    def _set_health(self, *, live: bool, why: str | None) -> None:
        since = self.health.since if self.health.live == live else self.now()
        log.info("gateway.live" if live else "gateway.stale", why=why)
        self.health = Health(live=live, why=why, since=since)
        self._tell(self.health_message())

    # What is told.

    def _tell(self, body: bytes, *, sequence: int | None = None) -> None:
        self.history.add(body, sequence=sequence)
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def close(self) -> None:
        """Let all who follow end."""
        self._closed = True
        self._wake()

    def state(self) -> State:
        """Return all that is shown now."""
        now = self.topology
        return State(
            sequence=self.sequence,
            health=self.health,
            nodes=sorted(now.nodes.values(), key=lambda each: each.name),
            networks=sorted(now.networks.values(), key=lambda each: (each.created, each.id)),
            sandboxes=sorted(now.sandboxes.values(), key=lambda each: (each.created, each.id)),
            endpoints=list(now.endpoints.values()),
            drift=list(now.drift.values()),
        )

    def state_message(self) -> bytes:
        """Return the state with the last events, as browsers are told it."""
        number, encoded = self._encoded
        if number != self.history.last:
            events = [msgspec.Raw(data_of(each)) for each in self.history.events(self.limits.shown_events)]
            shown = msgspec.structs.replace(self.state(), events=events)
            encoded = message("state", encode(shown), id=self.sequence)
            self._encoded = self.history.last, encoded
        return encoded

    def health_message(self) -> bytes:
        """Return whether what is shown is so, as browsers are told it."""
        return message("health", encode(self.health))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count one who follows, as long as the body runs.

        Raises:
            Exhausted: as many as may follow do already.
        """
        if self.watchers >= self.limits.clients:
            raise Exhausted(f"{self.watchers} browsers follow already, and no more may: close one, and try again")
        self.watchers += 1
        self._wanted.set()
        try:
            yield
        finally:
            self.watchers -= 1

    async def told(self, after: int | None) -> AsyncIterator[bytes]:
        """Yield what is told from now on, or since the event with that number, and at times how things stand.

        It ends when whoever takes it has fallen behind, or when the gateway stops.
        """
        place, first = self._place(after)
        yield first
        while not self._closed:
            news = self._news
            try:
                found = self.history.after(place)
            except Behind:
                return
            if found:
                place = found[-1].number
                yield b"".join(each.body or self.state_message() for each in found)
                continue
            try:
                async with asyncio.timeout(self.limits.heartbeat_s):
                    await news.wait()
            except TimeoutError:
                yield self.health_message()

    def _place(self, after: int | None) -> tuple[int, bytes]:
        """Return where to go on, and what to begin with: the state, unless all that was missed is kept."""
        missed = b""
        if after is not None:
            try:
                told = self.history.after(self.history.place_of(after))
            except Behind:
                pass
            else:
                missed = b"".join(each.body for each in told)
                if after >= self._folded_from and all(each.body for each in told):
                    return self.history.last, self.health_message() + missed
        return self.history.last, missed + self.state_message() + self.health_message()


def data_of(told: bytes) -> bytes:
    """Return the JSON of a message."""
    return told.partition(b"data: ")[2].rstrip(b"\n")
