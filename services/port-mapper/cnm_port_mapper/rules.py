"""The firewall's part: which elements the maps should hold, and the steps from what they hold to that.

Where host and sandbox address are of different families nothing translates, and the proxy serves. Who may connect
is looked at before either.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from cnm.types import Prefix
from cnm_port_mapper.binding import Place, Target

MARK = "cnm:"


@dataclass(frozen=True, slots=True)
class Translation:
    """Where a place leads, None to the proxy, and whose it is; an empty owner is a stranger in our table.

    Of one that is ``guarded`` only the sources in ``allow`` come in.
    """

    target: Target | None
    owner: str
    guarded: bool = False
    allow: tuple[Prefix, ...] = ()

    def __str__(self) -> str:
        to = "the proxy" if self.target is None else str(self.target)
        return f"{to} for {', '.join(map(str, self.allow)) or 'nobody'}" if self.guarded else to

    def comment(self, place: Place) -> str:
        """Return what stands beside the element."""
        return f"{MARK}{self.owner} {place}"


def owner_of(comment: str) -> str:
    """Read whose an element is from its comment."""
    return comment.removeprefix(MARK).partition(" ")[0] if comment.startswith(MARK) else ""


@dataclass(frozen=True, slots=True)
class Translate:
    """Lead a place to a sandbox."""

    place: Place
    translation: Translation

    def __str__(self) -> str:
        return f"translate {self.place} to {self.translation}"

    def undo(self) -> "Unmap":
        """Return the step that takes this one back."""
        return Unmap(self.place, self.translation)


@dataclass(frozen=True, slots=True)
class Unmap:
    """Lead a place nowhere."""

    place: Place
    translation: Translation

    def __str__(self) -> str:
        return f"unmap {self.place} from {self.translation}"

    def undo(self) -> Translate:
        """Return the step that takes this one back."""
        return Translate(self.place, self.translation)


Step = Translate | Unmap


@dataclass(frozen=True, slots=True)
class Remake:
    """Make what is missing, or another than ours, of the table itself: its chains, their rules, maps and sets."""

    def __str__(self) -> str:
        return "make the chains, maps and sets of the published ports as they should be"


def translations(targets: Mapping[Place, Target], owner: str) -> dict[Place, Translation]:
    """Return the elements that a sandbox's ports need.

    Ports in a row that keep their numbers are one element. Those that change them are one each, for the kernel does
    not count; who may connect stays one.
    """
    found = {}
    for place, target in targets.items():
        plain = replace(target, allow=None) if place.address.version == target.address.version else None
        if plain is not None and place.count > 1 and place.port != target.port:
            for offset, single in enumerate(place.singles()):
                found[single] = Translation(replace(plain, port=target.port + offset), owner)
            plain = None
        if plain is not None or target.allow is not None:
            found[place] = Translation(plain, owner, target.allow is not None, target.allow or ())
    return found


def plan(
    desired: Mapping[Place, Translation],
    observed: Mapping[Place, Translation],
    *,
    leave: Collection[str] = (),
) -> tuple[Step, ...]:
    """Return the steps from what is there to what should be, removals first; owners in ``leave`` are not touched."""
    gone = [
        Unmap(place, found)
        for place, found in observed.items()
        if found.owner not in leave and desired.get(place) != found
    ]
    freed = {step.place for step in gone}
    new = [
        Translate(place, wanted)
        for place, wanted in desired.items()
        if wanted.owner not in leave and (place not in observed or place in freed)
    ]
    return (*gone, *new)


def outdated(steps: Sequence[Step]) -> list[Place]:
    """Return the places whose flows lead where they should no more, once these steps are taken.

    TCP's look anew with each connection. An SCTP client comes back with the ports it had, and its old flow then leads
    it; but one that is forgotten cuts an association, so only where the place leads elsewhere or nowhere.
    """
    now = {step.place: step.translation.target for step in steps if isinstance(step, Translate)}
    return [
        step.place
        for step in steps
        if step.place.protocol == "udp"
        or (
            step.place.protocol == "sctp"
            and isinstance(step, Unmap)
            and now.get(step.place) != step.translation.target
        )
    ]
