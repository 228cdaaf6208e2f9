"""Notices that routes change, without asking: the kernel tells those who have joined its groups."""

import asyncio
import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .netlink import NETLINK_ROUTE, Channel
from .route import RTM_DELROUTE, RTM_NEWROUTE, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, Route, parse_route


@contextmanager
def watching_routes(
    changed: Callable[[Sequence[Route] | None], None], namespace: Path | None = None
) -> Iterator[None]:
    """Call ``changed`` from the running loop with routes that came or went, while the body runs.

    The namespace is this thread's unless a path is given. None stands for notifications that were lost.
    """
    loop = asyncio.get_running_loop()
    with Channel(NETLINK_ROUTE, namespace) as channel:
        channel.join(RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE)

        def heard() -> None:
            try:
                replies = channel.read_waiting()
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed(None)
                return
            changed([parse_route(reply.body) for reply in replies if reply.kind in (RTM_NEWROUTE, RTM_DELROUTE)])

        loop.add_reader(channel.fileno(), heard)
        try:
            yield
        finally:
            loop.remove_reader(channel.fileno())
