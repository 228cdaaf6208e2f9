"""`cnm network`: make, show, change and remove networks, and put sandboxes on them."""

import argparse
import ipaddress
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnm_cli.arguments import (
    add_filter_option,
    add_group,
    add_interface_options,
    add_switch,
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
    verbs = add_group(subparsers, "network", help="make, show, change and remove networks")

    ls = verbs.add_parser("ls", aliases=["list"], help="list networks")
    add_filter_option(ls)
    ls.add_argument("-q", "--quiet", action="store_true", help="only ids")
    ls.add_argument("--no-trunc", action="store_true", help="ids in full")
    add_output_option(ls)
    ls.set_defaults(run=list_networks)

    _register_create(verbs.add_parser("create", help="make a network and print its id"))

    _register_update(verbs.add_parser("update", help="change a network under its endpoints"))

    inspect = verbs.add_parser("inspect", help="show networks in full")
    inspect.add_argument("network", nargs="+", metavar="NETWORK")
    add_output_option(inspect)
    inspect.set_defaults(run=inspect_networks)

    rm = verbs.add_parser("rm", aliases=["remove"], help="remove networks")
    rm.add_argument("network", nargs="+", metavar="NETWORK")
    rm.add_argument("-f", "--force", action="store_true", help="disconnect sandboxes first; one that is gone is fine")
    rm.set_defaults(run=remove_networks)

    _register_connect(verbs.add_parser("connect", help="put a sandbox on a network"))

    disconnect = verbs.add_parser("disconnect", help="take a sandbox off a network")
    disconnect.add_argument("-f", "--force", action="store_true", help="whatever state it is in")
    disconnect.add_argument("network", metavar="NETWORK")
    disconnect.add_argument("sandbox", metavar="SANDBOX")
    disconnect.set_defaults(run=disconnect_sandbox)

    prune = verbs.add_parser("prune", help="remove every network that nothing uses")
    prune.add_argument("-f", "--force", action="store_true", help="do not ask")
    prune.add_argument(
        "--filter", type=full_pair, action="append", default=[], metavar="KEY=VALUE", help="only these"
    )
    add_output_option(prune)
    prune.set_defaults(run=prune_networks)

    drops = verbs.add_parser("drops", help="show what of a network was refused or dropped, and why")
    drops.add_argument("network", metavar="NETWORK")
    add_output_option(drops)
    drops.set_defaults(run=show_drops)


def _add_many(parser: argparse.ArgumentParser, name: str, metavar: str, help: str) -> None:
    parser.add_argument(f"--{name}", action="append", default=[], metavar=metavar, help=help)


def _add_pairs(parser: argparse.ArgumentParser, *names: str, help: str) -> None:
    parser.add_argument(*names, action="append", default=[], type=pair, metavar="KEY=VALUE", help=help)


def _add_pools(parser: argparse.ArgumentParser) -> None:
    _add_many(parser, "subnet", "CIDR", "a subnet; once a family or more")
    _add_many(parser, "ip-range", "CIDR", "hand out addresses only from here")
    _add_many(parser, "gateway", "ADDRESS", "the gateway of a subnet")
    parser.add_argument(
        "--aux-address", action="append", default=[], type=full_pair, metavar="NAME=ADDRESS", help="never hand it out"
    )


def _add_dns(parser: argparse.ArgumentParser) -> None:
    _add_many(parser, "dns", "ADDRESS", "ask this server about names from outside")
    _add_many(parser, "dns-search", "DOMAIN", "search this domain")
    parser.add_argument("--dns-ttl", type=int, metavar="SECONDS", help="how long an answer may be kept")


def _register_create(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("-d", "--driver", default="bridge", metavar="DRIVER", help="default bridge")
    parser.add_argument("--scope", metavar="SCOPE", help="local or global")
    _add_pools(parser)
    add_switch(parser, "internal", default=False, help="nothing leads out of it")
    add_switch(parser, "attachable", default=False, help="sandboxes may be connected by hand")
    add_switch(parser, "ingress", default=False, help="it carries published service ports")
    add_switch(parser, "ipv4", default=True, help="with IPv4 (--ipv4=false: without)")
    add_switch(parser, "ipv6", default=False, help="with IPv6")
    add_switch(parser, "config-only", default=False, help="it only holds a configuration for others")
    parser.add_argument("--config-from", metavar="NETWORK", help="take the configuration of that one")
    _add_pairs(parser, "-o", "--opt", help="an option of the driver")
    _add_pairs(parser, "--label", help="a label")
    parser.add_argument("--ipam-driver", default="default", metavar="DRIVER", help="who chooses addresses")
    parser.add_argument("--address-space", metavar="SPACE", help="where the subnets are unique")
    _add_pairs(parser, "--ipam-opt", help="an option of the address driver")
    _add_dns(parser)
    parser.set_defaults(run=create_network)


def _register_update(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("--revision", type=int, metavar="NUMBER", help="only if it is still this one")
    _add_pairs(parser, "-o", "--opt", help="set an option of the driver")
    _add_many(parser, "opt-rm", "KEY", "take an option away")
    _add_pairs(parser, "--label-add", help="set a label")
    _add_many(parser, "label-rm", "KEY", "take a label away")
    _add_dns(parser)
    add_switch(parser, "dns-reset", default=False, help="without DNS settings but those said here")
    _add_pools(parser)
    parser.set_defaults(run=update_network)


def _register_connect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", metavar="NETWORK")
    parser.add_argument("sandbox", metavar="SANDBOX")
    parser.add_argument("--ip", metavar="ADDRESS", help="this IPv4 address and no other")
    parser.add_argument("--ip6", metavar="ADDRESS", help="this IPv6 address and no other")
    parser.add_argument("--mac-address", metavar="MAC")
    parser.add_argument("--alias", action="append", default=[], metavar="NAME", help="another name on this network")
    parser.add_argument("--name", metavar="NAME", help="the endpoint's; default the sandbox's")
    parser.add_argument("--ifname", metavar="NAME", help="the interface's in the sandbox")
    parser.add_argument("--gw-priority", type=int, default=0, metavar="NUMBER", help="the highest one leads out")
    parser.add_argument("--sysctl", action="append", default=[], type=full_pair, metavar="KEY=VALUE")
    parser.add_argument("--driver-opt", action="append", default=[], type=pair, metavar="KEY=VALUE")
    add_interface_options(parser)
    parser.set_defaults(run=connect_sandbox)


def list_networks(args: argparse.Namespace) -> int:
    """List networks."""
    from cnm_cli.output import print_json, print_table
    from cnm_cli.request import ask, short

    body = ask("network.list", {"filters": filters(args.filter)})
    if args.output == "json":
        print_json(body)
        return 0
    ids = {network["id"]: network["id"] if args.no_trunc else short(network["id"]) for network in body["networks"]}
    if args.quiet:
        print("".join(f"{id}\n" for id in ids.values()), end="")
        return 0
    rows = [
        (
            ids[network["id"]],
            network["name"],
            network["driver"],
            network["scope"],
            " ".join(pool["subnet"] for pool in network["ipam"]["pools"]),
            len(network["endpoints"]),
        )
        for network in body["networks"]
    ]
    print_table(("network id", "name", "driver", "scope", "subnets", "endpoints"), rows)
    return 0


def create_network(args: argparse.Namespace) -> int:
    """Make a network."""
    from cnm_cli.request import ask, warn

    made = ask("network.create", network_body(args))
    warn(made)
    print(made["id"])
    return 0


def network_body(args: argparse.Namespace) -> dict[str, Any]:
    """Write what ``network.create`` takes; what was not said is left out."""
    pools = pool_bodies(args.subnet, args.ip_range, args.gateway, args.aux_address)
    ipam = {
        "pools": pools,
        "options": dict(args.ipam_opt),
        "driver": args.ipam_driver if args.ipam_driver != "default" else None,
        "address_space": args.address_space,
    }
    said = {
        "driver": args.driver,
        "scope": args.scope,
        "internal": args.internal,
        "attachable": args.attachable,
        "ingress": args.ingress,
        "config_only": args.config_only,
        "config_from": args.config_from,
        "enable_ipv6": args.ipv6,
        "ipam": {name: value for name, value in ipam.items() if value},
        "dns": _said_of_dns(args),
        "options": dict(args.opt),
        "labels": dict(args.label),
    }
    body = {"name": args.name} | {name: value for name, value in said.items() if value}
    return body if args.ipv4 else body | {"enable_ipv4": False}


def _said_of_dns(args: argparse.Namespace) -> dict[str, Any]:
    found = {name: value for name, value in (("servers", args.dns), ("search", args.dns_search)) if value}
    return found if args.dns_ttl is None else found | {"ttl": args.dns_ttl}


def update_network(args: argparse.Namespace) -> int:
    """Change a network; labels and DNS settings that were not spoken of stay as they are."""
    from cnm_cli.request import warn, with_client

    async def work(client: "Client") -> "Body":
        shown = await client.ask("cnm.v1.network.get", {"network": args.network})
        return await client.ask("cnm.v1.network.update", update_body(args, shown))

    changed = with_client(work)
    warn(changed)
    print(changed["name"])
    return 0


def update_body(args: argparse.Namespace, shown: "Body") -> dict[str, Any]:
    """Write what ``network.update`` takes; what depends on what is there holds only for that revision."""
    body: dict[str, Any] = {"network": shown["id"]}
    options = dict(args.opt) | dict.fromkeys(args.opt_rm)
    if options:
        body["options"] = options
    if args.label_add or args.label_rm:
        kept = {name: value for name, value in shown["labels"].items() if name not in args.label_rm}
        body["labels"] = kept | dict(args.label_add)
    if args.dns_reset or _said_of_dns(args):
        body["dns"] = ({} if args.dns_reset else shown["dns"]) | _said_of_dns(args)
    pools = pool_bodies(args.subnet, args.ip_range, args.gateway, args.aux_address)
    if pools:
        body["add_pools"] = pools
    if args.revision is not None:
        body["revision"] = args.revision
    elif "labels" in body or "dns" in body:
        body["revision"] = shown["revision"]
    return body


def pool_bodies(
    subnets: Sequence[str], ranges: Sequence[str], gateways: Sequence[str], aux_addresses: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Put each range, gateway and auxiliary address to the subnet that holds it.

    Raises:
        Invalid: no subnet does, or two of a kind fall to one subnet.
    """
    from cnm.errors import Invalid

    pools: list[dict[str, Any]] = [{"subnet": subnet} for subnet in subnets]

    def home(option: str, text: str) -> dict[str, Any]:
        # With one subnet there is no choice, and the owner says better what is wrong.
        found = pools if len(pools) == 1 else [pool for pool in pools if _holds(pool["subnet"], text)]
        if not found:
            raise Invalid(f"{option} {text} is in no subnet: say --subnet")
        return found[0]

    for option, field, texts in (("--ip-range", "range", ranges), ("--gateway", "gateway", gateways)):
        for text in texts:
            pool = home(option, text)
            if field in pool:
                raise Invalid(f"{option} {text}: subnet {pool['subnet']} has {pool[field]} already")
            pool[field] = text
    for name, text in aux_addresses:
        home("--aux-address", text).setdefault("aux_addresses", {})[name] = text
    return pools


def _holds(subnet: str, text: str) -> bool:
    try:
        outer, inner = ipaddress.ip_network(subnet, strict=False), ipaddress.ip_interface(text).network
    except ValueError:
        return False
    return outer.version == inner.version and outer.overlaps(inner)


def inspect_networks(args: argparse.Namespace) -> int:
    """Show networks in full."""
    from cnm_cli.request import show

    return show("network.get", "network", args.network, as_json=args.output == "json")


def remove_networks(args: argparse.Namespace) -> int:
    """Remove networks."""
    from cnm.errors import NotFound
    from cnm_cli.request import for_each

    async def remove(client: "Client", key: str) -> None:
        try:
            await client.ask("cnm.v1.network.delete", {"network": key, "force": args.force})
        except NotFound:
            if not args.force:
                raise
        else:
            print(key)

    return for_each(args.network, remove)


def connect_sandbox(args: argparse.Namespace) -> int:
    """Put a sandbox on a network."""
    from cnm_cli.request import ask, warn

    said = {
        "name": args.name,
        "aliases": args.alias,
        "ipv4_address": args.ip,
        "ipv6_address": args.ip6,
        "mac_address": args.mac_address,
        "ifname": args.ifname,
        "gw_priority": args.gw_priority,
        "sysctls": dict(args.sysctl),
        "options": dict(args.driver_opt),
        **interface_fields(args),
    }
    body = {"sandbox": args.sandbox, "network": args.network}
    warn(ask("sandbox.connect", body | {name: value for name, value in said.items() if value}))
    return 0


def disconnect_sandbox(args: argparse.Namespace) -> int:
    """Take a sandbox off a network."""
    from cnm_cli.request import ask

    ask("sandbox.disconnect", {"sandbox": args.sandbox, "network": args.network, "force": args.force})
    return 0


def show_drops(args: argparse.Namespace) -> int:
    """Show what of a network was refused or dropped."""
    from cnm_cli.output import print_json, print_table
    from cnm_cli.request import ask, warn

    body = ask("network.drops", {"network": args.network})
    if args.output == "json":
        print_json(body)
        return 0
    warn(body)
    rows = [(each["node"], each["reason"], each["packets"], each["bytes"], each["about"]) for each in body["drops"]]
    print_table(("node", "reason", "packets", "bytes", "because it"), rows)
    return 0


def prune_networks(args: argparse.Namespace) -> int:
    """Remove every network that nothing uses."""
    from cnm_cli.output import print_json
    from cnm_cli.request import ask, warn

    if not args.force and sys.stdin.isatty():
        answer = input("This removes all networks that no endpoint is on. Go on? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            return 0
    body = ask("network.prune", {"filters": filters(args.filter)})
    warn(body)
    if args.output == "json":
        print_json(body)
    else:
        print("".join(f"{id}\n" for id in body["deleted"]), end="")
    return 0
