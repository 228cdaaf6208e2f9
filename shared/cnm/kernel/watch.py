"""Notices that routes change, without asking: the kernel tells those who have joined its groups."""

import asyncio
import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .netlink import NETLINK_ROUTE, Channel
from .route import RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE


@contextmanager
def watching_routes(changed: Callable[[], None], namespace: Path | None = None) -> Iterator[None]:
    """Call ``changed`` from the running loop whenever routes of a namespace change, while the body runs.

    The namespace is this thread's unless a path is given. What came of it is not told: whoever wants to know asks. Notifications that were lost count as a change.
    """
    loop = asyncio.get_running_loop()
    with Channel(NETLINK_ROUTE, namespace) as channel:
        channel.join(RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE)

        def heard() -> None:
            try:
                channel.read_waiting()
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
            changed()

        loop.add_reader(channel.fileno(), heard)
        try:
            yield
        finally:
            loop.remove_reader(channel.fileno())
