"""`cnm ipam`: the pools of addresses and how full they are."""

import argparse

from cnm_cli.arguments import add_group
from cnm_cli.output import add_output_option


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs to the command line."""
    verbs = add_group(subparsers, "ipam", help="show pools of addresses")
    ls = verbs.add_parser("ls", aliases=["list"], help="list pools")
    ls.add_argument("--space", metavar="SPACE", help="only of this address space")
    add_output_option(ls)
    ls.set_defaults(run=list_pools)

    spaces = verbs.add_parser("spaces", help="list address spaces")
    add_output_option(spaces)
    spaces.set_defaults(run=list_spaces)

    inspect = verbs.add_parser("inspect", help="show pools in full")
    inspect.add_argument("pool", nargs="+", metavar="POOL-ID")
    add_output_option(inspect)
    inspect.set_defaults(run=inspect_pools)


def list_pools(args: argparse.Namespace) -> int:
    """List pools."""
    from cnm_cli.output import print_json, print_table
    from cnm_cli.request import ask

    body = ask("ipam.pool.list", {"space": args.space} if args.space else {})
    if args.output == "json":
        print_json(body)
        return 0
    fields = ("pool_id", "space", "pool", "sub_pool", "in_use", "available")
    rows = [tuple(pool[field] for field in fields) for pool in body["pools"]]
    print_table(("pool id", "space", "pool", "sub-pool", "in use", "available"), rows)
    return 0


def list_spaces(args: argparse.Namespace) -> int:
    """List address spaces."""
    from cnm_cli.output import print_json, print_table
    from cnm_cli.request import ask

    body = ask("ipam.space.list")
    if args.output == "json":
        print_json(body)
    else:
        print_table(("space", "pools"), [(space["name"], space["pools"]) for space in body["spaces"]])
    return 0


def inspect_pools(args: argparse.Namespace) -> int:
    """Show pools in full."""
    from cnm_cli.request import show

    return show("ipam.pool.get", "pool_id", args.pool, as_json=args.output == "json")
