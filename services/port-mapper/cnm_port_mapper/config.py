"""Settings of the port mapper."""

from dataclasses import dataclass
from pathlib import Path

from cnm.deposit import DEPOSIT


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
    """How many UDP sessions the proxy keeps; the one that was quiet longest gives way."""

    firewall: bool = True

    run_dir: Path | None = None
    """Where something is left for the process that comes after; without, each begins anew."""

    @property
    def deposit(self) -> Path | None:
        """Where the sockets are left."""
        return None if self.run_dir is None else self.run_dir / DEPOSIT

    @property
    def memory(self) -> Path | None:
        """Where it is remembered how the kernel lists the table."""
        return None if self.run_dir is None else self.run_dir / "ports-table.json"
