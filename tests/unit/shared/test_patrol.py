"""Does a turn look at all that is suspect, and at the rest within its budget, nobody left out for ever?"""

from cnm.patrol import PERIOD_S, Patrol


class Clock:
    """Time that passes when somebody looks."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def looks(patrol, clock, wanted, *, each_s=1.0):
    found = []
    for key in patrol.turn(wanted):
        found.append(key)
        clock.now += each_s
    return found


def patrolling(budget_s):
    clock = Clock()
    return Patrol(budget_s=budget_s, clock=clock), clock


def test_first_turn_looks_at_everything_whatever_it_costs():
    patrol, clock = patrolling(0.0)
    assert looks(patrol, clock, {"a": 1, "b": 1, "c": 1}) == ["a", "b", "c"]


def test_later_turns_go_round_within_the_budget():
    patrol, clock = patrolling(2.0)
    wanted = dict.fromkeys("abcde", 1)
    looks(patrol, clock, wanted)
    turns = []
    for _ in range(3):
        clock.now += PERIOD_S
        turns.append(looks(patrol, clock, wanted))
    assert turns == [["a", "b"], ["c", "d"], ["e", "a"]]


def test_turns_that_come_sooner_have_their_part_of_the_budget():
    patrol, clock = patrolling(3.0)
    wanted = dict.fromkeys("abcde", 1)
    looks(patrol, clock, wanted, each_s=0.0)
    clock.now += PERIOD_S / 3
    assert looks(patrol, clock, wanted) == ["a"]
    assert looks(patrol, clock, wanted) == ["b"]
    clock.now += 100 * PERIOD_S
    assert looks(patrol, clock, wanted) == ["c", "d", "e"]


def test_suspects_come_first_and_do_not_use_up_the_budget():
    patrol, clock = patrolling(1.0)
    wanted = dict.fromkeys("abcd", 1)
    looks(patrol, clock, wanted)
    patrol.suspect("d", "c", "unknown")
    assert looks(patrol, clock, wanted) == ["c", "d", "a"]


def test_what_is_wanted_otherwise_than_before_is_suspect():
    patrol, clock = patrolling(0.0)
    looks(patrol, clock, {"a": 1, "b": 1})
    assert looks(patrol, clock, {"a": 1, "b": 2, "c": 1}) == ["b", "c"]
    assert looks(patrol, clock, {"a": 1, "b": 2, "c": 1}) == []


def test_what_was_not_wanted_for_a_turn_is_suspect_when_it_is_again():
    patrol, clock = patrolling(0.0)
    looks(patrol, clock, {"a": 1, "b": 1})
    assert looks(patrol, clock, {"b": 1}) == []
    assert looks(patrol, clock, {"a": 1, "b": 1}) == ["a"]


def test_a_look_that_failed_is_done_again():
    patrol, clock = patrolling(0.0)
    for key in patrol.turn({"a": 1, "b": 1}):
        if key == "a":
            patrol.suspect(key)
    assert looks(patrol, clock, {"a": 1, "b": 1}) == ["a"]


def test_everything_can_be_suspect():
    patrol, clock = patrolling(0.0)
    looks(patrol, clock, {"a": 1, "b": 1})
    patrol.suspect_all()
    assert looks(patrol, clock, {"a": 1, "b": 1}) == ["a", "b"]
