"""`cnm port ls`: the ports that are published."""

import argparse
from collections.abc import Mapping
from typing import Any

from cnm_cli.arguments import add_group
from cnm_cli.output import add_output_option


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs to the command line."""
    verbs = add_group(subparsers, "port", help="show published ports")
    ls = verbs.add_parser("ls", aliases=["list"], help="list published ports as they are bound")
    ls.add_argument("sandbox", nargs="?", metavar="SANDBOX", help="only this one's")
    add_output_option(ls)
    ls.set_defaults(run=list_ports)


def list_ports(args: argparse.Namespace) -> int:
    """List published ports."""
    from cnm_cli.output import print_json, print_table
    from cnm_cli.request import ask

    if args.sandbox is None:
        sandboxes = ask("sandbox.list")["sandboxes"]
    else:
        sandboxes = [ask("sandbox.get", {"sandbox": args.sandbox})]
    ports = [
        {"sandbox": sandbox["id"], "name": sandbox["name"], **binding}
        for sandbox in sandboxes
        for binding in sandbox["ports"]
    ]
    if args.output == "json":
        print_json({"ports": ports})
        return 0
    rows = [
        (
            binding["name"],
            _end(_bracketed(binding["host_ip"]), binding["host_port"], binding.get("host_port_end")),
            _end(_bracketed(binding["container_ip"]), binding["container_port"], binding.get("container_port_end")),
            binding["protocol"],
            ", ".join(binding.get("allow") or ["everybody"]),
        )
        for binding in ports
    ]
    print_table(("sandbox", "on the node", "in the sandbox", "protocol", "for"), rows)
    return 0


def describe(binding: Mapping[str, Any]) -> str:
    """Write a binding as Docker does: ``0.0.0.0:8080->80/tcp``; a routed one has no port on the node."""
    inside = _range(binding["container_port"], binding.get("container_port_end"))
    outside = _end(_bracketed(binding["host_ip"]), binding["host_port"], binding.get("host_port_end"))
    return f"{outside}->{inside}/{binding['protocol']}" if outside else f"{inside}/{binding['protocol']}"


def _end(ip: str, port: int | None, last: int | None) -> str | None:
    return None if port is None else f"{ip}:{_range(port, last)}"


def _range(first: int, last: int | None) -> str:
    return f"{first}-{last}" if last and last != first else str(first)


def _bracketed(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
