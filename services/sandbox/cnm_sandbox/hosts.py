"""The text of a hosts file, after section 8 of the inventory."""

from collections import Counter
from collections.abc import Collection, Sequence

from cnm.messages.namespace import HostsEntry

DEFAULTS = "127.0.0.1\tlocalhost\n"
IPV6_DEFAULTS = (
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)


def render(entries: Sequence[HostsEntry], *, enable_ipv6: bool) -> str:
    """Write the file of a sandbox: the names of its loopback, then the entries in their order."""
    return DEFAULTS + (IPV6_DEFAULTS if enable_ipv6 else "") + _lines(entries)


def extend(origin: str, entries: Sequence[HostsEntry]) -> str:
    """Write the file of a host sandbox: the node's own, ``origin``, then the entries."""
    if not origin:
        return DEFAULTS + _lines(entries)
    if entries and not origin.endswith("\n"):
        origin += "\n"
    return origin + _lines(entries)


def _lines(entries: Sequence[HostsEntry]) -> str:
    return "".join(f"{entry.address}\t{' '.join(entry.names)}\n" for entry in entries if entry.names)


def merge(wanted: str, current: str, ours: Collection[str]) -> str:
    """Add to the wanted text the lines that somebody else wrote into the current one.

    ``ours`` are the lines that we may have written; blank ones count as ours. A line that a user took out comes
    back.
    """
    known = Counter(wanted.splitlines())
    kept = []
    for line in current.splitlines():
        if line in ours or not line.strip():
            continue
        if known[line]:
            known[line] -= 1
            continue
        kept.append(line)
    if kept and wanted and not wanted.endswith("\n"):
        wanted += "\n"
    return wanted + "".join(f"{line}\n" for line in kept)
