"""What commands touched of late."""

from cnm.touched import Touched


def test_what_was_touched_after_a_moment_is_newer_than_it():
    touched = Touched()
    touched.touch("a")
    asked = touched.now()
    touched.touch("b", "c")

    assert not touched.since(asked, "a")
    assert touched.since(asked, "a", "b")
    assert touched.ids_since(asked) == {"b", "c"}


def test_what_had_to_be_forgotten_counts_as_touched():
    touched = Touched(remembered=2)
    asked = touched.now()
    touched.touch("a", "b", "c")

    assert touched.since(asked, "z")
    assert not touched.since(touched.now(), "z")


def test_what_is_forgotten_on_purpose_is_as_if_it_had_never_been():
    touched = Touched()
    touched.touch("a")
    middle = touched.now()
    touched.touch("b")
    touched.forget(middle)

    assert touched.ids_since(0) == {"b"}
