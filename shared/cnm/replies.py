"""Replies that are kept under the ids of their requests, so that a repeat does nothing twice."""

from dataclasses import dataclass
from typing import Protocol

import msgspec

KEPT_REPLY_S = 600
MOST_KEPT = 500_000
"""So many replies are kept at once. One of 250 bytes takes 860 in Redis, all of them some 430 MB."""


class KeptReply(msgspec.Struct, frozen=True):
    """A reply as kept: its body, and the headers of its error."""

    body: bytes
    headers: dict[str, str]


def kept(body: bytes, headers: dict[str, str]) -> bytes:
    """Return a reply the way that it is kept."""
    return msgspec.msgpack.encode(KeptReply(body, headers))


@dataclass(kw_only=True)
class Claimed:
    """A request that is carried out once: which (``key``, ``digest`` of its body), and which try (``claim``)."""

    key: str
    digest: str
    claim: str
    answered: bool = False
    """Whether the reply was kept in one step with what the request did."""


class Replies(Protocol):
    """Keeps the replies of requests that carry an id, so that a repeat does nothing twice.

    ``claim`` names one try of a request, by one worker: a try that lost its claim keeps and drops nothing.
    """

    async def claim(self, key: str, digest: str, claim: str, *, lease_ms: int) -> tuple[str, bytes]:
        """Claim a request.

        It is ``new``, ``pending``, ``other`` (the id came with another body), ``done`` with its reply, or there is no
        room for another (``full``).
        """
        ...

    async def renew(self, key: str, claim: str, *, lease_ms: int) -> None:
        """Hold on to a claim."""
        ...

    async def keep(self, key: str, digest: str, claim: str, reply: bytes, *, for_s: int) -> None:
        """Keep the reply of a claimed request."""
        ...

    async def drop(self, key: str, claim: str) -> None:
        """Forget a claimed request: it may be tried again."""
        ...
