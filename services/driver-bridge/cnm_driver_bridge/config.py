"""Settings of the bridge driver, units in the names."""

from dataclasses import dataclass

from cnm.patrol import BUDGET_S


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the driver works with the kernel.

    ``removal_threads`` delete links side by side; ``removal_look_s`` is how often one looks whether a link is gone.
    ``patrol_budget_s`` is what a comparison may take for looking at that of which nothing tells that it changed.
    Without ``firewall`` no rules are made.
    """

    removal_threads: int = 16
    removal_look_s: float = 0.001
    patrol_budget_s: float = BUDGET_S
    firewall: bool = True
