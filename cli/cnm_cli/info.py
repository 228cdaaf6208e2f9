"""`cnm info`: what this installation is and can do."""

import argparse

from cnm_cli.output import add_output_option


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("info", help="show what this installation is and can do")
    add_output_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from cnm_cli.request import ask, print_objects

    print_objects([ask("system.info")], as_json=args.output == "json", as_list=False)
    return 0
