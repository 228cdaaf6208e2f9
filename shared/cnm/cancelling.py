"""Ends tasks for sure."""

import asyncio
from collections.abc import Collection
from typing import Any

CANCEL_AGAIN_S = 0.1


async def end(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel tasks until they have ended.

    Once does not do: where a cancellation meets the end of what ``wait_for`` waits for, Python 3.11 loses it, and
    redis-py sends everything that way.
    """
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
