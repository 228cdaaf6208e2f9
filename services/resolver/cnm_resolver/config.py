"""Settings of the resolver that do not come from messages."""

from collections.abc import Mapping
from dataclasses import dataclass

from cnm.errors import Invalid


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
    cache_bytes: int = 8 << 20
    """Of external answers, all sandboxes together."""
    life_s: int = 86_400
    absent_s: int = 900
    """An answer, and one that there is nothing, is kept for so long at most, whatever its zone says."""
    stale_s: int = 86_400
    stale_ttl_s: int = 30
    """For so long an expired answer may still be given when no server answers, and the life time that it has then."""
    stale_wait_s: float = 1.8
    """So long servers may take where there is an expired answer (RFC 8767, section 5)."""
    recheck_s: float = 5.0
    """After servers did not answer, they are not asked again for so long where there is an expired answer."""


LIMITS = Limits()

LOG_EVERY = 100


def log_every(environment: Mapping[str, str]) -> int:
    """Return of how many questions one is logged: ``CNM_DNS_LOG_EVERY`` at the level DEBUG, none at others.

    Raises:
        Invalid: it is not a number.
    """
    if (environment.get("CNM_LOG_LEVEL") or "").upper() != "DEBUG":
        return 0
    text = environment.get("CNM_DNS_LOG_EVERY") or str(LOG_EVERY)
    if not text.isdecimal():
        raise Invalid.at("CNM_DNS_LOG_EVERY", text, f"CNM_DNS_LOG_EVERY is {text!r}, which is no number")
    return int(text)
