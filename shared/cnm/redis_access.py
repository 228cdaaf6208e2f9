"""How Redis is reached and asked: one server, or the one that sentinels name; who we are stands in the URL.

``redis://[user:password@]host:port/db``, ``rediss://`` with TLS (``?ssl_ca_certs=``, ``ssl_certfile=`` and
``ssl_keyfile=`` name files), ``unix:///path``, and ``redis+sentinel://[user:password@]host:port,host:port/name[/db]``
(``rediss+sentinel://`` with TLS, ``?sentinel_username=`` and ``sentinel_password=`` for the sentinels themselves).
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from cnm import telemetry
from cnm.bus import waiting_for
from cnm.errors import Invalid, Unavailable
from cnm.nats_access import without_secrets

VARIABLE = "CNM_REDIS_URL"
SENTINEL_PORT = 26379
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")


def open_redis(url: str, *, connections: int, timeout_s: float, retry: Retry, wait_s: float | None = None) -> Redis:
    """Make a client of at most so many connections; nothing is sent before its first command.

    Who finds no connection free waits for ``wait_s``, or is refused at once. Behind sentinels nobody waits: there are
    as many connections as are asked for.

    Raises:
        Invalid: it is no URL of Redis.
    """
    options = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    try:
        if urlsplit(url).scheme in SENTINEL_SCHEMES:
            return _behind_sentinels(url, options, retry)
        if wait_s is None:
            pool = ConnectionPool.from_url(url, max_connections=connections, retry=retry, **options)
        else:
            pool = BlockingConnectionPool.from_url(
                url, max_connections=connections, timeout=wait_s, retry=retry, **options
            )
    except ValueError as error:
        raise Invalid.at(VARIABLE, without_secrets(url), f"{VARIABLE}: {error}") from None
    return Redis.from_pool(pool)


def database(command: str, script: str = "") -> AbstractContextManager[None]:
    """Record a command to Redis, and the script that it runs, by the semantic conventions for databases."""
    named = {"db.stored_procedure.name": script} if script else {}
    about = {"db.system.name": "redis", "db.operation.name": command, **named}
    return telemetry.detail(f"{command} {script}".strip(), "client", about)


@asynccontextmanager
async def translated(command: str = "", script: str = "") -> AsyncIterator[None]:
    """Turn what redis-py raises into ``Unavailable``; a named command is a span of the trace that it is sent in."""
    try:
        with database(command, script) if command else nullcontext(), waiting_for("Redis"), cancellable():
            yield
    except (RedisError, OSError, TimeoutError) as error:
        raise Unavailable(f"Redis cannot be reached: {error}") from error


@contextmanager
def cancellable() -> Iterator[None]:
    """End a task that was cancelled in the body, in which it asks Redis, though the body came to its end.

    redis-py sends by `asyncio.wait_for`, which before Python 3.12 forgets that when all was sent already.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


def _behind_sentinels(url: str, options: dict[str, Any], retry: Retry) -> Redis:
    parts = urlsplit(url)
    who, _, where = parts.netloc.rpartition("@")
    user, _, password = who.partition(":")
    name, _, db = parts.path.strip("/").partition("/")
    if not name:
        raise ValueError("the name of what the sentinels watch is missing: redis+sentinel://host:port/name")
    asked: dict[str, Any] = dict(parse_qsl(parts.query))
    own = {key.removeprefix("sentinel_"): asked.pop(key) for key in list(asked) if key.startswith("sentinel_")}
    if parts.scheme == "rediss+sentinel":
        asked["ssl"] = own["ssl"] = True
        own |= {key: value for key, value in asked.items() if key.startswith("ssl_")}
    named = {"username": unquote(user), "password": unquote(password)}
    asked |= {key: value for key, value in named.items() if value}
    sentinels: Any = Sentinel([_place(each) for each in where.split(",")], sentinel_kwargs={**own, **options})  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
    return sentinels.master_for(name, db=int(db or 0), retry=retry, **asked, **options)  # type: ignore[no-any-return]


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = text, str(SENTINEL_PORT)
    return host.strip("[]"), int(port)
