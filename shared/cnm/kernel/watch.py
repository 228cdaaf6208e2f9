"""Notices what changes, without asking: the kernel tells those who have joined its groups.

Routes of one namespace: a link that goes takes its IPv4 routes along without a word about them, so links are watched,
too. And links, addresses and routes of every namespace that has an id in ours, as the far end of a veth's has.
"""

import asyncio
import errno
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .address import RTM_DELADDR, RTM_NEWADDR
from .link import RTM_DELLINK, RTM_NEWLINK
from .netlink import NETLINK_ROUTE, Channel
from .route import RTM_DELROUTE, RTM_NEWROUTE, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, Route, parse_route

RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR = 1, 5, 9
_INDEX = struct.Struct("=4xi")  # of struct ifinfomsg, and of struct ifaddrmsg

Heard = Callable[[Sequence[Route] | None, Sequence[int]], None]


@contextmanager
def watching_routes(heard: Heard, namespace: Path | None = None) -> Iterator[None]:
    """Call ``heard`` from the running loop with routes that came or went and links that changed, while the body runs.

    The namespace is this thread's unless a path is given. None stands for notifications that were lost.
    """
    loop = asyncio.get_running_loop()
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

        loop.add_reader(channel.fileno(), read)
        try:
            yield
        finally:
            loop.remove_reader(channel.fileno())


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

    def __init__(self) -> None:
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
                elif reply.kind in (RTM_NEWADDR, RTM_DELADDR):
                    self._links.add(_INDEX.unpack_from(reply.body)[0])
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._lost = True

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._channel.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._channel.close()


@contextmanager
def watching_namespaces() -> Iterator[NamespaceWatch]:
    """Watch this thread's namespace and those with an id in it, in the running loop, while the body runs."""
    loop = asyncio.get_running_loop()
    watch = NamespaceWatch()
    loop.add_reader(watch.fileno(), watch.read)
    try:
        yield watch
    finally:
        loop.remove_reader(watch.fileno())
        watch.close()
