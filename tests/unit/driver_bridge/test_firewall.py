"""Rules and the transactions that lead to them, as text."""

from hypothesis import given
from hypothesis import strategies as st

from cnm_driver_bridge import firewall
from cnm_driver_bridge.firewall import NOTHING, Member, Ruleset, block, frame, owned, plan, with_blocks, without

KEY = "3d5b4b33cdd4"


def rules(block_, name):
    return [rule.text for chain in block_.chains if chain.name == name for rule in chain.rules]


def named(make_network, **more):
    return make_network(network_id=KEY + "0" * 52, **more)


def test_what_enters_a_network(make_network):
    assert rules(block(named(make_network)), f"to-{KEY}") == [
        "ct state established,related accept",
        "ct status dnat accept",
        'iifname "br-1" accept',
        f"iifname @bridges meta l4proto tcp counter name isolation-{KEY} reject with tcp reset",
        f"iifname @bridges counter name isolation-{KEY} reject with icmpx type admin-prohibited",
        f"counter name direct-{KEY} drop",
    ]


def test_what_leaves_a_network_is_masqueraded(make_network):
    assert rules(block(named(make_network)), f"nat-{KEY}") == [
        'oifname != "br-1" ip saddr 10.1.0.0/24 masquerade',
        'oifname != "br-1" ip6 saddr fd00:1::/64 masquerade',
    ]
    assert rules(block(named(make_network, masquerade=False)), f"nat-{KEY}") == []


def test_without_icc_peers_are_refused_but_published_ports_are_not(make_network):
    to = rules(block(named(make_network, icc=False)), f"to-{KEY}")
    assert to.index("ct status dnat accept") < to.index(
        f'iifname "br-1" counter name icc-{KEY} reject with icmpx type admin-prohibited'
    )
    assert 'iifname "br-1" accept' not in to


def test_an_internal_network_is_closed_on_both_sides_and_has_no_nat(make_network):
    made = block(named(make_network, internal=True))
    assert rules(made, f"to-{KEY}") == [
        'iifname "br-1" accept',
        f"meta l4proto tcp counter name internal-{KEY} reject with tcp reset",
        f"counter name internal-{KEY} reject with icmpx type admin-prohibited",
    ]
    assert rules(made, f"from-{KEY}")[0].startswith('oifname != "br-1" meta l4proto tcp')
    assert not any(chain.table == "cnm_nat" for chain in made.chains)


def test_the_users_chain_comes_first_and_is_never_touched(make_network):
    lines = plan([frame(), block(make_network())], NOTHING)
    assert "add chain inet cnm_filter cnm-user" in lines
    rules_of_forward = [line for line in lines if line.startswith("add rule inet cnm_filter forward")]
    assert "jump cnm-user" in rules_of_forward[0]
    found = with_blocks(NOTHING, [frame(), block(make_network())])
    theirs = {**found.chains, ("cnm_filter", "cnm-user"): (None, "mine")}
    found = Ruleset(theirs, found.containers, found.counters, found.members)
    assert plan([frame()], found, owned(found, lambda _: True)) != ()
    assert not any("cnm-user" in line for line in plan([frame()], found, owned(found, lambda _: True)))


def test_comments_name_the_network_and_fit_the_kernel(make_network):
    long = make_network(name='x"; flush ruleset' * 20)
    for chain in block(long).chains:
        for rule in chain.rules:
            assert len(rule.comment) <= 128
            assert '"' not in rule.comment
            assert firewall.short(long.network_id) in rule.comment


def test_a_changed_network_changes_only_its_own_chains(make_network):
    before = with_blocks(NOTHING, [frame(), block(make_network(1)), block(make_network(2))])
    lines = plan([frame(), block(make_network(1, masquerade=False)), block(make_network(2))], before)
    assert lines == (f"flush chain inet cnm_nat nat-{firewall.short(make_network(1).network_id)}",)


