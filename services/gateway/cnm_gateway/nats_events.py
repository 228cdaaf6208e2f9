"""Follows the stream of events on NATS."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from cnm.errors import Unavailable
from cnm.messages.message import Event, decode_trusted
from cnm.nats_bus import EVENTS, STREAM
from cnm_gateway.ports import Heard

QUIET_S = 1.0
"""So often it looks whether the line still stands, and whether something was missed, while nothing comes."""
PATIENCE_S = 2.0


class NatsEvents:
    """``Events`` on a NATS connection, which makes itself anew when it is lost."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stream = client.jetstream(timeout=PATIENCE_S)

    async def last(self) -> int:
        try:
            if not self._client.is_connected:
                raise Unavailable("NATS cannot be reached")
            return int((await self._stream.stream_info(STREAM)).state.last_seq)
        except NotFoundError:
            raise Unavailable(f"there is no stream {STREAM} yet") from None
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(f"NATS does not answer: {_said(error)}") from None

    async def follow(self, after: int) -> AsyncIterator[Heard | None]:
        lines = self._client.stats["reconnects"]
        where = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            inactive_threshold=30,
        )
        try:
            consumer = await self._stream.subscribe(EVENTS, stream=STREAM, ordered_consumer=True, config=where)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable(f"NATS does not answer: {_said(error)}") from None
        last = after
        try:
            while True:
                try:
                    async with asyncio.timeout(QUIET_S):
                        message = await consumer.next_msg(timeout=None)
                except (nats.errors.TimeoutError, TimeoutError):
                    told = await self.last()
                    if told != last or self._client.stats["reconnects"] != lines:
                        return  # what it listens by is gone, or the stream is another
                    yield None
                    continue
                except nats.errors.Error as error:
                    raise Unavailable(f"NATS does not answer: {_said(error)}") from None
                heard = _heard(message)
                last = heard.sequence
                yield heard
        finally:
            with contextlib.suppress(nats.errors.Error, OSError):
                await consumer.unsubscribe()


def _heard(message: Msg) -> Heard:
    try:
        event = decode_trusted(Event, message.data)
    except msgspec.DecodeError:  # not of ours
        event = None
    return Heard(sequence=message.metadata.sequence.stream, subject=message.subject, event=event)


def _said(error: BaseException) -> str:
    return str(error).removeprefix("nats: ") or type(error).__name__
