"""Runs an installation: takes the lock, prepares the servers and workers, and supervises them until told to stop."""

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from cnm.deposit import DEPOSIT, open_deposit
from cnm.nats_access import without_secrets
from cnm_cli.client import Readiness
from cnm_cli.embedded import LOOPBACK, free_port, nats_program, redis_program
from cnm_cli.runtime import Instance, exclusive, write_instance
from cnm_cli.settings import Settings
from cnm_cli.supervisor import OWN_NAME, Program, end_leftovers, supervise
from cnm_cli.torn import cut_torn_ends
from cnm_cli.workers import worker_stages, workers_of

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


async def serve(
    settings: Settings, *, nats_port: int, timeout_s: float, announce: Callable[[str], None], to_terminal: bool
) -> None:
    """Run until a signal asks to stop; ``announce`` gets one line when all is ready.

    Raises:
        CnmError: another instance runs, or something did not become ready; everything is stopped again.
    """
    stopping = asyncio.Event()
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    _raise_descriptor_limit()
    with exclusive(settings), open_deposit(settings.run_dir / DEPOSIT):
        end_leftovers(settings.pid_dir)
        servers: list[Program] = []
        nats_url, redis_url = settings.nats_url, settings.redis_url
        if nats_url is None:
            port = nats_port or free_port()
            servers.append(nats_program(settings, port=port))
            nats_url = f"nats://{LOOPBACK}:{port}"
        if redis_url is None:
            servers.append(redis_program(settings))
            for file, cut in cut_torn_ends(settings.redis_dir):
                say(f"cut {cut} bytes off {file}, which ends in what is no command", "redis")
            redis_url = f"unix://{settings.redis_socket}"
        instance = Instance(pid=os.getpid(), nats_url=nats_url, redis_url=redis_url, node=settings.node)
        write_instance(settings, instance)
        readiness = Readiness(nats_url)
        workers = worker_stages(
            settings, nats_url=nats_url, redis_url=redis_url, readiness=readiness, to_terminal=to_terminal
        )

        async def on_ready() -> None:
            await readiness.close()
            page = f", live page http://{settings.gateway_address}" if settings.gateway_address else ""
            announce(
                f"ready: {len(workers_of(settings))} workers on {settings.node}, "
                f"NATS {without_secrets(nats_url)}, Redis {without_secrets(redis_url)}{page}"
            )

        try:
            await supervise(
                [servers, *workers],
                pid_dir=settings.pid_dir,
                stopping=stopping,
                say=say,
                on_ready=on_ready,
                start_timeout_s=timeout_s,
            )
        finally:
            await readiness.close()


def _raise_descriptor_limit() -> None:
    """Allow as many open files as this process may have: each sandbox deposits two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def say(line: str, of: str = OWN_NAME) -> None:
    """Write what a program said to stderr: to a terminal for people, else a JSON object a line, as workers log."""
    if sys.stderr.isatty():
        shown = line if of == OWN_NAME else f"{of} | {line}"
    elif line.startswith("{"):
        shown = line
    else:
        told = {"service": of, "event": line, "level": "info", "timestamp": datetime.now(UTC)}
        shown = msgspec.json.encode(told).decode()
    try:
        print(shown, file=sys.stderr, flush=True)
    except OSError:  # the terminal is gone; workers go on
        return
