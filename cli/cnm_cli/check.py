"""`cnm check`: whether everything is as it should be."""

import argparse

from cnm_cli.output import add_output_option


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("check", help="compare what should be with what is, and mend what differs")
    parser.add_argument("--no-repair", dest="repair", action="store_false", help="only tell what differs")
    add_output_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb; what differs is no failure of the check."""
    from cnm_cli.output import print_json, print_table
    from cnm_cli.request import ask, short, warn

    body = ask("system.check", {"repair": args.repair})
    if args.output == "json":
        print_json(body)
        return 0
    warn(body)
    compared = ", ".join(body["compared"])
    if not body["differences"]:
        print(f"all is as it should be (compared: {compared})")
        return 0
    rows = [
        (
            each["what"],
            each["value"],
            each["about"],
            short(each["id"]),
            "yes" if each["repaired"] else each["reason"] or "no",
        )
        for each in body["differences"]
    ]
    print_table(("what", "value", "about", "id", "repaired"), rows)
    return 0
