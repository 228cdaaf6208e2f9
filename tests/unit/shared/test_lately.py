"""What was noted is known for a moment."""

from cnm.lately import Lately


def test_what_was_noted_is_forgotten_after_a_while_unless_it_is_noted_again():
    now = [0.0]
    lately = Lately(within_s=1.0, clock=lambda: now[0])
    assert not lately
    lately.note("a", "b")
    now[0] = 0.8
    lately.note("a")
    assert "a" in lately
    assert "b" in lately
    now[0] = 1.5
    assert "b" not in lately
    assert "a" in lately
    assert lately
    now[0] = 2.0
    assert not lately
