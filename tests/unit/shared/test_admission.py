"""Who is taken and who is refused when too many ask."""

import pytest

from cnm.admission import Admission
from cnm.errors import Unavailable


def admission(**limits):
    return Admission(**{"most": 10, "most_of_one": 4, "most_bytes": 1000, "at_once": 2} | limits)


def test_one_client_has_a_share_and_others_are_served():
    counts = admission()
    for _ in range(4):
        counts.take("a", 1)
    with pytest.raises(Unavailable, match="4 requests of this client"):
        counts.take("a", 1)
    counts.take("b", 1)
    counts.give_back("a", 1)
    counts.take("a", 1)


def test_all_clients_together_have_a_limit():
    counts = admission()
    for number in range(10):
        counts.take(f"client {number}", 1)
    with pytest.raises(Unavailable, match="10 requests"):
        counts.take("one more", 1)


def test_bodies_together_have_a_limit_and_a_single_one_always_fits():
    counts = admission()
    counts.take("a", 5000)
    with pytest.raises(Unavailable, match="1000 bytes"):
        counts.take("b", 1)
    counts.give_back("a", 5000)
    counts.take("b", 1)


async def test_of_one_client_only_some_are_answered_at_once():
    counts = admission()
    for _ in range(3):
        counts.take("a", 1)
    async with counts.turn("a"), counts.turn("a"):
        assert counts.turn("a").locked()
        assert not counts.turn("b").locked()


def test_nothing_is_remembered_of_who_left():
    counts = admission()
    for number in range(1000):
        counts.take(f"client {number}", 1)
        counts.turn(f"client {number}")
        counts.give_back(f"client {number}", 1)
    assert counts == admission()
