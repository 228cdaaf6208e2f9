"""Runs what blocks beside the event loop, in a thread that no process waits for at its end."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")


async def aside(work: Callable[[], R]) -> R:
    """Return what the work returns, or raise what it raises; who is cancelled waits no longer, the work goes on."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[R] = loop.create_future()

    def settle(set_outcome: Callable[[], None]) -> None:
        if not done.done():
            set_outcome()

    def run() -> None:
        try:
            found = work()
        except BaseException as error:  # noqa: BLE001  # whoever waits gets it
            reason = error
            outcome = lambda: done.set_exception(reason)  # noqa: E731  # one of two
        else:
            outcome = lambda: done.set_result(found)  # noqa: E731  # the other
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, daemon=True).start()
    return await done
