"""What the gateway needs from outside besides the bus: the stream of events, and the spans of traces."""

from collections.abc import AsyncIterator, Collection
from typing import NamedTuple, Protocol

from cnm.messages.message import Event
from cnm.spans import SpanRecord


class Heard(NamedTuple):
    """An event as it came; ``event`` is None where the body is none of ours."""

    sequence: int
    subject: str
    event: Event | None


class Events(Protocol):
    """The stream of events, in order."""

    async def last(self) -> int:
        """Return the number of the last event that the stream holds, 0 when there was none.

        Raises:
            Unavailable: the stream cannot be reached.
        """
        ...

    def follow(self, after: int) -> AsyncIterator[Heard | None]:
        """Yield the events after a number as they come, and None now and then when all that there is has come.

        It may end: then what follows is to be asked for anew.

        Raises:
            Unavailable: the stream cannot be reached any more.
        """
        ...


class Spans(Protocol):
    """The bounded store of recent spans."""

    async def trace(self, trace_id: str) -> list[SpanRecord]:
        """Return the spans of a trace, none when none is known.

        Raises:
            Unavailable: the store cannot be reached.
        """
        ...

    async def last(self, operations: Collection[str], *, limit: int) -> list[list[SpanRecord]]:
        """Return the last complete traces that began with one of these verbs, newest first.

        Raises:
            Unavailable: the store cannot be reached.
        """
        ...
