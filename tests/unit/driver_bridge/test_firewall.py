"""Rules, elements, and the changes that lead to them, as text."""

from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm.messages.bridge import OpenPort
from cnm_driver_bridge import firewall
from cnm_driver_bridge.blocks import Member, block, owner_of, ports_block, short
from cnm_driver_bridge.firewall import frame_lines, plan
from cnm_driver_bridge.frame import CHAINS, STRANGERS
from cnm_driver_bridge.standing import Standing, parse

from .conftest import whole

KEY = "3d5b4b33cdd4"


def named(make_network, **more):
    return make_network(network_id=KEY + "0" * 52, **more)


def elements(found):
    return sorted(f"{each.table} {each.container} {each}" for each in found.members)


def standing(*blocks):
    found = whole()
    firewall.carry_out(plan(blocks, found), found)
    return found


def rules(name):
    return [rule.text for chain in CHAINS if chain.name == name for rule in chain.rules]


def test_a_network_is_elements(make_network):
    assert elements(block(named(make_network))) == [
        'cnm_filter bridges "br-1"',
        f'cnm_filter direct_drops "br-1" : "direct-{KEY}"',
        f'cnm_filter isolation_drops "br-1" : "isolation-{KEY}"',
        'cnm_filter same_bridge "br-1" . "br-1"',
        'cnm_nat bridges "br-1"',
        'cnm_nat masquerade4 "br-1" . 10.1.0.0-10.1.0.255',
        'cnm_nat masquerade6 "br-1" . fd00:1::-fd00:1::ffff:ffff:ffff:ffff',
        'cnm_nat same_bridge "br-1" . "br-1"',
    ]
    assert block(named(make_network)).counters == {f"direct-{KEY}", f"isolation-{KEY}"}


@pytest.mark.parametrize(
    ("options", "more", "less"),
    [
        ({"masquerade": False}, [], ["masquerade4", "masquerade6"]),
        ({"icc": False}, ["icc_off", "icc_drops"], []),
        ({"ipv4_mode": "nat-unprotected"}, ["open4"], []),
        ({"ipv4_mode": "routed"}, ["routed4"], ["masquerade4"]),
        ({"ipv6_mode": "routed"}, ["routed6"], ["masquerade6"]),
        ({"snat_ipv4": ip_address("192.0.2.9")}, ["snat4"], []),
        ({"snat_ipv6": ip_address("2001:db8::9")}, ["snat6"], []),
        ({"trusted": ["wg0"]}, ["trusted"], []),
    ],
)
def test_an_option_is_an_element_more_or_less(make_network, options, more, less):
    plain, special = block(named(make_network)).members, block(named(make_network, **options)).members
    assert sorted(each.container for each in special - plain) == sorted(more)
    assert sorted(each.container for each in plain - special) == sorted(less)


def test_an_internal_network_has_no_nat_and_is_closed_on_both_sides(make_network):
    made = block(named(make_network, internal=True, ipv4_mode="nat-unprotected", trusted=["eth0"]))
    assert elements(made) == [
        'cnm_filter bridges "br-1"',
        'cnm_filter internal "br-1"',
        f'cnm_filter internal_drops "br-1" : "internal-{KEY}"',
        'cnm_filter same_bridge "br-1" . "br-1"',
    ]
    assert rules("forward").index("iifname @internal iifname . oifname != @same_bridge goto leave-internal") < rules(
        "forward"
    ).index("oifname @bridges goto enter")


def test_open_ports_are_elements_of_their_family(make_network, make_attachment):
    point = make_attachment(
        named(make_network),
        addresses=[ip_interface("10.1.0.2/24"), ip_interface("fd00:1::2/64")],
        open_ports=[
            OpenPort(protocol="tcp", first=80, last=80),
            OpenPort(protocol="udp", first=5000, last=5009, version=4),
        ],
    )
    made = ports_block(point)
    assert made.owner == f"{KEY}/{point.endpoint_id[:12]}"
    assert elements(made) == [
        'cnm_filter ports4 "br-1" . 10.1.0.2 . tcp . 80',
        'cnm_filter ports4 "br-1" . 10.1.0.2 . udp . 5000-5009',
        'cnm_filter ports6 "br-1" . fd00:1::2 . tcp . 80',
    ]


