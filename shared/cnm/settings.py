"""What the environment tells a worker; the variables stand in section 9 of the public contract."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cnm.errors import Invalid

METRICS_VARIABLE = "CNM_METRICS_ADDRESS"
METRICS_OBJECTS_VARIABLE = "CNM_METRICS_MAX_OBJECTS"
METRICS_OBJECTS = 200
HIGHEST_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """Where a worker's servers and files are, what its node is called, and whether rules may be made on it.

    At ``metrics_address``, a host and a port, it serves its metrics; ``metrics_objects`` is of how many objects of a
    kind it tells one by one.
    """

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
    metrics_address: tuple[str, int] | None = None
    metrics_objects: int = METRICS_OBJECTS


def from_environment(environment: Mapping[str, str] = os.environ) -> WorkerSettings:
    """Read the settings; an empty variable counts as unset.

    Raises:
        Invalid: a variable is malformed.
    """
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
        metrics_address=metrics_address(environment.get(METRICS_VARIABLE) or None),
        metrics_objects=_count(
            METRICS_OBJECTS_VARIABLE, environment.get(METRICS_OBJECTS_VARIABLE) or str(METRICS_OBJECTS)
        ),
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


def metrics_address(text: str | None) -> tuple[str, int] | None:
    """Read where metrics are served, if anywhere.

    Raises:
        Invalid: it is no host and port.
    """
    return None if text is None else listening_address(METRICS_VARIABLE, text)


def listening_address(variable: str, text: str) -> tuple[str, int]:
    """Read where something is served: a host and a port, such as ``127.0.0.1:9464`` or ``[::1]:9464``.

    Raises:
        Invalid: it is neither.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or (":" in bare) != (bare != host) or not _is_number(port) or int(port) > HIGHEST_PORT:
        reason = f"{text!r} is no address and port, like 127.0.0.1:9464 or [::1]:9464"
        raise Invalid.at(variable, text, reason)
    return bare, int(port)


def _count(variable: str, text: str) -> int:
    """Read a whole number from 0.

    Raises:
        Invalid: it is none.
    """
    if not _is_number(text):
        raise Invalid.at(variable, text, f"{variable} is {text!r}, which is no whole number from 0")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9


def _is_on(variable: str, text: str) -> bool:
    """Read a switch.

    Raises:
        Invalid: it is neither on nor off.
    """
    if text.lower() not in ("on", "off"):
        raise Invalid.at(variable, text, f"{variable} is {text!r}, which is neither on nor off")
    return text.lower() == "on"
