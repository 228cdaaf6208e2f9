"""Notices what changes, without asking: the kernel tells those who have joined its groups.

Routes of one namespace: a link that goes takes its IPv4 routes along without a word about them, so links are watched,
too. And links, addresses and routes of every namespace that has an id in ours, as the far end of a veth's has.
"""

import asyncio
import errno
import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .address import RTM_DELADDR, RTM_NEWADDR
from .element import NFNL_SUBSYS_NFTABLES
from .link import RTM_DELLINK, RTM_NEWLINK, Link, parse_link
from .netlink import NETLINK_NETFILTER, NETLINK_ROUTE, Channel, Reply
from .route import RTM_DELROUTE, RTM_NEWROUTE, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, Route, parse_route

RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR = 1, 5, 9
NFNLGRP_NFTABLES, NFT_MSG_NEWGEN, NFTA_TABLE = 7, 15, 1
AF_BRIDGE = 7
GATHER_S = 0.01
_ATTRIBUTE = struct.Struct("=HH")
_INDEX = struct.Struct("=4xi")  # of struct ifinfomsg, and of struct ifaddrmsg

__all__ = [
    "RTM_DELLINK",
    "Changes",
    "NamespaceWatch",
    "address_told",
    "gathering",
    "link_told",
    "watching_namespaces",
    "watching_routes",
    "watching_tables",
]

Heard = Callable[[Sequence[Route] | None, Sequence[int]], None]


@contextmanager
def watching_routes(heard: Heard, namespace: Path | None = None) -> Iterator[None]:
    """Call ``heard`` from the running loop with routes that came or went and links that changed, while the body runs.

    The namespace is this thread's unless a path is given. None stands for notifications that were lost.
    """
    with Channel(NETLINK_ROUTE, namespace) as channel:
        channel.join(RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, RTNLGRP_LINK)

        def read() -> None:
            try:
                replies = channel.read_waiting()
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                heard(None, ())
                return
            heard(
                [parse_route(reply.body) for reply in replies if reply.kind in (RTM_NEWROUTE, RTM_DELROUTE)],
                [_INDEX.unpack_from(reply.body)[0] for reply in replies if reply.kind in (RTM_NEWLINK, RTM_DELLINK)],
            )

        with gathering(channel.fileno(), read):
            yield


@contextmanager
def gathering(descriptor: int, read: Callable[[], None]) -> Iterator[None]:
    """Call ``read`` from the running loop a moment after there is something, while the body runs.

    A plan is told of in a dozen notifications, one after another: whoever woke for each would do little else.
    """
    loop = asyncio.get_running_loop()
    waiting: asyncio.TimerHandle | None = None

    def begin() -> None:
        nonlocal waiting
        loop.remove_reader(descriptor)
        waiting = loop.call_later(GATHER_S, end)

    def end() -> None:
        loop.add_reader(descriptor, begin)
        read()

    loop.add_reader(descriptor, begin)
    try:
        yield
    finally:
        if waiting is not None:
            waiting.cancel()
        loop.remove_reader(descriptor)


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed.

    ``namespaces`` are the ids of other namespaces in which anything did, ``links`` the indices of our own links whose
    addresses did; ``lost`` says that more did than is told here.
    """

    namespaces: frozenset[int] = frozenset()
    links: frozenset[int] = frozenset()
    lost: bool = False


class NamespaceWatch:
    """Collects what changes in the namespace where it was made, and in those with an id there."""

    def __init__(self, heard: "Told" = lambda _: None) -> None:
        self._told = heard
        self._channel = Channel(NETLINK_ROUTE)
        self._channel.join_everywhere(
            RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE
        )
        self._namespaces: set[int] = set()
        self._links: set[int] = set()
        self._lost = False

    def take(self) -> Changes:
        """Return what changed since the last time, all that the kernel has told of up to now."""
        self.read()
        taken = Changes(frozenset(self._namespaces), frozenset(self._links), self._lost)
        self._namespaces, self._links, self._lost = set(), set(), False
        return taken

    def read(self) -> None:
        """Read what is there, before it is too much for the socket's buffer."""
        try:
            for namespace, reply in self._channel.hear():
                if namespace is not None:
                    self._namespaces.add(namespace)
                    continue
                if reply.kind in (RTM_NEWADDR, RTM_DELADDR):
                    self._links.add(_INDEX.unpack_from(reply.body)[0])
                self._told(reply)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._lost = True
            self._told(None)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._channel.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._channel.close()


Told = Callable[[Reply | None], None]
"""Hears each notification of our own namespace; None stands for those that were lost."""


def link_told(reply: Reply) -> Link | None:
    """Return the link that a notification tells of, came or went; None where it is no link's, or a bridge's own."""
    is_link = reply.kind in (RTM_NEWLINK, RTM_DELLINK) and reply.body[0] != AF_BRIDGE
    return parse_link(reply.body) if is_link else None


def address_told(reply: Reply) -> int | None:
    """Return the index of the link whose addresses a notification tells of; None where it tells of something else."""
    is_address = reply.kind in (RTM_NEWADDR, RTM_DELADDR)
    return int(_INDEX.unpack_from(reply.body)[0]) if is_address else None


@contextmanager
def watching_namespaces(heard: Told = lambda _: None) -> Iterator[NamespaceWatch]:
    """Watch this thread's namespace and those with an id in it, in the running loop, while the body runs."""
    watch = NamespaceWatch(heard)
    try:
        with gathering(watch.fileno(), watch.read):
            yield watch
    finally:
        watch.close()


@contextmanager
def watching_tables(heard: Callable[[], None], tables: Collection[str], ours: Callable[[], int]) -> Iterator[None]:
    """Call ``heard`` from the running loop when others than one of our sockets changed these tables of nftables.

    ``ours`` returns that socket's port. What was lost may have been about them.
    """
    names = frozenset(table.encode() for table in tables)
    with Channel(NETLINK_NETFILTER) as channel:
        channel.join(NFNLGRP_NFTABLES)

        def read() -> None:
            own = ours()
            try:
                if any(reply.port != own and _table(reply) in names for _, reply in channel.hear()):
                    heard()
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                heard()

        with gathering(channel.fileno(), read):
            yield


def _table(reply: Reply) -> bytes:
    """Return the table that a notification is about, which whatever kind tells first; nothing of other kinds."""
    if reply.kind >> 8 != NFNL_SUBSYS_NFTABLES or reply.kind & 0xFF == NFT_MSG_NEWGEN:
        return b""
    length, kind = _ATTRIBUTE.unpack_from(reply.body, 4)
    return reply.body[8 : 4 + length].rstrip(b"\0") if kind == NFTA_TABLE else b""
