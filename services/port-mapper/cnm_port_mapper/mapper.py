"""The published ports of a node: bound sockets, translations and the proxy, changed together.

A change of one sandbox is whole: its sockets are bound first, which is what can be refused; one transaction of
the firewall follows; then the sockets are opened to traffic and those no longer wanted are closed.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from cnm.bus import KeyedOrder
from cnm.errors import CnmError, Exhausted, Forbidden, Invalid, Unavailable, Unsupported
from cnm.messages.ports import CheckPorts, PublishPorts
from cnm.messages.sandbox import PortBinding
from cnm.types import Address, Protocol
from cnm_port_mapper.binding import Place, Publication, Seat, Target, Want, read_bound, read_requests
from cnm_port_mapper.config import Settings
from cnm_port_mapper.placement import ITSELF, Collision, PlaceMap, place, taken_by
from cnm_port_mapper.ports import Bound, Firewall, Relay, Sockets
from cnm_port_mapper.rules import Remake, Step, Translate, Translation, Unmap, outdated, plan, translations

R = TypeVar("R")
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


@dataclass(frozen=True)
class _Holding:
    """What a sandbox has; without ``publication`` only what the kernel still held when this process began."""

    label: str
    publication: Publication | None = None
    elements: Mapping[Place, Translation] = field(default_factory=dict)

    @property
    def places(self) -> frozenset[Place]:
        return frozenset(self.elements if self.publication is None else self.publication.targets)

    @property
    def seats(self) -> tuple[Seat, ...]:
        return () if self.publication is None else self.publication.seats


class _Refused(Exception):
    """The kernel did not let a place be bound."""

    def __init__(self, place: Place, error: OSError) -> None:
        super().__init__(str(place))
        self.place = place
        self.error = error


class PortMapper:
    """Keeps what is published, one change of a sandbox after another."""

    def __init__(self, *, sockets: Sockets, firewall: Firewall, relay: Relay, settings: Settings) -> None:
        self._sockets = sockets
        self._firewall = firewall
        self._relay = relay
        self._settings = settings
        self._held: dict[str, _Holding] = {}
        self._occupied: PlaceMap[str] = PlaceMap()
        self._bound: dict[Seat, Bound] = {}
        self._after: dict[Protocol, int] = {}
        self._order = KeyedOrder()
        self._changing: set[str] = set()
        self._moment = 0
        self._commanded: dict[str, int] = {}
        self._agreed: dict[str, tuple[PublishPorts, _Holding]] = {}

    async def take_over(self) -> None:
        """Take note of what an earlier process left in the kernel; it stays until told otherwise."""
        found: dict[str, dict[Place, Translation]] = {}
        for where, translation in (await self._firewall.observe()).items():
            if translation.owner:
                found.setdefault(translation.owner, {})[where] = translation
        for owner, elements in found.items():
            self._held[owner] = _Holding(f"sandbox {owner[:12]}", elements=elements)
            self._occupied.put(elements, owner)

    async def inherit(self, commands: Iterable[PublishPorts]) -> None:
        """Have at hand the sockets that an earlier process left for these, and let go of what it left for others."""
        await self._sockets.inherit(_seats(commands))

    async def let_go(self, but: Iterable[PublishPorts]) -> None:
        """Let go of what was inherited and is not used, but for some sandboxes."""
        await self._sockets.let_go(_seats(but))

    async def publish(self, command: PublishPorts) -> list[PortBinding]:
        """Make a sandbox's ports exactly those asked for; return them, those that stood before first.

        Raises:
            Invalid: a contradiction, a host address that is not this node's, or a sandbox without an address.
            Conflict: a fixed port is held; the message names the holder.
            Exhausted: a range has no free port.
            Unsupported: the kernel lacks the protocol.
            Unavailable: the firewall refuses.

        """
        self._note(command.sandbox_id)
        return await self.ensure(command)

    async def unpublish(self, sandbox_id: str) -> None:
        """Close all ports of a sandbox; one that has none is fine."""
        self._note(sandbox_id)
        await self.drop(sandbox_id)

    async def check(self, command: CheckPorts) -> None:
        """Refuse what ``publish`` would refuse now, as far as it is fixed.

        Raises:
            CnmError: as ``publish``.

        """
        asked = read_requests(command.requests, ipv6=self._sockets.ipv6)
        self._demand(asked)
        wants = tuple(want for want in asked if not want.automatic)
        ports = self._place(wants, taken=self._holder_besides(command.sandbox_id))
        for want, first in zip(wants, ports, strict=True):
            for where in want.places(first) if want.fixed else ():
                for single in where.singles():
                    if self._occupied.collision(single) is not None:
                        continue  # the sandbox has it already
                    try:
                        self._sockets.probe(single)
                    except OSError as error:
                        raise await self._blame(single, error, want) from error

    async def ensure(self, command: PublishPorts) -> list[PortBinding]:
        """Do what ``publish`` does, on nobody's command."""
        wants = (*read_bound(command.bound), *read_requests(command.requests, ipv6=self._sockets.ipv6))
        self._demand(wants)
        if wants and command.ipv4_address is None and command.ipv6_address is None:
            raise Invalid.at("ipv4_address", None, f"{command.label} has no address to lead to")
        async with self._turn(command.sandbox_id):
            return await _uninterrupted(self._ensure(command, wants))

    async def drop(self, sandbox_id: str) -> None:
        """Do what ``unpublish`` does, on nobody's command."""
        async with self._turn(sandbox_id):
            if sandbox_id in self._held:
                await _uninterrupted(self._drop(sandbox_id))

    async def repair(self) -> tuple[Step | Remake, ...]:
        """Make the firewall hold what it should, in one transaction; return the steps that it took."""
        return await self._firewall.repair(self._desired(), leave=frozenset(self._changing))

    async def compare(self) -> tuple[Step | Remake, ...]:
        """Return the steps that ``repair`` would take."""
        return await self._firewall.compare(self._desired(), leave=frozenset(self._changing))

    def _desired(self) -> dict[Place, Translation]:
        return {where: translation for held in self._held.values() for where, translation in held.elements.items()}

    def stands(self, command: PublishPorts) -> bool:
        """Tell whether a sandbox's ports are as a command without new requests wants them."""
        held = self._held.get(command.sandbox_id)
        if held is None or held.publication is None or command.requests:
            return held is None and not command.bound and not command.requests
        # A slice that did not change comes again and again: the very same command need not be read anew.
        asked, then = self._agreed.get(command.sandbox_id, (None, None))
        if asked is command and then is held:
            return True
        if not self._agrees(command, held.publication):
            return False
        self._agreed[command.sandbox_id] = (command, held)
        return True

    def _agrees(self, command: PublishPorts, now: Publication) -> bool:
        asked = _publication(command)
        if asked is None:
            return False
        same = asked.label == now.label and asked.targets == now.targets
        return same and all(seat in self._bound for seat in now.seats)

    def addresses(self) -> tuple[Address, ...]:
        """Return the addresses that this node has now."""
        return self._sockets.addresses()

    def sandboxes(self) -> tuple[str, ...]:
        """Return the sandboxes that have ports."""
        return tuple(self._held)

    def counts(self) -> dict[Protocol, int]:
        """Return how many host ports sandboxes have, by protocol."""
        found: dict[Protocol, int] = dict.fromkeys(PROTOCOLS, 0)
        for where in (where for held in self._held.values() for where in held.places):
            found[where.protocol] += where.count
        return found

    def relayed(self) -> Mapping[Protocol, int]:
        """Return how many connections and sessions the proxy has, by protocol."""
        return self._relay.relayed()

    @property
    def moment(self) -> int:
        """The present, counted in commands."""
        return self._moment

    def commanded_since(self, moment: int, sandbox_id: str) -> bool:
        """Tell whether a command for a sandbox came after a moment."""
        return self._commanded.get(sandbox_id, 0) > moment

    def forget_commands(self, moment: int) -> None:
        """Forget what came up to a moment, when no older slice can still come."""
        self._commanded = {sandbox_id: at for sandbox_id, at in self._commanded.items() if at > moment}

    def _note(self, sandbox_id: str) -> None:
        self._moment += 1
        self._commanded[sandbox_id] = self._moment

    def close(self) -> None:
        """Close the sockets; translations stay, and with them the traffic."""
        for seat, bound in self._bound.items():
            self._relay.stop(seat)
            bound.close()
        self._bound.clear()

    @asynccontextmanager
    async def _turn(self, sandbox_id: str) -> AsyncIterator[None]:
        async with self._order.turn(sandbox_id):
            self._changing.add(sandbox_id)
            try:
                yield
            finally:
                self._changing.discard(sandbox_id)

    async def _ensure(self, command: PublishPorts, wants: tuple[Want, ...]) -> list[PortBinding]:
        old = self._held.get(command.sandbox_id, _Holding(command.label))
        change = await self._reserve(command, wants, old)
        new = _Holding(
            command.label, change.publication, translations(change.publication.targets, command.sandbox_id)
        )
        try:
            await self._translate(plan(new.elements, old.elements))
        except OSError as error:
            await self._give_back(change, old)
            raise Unavailable(f"the firewall refused: {error}") from error
        await self._settle(command.sandbox_id, old, new, opened=change.opened)
        return change.publication.bindings()

    async def _drop(self, sandbox_id: str) -> None:
        old = self._held[sandbox_id]
        bound = [self._bound[seat] for seat in old.seats if seat in self._bound]
        for each in bound:
            self._sockets.hold(each)
        try:
            await self._translate(plan({}, old.elements))
        except OSError as error:
            for each in bound:
                self._sockets.admit(each)
            raise Unavailable(f"the firewall refused: {error}") from error
        await self._settle(sandbox_id, old, _Holding(old.label))

    async def _translate(self, steps: Sequence[Step]) -> None:
        """Carry out steps; where the kernel holds something else than we think, mend the table first."""
        forget = outdated(steps)
        try:
            await self._firewall.apply(steps, forget=forget)
        except OSError:
            await self.repair()
            clear = [Unmap(step.place, step.translation) for step in steps]
            await self._firewall.apply(
                [*clear, *(step for step in steps if isinstance(step, Translate))], forget=forget
            )

    async def _settle(self, sandbox_id: str, old: _Holding, new: _Holding, *, opened: Sequence[Seat] = ()) -> None:
        kept = frozenset(new.seats)
        gone = [seat for seat in old.seats if seat not in kept]
        for seat in gone:
            self._release(seat)
        self._occupied.drop(old.places - new.places)
        if new.publication is None or not new.publication.wants:
            self._held.pop(sandbox_id, None)
            self._agreed.pop(sandbox_id, None)
            await self._sockets.leave({}, gone)
            return
        self._held[sandbox_id] = new
        for seat in new.seats:
            self._relay.serve(seat, self._bound[seat], _targets(new.publication, seat))
        for seat in opened:
            self._sockets.admit(self._bound[seat])
        for want, first in zip(new.publication.wants, new.publication.ports, strict=True):
            if want.automatic and not old.places.issuperset(want.places(first)):
                self._after[want.protocol] = first + want.count - 1
        await self._sockets.leave({seat: self._bound[seat] for seat in opened}, gone)

    def _release(self, seat: Seat) -> None:
        bound = self._bound.pop(seat, None)
        if bound is not None:
            self._relay.stop(seat)
            bound.close()

    async def _reserve(self, command: PublishPorts, wants: tuple[Want, ...], old: _Holding) -> "_Change":
        """Choose ports and bind their sockets, choosing again while another process has what was chosen."""
        refused: PlaceMap[str] = PlaceMap()
        attempts = 0
        holder = self._holder_besides(command.sandbox_id)
        former = () if old.publication is None else zip(old.publication.wants, old.publication.ports, strict=True)
        choices = tuple(former)

        def taken(where: Place) -> Collision | None:
            return refused.collision(where) or holder(where)

        while True:
            ports = self._place(wants, taken=taken, former=choices, label=f"{command.label} itself")
            publication = Publication(command.label, wants, ports, command.ipv4_address, command.ipv6_address)
            change = _Change(publication)
            try:
                await self._bind(change, old)
            except _Refused as refusal:
                await self._give_back(change, old)
                want = _want_of(refusal.place, wants, ports)
                if want.fixed or refusal.error.errno != errno.EADDRINUSE:
                    raise await self._blame(refusal.place, refusal.error, want) from refusal
                refused.put((refusal.place,), "another process")
                attempts += 1
                if want.automatic and attempts >= self._settings.automatic_attempts:
                    raise Exhausted(
                        f"no free host port for {want.container_port}/{want.protocol} after {attempts} attempts"
                    ) from refusal
                continue
            self._occupied.put(publication.targets, command.sandbox_id)
            return change

    def _place(
        self,
        wants: Sequence[Want],
        *,
        taken: Callable[[Place], Collision | None],
        former: Sequence[tuple[Want, int]] = (),
        label: str = ITSELF,
    ) -> tuple[int, ...]:
        automatic = self._sockets.automatic()
        return place(wants, taken=taken, automatic=automatic, after=self._after, former=former, label=label)

    async def _bind(self, change: "_Change", old: _Holding) -> None:
        kept = frozenset(change.publication.seats)
        going: PlaceMap[Seat] = PlaceMap()
        for seat in old.seats:
            if seat not in kept:
                going.put(seat.places, seat)
        for seat in change.publication.seats:
            if seat in self._bound:
                continue
            # A sandbox that changes 0.0.0.0:80 for 10.0.0.1:80 is in its own way.
            for hindrance in {other for where in seat.places for _, other in going.meeting(where)}:
                if hindrance in self._bound:
                    self._release(hindrance)
                    await self._sockets.leave({}, [hindrance])
                    change.yielded.append(hindrance)
            try:
                self._bound[seat] = self._sockets.open(seat)
            except OSError as error:
                raise self._refused(seat, error) from error
            change.opened.append(seat)

    def _refused(self, seat: Seat, error: OSError) -> _Refused:
        """Find out which port at which address it was."""
        first = seat.places[0].at(seat.ports[0])
        if len(seat.places) == len(seat.ports) == 1:
            return _Refused(first, error)
        for single in (where.at(port) for port in seat.ports for where in seat.places):
            try:
                self._sockets.probe(single)
            except OSError as found:
                return _Refused(single, found)
        return _Refused(first, error)

    async def _give_back(self, change: "_Change", old: _Holding) -> None:
        """Undo what was bound for a change that did not come about."""
        for seat in change.opened:
            self._bound.pop(seat).close()
        self._occupied.drop(change.publication.targets.keys() - old.places)
        for seat in change.yielded:
            try:
                bound = self._sockets.open(seat)
            except OSError:
                # Lost to another process within this instant; translation goes on, and the next convergence tries.
                self._agreed.clear()
                continue
            self._bound[seat] = bound
            assert old.publication is not None
            self._relay.serve(seat, bound, _targets(old.publication, seat))
            self._sockets.admit(bound)
            await self._sockets.leave({seat: bound})

    def _holder_besides(self, sandbox_id: str) -> Callable[[Place], Collision | None]:
        def holder(where: Place) -> Collision | None:
            found = self._occupied.collision(where, besides=sandbox_id)
            return found and found._replace(holder=self._label(found.holder))

        return holder

    def _label(self, owner: str) -> str:
        held = self._held.get(owner)
        return f"sandbox {owner[:12]}" if held is None else held.label

    def _demand(self, wants: Iterable[Want]) -> None:
        for want in wants:
            if not self._sockets.supports(want.protocol):
                port = f"{want.container_port}/{want.protocol}"
                raise Unsupported(f"port {port} cannot be published: this kernel has no {want.protocol}")

    async def _blame(self, where: Place, error: OSError, want: Want) -> CnmError:
        """Say why a place cannot be bound, naming who has it."""
        match error.errno:
            case errno.EADDRINUSE:
                return taken_by(Collision(where, await self._sockets.holder(where)))
            case errno.EADDRNOTAVAIL | errno.EINVAL | errno.ENODEV:
                reason = f"{where.address} is not an address of this node, so nothing can be published at {where}"
                return Invalid.at(f"{want.field}.host_ip", str(where.address), reason)
            case errno.EACCES | errno.EPERM:
                return Forbidden(f"this node does not let us bind {where}")
            case errno.EAFNOSUPPORT | errno.EPROTONOSUPPORT:
                return Unsupported(f"this kernel cannot bind {where}")
            case errno.EMFILE | errno.ENFILE | errno.ENOBUFS | errno.ENOMEM:
                return Exhausted(f"this node has no file descriptor left to bind {where}")
            case _:
                return Unavailable(f"cannot bind {where}: {error.strerror}")


