"""Which elements the maps should hold, and the way there."""

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from cnm_port_mapper.binding import Place, Target
from cnm_port_mapper.rules import Translate, Translation, Unmap, outdated, owner_of, plan, translations

V4, V6 = ip_address("0.0.0.0"), ip_address("::")
HERE = Place("tcp", V4, 8080)
MINE = Translation(Target(ip_address("172.28.0.2"), 80), "a" * 64)


def test_places_of_the_other_family_need_no_element():
    target = Target(ip_address("172.28.0.2"), 80)
    assert translations({HERE: target, Place("tcp", V6, 8080): target}, "a") == {HERE: Translation(target, "a")}


def test_ports_in_a_row_that_keep_their_numbers_are_one_element():
    row, target = Place("udp", V4, 5000, 100), Target(ip_address("172.28.0.2"), 5000)
    assert translations({row: target}, "a") == {row: Translation(target, "a")}


def test_ports_in_a_row_that_change_their_numbers_are_one_each_and_guarded_as_one():
    row, allow = Place("udp", V4, 5000, 3), (ip_network("10.0.0.0/8"),)
    lead = ip_address("172.28.0.2")
    assert translations({row: Target(lead, 6000, allow)}, "a") == {
        row: Translation(None, "a", guarded=True, allow=allow),
        Place("udp", V4, 5000): Translation(Target(lead, 6000), "a"),
        Place("udp", V4, 5001): Translation(Target(lead, 6001), "a"),
        Place("udp", V4, 5002): Translation(Target(lead, 6002), "a"),
    }


def test_comment_tells_whose_an_element_is():
    assert MINE.comment(HERE) == f"cnm:{'a' * 64} 0.0.0.0:8080/tcp"
    assert owner_of(MINE.comment(HERE)) == "a" * 64
    assert owner_of("") == owner_of("theirs") == ""
    assert len(MINE.comment(Place("sctp", ip_address("fd00:1111:2222:3333:4444:5555:6666:7777"), 65535))) < 128


def test_steps_read_like_sentences_and_have_an_undo():
    step = Translate(HERE, MINE)
    assert str(step) == "translate 0.0.0.0:8080/tcp to 172.28.0.2:80"
    assert str(step.undo()) == "unmap 0.0.0.0:8080/tcp from 172.28.0.2:80"
    assert step.undo().undo() == step


def test_other_target_is_removed_before_it_is_added():
    other = Translation(Target(ip_address("172.28.0.3"), 80), "a" * 64)
    assert plan({HERE: other}, {HERE: MINE}) == (Unmap(HERE, MINE), Translate(HERE, other))


def test_flows_that_lead_where_they_should_no_more_are_outdated():
    other = Translation(Target(ip_address("172.28.0.3"), 80), "a" * 64)
    guarded = Translation(MINE.target, "a" * 64, guarded=True)
    for protocol, found in (
        ("tcp", [False, False, False, False]),
        ("udp", [True, True, True, True]),
        ("sctp", [False, True, True, False]),  # the one that stays where it was is not to be cut
    ):
        here = Place(protocol, V4, 8080)
        changes = (
            ({}, {here: MINE}),
            ({here: MINE}, {}),
            ({here: MINE}, {here: other}),
            ({here: MINE}, {here: guarded}),
        )
        assert [outdated(plan(after, before)) != [] for before, after in changes] == found


def test_owners_to_leave_are_not_touched():
    assert plan({}, {HERE: MINE}, leave=["a" * 64]) == ()
    assert plan({HERE: MINE}, {}, leave=["a" * 64]) == ()


places = st.builds(Place, st.sampled_from(["tcp", "udp"]), st.sampled_from([V4, V6]), st.integers(1, 4))
targets = st.builds(Target, st.sampled_from([ip_address("172.28.0.2"), ip_address("172.28.0.3")]), st.integers(1, 2))
held = st.dictionaries(places, st.builds(Translation, targets, st.sampled_from(["a", "b", ""])))


@given(held, held)
def test_plan_applied_leaves_nothing_to_plan(desired, observed):
    now = dict(observed)
    for step in plan(desired, observed):
        if isinstance(step, Unmap):
            assert now.pop(step.place) == step.translation
        else:
            assert now.setdefault(step.place, step.translation) == step.translation
    assert now == desired
    assert plan(desired, now) == ()
