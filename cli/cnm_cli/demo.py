"""`cnm demo`: the main job from beginning to end, on real traffic, in a network namespace of its own."""

import argparse
import os


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="show CNM at work",
        description="Start an installation in a network namespace of its own, put sandboxes on networks, let them "
        "talk, draw what an attach did, and take everything down again. This machine's own network is not touched. "
        "Exit status 0 only when every step did what it should.",
    )
    parser.set_defaults(run=run)


def run(_args: argparse.Namespace) -> int:
    """Run the verb."""
    import signal
    import sys

    from cnm.errors import Forbidden
    from cnm_cli.story import tell

    if os.geteuid() != 0:
        raise Forbidden("cnm demo needs root: it makes namespaces, interfaces and firewall rules")

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)  # unwinds, and so tears down

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    return tell()
