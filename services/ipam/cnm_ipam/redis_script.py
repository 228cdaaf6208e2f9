"""Runs the script in Redis, for the call that is being answered."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha1
from typing import Any, cast

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cnm.bus import current_call, waiting_for, written
from cnm.errors import Unavailable
from cnm.messages.message import decode_trusted
from cnm.redis_access import cancellable, database, open_redis
from cnm.trace import present_parent
from cnm_ipam.answers import Answer
from cnm_ipam.script import SCRIPT

KEY_PREFIX = "cnm:{ipam}:"
OUTBOX = f"{KEY_PREFIX}outbox"

_SCRIPT_SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
_UNAVAILABLE = (
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
    OSError,
)
_REFUSALS = ("BUSY", "MISCONF", "NOREPLICAS")
"""What a server replies that would work at another time, and that redis-py has no class for."""


def connect(redis_url: str, *, connections: int = 32, timeout_s: float = 5) -> Redis:
    """Return a client that waits for a free connection and never repeats a command by itself.

    A repeat after a lost connection could do a thing twice; whoever asked repeats under the same request id.
    """
    return open_redis(
        redis_url, connections=connections, timeout_s=timeout_s, retry=Retry(NoBackoff(), 0), wait_s=timeout_s
    )


def utc_now() -> datetime:
    """Return the present time."""
    return datetime.now(UTC)


def new_id() -> str:
    """Return 32 random hexadecimal digits."""
    return secrets.token_hex(16)


def awaitable(value: Any) -> Awaitable[Any]:
    """Type what redis-py's commands return."""
    return cast("Awaitable[Any]", value)


async def translated(work: Awaitable[Any], command: str, script: str = "") -> Any:
    """Wait for a command to Redis, a span of the trace that it is sent in.

    Raises:
        Unavailable: it cannot be reached, or refuses to work.

    """
    try:
        with database(command, script), waiting_for("Redis"), cancellable():
            return await work
    except _UNAVAILABLE as error:
        raise Unavailable(f"Redis cannot be reached: {error}") from error
    except ResponseError as error:
        if str(error).partition(" ")[0] in _REFUSALS:
            raise Unavailable(f"Redis refuses to work: {error}") from error
        raise


@dataclass(frozen=True, kw_only=True)
class Script:
    """The script, with what its events need: time and ids are passed in."""

    redis: Redis
    rest_s: float
    now: Callable[[], datetime] = utc_now
    new_id: Callable[[], str] = new_id

    async def change(self, verb: str, *, node: str | None = None, **ask: Any) -> Answer:
        """Run a verb that changes something: the last step of a call.

        Once it is sent, what became of it is told, although the deadline of the call has passed meanwhile: a change
        that was made is never told as one that was not.

        Raises:
            Unavailable: Redis cannot be reached.
            Timeout: it did not say before the deadline.

        """
        return await written(asyncio.ensure_future(self.read(verb, node=node, **ask)))

    async def read(self, verb: str, *, node: str | None = None, **ask: Any) -> Answer:
        """Run a verb that changes nothing.

        Raises:
            Unavailable: Redis cannot be reached.

        """
        request_id, trace_id = self.call_ids()
        envelope = msgspec.json.encode(
            {"time": self.now(), "node": node, "trace_id": trace_id, "request_id": request_id}
        )[1:-1]
        asked = {**ask, "seed": self.new_id(), "rest_ms": round(self.rest_s * 1000)}
        if node is not None:
            asked["node"] = node
        return decode_trusted(Answer, await self._evaluate(verb, msgspec.json.encode(asked), envelope))

    async def _evaluate(self, verb: str, *arguments: bytes) -> Any:
        sent: Any = (1, KEY_PREFIX, verb, *arguments, present_parent())
        try:
            return await translated(awaitable(self.redis.evalsha(_SCRIPT_SHA, *sent)), "EVALSHA", verb)
        except NoScriptError:
            return await translated(awaitable(self.redis.eval(SCRIPT, *sent)), "EVAL", verb)

    def call_ids(self) -> tuple[str, str]:
        """Return the request and the trace of the call that is being answered, or new ones."""
        call = current_call()
        return (call.request_id, call.trace_id) if call is not None else (self.new_id(), self.new_id())
