"""Settings of the port mapper."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may be tuned; units stand in the names."""

    automatic_attempts: int = 64
    """How many automatic ports are tried that turn out to be another process's."""

    connect_timeout_s: float = 10.0
    """How long the proxy waits for a sandbox to accept a connection."""

    udp_timeout_s: float = 90.0
    """How long a UDP session of the proxy lives without a datagram (inventory section 45)."""

    udp_sessions: int = 4096
    firewall: bool = True
    """How many UDP sessions the proxy keeps; the one that was quiet longest gives way."""
