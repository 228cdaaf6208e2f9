"""Settings of the bridge driver, units in the names."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the driver works with the kernel.

    ``removal_threads`` delete links side by side; ``removal_look_s`` is how often one looks whether a link is gone.
    """

    removal_threads: int = 16
    removal_look_s: float = 0.001
