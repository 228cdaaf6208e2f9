"""Who has a port of the calling thread's namespace: to name the holder of a port that is taken."""

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cnm.types import Address, Protocol, parse_address

PROC = Path("/proc")
# The thread's: /proc/net is the namespace of the main thread.
TABLES = PROC / "thread-self" / "net"
LISTENING, UDP_UNCONNECTED = "0A", "07"
TAKES: Mapping[Protocol, str] = {"tcp": LISTENING, "udp": UDP_UNCONNECTED, "sctp": LISTENING}
"""The state of a socket that takes what comes from anywhere."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a socket: one that ``listens``, or the near end of a connection of its own.

    Of one that is not ours to see, ``pid`` is 0, and only the ``user`` is known, by number.
    """

    pid: int
    command: str
    user: int
    listens: bool = True

    def __str__(self) -> str:
        who = f"{self.command} (pid {self.pid})" if self.pid else f"a process of user {self.user}"
        return who + ("" if self.listens else " for a connection that it made")


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """A socket of /proc/net/tcp and its like; one of SCTP that has several addresses is several."""

    address: Address
    port: int
    state: str
    user: int
    inode: int


def parse_socket(line: str) -> BoundSocket:
    """Decode one line, the head of the table not among them."""
    fields = line.split()
    raw, _, port = fields[1].partition(":")
    return BoundSocket(_address(raw), int(port, 16), fields[3], int(fields[7]), int(fields[9]))


def parse_endpoint(line: str) -> Iterator[BoundSocket]:
    """Decode one line of /proc/net/sctp/eps, which lists those that listen."""
    fields = line.split()
    for text in fields[8:]:
        yield BoundSocket(parse_address(text), int(fields[5]), LISTENING, int(fields[6]), int(fields[7]))


def _address(raw: str) -> Address:
    # Words of 32 bits, each written as the machine reads it.
    words = [int(raw[start : start + 8], 16) for start in range(0, len(raw), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def find_holder(protocol: Protocol, address: Address | None, port: int) -> Holder | None:
    """Return who keeps a socket from being bound to an address (None is every one), or None if nobody seems to.

    A process is not seen from within another's pid namespace, nor what it has open without CAP_SYS_PTRACE, and
    CAP_DAC_READ_SEARCH where it is another user's.
    """
    clashing = [found for found in _sockets(protocol) if found.inode and _clashes(found, address, port)]
    listens = [found for found in clashing if found.state == TAKES[protocol]]
    # A connection has its port for itself, unless it was accepted: then the listener is in the way.
    first = next(iter(listens or clashing), None)
    return None if first is None else replace(_holder(first), listens=bool(listens))


def listening(protocol: Protocol, port: int) -> list[Address]:
    """Return the addresses at which a socket of the calling thread's namespace takes what comes to a port."""
    found = (each.address for each in _sockets(protocol) if each.port == port and each.state == TAKES[protocol])
    return sorted(set(found), key=lambda address: (address.version, int(address)))


def _sockets(protocol: Protocol) -> Iterator[BoundSocket]:
    if protocol == "sctp":
        yield from (found for line in _lines("sctp/eps") for found in parse_endpoint(line))
        return
    for table in (protocol, f"{protocol}6"):
        yield from map(parse_socket, _lines(table))


def _lines(table: str) -> list[str]:
    """Return a table's lines but for its head; of a protocol that the kernel lacks, none."""
    try:
        return (TABLES / table).read_text().splitlines()[1:]
    except FileNotFoundError:
        return []


def _clashes(found: BoundSocket, address: Address | None, port: int) -> bool:
    if found.port != port:
        return False
    if address is None or address.is_unspecified or found.address == address:
        return True
    # One on :: takes IPv4 too, unless it says otherwise, which the table does not tell.
    return found.address.is_unspecified and (found.address.version in (6, address.version))


def _holder(found: BoundSocket) -> Holder:
    wanted = f"socket:[{found.inode}]"
    for process in PROC.iterdir():
        if process.name.isdigit() and wanted in _open_files(process):
            return Holder(int(process.name), _command(process), found.user)
    return Holder(0, "", found.user)


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
