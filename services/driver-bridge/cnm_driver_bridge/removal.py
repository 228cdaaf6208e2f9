"""Links on their way out.

Deleting a link takes the kernel 20 ms and more, nearly all of it waiting after nobody can find the link any more; of
a bridge, 11 of them under the lock over all links. So deletions have threads of their own, attaches never wait for
one, and a deletion counts as done when the link is no longer to be found. That is asked for by ``SIOCGIFNAME``, which
takes no lock; a question by netlink would wait for it. What comes while every thread waits is gathered and deleted as
one link group.
"""

import asyncio
import queue
import socket
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from cnm.kernel.rtnl import DeleteGroup, DeleteLink, Rtnl, SetLink, Step
from cnm_driver_bridge.netlink import bury

GROUP = 0x434E4D44


def deletions(indices: Sequence[int]) -> tuple[Step, ...]:
    """Return the steps that delete these links: as one group, if they are several."""
    if len(indices) == 1:
        return (DeleteLink(indices[0]),)
    return (*(SetLink(index, group=GROUP) for index in indices), DeleteGroup(GROUP))


def is_gone(index: int) -> bool:
    """Tell whether this thread's namespace has no link of that index."""
    try:
        socket.if_indextoname(index)
    except OSError:
        return True
    return False


class Removals:
    """Deletes links by their indices, many at once; one socket a thread."""

    def __init__(self, sockets: Sequence[Rtnl], *, look_s: float, is_gone: Callable[[int], bool] = is_gone) -> None:
        self._idle: queue.SimpleQueue[Rtnl] = queue.SimpleQueue()
        for rtnl in sockets:
            self._idle.put(rtnl)
        self._threads = ThreadPoolExecutor(len(sockets), thread_name_prefix="removal")
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._is_gone = is_gone
        self._look_s = look_s

    async def delete(self, index: int) -> None:
        """Delete a link; it is gone on return.

        Raises:
            CnmError: the kernel refuses.

        """
        finished: Future[None] = Future()
        self._waiting.append((index, finished))
        self._threads.submit(self._bury_waiting)
        waiting = asyncio.wrap_future(finished)
        while not waiting.done():
            await asyncio.wait((waiting,), timeout=self._look_s)
            if not waiting.done() and self._is_gone(index):
                waiting.cancel()
                return
        waiting.result()

    async def stop(self) -> None:
        """Wait for what was asked for, then end the threads."""
        await asyncio.to_thread(self._threads.shutdown)

    def _bury_waiting(self) -> None:
        batch: list[tuple[int, Future[None]]] = []
        while self._waiting:
            try:
                batch.append(self._waiting.popleft())
            except IndexError:  # another thread was faster
                break
        if not batch:
            return
        rtnl = self._idle.get()
        try:
            bury(rtnl, deletions([index for index, _ in batch]))
        except BaseException as error:
            _finish(batch, error)
            raise
        else:
            _finish(batch, None)
        finally:
            self._idle.put(rtnl)


def _finish(batch: Sequence[tuple[int, Future[None]]], error: BaseException | None) -> None:
    for _, finished in batch:
        if not finished.set_running_or_notify_cancel():
            continue  # nobody waits any more
        if error is None:
            finished.set_result(None)
        else:
            finished.set_exception(error)
