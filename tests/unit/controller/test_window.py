"""A page of a list begins after what the client saw last, and holds no more than it asked for."""

import pytest

from cnm.errors import NotFound
from cnm.messages.node import Node
from cnm_controller.window import window

NODES = [
    Node(name=name, address=None, workers=[], state=state, kernel={}, sandboxes=0, endpoints=0)
    for name, state in (("a", "ready"), ("b", "down"), ("c", "ready"), ("d", "ready"))
]


def names(*, state=None, after=None, limit=None):
    kept = window(NODES, lambda node: state in (None, node.state), after=after, limit=limit, by="name")
    return [node.name for node in kept]


def test_page_follows_what_was_seen_and_is_as_long_as_asked_for():
    assert names() == ["a", "b", "c", "d"]
    assert names(limit=2) == ["a", "b"]
    assert names(after="b") == ["c", "d"]
    assert names(after="a", limit=2) == ["b", "c"]
    assert names(after="d") == []


def test_what_does_not_pass_takes_no_place_and_one_can_go_on_after_it():
    assert names(state="ready", limit=2) == ["a", "c"]
    assert names(state="ready", after="b", limit=1) == ["c"]


def test_what_is_not_in_the_list_is_named():
    with pytest.raises(NotFound, match="name 'z'"):
        names(after="z")
