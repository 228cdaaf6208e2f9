"""Settings of the resolver that do not come from messages."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long and how much. Three servers take 4.8 s at most, less than a client's usual 5 s."""

    backoff_s: float = 0.4
    """The next server joins the race when the ones before have been silent for so long."""
    attempt_s: float = 4.0
    overall_s: float = 4.8
    forwards: int = 1024
    """In flight for one sandbox; the rest is refused."""
    burst: int = 32
    """Packets of one socket answered before others get their turn."""
    connections: int = 256
    """TCP connections of one sandbox at a time."""
    idle_s: float = 10.0


LIMITS = Limits()
