"""`cnm run`: a sandbox around a command."""

import argparse
import sys


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    from cnm_cli.sandbox_options import add_sandbox_options

    parser = subparsers.add_parser(
        "run",
        help="run a command in a sandbox of its own",
        description="Run a command in a sandbox made for it: with its own network, hosts and resolv.conf files and "
        "host name. Signals go to the command, the exit status is its own (128 and the signal's number when one "
        "killed it); 125 when CNM failed, 126 and 127 when the command cannot be executed or found. When it ends, "
        "the sandbox and what it left running are gone.",
        usage="cnm run [OPTION ...] -- COMMAND ...",
    )
    parser.add_argument("--name", metavar="NAME", help="the sandbox's; default a random one")
    add_sandbox_options(parser)
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    import os
    import secrets

    from cnm_cli.exec import own_command
    from cnm_cli.lease import Lease, own_node
    from cnm_cli.running import Running
    from cnm_cli.sandbox_options import sandbox_body
    from cnm_cli.settings import from_environment

    command = own_command(args)
    body = sandbox_body(args, name=args.name or f"run-{secrets.token_hex(4)}")
    body["node"] = own_node(from_environment(os.environ))
    running = Running(Lease(body), networks=args.network or ["bridge"], command=command)
    status = running.run()
    sys.stdout.flush()
    return status
