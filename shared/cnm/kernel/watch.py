"""Notices that routes change, without asking: the kernel tells those who have joined its groups.

A link that goes takes its IPv4 routes along without a word about them, so links are watched, too.
"""

import asyncio
import errno
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .link import RTM_DELLINK, RTM_NEWLINK
from .netlink import NETLINK_ROUTE, Channel
from .route import RTM_DELROUTE, RTM_NEWROUTE, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, Route, parse_route

RTNLGRP_LINK = 1
_INDEX = struct.Struct("=4xi")  # of struct ifinfomsg

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
