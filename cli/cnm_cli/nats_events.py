"""Reads the stream of events in order, from now or from some time ago, and goes on where it was after a lost line."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import nats.errors
import nats.js.errors
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.client import JetStreamContext

from cnm.errors import Unavailable
from cnm_cli.client import connect
from cnm_cli.runtime import find_nats_url
from cnm_cli.settings import Settings

STREAM = "CNM_EVENTS"
PATIENCE_S = 30.0
"""So long it tries to reach NATS again."""
PAUSE_S = 0.25
QUIET_S = 5.0
"""So often it looks whether the line still stands while nothing happens."""


class Heard(NamedTuple):
    """An event as it came."""

    subject: str
    body: dict[str, Any]
    sequence: int


async def follow(settings: Settings, *, since: datetime | None = None) -> AsyncIterator[Heard]:
    """Yield events for ever: those since a moment, or those from now on.

    Raises:
        Unavailable: NATS cannot be reached, or there is no stream.
    """
    last: int | None = None
    reached = time.monotonic() - PATIENCE_S  # what cannot be reached at first is not waited for
    while True:
        try:
            async with connect(find_nats_url(settings)) as client:
                stream = client.connection.jetstream()
                last = await _place(stream, last, since)
                reached = time.monotonic()
                async for event in _read(stream, last, since):
                    reached = time.monotonic()
                    last = event.sequence
                    yield event
        except (nats.errors.Error, TimeoutError, Unavailable) as error:
            if time.monotonic() - reached >= PATIENCE_S:
                raise Unavailable(f"the events cannot be followed: {error}") from None
            await asyncio.sleep(PAUSE_S)


async def _place(stream: JetStreamContext, last: int | None, since: datetime | None) -> int | None:
    """Return after which event to begin; None where ``since`` decides."""
    try:
        found = (await stream.stream_info(STREAM)).state.last_seq
    except nats.js.errors.NotFoundError:
        raise Unavailable(f"there is no stream {STREAM}: has cnm up ever been ready?") from None
    if last is None:
        return None if since else found
    return last if last <= found else 0  # the server lost its files: these are new events


async def _read(stream: JetStreamContext, last: int | None, since: datetime | None) -> AsyncIterator[Heard]:
    where = ConsumerConfig(ack_policy=AckPolicy.NONE)
    if last is None and since is not None:
        where.deliver_policy, where.opt_start_time = DeliverPolicy.BY_START_TIME, since.astimezone(UTC)
    else:
        where.deliver_policy, where.opt_start_seq = DeliverPolicy.BY_START_SEQUENCE, (last or 0) + 1
    consumer = await stream.subscribe("cnm.v1.event.>", stream=STREAM, ordered_consumer=True, config=where)
    try:
        while True:
            try:
                message = await consumer.next_msg(timeout=QUIET_S)
            except nats.errors.TimeoutError:
                await stream.stream_info(STREAM)
                continue
            yield Heard(message.subject, msgspec.json.decode(message.data), message.metadata.sequence.stream)
    finally:
        with contextlib.suppress(nats.errors.Error):
            await consumer.unsubscribe()
