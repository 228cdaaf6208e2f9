"""`cnm endpoint`: a sandbox's places on networks, made and joined step by step."""

import argparse
from typing import TYPE_CHECKING

from cnm_cli.arguments import (
    add_filter_option,
    add_group,
    add_interface_options,
    filters,
    full_pair,
    interface_fields,
    pair,
)
from cnm_cli.output import add_output_option

if TYPE_CHECKING:
    from cnm_cli.client import Body, Client


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs to the command line."""
    verbs = add_group(subparsers, "endpoint", help="make, join, show and remove endpoints")

    ls = verbs.add_parser("ls", aliases=["list"], help="list endpoints")
    ls.add_argument("network", nargs="?", metavar="NETWORK", help="only this one's")
    add_filter_option(ls)
    ls.add_argument("-q", "--quiet", action="store_true", help="only ids")
    ls.add_argument("--no-trunc", action="store_true", help="ids in full")
    add_output_option(ls)
    ls.set_defaults(run=list_endpoints)

    create = verbs.add_parser("create", help="reserve the addresses of an endpoint and print its id")
    create.add_argument("network", metavar="NETWORK")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--ip", metavar="ADDRESS", help="this IPv4 address and no other")
    create.add_argument("--ip6", metavar="ADDRESS", help="this IPv6 address and no other")
    create.add_argument("--mac-address", metavar="MAC")
    create.add_argument("--alias", action="append", default=[], metavar="NAME", help="another name on this network")
    create.add_argument("--driver-opt", action="append", default=[], type=pair, metavar="KEY=VALUE")
    create.add_argument("--label", action="append", default=[], type=pair, metavar="KEY=VALUE")
    add_interface_options(create)
    create.set_defaults(run=create_endpoint)

    update = verbs.add_parser("update", help="change an endpoint's other names, its labels, or whether it is ready")
    _add_place(update)
    update.add_argument("--alias", action="append", metavar="NAME", help="the other names from now on")
    update.add_argument("--no-alias", action="store_true", help="no other name any more")
    update.add_argument("--label", action="append", type=pair, metavar="KEY=VALUE", help="the labels from now on")
    ready = update.add_mutually_exclusive_group()
    ready.add_argument("--ready", action="store_true", default=None, help="answer its names")
    ready.add_argument("--not-ready", dest="ready", action="store_false", help="do not answer its names")
    update.set_defaults(run=update_endpoint)

    inspect = verbs.add_parser("inspect", help="show endpoints in full")
    inspect.add_argument("endpoint", nargs="+", metavar="ENDPOINT")
    inspect.add_argument("--network", metavar="NETWORK", help="where a name is looked for")
    add_output_option(inspect)
    inspect.set_defaults(run=inspect_endpoints)

    join = verbs.add_parser("join", help="put an endpoint into a sandbox")
    _add_place(join)
    join.add_argument("sandbox", metavar="SANDBOX")
    join.add_argument("--ifname", metavar="NAME", help="the interface's in the sandbox")
    join.add_argument("--gw-priority", type=int, default=0, metavar="NUMBER", help="the highest one leads out")
    join.add_argument("--sysctl", action="append", default=[], type=full_pair, metavar="KEY=VALUE")
    join.set_defaults(run=join_endpoint)

    leave = verbs.add_parser("leave", help="take an endpoint out of its sandbox; it keeps its addresses")
    _add_place(leave)
    leave.add_argument("sandbox", metavar="SANDBOX")
    leave.set_defaults(run=leave_endpoint)

    rm = verbs.add_parser("rm", aliases=["remove"], help="remove endpoints of a network")
    rm.add_argument("network", metavar="NETWORK")
    rm.add_argument("endpoint", nargs="+", metavar="ENDPOINT")
    rm.add_argument("-f", "--force", action="store_true", help="take it out of its sandbox first")
    rm.set_defaults(run=remove_endpoints)


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("endpoint", metavar="ENDPOINT")


def list_endpoints(args: argparse.Namespace) -> int:
    """List endpoints."""
    from cnm_cli.output import print_json, print_table
    from cnm_cli.request import address, short, with_client

    async def work(client: "Client") -> "tuple[Body, Body, Body]":
        body = {"filters": filters(args.filter)} | ({"network": args.network} if args.network else {})
        found = await client.ask("cnm.v1.endpoint.list", body)
        if args.output == "json" or args.quiet:
            return found, {"networks": []}, {"sandboxes": []}
        return found, await client.ask("cnm.v1.network.list"), await client.ask("cnm.v1.sandbox.list")

    body, networks, sandboxes = with_client(work)
    if args.output == "json":
        print_json(body)
        return 0
    found = body["endpoints"]
    ids = {endpoint["id"]: endpoint["id"] if args.no_trunc else short(endpoint["id"]) for endpoint in found}
    if args.quiet:
        print("".join(f"{id}\n" for id in ids.values()), end="")
        return 0
    names = {each["id"]: each["name"] for each in (*networks["networks"], *sandboxes["sandboxes"])}
    rows = [
        (
            ids[endpoint["id"]],
            endpoint["name"],
            names.get(endpoint["network"]) or short(endpoint["network"]),
            names.get(endpoint["sandbox"] or "") or short(endpoint["sandbox"]),
            address(endpoint["ipv4_address"]),
            address(endpoint["ipv6_address"]),
            endpoint["state"],
        )
        for endpoint in found
    ]
    print_table(("endpoint id", "name", "network", "sandbox", "ipv4", "ipv6", "state"), rows)
    return 0


def create_endpoint(args: argparse.Namespace) -> int:
    """Reserve an endpoint's addresses."""
    from cnm_cli.request import ask, warn

    said = {
        "aliases": args.alias,
        "ipv4_address": args.ip,
        "ipv6_address": args.ip6,
        "mac_address": args.mac_address,
        "options": dict(args.driver_opt),
        "labels": dict(args.label),
        **interface_fields(args),
    }
    body = {"network": args.network, "name": args.name} | {name: value for name, value in said.items() if value}
    made = ask("endpoint.create", body)
    warn(made)
    print(made["id"])
    return 0


