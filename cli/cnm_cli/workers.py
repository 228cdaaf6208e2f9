"""The workers of one node, and what each is told when it starts."""

import os
import sys
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from cnm import otel_environment
from cnm.errors import Invalid
from cnm.logs import FORMAT, PEOPLE
from cnm.settings import HIGHEST_PORT, METRICS_VARIABLE, metrics_address
from cnm_cli.client import Readiness
from cnm_cli.settings import Settings
from cnm_cli.supervisor import Program


class Worker(NamedTuple):
    """A worker: its name as a NATS service, and the module that is run."""

    name: str
    module: str


SERVING = (
    Worker("cnm-ipam", "cnm_ipam"),
    Worker("cnm-sandbox", "cnm_sandbox"),
    Worker("cnm-driver-bridge", "cnm_driver_bridge"),
    Worker("cnm-port-mapper", "cnm_port_mapper"),
    Worker("cnm-resolver", "cnm_resolver"),
)
ASKING = (Worker("cnm-controller", "cnm_controller"),)
"""Who asks the others, and so is drained while they still answer.

All start together, for each waits for the others: no worker is a gate.
"""

WORKERS = (*ASKING, *SERVING)
"""Those without whom there is no CNM."""

GATEWAY = Worker("cnm-gateway", "cnm_gateway")
"""The live page, for those who set ``CNM_GATEWAY_ADDRESS``."""

ALL_WORKERS = (*WORKERS, GATEWAY)


def workers_of(settings: Settings) -> tuple[Worker, ...]:
    """Return the workers that an installation has."""
    return ALL_WORKERS if settings.gateway_address else WORKERS


def worker_environment(
    inherited: Mapping[str, str], settings: Settings, *, nats_url: str, redis_url: str, position: int
) -> dict[str, str]:
    """Tell a worker all it needs.

    Each needs a metrics port of its own, so the configured one is the first of a row: the worker at ``position``
    in `ALL_WORKERS` gets the port that much higher.
    """
    environment = {
        **inherited,
        "CNM_NATS_URL": nats_url,
        "CNM_REDIS_URL": redis_url,
        "CNM_NODE": settings.node,
        "CNM_STATE_DIR": str(settings.state_dir),
        "CNM_RUN_DIR": str(settings.run_dir),
    }
    if settings.metrics_address:
        count = len(workers_of(settings))
        environment["CNM_METRICS_ADDRESS"] = _nth_address(settings.metrics_address, position, count)
    return environment


def worker_stages(
    settings: Settings, *, nats_url: str, redis_url: str, readiness: Readiness, to_terminal: bool
) -> list[list[Program]]:
    """Prepare all workers; they start at once, and stop in the reverse order of the stages.

    Raises:
        Invalid: the environment asks for what no worker could do.
    """
    otel_environment.check()
    inherited = {**os.environ, **({FORMAT: PEOPLE} if to_terminal and sys.stderr.isatty() else {})}
    return [
        [
            Program(
                name=worker.name,
                command=(sys.executable, "-P", "-m", worker.module),
                ready=partial(readiness.answers, worker.name, settings.node),
                environment=worker_environment(
                    inherited,
                    settings,
                    nats_url=nats_url,
                    redis_url=redis_url,
                    position=ALL_WORKERS.index(worker),
                ),
                log=None if to_terminal else settings.log_dir / f"{worker.name}.log",
            )
            for worker in stage
        ]
        for stage in (SERVING, ASKING, *([(GATEWAY,)] if settings.gateway_address else []))
    ]


def _nth_address(address: str, position: int, count: int) -> str:
    """Return the address for the worker at a position of so many; port 0 stays: each then takes one that is free.

    Raises:
        Invalid: it is no address and port, or the last worker's port would be too high.
    """
    found = metrics_address(address)
    assert found is not None
    host, port = found
    if port + count - 1 > HIGHEST_PORT:
        reason = f"{address!r} leaves too few ports: each of {count} workers takes one, from {port} on"
        raise Invalid.at(METRICS_VARIABLE, address, reason)
    return f"{f'[{host}]' if ':' in host else host}:{port + position if port else 0}"
