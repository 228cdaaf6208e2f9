"""`cnm sandbox`: make, show and remove sandboxes."""

import argparse
from typing import TYPE_CHECKING, Any

from cnm_cli.arguments import add_filter_option, add_group, extra_host, filters, pair, published_port
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
    _add_namespace(create)
    create.add_argument("--netns-later", action="store_true", help="it gets its namespace by `cnm sandbox adopt`")
    create.add_argument("--node", metavar="NODE", help="where; default any that is ready")
    create.set_defaults(run=create_sandbox)

    adopt = verbs.add_parser("adopt", help="give a sandbox made with --netns-later its namespace")
    adopt.add_argument("sandbox", metavar="SANDBOX")
    _add_namespace(adopt)
    adopt.set_defaults(run=adopt_namespace)

    update = verbs.add_parser("update", help="change what a sandbox's files say, and its labels")
    update.add_argument("sandbox", metavar="SANDBOX")
    update.add_argument("--hostname", metavar="NAME")
    update.add_argument("--domainname", metavar="NAME")
    for name, kind, metavar, help in (
        ("add-host", extra_host, "NAME:IP", "the further lines of its hosts file from now on"),
        ("dns", str, "ADDRESS", "the servers for names from outside from now on"),
        ("dns-search", str, "DOMAIN", "the domains to search from now on"),
        ("dns-option", str, "OPTION", "the options of resolv.conf from now on"),
        ("label", pair, "KEY=VALUE", "the labels from now on"),
    ):
        update.add_argument(f"--{name}", action="append", type=kind, metavar=metavar, help=help)
    update.set_defaults(run=update_sandbox)

    publish = verbs.add_parser("publish", help="publish more ports of a sandbox, and print where they are")
    publish.add_argument("sandbox", metavar="SANDBOX")
    publish.add_argument("port", nargs="+", type=published_port, metavar="[IP:][HOST:]PORT[/PROTOCOL]")
    publish.add_argument("--allow", action="append", metavar="SUBNET", help="who may connect, else everybody")
    publish.set_defaults(run=publish_ports)

    unpublish = verbs.add_parser("unpublish", help="close published ports of a sandbox")
    unpublish.add_argument("sandbox", metavar="SANDBOX")
    unpublish.add_argument("port", nargs="+", type=published_port, metavar="[IP:][HOST:]PORT[/PROTOCOL]")
    unpublish.set_defaults(run=unpublish_ports)

    stats = verbs.add_parser("stats", help="show what went over a sandbox's interfaces")
    stats.add_argument("sandbox", metavar="SANDBOX")
    add_output_option(stats)
    stats.set_defaults(run=show_statistics)

    inspect = verbs.add_parser("inspect", help="show sandboxes in full")
    inspect.add_argument("sandbox", nargs="+", metavar="SANDBOX")
    add_output_option(inspect)
    inspect.set_defaults(run=inspect_sandboxes)

    rm = verbs.add_parser("rm", aliases=["remove"], help="disconnect and remove sandboxes")
    rm.add_argument("sandbox", nargs="+", metavar="SANDBOX")
    rm.add_argument("-f", "--force", action="store_true", help="one that is gone is fine")
    rm.set_defaults(run=remove_sandboxes)


def _add_namespace(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--netns", metavar="PATH", help="adopt this network namespace")
    source.add_argument("--pid", type=int, metavar="PID", help="adopt the network namespace of this process")


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
    said = {"netns": args.netns, "pid": args.pid, "netns_later": args.netns_later, "node": args.node}
    body |= {field: value for field, value in said.items() if value}

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


def adopt_namespace(args: argparse.Namespace) -> int:
    """Give a sandbox its namespace."""
    from cnm_cli.request import ask, warn

    said = {"netns": args.netns, "pid": args.pid}
    body = {"sandbox": args.sandbox} | {field: value for field, value in said.items() if value}
    warn(ask("sandbox.adopt", body))
    return 0


def update_sandbox(args: argparse.Namespace) -> int:
    """Change a sandbox; of its DNS settings those that are not said stay."""
    from cnm_cli.request import with_client

    said = {
        "hostname": args.hostname,
        "domainname": args.domainname,
        "extra_hosts": args.add_host,
        "labels": None if args.label is None else dict(args.label),
    }
    body = {name: value for name, value in said.items() if value is not None}
    dns = {"servers": args.dns, "search": args.dns_search, "options": args.dns_option}
    dns = {name: value for name, value in dns.items() if value is not None}

    async def work(client: "Client") -> "Body":
        if dns:
            present = await client.ask("cnm.v1.sandbox.get", {"sandbox": args.sandbox})
            body["dns"] = {**present["dns"], **dns}
        return await client.ask("cnm.v1.sandbox.update", {"sandbox": args.sandbox, **body})

    print(with_client(work)["id"])
    return 0


def publish_ports(args: argparse.Namespace) -> int:
    """Publish ports, and print all bindings of the sandbox."""
    from cnm_cli.port import describe
    from cnm_cli.request import ask, warn

    only = {"allow": args.allow} if args.allow else {}
    body = ask("sandbox.publish", {"sandbox": args.sandbox, "ports": [{**port, **only} for port in args.port]})
    warn(body)
    for binding in body["ports"]:
        print(describe(binding))
    return 0


def unpublish_ports(args: argparse.Namespace) -> int:
    """Close ports; a range is meant by the port that it begins with."""
    from cnm_cli.request import ask, warn

    fields = ("container_port", "protocol", "host_ip", "host_port")
    ports = [{field: port[field] for field in fields if field in port} for port in args.port]
    warn(ask("sandbox.unpublish", {"sandbox": args.sandbox, "ports": ports}))
    print(args.sandbox)
    return 0


def show_statistics(args: argparse.Namespace) -> int:
    """Show the counters of a sandbox's interfaces."""
    from cnm_cli.output import print_json, print_table
    from cnm_cli.request import ask

    body = ask("sandbox.stats", {"sandbox": args.sandbox})
    if args.output == "json":
        print_json(body)
        return 0
    fields = [f"{way}_{what}" for way in ("rx", "tx") for what in ("bytes", "packets", "errors", "dropped")]
    rows = [(each["ifname"], *(each[field] for field in fields)) for each in body["interfaces"]]
    print_table(("interface", *(field.replace("_", " ") for field in fields)), rows)
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
