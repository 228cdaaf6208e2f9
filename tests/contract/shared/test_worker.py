"""The life of a worker's tasks."""

import asyncio

from cnm.cancelling import end


async def test_tasks_end_however_often_a_cancellation_is_lost(redis):
    """Each is cancelled at another place within a round trip to Redis."""

    async def ask_for_ever():
        while True:
            await redis.get("x")
            await asyncio.sleep(0.01)

    tasks = []
    for _ in range(200):
        tasks.append(asyncio.create_task(ask_for_ever()))
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await end(tasks)
    assert all(task.cancelled() for task in tasks)


async def test_who_is_slow_to_end_is_waited_for():
    ended = []

    async def tidy():
        try:
            await asyncio.sleep(60)
        finally:
            for _ in range(3):
                try:
                    await asyncio.sleep(0.2)
                except asyncio.CancelledError:
                    ended.append("again")

    task = asyncio.create_task(tidy())
    await asyncio.sleep(0)
    await end([task])
    assert task.done()
