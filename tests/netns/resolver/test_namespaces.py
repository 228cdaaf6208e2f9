import asyncio
import socket

import pytest

from cnm_resolver.namespaces import KernelNamespaces


async def test_socket_that_nobody_waits_for_any_more_is_closed(sandbox):
    class LateThread:
        """Runs at once and delivers only when told, as if the caller were cancelled between the two."""

        def __init__(self):
            self.made = []
            self.deliver = asyncio.Event()
            self.ran = asyncio.Event()

        async def run(self, function, *args):
            self.made.append(function(*args))
            self.ran.set()
            await self.deliver.wait()
            return self.made[0]

    thread = LateThread()
    opening = asyncio.ensure_future(KernelNamespaces(thread).open_socket(sandbox, socket.AF_INET, socket.SOCK_DGRAM))
    await thread.ran.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert thread.made[0].fileno() == -1


async def test_removing_a_redirect_twice_is_fine(world, sandbox):
    await world.namespaces.redirect(sandbox, 1053, 1053)
    await world.namespaces.remove_redirect(sandbox)
    await world.namespaces.remove_redirect(sandbox)
