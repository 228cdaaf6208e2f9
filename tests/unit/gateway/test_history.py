"""Is what was told kept within bounds, and found again?"""

import pytest

from cnm_gateway.history import Behind, History


def filled(count, *, most=1000, most_bytes=1000):
    history = History(most=most, most_bytes=most_bytes)
    for number in range(1, count + 1):
        history.add(b"0123456789", sequence=100 + number)
    return history


def test_a_reader_gets_what_came_after_its_place():
    history = filled(3)
    assert [each.sequence for each in history.after(1)] == [102, 103]
    assert history.after(3) == []


def test_it_holds_so_many_and_so_many_bytes_and_no_more():
    assert [each.number for each in filled(50, most=3).after(47)] == [48, 49, 50]
    with pytest.raises(Behind):
        filled(50, most=3).after(46)
    assert len(filled(500).after(400)) == 100
    with pytest.raises(Behind):
        filled(500).after(399)


def test_one_message_above_the_bound_is_still_told():
    history = History(most=10, most_bytes=10)
    history.add(b"x" * 100)
    assert len(history.after(0)) == 1


def test_a_number_of_the_stream_leads_to_its_place():
    history = filled(5)
    history.add(b"health")
    assert [each.sequence for each in history.after(history.place_of(103))] == [104, 105, None]
    for unknown in (100, 106, 0):
        with pytest.raises(Behind):
            history.place_of(unknown)


def test_what_is_forgotten_is_not_found_and_whoever_read_it_is_behind():
    history = filled(5)
    history.forget()
    with pytest.raises(Behind):
        history.place_of(103)
    with pytest.raises(Behind):
        history.after(5)
    assert history.after(history.last) == []


def test_the_last_events_are_told_in_order_without_what_is_none():
    history = filled(3)
    history.add(b"health")
    assert history.events(2) == [b"0123456789"] * 2
    assert len(history.events(9)) == 3
