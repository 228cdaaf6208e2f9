"""`cnm explain`: why a sandbox gets somewhere or not, and from where a published port is reached."""

import argparse
from typing import TYPE_CHECKING, Any

from cnm_cli.output import add_output_option

if TYPE_CHECKING:
    from collections.abc import Mapping

WORDS = {True: "passes", False: "stops", None: "?"}
WHETHER = {True: "yes", False: "no"}


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("explain", help="say what stops a sandbox on its way, or who reaches a port")
    parser.add_argument("source", nargs="?", metavar="SANDBOX")
    parser.add_argument("to", nargs="?", metavar="NAME|ADDRESS")
    parser.add_argument("--port", type=int, metavar="PORT", help="there; alone: from where this port is reached")
    parser.add_argument("--protocol", choices=("tcp", "udp", "sctp"), default="tcp")
    add_output_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    from cnm_cli.output import print_json, print_table
    from cnm_cli.request import ask, warn

    said = {"from": args.source, "to": args.to, "port": args.port}
    asked = {field: value for field, value in said.items() if value is not None}
    body = ask("system.explain", {**asked, "protocol": args.protocol})
    if args.output == "json":
        print_json(body)
        return 0
    warn(body)
    if body["hops"]:
        print_table(("hop", "", "why"), [(hop["hop"], WORDS[hop["passes"]], hop["about"]) for hop in body["hops"]])
        print(_verdict(body))
        return 0
    print(body["about"])
    for port in body["ports"]:
        print(f"\n{port['name']}: {_end(port)} -> {port['container_ip']} port {port['container_port']}")
        rows = [(each["place"], WHETHER[each["reached"]], _who(each), each["about"]) for each in port["reach"]]
        print_table(("from", "reached", "by whom", "how"), rows)
    return 0


def _verdict(body: "Mapping[str, Any]") -> str:
    if body["stopped_by"]:
        return f"\nstopped by {body['stopped_by']}: {body['about']}"
    return "\nit gets there" if body["reached"] else "\nnobody here can tell whether it gets there"


def _end(port: "Mapping[str, Any]") -> str:
    if port["host_port"] is None:
        return "routed"
    host = f"[{port['host_ip']}]" if ":" in port["host_ip"] else port["host_ip"]
    return f"{host}:{port['host_port']}/{port['protocol']}"


def _who(reach: "Mapping[str, Any]") -> str:
    return ", ".join(reach.get("only") or ["everybody"]) if reach["reached"] else ""
