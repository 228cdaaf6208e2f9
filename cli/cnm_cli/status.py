"""`cnm status`: whether this node's workers are ready."""

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from cnm_cli.output import add_output_option, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from cnm_cli.client import Service
    from cnm_cli.settings import Settings

READY, STARTING, DOWN = "ready", "starting", "down"


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "status",
        help="show this node's workers",
        description="Show this node's workers. Exit status 0 only when all, or those named, are ready.",
    )
    parser.add_argument("worker", nargs="*", help="only these, such as cnm-ipam")
    add_output_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    import asyncio

    from cnm.errors import NotFound
    from cnm_cli.settings import from_environment
    from cnm_cli.workers import ALL_WORKERS, workers_of

    settings = from_environment(os.environ)
    known = [worker.name for worker in ALL_WORKERS]
    for name in args.worker:
        if name not in known:
            raise NotFound(f"there is no worker {name}; there are {', '.join(known)}")
    services, trouble = asyncio.run(_discover(settings))
    pids, usual = _pids(settings, known), [worker.name for worker in workers_of(settings)]
    asked = args.worker or [name for name in known if name in usual or name in pids]
    workers = rows(asked, services, pids, node=settings.node)
    if args.output == "json":
        print_json({"node": settings.node, "workers": workers})
    else:
        print_table(("name", "pid", "state", "version"), [tuple(worker.values()) for worker in workers])
    late = [str(worker["name"]) for worker in workers if worker["state"] != READY]
    if not late:
        return 0
    print(f"cnm: {trouble or 'not ready: ' + ', '.join(late)}", file=sys.stderr)
    return 1


def rows(
    names: "Sequence[str]", services: "Iterable[Service]", pids: "Mapping[str, int]", *, node: str
) -> list[dict[str, Any]]:
    """Tell of each worker what ``cnm status`` shows: ready, starting (a process that does not answer), or down."""
    here = {service.name: service for service in services if service.serves(node)}
    return [
        {
            "name": name,
            "pid": pids.get(name),
            "state": READY if name in here else STARTING if name in pids else DOWN,
            "version": here[name].version if name in here else None,
        }
        for name in names
    ]


async def _discover(settings: "Settings") -> "tuple[list[Service], str | None]":
    from cnm.errors import Unavailable
    from cnm_cli.client import connect
    from cnm_cli.runtime import find_nats_url

    try:
        async with connect(find_nats_url(settings)) as client:
            return await client.discover(), None
    except Unavailable as error:
        return [], error.message


def _pids(settings: "Settings", names: "Iterable[str]") -> dict[str, int]:
    from cnm_cli.child import read_identity

    found = {name: read_identity(settings.pid_dir / f"{name}.pid") for name in names}
    return {name: identity.pid for name, identity in found.items() if identity}
