"""What a sandbox is made with, shared by `cnm sandbox create` and `cnm run`."""

import argparse
from typing import Any

from cnm_cli.arguments import extra_host, full_pair, pair, published_port

HOST_NETWORK = "host"
"""The predefined network that only a sandbox in the node's own namespace can join."""


def add_sandbox_options(parser: argparse.ArgumentParser) -> None:
    """Add them to a verb."""

    def many(*names: str, metavar: str, help: str) -> None:
        parser.add_argument(*names, action="append", default=[], metavar=metavar, help=help)

    parser.add_argument("--hostname", metavar="NAME", help="as the sandbox knows itself")
    parser.add_argument("--domainname", metavar="NAME")
    many("--network", metavar="NETWORK", help="connect it; may be said again")
    parser.add_argument(
        *("-p", "--publish"), action="append", default=[], type=published_port,
        metavar="[IP:][HOST:]PORT[/PROTOCOL]", help="publish a port on the node; ranges are FIRST-LAST",
    )  # fmt: skip
    many("--expose", metavar="PORT[/PROTOCOL]", help="a port that others on the network use")
    parser.add_argument(
        "--add-host", action="append", default=[], type=extra_host, metavar="NAME:IP", help="a line of its hosts file"
    )
    many("--dns", metavar="ADDRESS", help="ask this server about names from outside")
    many("--dns-search", metavar="DOMAIN", help="search this domain")
    many("--dns-option", metavar="OPTION", help="an option of its resolv.conf")
    parser.add_argument("--sysctl", action="append", default=[], type=full_pair, metavar="KEY=VALUE")
    parser.add_argument("--label", action="append", default=[], type=pair, metavar="KEY=VALUE")


def sandbox_body(args: argparse.Namespace, *, name: str) -> dict[str, Any]:
    """Write what ``sandbox.create`` takes; what was not said is left out."""
    dns = {"servers": args.dns, "search": args.dns_search, "options": args.dns_option}
    said = {
        "hostname": args.hostname,
        "domainname": args.domainname,
        "extra_hosts": args.add_host,
        "dns": {name: value for name, value in dns.items() if value},
        "ports": args.publish,
        "exposed_ports": args.expose,
        "sysctls": dict(args.sysctl),
        "labels": dict(args.label),
        "use_default_sandbox": HOST_NETWORK in args.network,
    }
    return {"name": name} | {field: value for field, value in said.items() if value}