@dataclass
class _Change:
    publication: Publication
    opened: list[Seat] = field(default_factory=list)
    yielded: list[Seat] = field(default_factory=list)


def _publication(command: PublishPorts) -> Publication | None:
    """Return what a command without new requests wants; None where it wants nothing, or has nowhere to lead."""
    wants = read_bound(command.bound)
    if not wants or (command.ipv4_address is None and command.ipv6_address is None):
        return None
    ports = tuple(want.first or 0 for want in wants)
    return Publication(command.label, wants, ports, command.ipv4_address, command.ipv6_address)


def _seats(commands: Iterable[PublishPorts]) -> list[Seat]:
    return [seat for command in commands if (wanted := _publication(command)) is not None for seat in wanted.seats]


def _targets(publication: Publication, seat: Seat) -> tuple[Target, ...]:
    return tuple(publication.targets[where] for where in seat.places)


def _want_of(where: Place, wants: Sequence[Want], ports: Sequence[int]) -> Want:
    return next(
        want
        for want, first in zip(wants, ports, strict=True)
        if any(where.overlaps(each) for each in want.places(first))
    )


async def _uninterrupted(work: Coroutine[Any, Any, R]) -> R:
    """Finish what was begun in the kernel, though the caller gives up; it takes milliseconds."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.exception()
        raise
