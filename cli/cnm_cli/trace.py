"""`cnm trace`: what requests do inside, as they are made or afterwards."""

import argparse
import sys
from typing import TYPE_CHECKING

from cnm_cli.output import add_output_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cnm.spans import SpanRecord
    from cnm_cli.client import Client

LOOK_S = 0.1
LATE_S = 1.0
"""So long it waits for spans that its workers have not told yet."""
HOW = "workers keep spans when OTEL_TRACES_EXPORTER lists nats, the last 32 MB or six hours of them"


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "trace",
        help="see requests go through the workers",
        description="Draw a request: which worker did what, when, down to the changes of the kernel. Without an "
        "argument each request is drawn as it ends, until a signal. The workers must have been started with "
        "OTEL_TRACES_EXPORTER=nats, alone or with others (otlp,nats); they keep the last 32 MB of spans, six hours "
        "at most. With -o json a line is the list of a trace's spans.",
    )
    parser.add_argument("trace", nargs="?", metavar="TRACE", help="id of a trace, or how it begins")
    parser.add_argument(
        "--last",
        nargs="?",
        const="",
        metavar="VERB",
        help="the last request of this verb, such as sandbox.connect, attach or detach; without one, of any",
    )
    parser.add_argument("-n", "--count", type=_count, metavar="N", help="with --last: so many of them")
    add_output_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb; ending it by a signal is how it ends, and no failure."""
    from cnm.errors import NotFound
    from cnm_cli.request import with_client

    if args.trace is not None and args.last is not None:
        print("cnm trace: a trace and --last exclude one another", file=sys.stderr)
        return 2
    if args.count is not None and args.last is None:
        print("cnm trace: -n goes with --last", file=sys.stderr)
        return 2
    if args.trace is None and args.last is None:
        with_client(lambda client: _until_told(client, json=args.output == "json"))
        return 0
    traces = with_client(lambda client: _find(client, args.trace, args.last, args.count or 1))
    if not traces:
        about = f"trace {args.trace}" if args.trace is not None else f"request {args.last}".strip()
        raise NotFound(f"no spans of {about!r} are kept: {HOW}")
    for spans in traces:
        _print(spans, json=args.output == "json")
    return 0


def _count(text: str) -> int:
    number = int(text)
    if not 0 < number <= 1000:
        raise argparse.ArgumentTypeError(f"expected 1 to 1000, got {text}")
    return number


def _print(spans: "Sequence[SpanRecord]", *, json: bool) -> None:
    from cnm.spans import encode_spans
    from cnm_cli.waterfall import waterfall

    print(encode_spans(list(spans)).decode() if json else f"{waterfall(spans)}\n", flush=True)


async def _find(client: "Client", trace: str | None, last: str | None, count: int) -> "list[list[SpanRecord]]":
    """Look into the store; what ended just now is given the time to get there."""
    import asyncio
    import time

    from cnm.nats_spans import SpanStore
    from cnm.spans import ATTACH, DETACH
    from cnm_cli.spans import is_complete

    verbs = {"attach": ATTACH, "detach": DETACH}.get(last or "", (last,) if last else ())
    store = SpanStore(client.connection)
    until = time.monotonic() + LATE_S
    while True:
        if trace is not None:
            spans = await store.trace(trace.lower())
            found = [spans] if spans else []
        else:
            found = await store.last(verbs, limit=count)
        if time.monotonic() > until or (found and all(map(is_complete, found))):
            return found
        await asyncio.sleep(LOOK_S)


async def _until_told(client: "Client", *, json: bool) -> None:
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    printing = asyncio.create_task(_print_all(client, json=json))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, printing.cancel)
    await asyncio.wait((printing,))
    if not printing.cancelled():
        printing.result()


async def _print_all(client: "Client", *, json: bool) -> None:
    import asyncio

    from cnm.errors import Unavailable
    from cnm_cli.spans import listening

    async with listening(client) as spans:
        print("waiting for requests", file=sys.stderr, flush=True)
        while client.connection.is_connected:
            for trace in spans.take_finished():
                _print(trace, json=json)
            await asyncio.sleep(LOOK_S)
    raise Unavailable("the connection to NATS was lost")