def test_replies_are_let_through_before_anything_is_refused_and_published_ports_too():
    enter = rules("enter")
    refusals = [place for place, text in enumerate(enter) if "isolation" in text or "drop" in text]
    assert max(enter.index("ct state established,related accept"), enter.index("ct status dnat accept")) < min(
        refusals
    )
    assert enter[-1] == "drop"


def test_the_users_chain_comes_first_and_is_never_touched():
    lines = frame_lines(Standing())
    assert "add chain inet cnm_filter cnm-user" in lines
    assert rules("forward")[0] == "jump cnm-user"
    found = whole()
    found.chains["cnm_filter", "cnm-user"] = (None, "mine")
    assert frame_lines(found) == ()


def test_a_frame_that_is_whole_needs_nothing():
    assert frame_lines(whole()) == ()


def test_what_is_not_to_be_forwarded_comes_back_with_its_set_only():
    line = "add element inet cnm_filter closed { ipv4 }"
    assert line in frame_lines(Standing(), ["ipv4"])
    assert frame_lines(whole(), ["ipv4"]) == ()


def test_a_chain_with_a_strangers_rule_is_filled_anew_and_no_other():
    found = whole()
    found.chains["cnm_filter", "enter"] = (None, *found.chains["cnm_filter", "enter"])
    lines = frame_lines(found)
    assert lines[0] == "flush chain inet cnm_filter enter"
    assert all(" enter " in line for line in lines[1:])
    assert len(lines) == 1 + len(rules("enter"))


def test_what_the_first_version_left_goes():
    found = whole()
    found.chains |= {("cnm_filter", f"to-{KEY}"): ("x",), ("cnm_nat", f"nat-{KEY}"): (), ("cnm_filter", "mine"): ()}
    found.containers |= {("cnm_filter", "to_network"), ("cnm_nat", "nat_from")}
    assert frame_lines(found) == (
        "delete map inet cnm_filter to_network",
        "delete map inet cnm_nat nat_from",
        f"flush chain inet cnm_filter to-{KEY}",
        f"flush chain inet cnm_nat nat-{KEY}",
        f"delete chain inet cnm_filter to-{KEY}",
        f"delete chain inet cnm_nat nat-{KEY}",
    )


def test_comments_name_owner_and_network_and_fit_the_kernel(make_network):
    made = block(named(make_network, name='x"; flush ruleset' * 20))
    assert len(made.comment) <= 127
    assert '"' not in made.comment
    assert owner_of(made.comment) == KEY
    assert all(len(rule.comment) <= 127 for chain in CHAINS for rule in chain.rules or ())


@pytest.mark.parametrize("comment", [None, "", "mine", "cnm", "cnm xyz", f"{KEY} cnm", f"cnm {KEY}x"])
def test_other_comments_name_nobody(comment):
    assert owner_of(comment) == ""


def test_a_change_is_written_as_nft_reads_it(make_network):
    lines = plan([block(named(make_network, subnets=[ip_network("10.1.0.0/24")]))], whole()).lines()
    comment = f"cnm {KEY} network net1"
    assert lines[0] == f'add counter inet cnm_filter direct-{KEY} {{ comment "{comment}"; }}'
    assert f'add element inet cnm_filter bridges {{ "br-1" comment "{comment}" }}' in lines
    assert f'add element inet cnm_filter direct_drops {{ "br-1" comment "{comment}" : "direct-{KEY}" }}' in lines


def test_a_changed_network_changes_only_its_own_elements(make_network):
    found = standing(block(make_network(1)), block(make_network(2)))
    change = plan([block(make_network(1, masquerade=False)), block(make_network(2))], found)
    assert [each.container for each in change.delete] == ["masquerade4", "masquerade6"]
    assert (change.add, change.add_counters, change.delete_counters) == ((), (), ())


def test_an_element_that_leads_elsewhere_is_replaced(make_network):
    network = block(named(make_network))
    found = standing(network)
    right = next(each for each in network.members if each.container == "direct_drops")
    found.discard(right)
    found.add(Member(right.table, right.container, right.key, "direct-000000000000"), "")
    change = plan([network], found)
    assert [each.value for each in change.delete] == ["direct-000000000000"]
    assert [each for each, _ in change.add] == [right]


