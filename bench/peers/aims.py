"""Ratios, the aims they have, and whether those are met."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.peers.turns import Ratio

HEAD = ["work", "against", "CNM", "the other", "CNM : other", "aim", "met"]


@dataclass(frozen=True)
class Aim:
    """A limit, and on which side of it to be."""

    limit: float
    at_most: bool

    def is_met(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"at {'most' if self.at_most else 'least'} {self.limit:g}"


def at_most(limit: float) -> Aim:
    return Aim(limit, at_most=True)


def at_least(limit: float) -> Aim:
    return Aim(limit, at_most=False)


def row(
    work: str,
    against: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    unit: str,
    aim: Aim | None = None,
) -> list[str]:
    """Compare what each round gave, round by round."""
    ratio = Ratio([our / their for our, their in zip(ours, theirs, strict=True)])
    shown = [f"{_number(Ratio(values).median)} {unit}" for values in (ours, theirs)]
    return [work, against, *shown, str(ratio), *judged(ratio.median, aim)]


def judged(value: float, aim: Aim | None, unit: str = "") -> list[str]:
    """Return what stands under aim and met."""
    if aim is None:
        return ["", ""]
    return [f"{aim}{unit}", "yes" if aim.is_met(value) else "**no**"]


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"
