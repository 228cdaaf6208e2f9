"""The firewall's part: which elements the maps should hold, and the steps from what they hold to that.

Where host and sandbox address are of different families there is no element, and the proxy serves.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cnm_port_mapper.binding import Place, Target

MARK = "cnm:"


@dataclass(frozen=True, slots=True)
class Translation:
    """Where a place leads, and whose it is; an empty owner is a stranger in our table."""

    target: Target
    owner: str

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
        return f"translate {self.place} to {self.translation.target}"

    def undo(self) -> "Unmap":
        """Return the step that takes this one back."""
        return Unmap(self.place, self.translation)


@dataclass(frozen=True, slots=True)
class Unmap:
    """Lead a place nowhere."""

    place: Place
    translation: Translation

    def __str__(self) -> str:
        return f"unmap {self.place} from {self.translation.target}"

    def undo(self) -> Translate:
        """Return the step that takes this one back."""
        return Translate(self.place, self.translation)


Step = Translate | Unmap


def translations(targets: Mapping[Place, Target], owner: str) -> dict[Place, Translation]:
    """Return the elements that a sandbox's ports need."""
    return {
        place: Translation(target, owner)
        for place, target in targets.items()
        if place.address.version == target.address.version
    }


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
