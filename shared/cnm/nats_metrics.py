"""What there is to tell of a NATS connection, of what goes over it, and of the stream of events."""

import time
from collections.abc import Sequence

from nats.errors import Error as NatsError

from cnm.errors import Unavailable
from cnm.metrics import (
    COMMANDS,
    CONSUMER_PENDING,
    CONSUMER_UNACKNOWLEDGED,
    NATS_BYTES,
    NATS_CONNECTED,
    NATS_MESSAGES,
    NATS_RECONNECTS,
    NATS_ROUND_TRIP,
    REQUEST_TIMES,
    REQUESTS,
    REQUESTS_OPEN,
    STREAM_BYTES,
    STREAM_MESSAGES,
    STREAM_SEQUENCE,
    Check,
    Sample,
    Source,
    first,
)
from cnm.nats_bus import STREAM, NatsBus

PING_S = 2


def sources(bus: NatsBus) -> Sequence[Source]:
    """Return what every worker tells of its bus."""

    async def requests() -> list[Sample]:
        counted = bus.requests
        return [
            *REQUESTS.each(counted.answered),
            *REQUEST_TIMES.each_of(counted.times),
            REQUESTS_OPEN(counted.open),
            *COMMANDS.each(counted.asked),
        ]

    async def line() -> list[Sample]:
        client, counted = bus.client, bus.client.stats
        samples = [
            NATS_CONNECTED(client.is_connected),
            NATS_RECONNECTS(counted["reconnects"]),
            NATS_MESSAGES(counted["in_msgs"], "in"),
            NATS_MESSAGES(counted["out_msgs"], "out"),
            NATS_BYTES(counted["in_bytes"], "in"),
            NATS_BYTES(counted["out_bytes"], "out"),
        ]
        if client.is_connected:
            began = time.monotonic()
            try:
                await client.flush(PING_S)
            except (NatsError, OSError):  # it broke meanwhile
                return [NATS_CONNECTED(client.is_connected), *samples[1:]]
            samples.append(NATS_ROUND_TRIP(time.monotonic() - began))
        return samples

    return Source("requests", requests), Source("nats", line, timed=True)


def check(bus: NatsBus) -> Check:
    """Return whether there is a connection."""

    async def find() -> str | None:
        return None if bus.client.is_connected else "no connection"

    return Check("NATS", find)


def stream_source(bus: NatsBus, most: int) -> Source:
    """Return what is in the stream of events, and how far behind its durable consumers are, at most so many."""

    async def read() -> list[Sample]:
        stream = bus.client.jetstream()
        try:
            told = (await stream.stream_info(STREAM)).state
            consumers = [each for each in await stream.consumers_info(STREAM) if each.config.durable_name]
        except (NatsError, OSError, TimeoutError) as error:
            raise Unavailable(f"JetStream does not tell of {STREAM}: {error!r}") from None
        shown, left_out = first(consumers, most, "consumer")
        return [
            STREAM_MESSAGES(told.messages),
            STREAM_BYTES(told.bytes),
            STREAM_SEQUENCE(told.last_seq),
            *(CONSUMER_PENDING(each.num_pending or 0, each.name) for each in shown),
            *(CONSUMER_UNACKNOWLEDGED(each.num_ack_pending or 0, each.name) for each in shown),
            left_out,
        ]

    return Source("stream", read)
