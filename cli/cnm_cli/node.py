"""`cnm node`: the nodes and their workers."""

import argparse

from cnm_cli.arguments import add_filter_option, add_group, filters
from cnm_cli.output import add_output_option


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs to the command line."""
    verbs = add_group(subparsers, "node", help="show nodes")
    ls = verbs.add_parser("ls", aliases=["list"], help="list nodes")
    add_filter_option(ls)
    add_output_option(ls)
    ls.set_defaults(run=list_nodes)

    inspect = verbs.add_parser("inspect", help="show nodes in full")
    inspect.add_argument("node", nargs="+", metavar="NODE")
    add_output_option(inspect)
    inspect.set_defaults(run=inspect_nodes)

    dns = verbs.add_parser("dns", help="show what the embedded DNS of a node was asked, and how its servers do")
    dns.add_argument("node", metavar="NODE")
    add_output_option(dns)
    dns.set_defaults(run=show_dns)


def show_dns(args: argparse.Namespace) -> int:
    """Show what the embedded DNS of a node did."""
    from cnm_cli.output import print_json, print_table
    from cnm_cli.request import ask

    body = ask("node.dns", {"node": args.node})
    if args.output == "json":
        print_json(body)
        return 0
    dns = body["dns"]
    print_table(
        ("type", "answer from", "code", "questions"),
        [(each["type"], each["source"], each["code"], each["count"]) for each in dns["questions"]],
    )
    if dns["servers"]:
        print()
        names = ("asked", "answered", "failed", "silent", "last_ms")
        print_table(
            ("server", *(name.replace("_", " ") for name in names)),
            [(each["address"], *(each[name] for name in names)) for each in dns["servers"]],
        )
    return 0


def list_nodes(args: argparse.Namespace) -> int:
    """List nodes."""
    from cnm_cli.output import print_json, print_table
    from cnm_cli.request import ask

    body = ask("node.list", {"filters": filters(args.filter)})
    if args.output == "json":
        print_json(body)
        return 0
    rows = [
        (
            node["name"],
            node["state"],
            node["address"],
            f"{sum(worker['state'] == 'ready' for worker in node['workers'])}/{len(node['workers'])}",
            node["sandboxes"],
            node["endpoints"],
        )
        for node in body["nodes"]
    ]
    print_table(("name", "state", "address", "workers ready", "sandboxes", "endpoints"), rows)
    return 0


def inspect_nodes(args: argparse.Namespace) -> int:
    """Show nodes in full."""
    from cnm_cli.request import show

    return show("node.get", "node", args.node, as_json=args.output == "json")
