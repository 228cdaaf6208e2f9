import pytest

from cnm.redis_outbox import RedisOutbox
from cnm.redis_replies import RedisReplies
from cnm.redis_store import OUTBOX, RedisStore
from cnm.testing import ManualClock, MemoryReplies, MemoryStore


class FakeSide:
    """Store, outbox and replies in memory, with a clock that the test moves."""

    def __init__(self):
        self.clock = ManualClock()
        self.store = MemoryStore(self.clock)
        self.outbox = self.store.outbox
        self.replies = self.store.replies

    async def write(self, event):
        """Write an event to the outbox, as a commit does."""
        self.outbox.write([event])

    async def later(self, ms):
        self.clock.move(ms)

    def few_replies(self, most):
        return MemoryReplies(self.clock, most=most)


class RealSide:
    """Store, outbox and replies in Redis, whose clock the test waits for."""

    def __init__(self, redis, wait_for):
        self.redis = redis
        self.store = RedisStore(redis)
        self.outbox = RedisOutbox(redis, OUTBOX)
        self.replies = RedisReplies(redis)
        self._wait_for = wait_for

    def few_replies(self, most):
        return RedisReplies(self.redis, most=most)

    async def write(self, event):
        """Write an event to the outbox, as a commit does."""
        fields = {"id": event.id, "subject": event.subject, "body": event.body}
        await self.redis.xadd(OUTBOX, fields)

    async def _now_ms(self):
        seconds, micros = await self.redis.time()
        return seconds * 1000 + micros // 1000

    async def later(self, ms):
        until = await self._now_ms() + ms

        async def passed():
            return await self._now_ms() >= until

        await self._wait_for(passed)


@pytest.fixture(params=["fake", "real"])
def side(request, wait_for):
    if request.param == "fake":
        return FakeSide()
    return RealSide(request.getfixturevalue("redis"), wait_for)


@pytest.fixture
def store(side):
    return side.store


@pytest.fixture
def outbox(side):
    return side.outbox


@pytest.fixture
def replies(side):
    return side.replies
