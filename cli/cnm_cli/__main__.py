"""The command `cnm`.

A verb group is a module of this package with ``register(subparsers)``, which adds its parsers and sets their
default ``run`` to a function that takes the parsed arguments and returns the exit status. It is named in
``GROUPS``, and imports what a verb needs when the verb runs: `cnm --help` answers at once.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

GROUPS = (
    "up",
    "down",
    "status",
    "run",
    "exec",
    "explain",
    "network",
    "sandbox",
    "endpoint",
    "port",
    "ipam",
    "node",
    "info",
    "check",
    "events",
    "trace",
    "demo",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 when it worked, 1 when it was refused. A usage error exits with 2."""
    args = build_parser().parse_args(arguments)

    from cnm.errors import CnmError

    try:
        status: int = args.run(args)
    except CnmError as error:
        print(f"cnm: {' '.join(error.message.split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return status


def build_parser() -> argparse.ArgumentParser:
    """Put all verb groups together."""
    parser = argparse.ArgumentParser(prog="cnm", description="Container networks without a container engine.")
    subparsers = parser.add_subparsers(metavar="VERB", required=True)
    for group in GROUPS:
        importlib.import_module(f"cnm_cli.{group}").register(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
