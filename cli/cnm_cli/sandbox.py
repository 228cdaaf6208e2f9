"""`cnm sandbox`: make, show and remove sandboxes."""

import argparse
from typing import TYPE_CHECKING, Any

from cnm_cli.arguments import add_filter_option, add_group, filters
from cnm_cli.output import add_output_option
from cnm_cli.sandbox_options import add_sandbox_options, sandbox_body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cnm_cli.client import Body, Client


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs to the command line."""
    verbs = add_group(subparsers, "sandbox", help="make, show and remove sandboxes")

    ls = verbs.add_parser("ls", aliases=["list"], help="list sandboxes")
    add_filter_option(ls)
    ls.add_argument("-q", "--quiet", action="store_true", help="only ids")
    ls.add_argument("--no-trunc", action="store_true", help="ids in full")
    add_output_option(ls)
    ls.set_defaults(run=list_sandboxes)

    create = verbs.add_parser("create", help="make a sandbox and print its id")
    create.add_argument("name", metavar="NAME")
    add_sandbox_options(create)
    create.add_argument("--netns", metavar="PATH", help="adopt this network namespace instead of making one")
    create.add_argument("--node", metavar="NODE", help="where; default any that is ready")
    create.set_defaults(run=create_sandbox)

    inspect = verbs.add_parser("inspect", help="show sandboxes in full")
    inspect.add_argument("sandbox", nargs="+", metavar="SANDBOX")
    add_output_option(inspect)
    inspect.set_defaults(run=inspect_sandboxes)

    rm = verbs.add_parser("rm", aliases=["remove"], help="disconnect and remove sandboxes")
    rm.add_argument("sandbox", nargs="+", metavar="SANDBOX")
    rm.add_argument("-f", "--force", action="store_true", help="one that is gone is fine")
    rm.set_defaults(run=remove_sandboxes)


def list_sandboxes(args: argparse.Namespace) -> int:
    """List sandboxes."""
    from cnm_cli.output import print_json, print_table
    from cnm_cli.request import short, with_client

    async def work(client: "Client") -> "tuple[Body, Body]":
        found = await client.ask("cnm.v1.sandbox.list", {"filters": filters(args.filter)})
        wanted = args.output != "json" and not args.quiet
        return found, await client.ask("cnm.v1.network.list") if wanted else {"networks": []}

    body, networks = with_client(work)
    if args.output == "json":
        print_json(body)
        return 0
    ids = {sandbox["id"]: sandbox["id"] if args.no_trunc else short(sandbox["id"]) for sandbox in body["sandboxes"]}
    if args.quiet:
        print("".join(f"{id}\n" for id in ids.values()), end="")
        return 0
    names = {network["id"]: network["name"] for network in networks["networks"]}
    rows = [
        (ids[sandbox["id"]], sandbox["name"], sandbox["node"], _addresses(sandbox, names), _ports(sandbox))
        for sandbox in body["sandboxes"]
    ]
    print_table(("sandbox id", "name", "node", "networks", "ports"), rows)
    return 0


def _addresses(sandbox: "Mapping[str, Any]", networks: "Mapping[str, str]") -> str:
    from cnm_cli.request import address, short

    shown = []
    for endpoint in sandbox["endpoints"]:
        addresses = [address(endpoint[field]) for field in ("ipv4_address", "ipv6_address") if endpoint[field]]
        network = networks.get(endpoint["network"]) or short(endpoint["network"])
        shown.append(f"{network}={','.join(map(str, addresses))}" if addresses else str(network))
    return " ".join(shown)


def _ports(sandbox: "Mapping[str, Any]") -> str:
    from cnm_cli.port import describe

    return ", ".join(describe(binding) for binding in sandbox["ports"])


def create_sandbox(args: argparse.Namespace) -> int:
    """Make a sandbox; when it cannot be connected, it is not there afterwards."""
    from cnm.errors import CnmError
    from cnm_cli.request import complain, warn, with_client

    body = sandbox_body(args, name=args.name)
    body |= {field: value for field, value in (("netns", args.netns), ("node", args.node)) if value}

    async def work(client: "Client") -> "Body":
        made = await client.ask("cnm.v1.sandbox.create", body)
        warn(made)
        try:
            for network in args.network:
                warn(await client.ask("cnm.v1.sandbox.connect", {"sandbox": made["id"], "network": network}))
        except CnmError:
            try:
                await client.ask("cnm.v1.sandbox.delete", {"sandbox": made["id"]})
            except CnmError as error:
                complain(error)
            raise
        return made

    print(with_client(work)["id"])
    return 0


def inspect_sandboxes(args: argparse.Namespace) -> int:
    """Show sandboxes in full."""
    from cnm_cli.request import show

    return show("sandbox.get", "sandbox", args.sandbox, as_json=args.output == "json")


def remove_sandboxes(args: argparse.Namespace) -> int:
    """Remove sandboxes."""
    from cnm.errors import NotFound
    from cnm_cli.request import for_each

    async def remove(client: "Client", key: str) -> None:
        try:
            await client.ask("cnm.v1.sandbox.delete", {"sandbox": key, "force": args.force})
        except NotFound:
            if not args.force:
                raise
        else:
            print(key)

    return for_each(args.sandbox, remove)
