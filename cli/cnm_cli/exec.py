"""`cnm exec`: a command in a sandbox that is there."""

import argparse
import os
import sys


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "exec",
        help="run a command in a sandbox",
        description="Run a command in a sandbox: its network, its hosts and resolv.conf files, its host name. The "
        "exit status is the command's own; 125 when CNM failed, 126 and 127 when the command cannot be executed or "
        "found.",
        usage="cnm exec SANDBOX -- COMMAND ...",
    )
    parser.add_argument("sandbox", metavar="SANDBOX")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Run the verb: become the command."""
    from cnm.errors import CnmError
    from cnm_cli.entering import Entrance, enter, execute, explain, status_of
    from cnm_cli.lease import require_here
    from cnm_cli.request import ask

    command = own_command(args)
    try:
        sandbox = ask("sandbox.get", {"sandbox": args.sandbox})
        require_here(sandbox)
        enter(Entrance.of(sandbox))
        sys.stdout.flush()
        execute(command)
    except (CnmError, OSError) as error:
        print(f"cnm: {explain(error, command)}", file=sys.stderr)
        return status_of(error)


def own_command(args: argparse.Namespace) -> list[str]:
    """Return the command of a command line, without the ``--`` before it; none is a usage error."""
    command: list[str] = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        args.parser.error("a command is needed: -- COMMAND ...")
    if os.geteuid() != 0:
        print("cnm: entering a sandbox needs root", file=sys.stderr)
        sys.exit(125)
    return command
