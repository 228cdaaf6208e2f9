"""What the environment says about an installation; the variables stand in section 9 of the public contract."""

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cnm.errors import Invalid

DEFAULT_NATS_PORT = 4222
DEFAULT_NATS_URL = f"nats://127.0.0.1:{DEFAULT_NATS_PORT}"
FSYNC = ("everysec", "always")


class Settings(NamedTuple):
    """One installation: where its files are, what its node is called, and which servers it was told to use."""

    run_dir: Path
    state_dir: Path
    node: str
    nats_url: str | None = None
    """None: the embedded server."""
    redis_url: str | None = None
    """None: the embedded server."""
    metrics_address: str | None = None
    """None: no worker serves metrics."""
    gateway_address: str | None = None
    """None: there is no live page."""
    fsync: str = FSYNC[0]
    """When the embedded servers have the disk write what they acknowledge: every second, or before they do."""

    @property
    def pid_dir(self) -> Path:
        """Where each supervised process has its pid file."""
        return self.run_dir / "pids"

    @property
    def log_dir(self) -> Path:
        """Where whatever does not go to the terminal is logged."""
        return self.state_dir / "log"

    @property
    def redis_dir(self) -> Path:
        """Where the embedded Redis keeps its files."""
        return self.state_dir / "redis"

    @property
    def redis_socket(self) -> Path:
        """Where the embedded Redis listens, and nowhere else."""
        return self.run_dir / "redis.sock"


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Read the settings; an empty variable counts as unset.

    Raises:
        Invalid: a variable has a value that it cannot have.
    """
    fsync = environment.get("CNM_FSYNC") or FSYNC[0]
    if fsync not in FSYNC:
        raise Invalid.at("CNM_FSYNC", fsync, f"CNM_FSYNC is {fsync!r}, it can be {' or '.join(FSYNC)}")
    return Settings(
        run_dir=Path(environment.get("CNM_RUN_DIR") or "/run/cnm").absolute(),
        state_dir=Path(environment.get("CNM_STATE_DIR") or "/var/lib/cnm").absolute(),
        node=environment.get("CNM_NODE") or socket.gethostname(),
        nats_url=environment.get("CNM_NATS_URL") or None,
        redis_url=environment.get("CNM_REDIS_URL") or None,
        metrics_address=environment.get("CNM_METRICS_ADDRESS") or None,
        gateway_address=environment.get("CNM_GATEWAY_ADDRESS") or None,
        fsync=fsync,
    )
