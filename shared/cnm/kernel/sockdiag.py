"""Who listens on a port of the calling thread's namespace: to name the holder of a port that is taken."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cnm.types import Address, Protocol

PROC = Path("/proc")
# The thread's: /proc/net is the namespace of the main thread.
TABLES = PROC / "thread-self" / "net"
TCP_LISTEN, UDP_UNCONNECTED = "0A", "07"


@dataclass(frozen=True, slots=True)
class Listener:
    """The process that holds a socket."""

    pid: int
    command: str


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A line of /proc/net/tcp and its like."""

    address: Address
    port: int
    state: str
    inode: int


def parse_socket(line: str) -> BoundSocket:
    """Decode one line, the head of the table not among them."""
    fields = line.split()
    raw, _, port = fields[1].partition(":")
    return BoundSocket(_address(raw), int(port, 16), fields[3], int(fields[9]))


def _address(raw: str) -> Address:
    # Words of 32 bits, each written as the machine reads it.
    words = [int(raw[start : start + 8], 16) for start in range(0, len(raw), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def find_listener(protocol: Protocol, address: Address | None, port: int) -> Listener | None:
    """Return who keeps a socket from being bound to an address (None is every one), or None if unknown.

    A process is not seen from within another's pid namespace.
    """
    inode = next((found.inode for found in _bound(protocol) if _clashes(found, address, port)), 0)
    return _holder(inode) if inode else None


def _bound(protocol: Protocol) -> Iterator[BoundSocket]:
    state = TCP_LISTEN if protocol == "tcp" else UDP_UNCONNECTED
    for table in (protocol, f"{protocol}6"):
        try:
            lines = (TABLES / table).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue
        yield from (found for found in map(parse_socket, lines) if found.state == state)


def _clashes(found: BoundSocket, address: Address | None, port: int) -> bool:
    if found.port != port:
        return False
    if address is None or address.is_unspecified or found.address == address:
        return True
    # One on :: takes IPv4 too, unless it says otherwise, which the table does not tell.
    return found.address.is_unspecified and (found.address.version in (6, address.version))


def _holder(inode: int) -> Listener | None:
    wanted = f"socket:[{inode}]"
    for process in PROC.iterdir():
        if process.name.isdigit() and wanted in _open_files(process):
            return Listener(int(process.name), _command(process))
    return None


def _open_files(process: Path) -> Iterator[str]:
    """Yield what a process has open; nothing of one that has ended or is not ours to see."""
    try:
        with os.scandir(process / "fd") as entries:
            for entry in entries:
                yield os.readlink(entry.path)  # noqa: PTH115  # there may be thousands
    except OSError:
        return


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return ""
