"""Which host port each want gets."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm.errors import Conflict, Exhausted
from cnm_port_mapper.binding import Place, Want
from cnm_port_mapper.placement import Automatic, Collision, PlaceMap, place

V4, V6 = ip_address("0.0.0.0"), ip_address("::")
ONE, TWO = ip_address("10.0.0.1"), ip_address("10.0.0.2")
AUTOMATIC = Automatic(40000, 40009)


def fixed(port, *, count=1, protocol="tcp", addresses=(V4, V6)):
    return Want(protocol, addresses, 80, count, port, port + count - 1)


def within(first, last, *, count=1, addresses=(V4, V6)):
    return Want("tcp", addresses, 80, count, first, last)


def automatic(*, count=1, protocol="tcp"):
    return Want(protocol, (V4, V6), 80, count)


def choose(*wants, held=(), after=None, former=(), ports=AUTOMATIC):
    occupied = PlaceMap()
    occupied.put([Place("tcp", address, port) for address, port in held], "sandbox 'web'")
    return place(wants, taken=occupied.collision, automatic=ports, after=after or {}, former=former)


@pytest.mark.parametrize(
    ("wants", "held", "ports"),
    [
        ([fixed(80)], [], (80,)),
        ([within(80, 82)], [], (80,)),
        ([within(80, 82)], [(V4, 80)], (81,)),
        ([within(80, 82)], [(V6, 80)], (81,)),
        ([within(80, 82)], [(ONE, 80)], (81,)),
        ([within(80, 82, addresses=(ONE,))], [(TWO, 80)], (80,)),
        ([within(80, 89, count=3)], [(V4, 81), (V4, 85)], (82,)),
        ([within(80, 81), fixed(80)], [], (81, 80)),
        ([automatic(), fixed(40000)], [], (40001, 40000)),
        ([automatic(), within(40000, 40001)], [], (40001, 40000)),
        ([within(80, 99), within(80, 81)], [], (81, 80)),
        ([automatic(), automatic(), automatic(protocol="udp")], [], (40000, 40001, 40000)),
        ([automatic(count=3)], [(V4, 40001)], (40002,)),
        ([fixed(80, addresses=(ONE,)), fixed(80, addresses=(TWO,))], [], (80, 80)),
        ([fixed(80), fixed(80, protocol="udp")], [], (80, 80)),
    ],
)
def test_ports_are_chosen(wants, held, ports):
    assert choose(*wants, held=held) == ports


@pytest.mark.parametrize(
    ("wants", "held", "message"),
    [
        ([fixed(80)], [(V4, 80)], "host port 0.0.0.0:80/tcp is taken by sandbox 'web'"),
        ([fixed(80)], [(V6, 80)], "host port [::]:80/tcp is taken by sandbox 'web'"),
        ([fixed(80)], [(ONE, 80)], "host port 0.0.0.0:80/tcp is taken by sandbox 'web'"),
        ([fixed(80, addresses=(ONE,))], [(V4, 80)], "host port 10.0.0.1:80/tcp is taken by sandbox 'web'"),
        ([fixed(80, count=3)], [(V4, 82)], "host port 0.0.0.0:82/tcp is taken by sandbox 'web'"),
        ([fixed(80), fixed(80)], [], "host port 0.0.0.0:80/tcp is taken by this very request"),
    ],
)
def test_conflict_names_place_and_holder(wants, held, message):
    with pytest.raises(Conflict) as refused:
        choose(*wants, held=held)
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("wants", "message"),
    [
        ([within(80, 81)] * 3, "no free host port in 80-81/tcp on 0.0.0.0 and ::"),
        ([within(80, 84, count=3)] * 2, "no 3 consecutive free host ports in 80-84/tcp on 0.0.0.0 and ::"),
        ([automatic()] * 11, "no free host port in 40000-40009/tcp on 0.0.0.0 and ::"),
    ],
)
def test_exhausted_range_is_told(wants, message):
    with pytest.raises(Exhausted) as refused:
        choose(*wants)
    assert refused.value.message == message


@pytest.mark.parametrize(("last", "port"), [(None, 40000), (40003, 40004), (40009, 40000), (50000, 40000)])
def test_automatic_choice_goes_on_after_the_last_and_wraps(last, port):
    assert choose(automatic(), after={} if last is None else {"tcp": last}) == (port,)
    assert choose(automatic(protocol="udp"), after={} if last is None else {"tcp": last}) == (40000,)


def test_reserved_ports_are_left_out_of_automatic_choice_alone():
    ports = Automatic.parse("40000\t40009\n", "40000-40001,40003\n")
    assert choose(automatic(), automatic(), ports=ports) == (40002, 40004)
    assert choose(fixed(40000), within(40001, 40001), ports=ports) == (40000, 40001)


def test_equal_wants_get_their_former_ports_again():
    former = [(automatic(), 40005), (automatic(), 40007), (within(80, 89), 85)]
    wants = (automatic(), within(80, 89), automatic(), automatic())
    assert choose(*wants, former=former) == (40005, 85, 40007, 40000)
    assert choose(automatic(), held=[(V4, 40005)], former=former[:1]) == (40000,)
    assert choose(automatic(), fixed(40005), former=former[:1]) == (40000, 40005)


def test_place_is_found_by_whatever_meets_it_and_may_be_put_twice():
    occupied = PlaceMap()
    here = Place("tcp", V4, 80)
    for _ in range(2):
        occupied.put([here], "a")
    assert occupied.collision(Place("tcp", ONE, 80)) == Collision(Place("tcp", ONE, 80), "a")
    assert occupied.collision(here, besides="a") is None
    for _ in range(2):
        occupied.drop([here])
    assert occupied.collision(here) is None


@pytest.mark.parametrize(
    ("asked", "shared"),
    [
        (Place("udp", ONE, 100, 50), Place("udp", ONE, 100, 50)),
        (Place("udp", V4, 90, 20), Place("udp", V4, 100, 10)),
        (Place("udp", V4, 190, 20), Place("udp", V4, 190, 10)),
        (Place("udp", TWO, 199), Place("udp", TWO, 199)),
        (Place("udp", V4, 200), None),
        (Place("udp", V4, 90, 10), None),
        (Place("tcp", V4, 150), None),
        (Place("udp", V6, 150), None),
    ],
)
def test_ports_in_a_row_are_found_by_each_of_them(asked, shared):
    occupied = PlaceMap()
    occupied.put([Place("udp", V4, 100, 100)], "a")
    found = occupied.collision(asked)
    assert (found and found.place) == shared
    occupied.drop([Place("udp", V4, 100, 100)])
    assert occupied.collision(asked) is None


def test_single_port_is_found_by_a_row_about_it():
    occupied = PlaceMap()
    occupied.put([Place("tcp", ONE, 85)], "a")
    assert occupied.collision(Place("tcp", V4, 80, 10)) == Collision(Place("tcp", V4, 85), "a")
    assert occupied.collision(Place("tcp", TWO, 80, 10)) is None


addresses = st.sampled_from([(V4, V6), (V4,), (V6,), (ONE,), (TWO,)])
wants = st.builds(
    lambda protocol, where, count, first, spare: Want(
        protocol, where, 80, count, first, None if first is None else first + count - 1 + spare
    ),
    st.sampled_from(["tcp", "udp"]),
    addresses,
    st.integers(1, 3),
    st.none() | st.integers(39998, 40006),
    st.integers(0, 4),
)


@given(st.lists(wants, max_size=8), st.integers(39990, 40020))
def test_whatever_is_chosen_is_within_bounds_and_never_overlaps(asked, last):
    try:
        ports = choose(*asked, after={"tcp": last})
    except (Conflict, Exhausted):
        return
    places = [here for want, first in zip(asked, ports, strict=True) for here in want.places(first)]
    for index, here in enumerate(places):
        assert not any(here.overlaps(other) for other in places[index + 1 :])
    for want, first in zip(asked, ports, strict=True):
        low, high = (40000, 40009) if want.first is None else (want.first, want.last)
        assert low <= first <= first + want.count - 1 <= high


@given(st.lists(wants, max_size=6))
def test_choosing_again_chooses_the_same(asked):
    try:
        ports = choose(*asked)
    except (Conflict, Exhausted):
        return
    former = list(zip(asked, ports, strict=True))
    assert sorted(choose(*asked, former=former, after={"tcp": 40004})) == sorted(ports)
