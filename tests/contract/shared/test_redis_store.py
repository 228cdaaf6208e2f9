"""What only Redis can do to the store: go away, drop lines, be asked by hundreds at once."""

import asyncio

import pytest

from cnm import redis_store
from cnm.errors import Unavailable
from cnm.redis_outbox import RedisOutbox
from cnm.redis_replies import RedisReplies
from cnm.redis_store import OUTBOX, RedisStore
from cnm.store import Changes, Claims, Document, Entry


def saga(id):
    return Entry(id=id, kind="test", owner="me", rounds=())


def document(id):
    return Document(kind="network", id=id * 64, name=id, created_ms=1, body="{}")


async def test_store_that_is_away_is_unavailable_and_comes_back(own_redis):
    async with redis_store.connect(own_redis.url) as redis:
        store, outbox, replies = RedisStore(redis), RedisOutbox(redis, OUTBOX), RedisReplies(redis)
        assert await store.every("network") == []
        own_redis.kill()
        works = (
            lambda: store.every("network"),
            lambda: store.begin(saga("s"), Claims(), lease_ms=1),
            lambda: outbox.read(1),
            lambda: replies.claim("k", "d", "c", lease_ms=1),
        )
        for work in works:
            with pytest.raises(Unavailable, match="Redis cannot be reached"):
                await work()
        own_redis.start()
        assert await store.every("network") == []  # with its scripts gone, too


async def test_line_that_breaks_is_made_anew_unseen(redis):
    store = RedisStore(redis)
    await store.begin(saga("s"), Claims(), lease_ms=60_000)
    for turn in "abcde":
        await redis.client_kill_filter(_type="normal", skipme=False)
        await store.commit(saga("s"), Changes(puts=(document(turn),)))
        await store.begin(saga(f"s{turn}"), Claims(), lease_ms=60_000)
    assert [each.name for each in await store.every("network")] == ["a"]


async def test_hundreds_ask_at_once(redis):
    store = RedisStore(redis)
    begun = await asyncio.gather(
        *(store.begin(saga(f"s{number}"), Claims(), lease_ms=60_000) for number in range(300)), return_exceptions=True
    )
    assert begun == [None] * 300


async def test_what_was_lost_and_written_anew_is_no_moment_that_is_known(redis):
    store, clock = RedisStore(redis), redis_store.PREFIX + "clock"
    known = []
    for id in "ab":
        before = await redis.get(clock) or b"0"
        await store.begin(saga(id), Claims(), lease_ms=60_000)
        await store.commit(saga(id), Changes(puts=(document(id),)))
        known.append((await store.snapshot(["network"])).clock)
        await redis.set(clock, before)  # as a server that lost its last writes
    assert len(set(known)) == 2
    found = await store.snapshot(["network"], known_clock=known[0])
    assert found.documents is not None


async def test_clock_of_the_store_goes_on_where_the_machines_goes_back(redis):
    store, clock = RedisStore(redis), redis_store.PREFIX + "clock"
    await redis.set(clock, later := 4_000_000_000_000_000)
    await store.begin(saga("s"), Claims(), lease_ms=60_000)
    assert (await store.snapshot(["network"])).clock == later + 1


async def test_cancelled_call_leaves_the_connection_usable(redis):
    store = RedisStore(redis)
    for number in range(50):
        task = asyncio.create_task(store.begin(saga(f"s{number}"), Claims(exclusive=("k",)), lease_ms=60_000))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.finish(saga(f"s{number}"))
    assert await store.every("network") == []


async def test_who_is_cancelled_while_it_asks_does_not_go_on(redis):
    """Which Python 3.11 forgets at some of the moments: `asyncio.wait_for` of what is done already."""
    store, turns = RedisStore(redis), 0
    while True:
        task = asyncio.create_task(store.every("network"))
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), f"after {turns} turns of the loop"
        turns += 1
    assert turns > 1
