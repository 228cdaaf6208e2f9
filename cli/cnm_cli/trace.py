"""`cnm trace`: what requests do inside, as they are made."""

import argparse
import sys

from cnm_cli.output import add_output_option

LOOK_S = 0.1


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "trace",
        help="follow requests through the workers",
        description="Draw each request as it ends: which worker did what, when, down to the changes of the kernel. "
        "The workers must have been started with OTEL_TRACES_EXPORTER=nats. A signal ends it; with -o json a line "
        "is the list of a trace's spans.",
    )
    parser.add_argument("--all", action="store_true", help="heartbeats and other routine of the workers as well")
    add_output_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb; ending it by a signal is how it ends, and no failure."""
    import asyncio
    import signal

    import msgspec

    from cnm.errors import Unavailable
    from cnm_cli.client import Client
    from cnm_cli.request import with_client
    from cnm_cli.spans import listening
    from cnm_cli.waterfall import waterfall

    async def print_all(client: Client) -> None:
        async with listening(client) as spans:
            print("waiting for requests", file=sys.stderr, flush=True)
            while client.connection.is_connected:
                for trace in spans.take_finished():
                    if not args.all and is_routine([span.name for span in trace]):
                        continue
                    json = args.output == "json"
                    print(msgspec.json.encode(trace).decode() if json else f"{waterfall(trace)}\n", flush=True)
                await asyncio.sleep(LOOK_S)
        raise Unavailable("the connection to NATS was lost")

    async def until_told(client: Client) -> None:
        loop = asyncio.get_running_loop()
        printing = asyncio.create_task(print_all(client))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, printing.cancel)
        await asyncio.wait((printing,))
        if not printing.cancelled():
            printing.result()

    with_client(until_told)
    return 0


def is_routine(names: list[str]) -> bool:
    """Tell whether a trace is only workers looking after themselves."""
    return all(any(word in name for word in ("heartbeat", "slice")) for name in names)
