"""`cnm ipam`: the pools of addresses, how full they are, and who holds what."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnm_cli.arguments import add_group
from cnm_cli.output import add_output_option

if TYPE_CHECKING:
    from cnm_cli.client import Client

PAGE = 1000
ID_DIGITS = 64


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs to the command line."""
    verbs = add_group(subparsers, "ipam", help="show pools of addresses and who holds them")
    ls = verbs.add_parser("ls", aliases=["list"], help="list pools")
    ls.add_argument("--space", metavar="SPACE", help="only of this address space")
    add_output_option(ls)
    ls.set_defaults(run=list_pools)

    spaces = verbs.add_parser("spaces", help="list address spaces")
    add_output_option(spaces)
    spaces.set_defaults(run=list_spaces)

    inspect = verbs.add_parser("inspect", help="show pools in full, with everybody who holds an address")
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
    """Show pools in full, with their leases."""
    from cnm_cli.output import print_json
    from cnm_cli.request import for_each

    found: list[dict[str, Any]] = []

    async def look(client: "Client", pool_id: str) -> None:
        pool = await client.ask("cnm.v1.ipam.pool.get", {"pool_id": pool_id})
        found.append({**pool, "leases": await _leases(client, pool_id)})

    status = for_each(args.pool, look)
    if args.output == "json" and (found or len(args.pool) > 1):
        print_json(found if len(args.pool) > 1 else found[0])
    elif args.output != "json":
        _print_pools(found)
    return status


async def _leases(client: "Client", pool_id: str) -> list[dict[str, Any]]:
    """Return all leases of a pool, page by page."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while True:
        page = await client.ask("cnm.v1.ipam.address.list", {"pool_id": pool_id, "limit": PAGE, "after": after})
        found += page["leases"]
        after = page["after"]
        if after is None:
            return found


def _print_pools(pools: Sequence[Mapping[str, Any]]) -> None:
    from cnm_cli.output import print_table
    from cnm_cli.request import flatten

    for number, pool in enumerate(pools):
        if number:
            print()
        print_table(("field", "value"), flatten({name: value for name, value in pool.items() if name != "leases"}))
        print()
        rows = [(lease["address"], lease["holder"], lease["use"], _shown(lease["owner"])) for lease in pool["leases"]]
        print_table(("address", "holder", "use", "owner"), rows)


def _shown(owner: str | None) -> str | None:
    """Cut ids of ours, but not what a client calls itself."""
    from cnm_cli.request import short

    return short(owner) if owner is not None and len(owner) == ID_DIGITS else owner