def test_what_an_owner_has_no_more_goes_with_its_counters(make_network):
    mine, other = block(named(make_network)), block(make_network(2))
    found = standing(mine, other)
    change = plan([], found, [KEY])
    assert set(change.delete) == mine.members
    assert set(change.delete_counters) == mine.counters
    firewall.carry_out(change, found)
    assert set(found.members) == other.members
    assert found.bridges == {"br-2": other.owner}


def test_a_dump_reads_as_what_was_made():
    def thing(kind, table, name, *elem):
        return {kind: {"table": table, "name": name, "elem": list(elem)}}

    def about(val, comment):
        return {"elem": {"val": val, "comment": comment}}

    dump = {
        "nftables": [
            {"metainfo": {}},
            {"table": {"name": "cnm_filter"}},
            thing("map", "cnm_filter", "direct_drops", [about("br-1", f"cnm {KEY} network n"), f"direct-{KEY}"]),
            thing("set", "cnm_nat", "same_bridge", {"concat": ["br-1", "br-1"]}),
            thing(
                "set",
                "cnm_nat",
                "masquerade4",
                {"concat": ["br-1", {"prefix": {"addr": "10.0.0.0", "len": 8}}]},
                {"concat": ["br-1", {"range": ["10.0.0.0", "10.0.0.2"]}]},
                {"concat": ["br-1", "10.0.0.9"]},
            ),
            thing(
                "set", "cnm_filter", "ports6",
                {"concat": ["br-1", "fd00::2", "tcp", 80]}, {"concat": ["br-1", "fd00::2", "udp", {"range": [1, 9]}]},
            ),
            thing("set", "cnm_filter", "closed", "ipv4"),
            thing("set", "cnm_filter", "somebodys", "x"),
            {"counter": {"table": "cnm_filter", "name": f"direct-{KEY}"}},
            {"chain": {"table": "cnm_filter", "name": "enter"}},
            {"rule": {"table": "cnm_filter", "chain": "enter", "comment": "c"}},
            {"rule": {"table": "cnm_filter", "chain": "enter"}},
        ]
    }  # fmt: skip
    found = parse([dump])
    assert found.chains == {("cnm_filter", "enter"): ("c", None)}
    assert found.counters == {f"direct-{KEY}"}
    assert found.closed == {"ipv4"}
    first = Member("cnm_filter", "direct_drops", ("br-1",), f"direct-{KEY}")
    assert found.owned[KEY] == {first}

    def source(one, other):
        return Member("cnm_nat", "masquerade4", ("br-1", (ip_address(one), ip_address(other))))

    def ports(protocol, *ends):
        return Member("cnm_filter", "ports6", ("br-1", (ip_address("fd00::2"),) * 2, protocol, ends))

    assert set(found.members) == {
        first,
        Member("cnm_nat", "same_bridge", ("br-1", "br-1")),
        source("10.0.0.0", "10.255.255.255"),
        source("10.0.0.0", "10.0.0.2"),
        source("10.0.0.9", "10.0.0.9"),
        ports("tcp", 80, 80),
        ports("udp", 1, 9),
    }


kinds = st.fixed_dictionaries(
    {
        "internal": st.booleans(),
        "icc": st.booleans(),
        "masquerade": st.booleans(),
        "ipv4_mode": st.sampled_from(["nat", "nat-unprotected", "routed"]),
        "trusted": st.sampled_from([[], ["eth0"], ["eth0", "wg0"]]),
    }
)


@given(
    before=st.dictionaries(st.integers(1, 9), kinds),
    after=st.dictionaries(st.integers(1, 9), kinds),
    keep=st.sets(st.integers(1, 9), max_size=4),
)
def test_any_state_becomes_any_other_and_then_rests(make_network_plain, before, after, keep):
    def blocks(kinds):
        return [block(make_network_plain(number, **kind)) for number, kind in kinds.items()]

    found = standing(*blocks(before))
    wanted = blocks({number: kind for number, kind in after.items() if number not in keep})
    kept = {short(make_network_plain(number).network_id) for number in keep}

    def stale():
        return [owner for owner in found.owned if owner not in kept]

    firewall.carry_out(plan(wanted, found, stale()), found)
    assert not plan(wanted, found, stale())
    remaining = blocks({number: kind for number, kind in before.items() if number in keep})
    assert set(found.members) == {member for each in (*wanted, *remaining) for member in each.members}
    assert found.counters == {STRANGERS} | {name for each in (*wanted, *remaining) for name in each.counters}
