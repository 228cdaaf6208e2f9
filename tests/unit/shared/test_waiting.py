"""What a call that is late is told to have waited for."""

import asyncio

import pytest

from cnm.bus import Call, current_call, set_current_call, waiting_for
from cnm.errors import Conflict, Timeout


@pytest.fixture
def noted():
    set_current_call(Call(request_id="r", trace_id="t", deadline=0.0))
    yield current_call().progress.waiting_for
    set_current_call(None)


def test_what_came_is_waited_for_no_more(noted):
    with waiting_for("a"), waiting_for("b"):
        assert noted == ["a", "b"]
    assert noted == []


@pytest.mark.parametrize("error", [Conflict("taken"), ValueError("broken")])
def test_nor_is_what_answered_with_a_refusal(noted, error):
    with pytest.raises(type(error)), waiting_for("a"):
        raise error
    assert noted == []


@pytest.mark.parametrize("error", [Timeout("no reply"), asyncio.CancelledError()])
def test_what_never_came_stays_noted(noted, error):
    """Also when its own time was over a moment before that of the whole call."""
    with pytest.raises(type(error)), waiting_for("a"):
        raise error
    assert noted == ["a"]


def test_outside_of_a_call_nothing_is_noted():
    set_current_call(None)
    with waiting_for("a"):
        assert current_call() is None
