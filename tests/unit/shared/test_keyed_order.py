"""Turns of one key come one after another, whoever gives up waiting."""

import asyncio

from cnm.bus import KeyedOrder


class Track:
    """Tasks that take their turn and hold it until told."""

    def __init__(self):
        self.order = KeyedOrder()
        self.inside = []
        self.entered = []
        self._go = {}

    def go(self, name):
        self._go[name].set()

    async def _hold(self, key, name):
        async with self.order.turn(key):
            self.inside.append(name)
            self.entered.append(name)
            try:
                await self._go[name].wait()
            finally:
                self.inside.remove(name)

    async def enter(self, key, name):
        self._go[name] = asyncio.Event()
        task = asyncio.create_task(self._hold(key, name))
        await settle()
        return task


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_after_another_in_order():
    track = Track()
    tasks = [await track.enter("k", name) for name in "abc"]
    for name in "abc":
        assert track.inside == [name]
        track.go(name)
        await settle()
    await asyncio.gather(*tasks)
    assert track.order._tails == {}


async def test_keys_do_not_wait_for_one_another():
    track = Track()
    tasks = [await track.enter(name, name) for name in "ab"]
    assert sorted(track.inside) == ["a", "b"]
    for name in "ab":
        track.go(name)
    await asyncio.gather(*tasks)


async def test_cancelled_waiter_does_not_let_two_through():
    track = Track()
    first, second, third = [await track.enter("k", name) for name in "abc"]
    second.cancel()
    await settle()
    assert second.cancelled()
    assert track.inside == ["a"]
    fourth = await track.enter("k", "d")
    assert track.inside == ["a"]
    for name in "acd":
        track.go(name)
        await settle()
    await asyncio.gather(first, third, fourth)
    assert track.entered == ["a", "c", "d"]
    assert track.order._tails == {}


async def test_last_waiter_cancelled_leaves_the_key_free():
    track = Track()
    first, second = [await track.enter("k", name) for name in "ab"]
    second.cancel()
    track.go("a")
    await settle()
    await first
    assert track.order._tails == {}
    third = await track.enter("k", "c")
    assert track.inside == ["c"]
    track.go("c")
    await third


async def test_waiter_cancelled_as_its_turn_comes_passes_it_on():
    track = Track()
    first, second, third = [await track.enter("k", name) for name in "abc"]
    track.go("a")
    second.cancel()
    await settle()
    assert track.inside in (["c"], ["b"])
    track.go("c")
    await asyncio.gather(first, second, third, return_exceptions=True)
    assert "c" in track.entered
    assert track.order._tails == {}


async def test_failing_holder_passes_its_turn_on():
    order = KeyedOrder()
    entered = []

    async def work(name):
        async with order.turn("k"):
            entered.append(name)
            raise ValueError(name)

    await asyncio.gather(*map(work, "abc"), return_exceptions=True)
    assert entered == ["a", "b", "c"]
    assert order._tails == {}
