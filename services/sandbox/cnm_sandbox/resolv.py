"""The text of a resolv.conf file, after sections 22, 35.5 and 38A.7 of the inventory.

In a sandbox the one name server is the embedded one; search domains, options and what else the node's file says
are kept unless the sandbox has its own. A host sandbox has no embedded server: its file is the node's, or is
rebuilt from it when the sandbox has settings of its own.
"""

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from cnm.errors import Fault
from cnm.types import Address, parse_address

EMBEDDED_SERVER = IPv4Address("127.0.0.11")
SYSTEMD_STUB = IPv4Address("127.0.0.53")
DEFAULT_SERVERS: tuple[Address, ...] = tuple(
    map(parse_address, ("8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"))
)
HEADER = "# Written by cnm. Edits are kept: once changed, this file is left alone.\n"

_NDOTS = re.compile(r"ndots:[0-9]+", re.ASCII)


@dataclass(frozen=True)
class ResolvConf:
    """What a resolv.conf file says; ``others`` are lines of directives that are passed on as they are."""

    servers: tuple[Address, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def parse(text: str) -> ResolvConf:
    """Read a file as resolv.conf(5) has it: the last ``search``, ``domain`` and ``options`` line counts."""
    servers: list[Address] = []
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    others: list[str] = []
    for line in text.splitlines():
        match line.partition("#")[0].split():
            case []:
                pass
            case [word, *_] if word.startswith(";"):
                pass
            case ["nameserver", address, *_]:
                servers.extend(_addresses(address))
            case ["search" | "domain", *domains]:
                search = tuple(domains)
            case ["options", *given]:
                options = tuple(given)
            case words:
                others.append(" ".join(words))
    return ResolvConf(tuple(servers), search, options, tuple(others))


def _addresses(text: str) -> tuple[Address, ...]:
    try:
        return (parse_address(text),)
    except ValueError:
        return ()  # a resolver skips it, and so do we


def is_systemd_stub(text: str) -> bool:
    """Tell whether the file only leads to systemd-resolved, which knows the real one."""
    return parse(text).servers == (SYSTEMD_STUB,)


def option_faults(options: Sequence[str]) -> tuple[Fault, ...]:
    """Say which of a user's options are malformed."""
    return tuple(
        Fault(field=f"dns.options[{place}]", value=option, reason=f"{option!r} is not ndots:<number of at least 0>")
        for place, option in enumerate(options)
        if _sets_ndots(option) and not _NDOTS.fullmatch(option)
    )


def _sets_ndots(option: str) -> bool:
    return option == "ndots" or option.startswith("ndots:")


def render(node: ResolvConf, *, search: Sequence[str], options: Sequence[str]) -> str:
    """Write the file of a sandbox; a list that is not empty replaces the node's."""
    chosen = tuple(options) or tuple(
        option for option in node.options if not _sets_ndots(option) or _NDOTS.fullmatch(option)
    )
    if not any(map(_sets_ndots, chosen)):
        chosen = (*chosen, "ndots:0")
    return HEADER + _write((EMBEDDED_SERVER,), tuple(search) or node.search, chosen, node.others)


def render_external(
    node: ResolvConf,
    *,
    servers: Sequence[Address],
    search: Sequence[str],
    options: Sequence[str],
    enable_ipv6: bool,
) -> str:
    """Write the file of a sandbox without the embedded server: its own servers, else those of the node it can reach.

    A server on the node's loopback is out of a sandbox's reach, and an IPv6 one without IPv6; where none is left
    libnetwork's defaults are named (inventory 22).
    """
    reachable = [each for each in node.servers if not each.is_loopback and (each.version == 4 or enable_ipv6)]
    defaults = [each for each in DEFAULT_SERVERS if each.version == 4 or enable_ipv6]
    chosen = tuple(servers) or tuple(reachable) or tuple(defaults)
    return HEADER + _write(chosen, tuple(search) or node.search, tuple(options) or node.options, node.others)


def render_host(origin: str, *, servers: Sequence[Address], search: Sequence[str], options: Sequence[str]) -> str:
    """Write the file of a host sandbox: the node's own, byte for byte, unless something is to be replaced."""
    if not servers and not search and not options:
        return origin
    node = parse(origin)
    return HEADER + _write(
        tuple(servers) or node.servers, tuple(search) or node.search, tuple(options) or node.options, node.others
    )


def _write(servers: Sequence[Address], search: Sequence[str], options: Sequence[str], others: Sequence[str]) -> str:
    lines = []
    if search and tuple(search) != (".",):
        lines.append("search " + " ".join(search))
    lines.extend(f"nameserver {server}" for server in servers)
    if options:
        lines.append("options " + " ".join(options))
    lines.extend(others)
    return "".join(f"{line}\n" for line in lines)


def fingerprint(text: str) -> str:
    """Return the hash of a text by which an edit is noticed; blank lines at its end are none."""
    return "sha256:" + hashlib.sha256(text.rstrip("\n").encode()).hexdigest()


def is_edited(current: str, ours: Collection[str]) -> bool:
    """Tell whether somebody else wrote the current text; ``ours`` are the fingerprints of what we may have."""
    return bool(current.strip()) and fingerprint(current) not in ours
