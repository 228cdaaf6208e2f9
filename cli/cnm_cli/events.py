"""`cnm events`: what happens, as it happens."""

import argparse
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cnm_cli.arguments import duration_s
from cnm_cli.output import add_output_option

if TYPE_CHECKING:
    from datetime import datetime

    from cnm.client import Heard


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "events",
        help="follow what happens",
        description="Print each event on a line as it happens, until a signal ends it. With -o json a line is the "
        "event's body and its subject.",
    )
    parser.add_argument(
        "--since", type=_moment, metavar="TIME", help="begin with those since then: 10m, 1h30m, or an RFC 3339 time"
    )
    add_output_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb; ending it by a signal is how it ends, and no failure."""
    import asyncio
    import signal

    from cnm_cli.following import follow
    from cnm_cli.settings import from_environment

    async def print_all() -> None:
        events = follow(from_environment(os.environ), since=args.since)
        async for event in events:
            print(as_json(event) if args.output == "json" else as_line(event), flush=True)

    async def until_told() -> None:
        loop = asyncio.get_running_loop()
        printing = asyncio.create_task(print_all())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, printing.cancel)
        await asyncio.wait((printing,))
        if not printing.cancelled():
            printing.result()

    try:
        asyncio.run(until_told())
    except BrokenPipeError:  # whoever read us has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def as_json(event: "Heard") -> str:
    """Write an event as one line of JSON: its body, and its subject."""
    import json

    return json.dumps({**event.body, "subject": event.subject}, ensure_ascii=False)


def as_line(event: "Heard") -> str:
    """Write an event for a person: ``2026-11-23T10:00:00Z network created 1a2b3c4d5e6f name=web driver=bridge``."""
    noun, participle = event.kind.split(".")
    return " ".join([event.body["time"], noun, participle, _short(event.about), *_remarks(noun, event.object)])


def _remarks(noun: str, found: Mapping[str, Any]) -> list[str]:
    fields = {
        "network": ("name", "driver"),
        "endpoint": ("name", "network", "sandbox", "ipv4_address", "ipv6_address"),
        "sandbox": ("name", "node"),
        "pool": ("space", "pool"),
        "address": ("address", "owner"),
        "node": ("worker", "address"),
    }
    remarks = [f"{field}={_short(found[field])}" for field in fields.get(noun, ("name",)) if found.get(field)]
    if noun == "port":
        from cnm_cli.port import describe

        remarks += [describe(binding) for binding in found.get("ports", ())]
    return remarks


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text


def _moment(text: str) -> "datetime":
    from datetime import UTC, datetime, timedelta

    ago_s = duration_s(text)
    try:
        found = datetime.now(UTC) - timedelta(seconds=ago_s) if ago_s is not None else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a duration, like 10m, nor an RFC 3339 time") from None
    return found if found.tzinfo else found.astimezone()
