"""Reads what a user writes behind an option; an ``ArgumentTypeError`` is what argparse tells as a usage error."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

PORT = re.compile(
    r"^(?:(?:(?P<ip>\[[^\]]+\]|[^:\[\]]*):)?(?P<host>\d+)?(?:-(?P<host_end>\d+))?:)?"
    r"(?P<port>\d+)(?:-(?P<end>\d+))?(?:/(?P<protocol>[a-zA-Z]+))?$"
)
DURATION = re.compile(r"^(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?$")


def published_port(text: str) -> dict[str, Any]:
    """Read ``[IP:][HOST[-END]:]PORT[-END][/PROTOCOL]``, an IPv6 address in brackets, as an entry of ``ports``."""
    found = PORT.match(text)
    if found is None or (found["host_end"] and not found["host"]):
        raise argparse.ArgumentTypeError(f"{text!r} is not [IP:][HOST[-END]:]PORT[-END][/PROTOCOL]")
    entry: dict[str, Any] = {"container_port": _port(text, found["port"])}
    for field, value in (("container_port_end", found["end"]), ("host_port_end", found["host_end"])):
        if value:
            entry[field] = _port(text, value)
    entry["protocol"] = (found["protocol"] or "tcp").lower()
    if entry["protocol"] not in ("tcp", "udp", "sctp"):
        raise argparse.ArgumentTypeError(f"{text!r}: {found['protocol']} is none of tcp, udp, sctp")
    if found["ip"]:
        entry["host_ip"] = found["ip"].strip("[]")
    if found["host"]:
        entry["host_port"] = _port(text, found["host"])
    for first, last in (("container_port", "container_port_end"), ("host_port", "host_port_end")):
        if last in entry and entry[last] < entry[first]:
            raise argparse.ArgumentTypeError(f"{text!r}: the range ends before it begins")
    return entry


def _port(text: str, digits: str) -> int:
    number = int(digits)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: {digits} is no port")
    return number


def pair(text: str) -> tuple[str, str]:
    """Read ``KEY=VALUE``; a key alone has an empty value, as Docker has it."""
    key, _, value = text.partition("=")
    if not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def full_pair(text: str) -> tuple[str, str]:
    """Read ``NAME=VALUE`` where the value may not be left out."""
    key, value = pair(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return key, value


def static_route(text: str) -> dict[str, str]:
    """Read ``DESTINATION`` or ``DESTINATION,GATEWAY``, as an entry of ``routes``."""
    destination, _, gateway = text.partition(",")
    if not destination:
        raise argparse.ArgumentTypeError(f"{text!r} is not DESTINATION[,GATEWAY]")
    return {"destination": destination} | ({"gateway": gateway} if gateway else {})


def add_interface_options(parser: argparse.ArgumentParser) -> None:
    """Give a verb that makes an endpoint what else its interface has; read it with ``interface_fields``."""
    parser.add_argument(
        "--link-local-ip", action="append", default=[], metavar="ADDRESS", help="a link-local address besides"
    )
    parser.add_argument(
        "--route", action="append", default=[], type=static_route, metavar="DESTINATION[,GATEWAY]",
        help="a route over this network",
    )  # fmt: skip
    parser.add_argument(
        "--link", action="append", default=[], type=link, metavar="NAME[:ALIAS]",
        help="a name on this network, by an alias that this sandbox alone knows",
    )  # fmt: skip


def interface_fields(args: argparse.Namespace) -> dict[str, Any]:
    """Return what ``add_interface_options`` read, as fields of a request."""
    return {"link_local_addresses": args.link_local_ip, "routes": args.route, "links": dict(args.link)}


def link(text: str) -> tuple[str, str]:
    """Read ``NAME`` or ``NAME:ALIAS``, as an entry of ``links``."""
    name, _, alias = text.partition(":")
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME[:ALIAS]")
    return alias or name, name


def extra_host(text: str) -> dict[str, str]:
    """Read ``NAME:IP`` or ``NAME=IP``; an IPv6 address may stand in brackets."""
    separator = "=" if "=" in text else ":"
    name, _, ip = text.partition(separator)
    if not name or not ip:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:IP")
    return {"name": name, "ip": ip.removeprefix("[").removesuffix("]")}


def duration_s(text: str) -> float | None:
    """Read ``90s``, ``10m``, ``1h30m``; None when it is no duration."""
    found = DURATION.match(text)
    if found is None or not text:
        return None
    days, hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def filters(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Put the ``--filter KEY=VALUE`` of a command line together; what is wrong with a value its owner tells."""
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def add_filter_option(parser: argparse.ArgumentParser) -> None:
    """Give a list its ``--filter``; read it as ``filters(args.filter)``."""
    parser.add_argument(
        "-f", "--filter", type=full_pair, action="append", default=[], metavar="KEY=VALUE", help="show only these"
    )


def add_switch(parser: argparse.ArgumentParser, name: str, *, default: bool, help: str) -> None:
    """Add ``--NAME``, which may also be said as ``--NAME=true`` and ``--NAME=false``, Docker's way."""
    field = name.replace("-", "_")
    parser.add_argument(f"--{name}", dest=field, action="store_true", default=default, help=help)
    parser.add_argument(f"--{name}=true", dest=field, action="store_true", default=default, help=argparse.SUPPRESS)
    parser.add_argument(f"--{name}=false", dest=field, action="store_false", default=default, help=argparse.SUPPRESS)


def add_group(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]", noun: str, *, help: str
) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    """Add a noun whose verbs follow: ``cnm network ls``."""
    parser = subparsers.add_parser(noun, help=help)
    return parser.add_subparsers(metavar="VERB", required=True)
