"""`cnm down`: stop what `cnm up` started, and with ``--all`` take away everything it made."""

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnm_cli.child import Identity
    from cnm_cli.settings import Settings

STOP_TIMEOUT_S = 60.0


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "down",
        help="stop CNM on this node",
        description="Stop the servers and workers of this node. Sandboxes and their traffic stay as they are, and "
        "the next 'cnm up' adopts them.",
    )
    parser.add_argument("--all", action="store_true", help="remove every sandbox and network first")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb; stopping what does not run succeeds."""
    from cnm_cli.runtime import running
    from cnm_cli.settings import from_environment

    settings = from_environment(os.environ)
    if args.all:
        return _remove_all(settings)
    instance = running(settings)
    if instance is None:
        print(f"cnm is not running in {settings.run_dir}")
        return 0
    _stop(settings, instance)
    return 0


def _stop(settings: "Settings", instance: "Identity") -> None:
    import signal

    from cnm.errors import Timeout
    from cnm_cli.child import wait_gone

    try:
        os.kill(instance.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    if not wait_gone(instance, timeout_s=STOP_TIMEOUT_S):
        raise Timeout(f"process {instance.pid} did not end within {STOP_TIMEOUT_S:g} s, see {settings.log_dir}")


def _remove_all(settings: "Settings") -> int:
    """Remove over the bus what the workers know, stop them, sweep up; each is done whatever failed before."""
    import asyncio

    from cnm.errors import CnmError, Internal
    from cnm_cli.client import connect
    from cnm_cli.removal import remove_everything, sweep
    from cnm_cli.runtime import find_nats_url, running
    from cnm_cli.up import start_detached

    async def remove() -> list[CnmError]:
        async with connect(find_nats_url(settings)) as client:
            return await remove_everything(client.ask)

    failures: list[CnmError] = []
    if settings.run_dir.exists():
        try:
            if running(settings) is None and settings.nats_url is None:
                start_detached(settings, nats_port=0, timeout_s=STOP_TIMEOUT_S)  # what it left is removed by it
            failures += asyncio.run(remove())
        except CnmError as error:
            failures.append(error)
    instance = running(settings)
    if instance is not None:
        _stop(settings, instance)
    failures += sweep(settings)
    if failures:
        raise Internal("not everything could be removed: " + "; ".join(error.message for error in failures))
    return 0
