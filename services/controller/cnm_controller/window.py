"""Cuts a list to what a client asked for: after an id, at most so many."""

from collections.abc import Sequence
from typing import TypeVar

from cnm.errors import NotFound
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody

Body = TypeVar("Body", NetworkBody, SandboxBody, EndpointBody)


def window(bodies: Sequence[Body], *, after: str | None, limit: int | None) -> list[Body]:
    """Return the part of a list that follows an id.

    Raises:
        NotFound: the id is not in the list.
    """
    begin = 0
    if after is not None:
        ids = [body.id for body in bodies]
        if after not in ids:
            raise NotFound(f"after: nothing in the list has id {after!r}")
        begin = ids.index(after) + 1
    return list(bodies[begin:] if limit is None else bodies[begin : begin + limit])