def test_a_rule_of_somebody_else_in_our_chain_is_found_out(make_network):
    wanted = [frame(), block(make_network())]
    found = with_blocks(NOTHING, wanted)
    at = ("cnm_filter", f"to-{firewall.short(make_network().network_id)}")
    spoilt = Ruleset({**found.chains, at: (None, *found.chains[at])}, found.containers, found.counters, found.members)
    assert plan(wanted, spoilt)[0] == f"flush chain inet cnm_filter {at[1]}"


def test_an_element_that_leads_elsewhere_is_replaced(make_network):
    wanted = [frame(), block(make_network())]
    found = with_blocks(NOTHING, wanted)
    right = next(member for member in found.members if member.container == "to_network")
    wrong = Member(right.table, right.container, right.key, "to-000000000000")
    chains = {**found.chains, ("cnm_filter", "to-000000000000"): ()}
    spoilt = Ruleset(chains, found.containers, found.counters, found.members - {right} | {wrong})
    assert plan(wanted, spoilt) == (
        'delete element inet cnm_filter to_network { "br-1" }',
        f'add element inet cnm_filter to_network {{ "br-1" : jump {right.jump} }}',
    )
    assert firewall.holder(spoilt, make_network()) == "000000000000"


def test_a_dump_reads_as_what_was_made():
    dump = {
        "nftables": [
            {"metainfo": {}},
            {"table": {"name": "cnm_filter"}},
            {"map": {"table": "cnm_filter", "name": "to_network", "elem": [["br-1", {"jump": {"target": "to-x"}}]]}},
            {"set": {"table": "cnm_nat", "name": "same_bridge", "elem": [{"concat": ["br-1", "br-1"]}]}},
            {
                "set": {
                    "table": "cnm_nat",
                    "name": "bridges",
                    "elem": [{"elem": {"val": "br-1", "comment": "c"}}, "br-2"],
                }
            },
            {"counter": {"table": "cnm_filter", "name": "direct-x"}},
            {"chain": {"table": "cnm_filter", "name": "to-x"}},
            {"rule": {"table": "cnm_filter", "chain": "to-x", "comment": "c"}},
            {"rule": {"table": "cnm_filter", "chain": "to-x"}},
        ]
    }
    found = firewall.parse([dump])
    assert found.chains == {("cnm_filter", "to-x"): ("c", None)}
    assert found.counters == {"direct-x"}
    assert found.members == {
        Member("cnm_filter", "to_network", ("br-1",), "to-x"),
        Member("cnm_nat", "same_bridge", ("br-1", "br-1")),
        Member("cnm_nat", "bridges", ("br-1",)),
        Member("cnm_nat", "bridges", ("br-2",)),
    }


numbers = st.sets(st.integers(1, 9), max_size=4)
kinds = st.fixed_dictionaries({"internal": st.booleans(), "icc": st.booleans(), "masquerade": st.booleans()})


@given(
    before=st.dictionaries(st.integers(1, 9), kinds), after=st.dictionaries(st.integers(1, 9), kinds), keep=numbers
)
def test_any_state_becomes_any_other_and_then_rests(make_network_plain, before, after, keep):
    networks = {number: make_network_plain(number, **kind) for number, kind in after.items() if number not in keep}
    kept = {firewall.short(make_network_plain(number).network_id) for number in keep}
    blocks = [frame(), *map(block, networks.values())]
    found = with_blocks(NOTHING, [frame(), *(block(make_network_plain(n, **kind)) for n, kind in before.items())])
    stale = owned(found, lambda owner: owner not in kept)
    plan(blocks, found, stale)
    # A block replaces its chains whole, and what the network no longer needs is stale.
    wanted = with_blocks(NOTHING, blocks)
    gone = Ruleset(
        {at: comments for at, comments in stale.chains.items() if at not in wanted.chains},
        frozenset(),
        stale.counters - wanted.counters,
        stale.members - wanted.members,
    )
    after_it = with_blocks(without(found, gone), blocks)
    assert plan(blocks, after_it, owned(after_it, lambda owner: owner not in kept)) == ()
    for number in keep & set(before):
        kept_block = block(make_network_plain(number, **before[number]))
        assert set(kept_block.members) <= after_it.members
