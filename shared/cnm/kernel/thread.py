"""The one thread of a process that blocks in the kernel."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class NetlinkThread:
    """Runs functions one after another in one thread, in the order they were asked for.

    rtnetlink works inside ``sendmsg`` under one lock of the kernel, so more threads are slower, not faster.
    A caller that is cancelled stops waiting; the function, once begun, runs to its end.
    """

    def __init__(self, name: str = "netlink") -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the function returns, or raise what it raises; it sees the caller's context."""
        call = partial(contextvars.copy_context().run, function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    async def stop(self) -> None:
        """Wait for what was asked for, then end the thread; stopping twice is fine."""
        await asyncio.to_thread(self._executor.shutdown)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
