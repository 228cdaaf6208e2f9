"""What the environment tells a worker; the variables stand in section 9 of the public contract."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cnm.errors import Invalid


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Where a worker's servers and files are, what its node is called, and whether rules may be made on it."""

    nats_url: str
    redis_url: str
    node: str
    node_address: str | None
    state_dir: Path
    run_dir: Path
    default_address_pools: str | None
    firewall: bool = True
    converge_period_s: float = 3.0
    """How long what nothing tells of may differ from what should be."""


def from_environment(environment: Mapping[str, str] = os.environ) -> WorkerSettings:
    """Read the settings; an empty variable counts as unset."""
    run_dir = Path(environment.get("CNM_RUN_DIR") or "/run/cnm").absolute()
    return WorkerSettings(
        nats_url=environment.get("CNM_NATS_URL") or "nats://127.0.0.1:4222",
        redis_url=environment.get("CNM_REDIS_URL") or f"unix://{run_dir}/redis.sock",
        node=environment.get("CNM_NODE") or socket.gethostname(),
        node_address=environment.get("CNM_NODE_ADDRESS") or None,
        state_dir=Path(environment.get("CNM_STATE_DIR") or "/var/lib/cnm").absolute(),
        run_dir=run_dir,
        default_address_pools=environment.get("CNM_DEFAULT_ADDRESS_POOLS") or None,
        firewall=_is_on("CNM_FIREWALL", environment.get("CNM_FIREWALL") or "on"),
        converge_period_s=_seconds("CNM_CONVERGE_PERIOD_S", environment.get("CNM_CONVERGE_PERIOD_S") or "3"),
    )


def _seconds(variable: str, text: str) -> float:
    """Read a length of time.

    Raises:
        Invalid: it is no number above 0.
    """
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise Invalid.at(variable, text, f"{variable} is {text!r}, which is no number of seconds above 0")
    return found


def _is_on(variable: str, text: str) -> bool:
    """Read a switch.

    Raises:
        Invalid: it is neither on nor off.
    """
    if text.lower() not in ("on", "off"):
        raise Invalid.at(variable, text, f"{variable} is {text!r}, which is neither on nor off")
    return text.lower() == "on"
