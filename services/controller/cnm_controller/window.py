"""Cuts a list to what a client asked for: after an id, at most so many."""

from collections.abc import Callable, Sequence
from itertools import islice
from operator import attrgetter
from typing import TypeVar

from cnm.errors import NotFound
from cnm.messages.node import Node
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody

Body = TypeVar("Body", NetworkBody, SandboxBody, EndpointBody, Node)


def window(
    bodies: Sequence[Body], keep: Callable[[Body], bool], *, after: str | None, limit: int | None, by: str = "id"
) -> list[Body]:
    """Return what passes a filter of the part of a list that follows an id, whether that one passes or not.

    Raises:
        NotFound: the id is not in the list.
    """
    begin = 0
    if after is not None:
        ids = list(map(attrgetter(by), bodies))
        if after not in ids:
            raise NotFound(f"after: nothing in the list has {by} {after!r}")
        begin = ids.index(after) + 1
    return list(islice((body for body in bodies[begin:] if keep(body)), limit))