def update_endpoint(args: argparse.Namespace) -> int:
    """Change an endpoint."""
    from cnm_cli.request import ask, warn

    said = {
        "aliases": [] if args.no_alias else args.alias,
        "labels": None if args.label is None else dict(args.label),
        "ready": args.ready,
    }
    body = {"network": args.network, "endpoint": args.endpoint}
    changed = ask("endpoint.update", body | {name: value for name, value in said.items() if value is not None})
    warn(changed)
    print(changed["id"])
    return 0


def inspect_endpoints(args: argparse.Namespace) -> int:
    """Show endpoints in full."""
    from cnm_cli.request import for_each, print_objects

    bodies: list[Body] = []

    async def get(client: "Client", key: str) -> None:
        body = {"endpoint": key} | ({"network": args.network} if args.network else {})
        bodies.append(await client.ask("cnm.v1.endpoint.get", body))

    status = for_each(args.endpoint, get)
    print_objects(bodies, as_json=args.output == "json", as_list=len(args.endpoint) > 1)
    return status


def join_endpoint(args: argparse.Namespace) -> int:
    """Put an endpoint into a sandbox."""
    from cnm_cli.request import ask, warn

    said = {"ifname": args.ifname, "gw_priority": args.gw_priority, "sysctls": dict(args.sysctl)}
    body = {"network": args.network, "endpoint": args.endpoint, "sandbox": args.sandbox}
    warn(ask("endpoint.join", body | {name: value for name, value in said.items() if value}))
    return 0


def leave_endpoint(args: argparse.Namespace) -> int:
    """Take an endpoint out of its sandbox."""
    from cnm_cli.request import ask

    ask("endpoint.leave", {"network": args.network, "endpoint": args.endpoint, "sandbox": args.sandbox})
    return 0


def remove_endpoints(args: argparse.Namespace) -> int:
    """Remove endpoints."""
    from cnm_cli.request import for_each

    async def remove(client: "Client", key: str) -> None:
        await client.ask("cnm.v1.endpoint.delete", {"network": args.network, "endpoint": key, "force": args.force})
        print(key)

    return for_each(args.endpoint, remove)
