"""Rows G01, G03 and G10 as decisions: which steps lead to the default routes wanted."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm.kernel.route import AddRoute, Route
from cnm.messages.namespace import Gateway
from cnm_sandbox.gateway import EVERYWHERE, METRIC, Hop, find, plan


def hop(address, index=2):
    return Hop(Gateway(ifname=f"eth{index}", address=ip_address(address)), index)


def route(gateway, index=2, metric=None, **more):
    version = ip_address(gateway).version
    metric = METRIC[version] if metric is None else metric
    return Route(EVERYWHERE[version], gateway=ip_address(gateway), index=index, metric=metric, **more)


@pytest.mark.parametrize(
    ("hops", "routes", "steps"),
    [
        ([], [], []),
        ([hop("10.0.0.1")], [], ["ip route replace default via 10.0.0.1 dev index 2"]),
        ([hop("10.0.0.1")], [route("10.0.0.1")], []),
        ([hop("10.0.0.1", 3)], [route("10.0.0.1")], ["ip route replace default via 10.0.0.1 dev index 3"]),
        ([hop("10.0.0.9")], [route("10.0.0.1")], ["ip route replace default via 10.0.0.9 dev index 2"]),
        ([], [route("10.0.0.1")], ["ip route del 0.0.0.0/0 via 10.0.0.1 dev index 2"]),
        ([], [route("fd00::1")], ["ip route del ::/0 via fd00::1 dev index 2 metric 1024"]),
        (
            [hop("fd00::1"), hop("10.0.0.1")],
            [],
            ["ip route replace default via 10.0.0.1 dev index 2", "ip route replace default via fd00::1 dev index 2"],
        ),
        (
            [hop("10.0.0.1")],
            [route("10.0.0.1"), route("10.0.0.2", metric=7)],
            ["ip route del 0.0.0.0/0 via 10.0.0.2 dev index 2 metric 7"],
        ),
        (
            [hop("10.0.0.9")],
            [route("10.0.0.1", metric=5)],
            [
                "ip route replace default via 10.0.0.9 dev index 2",
                "ip route del 0.0.0.0/0 via 10.0.0.1 dev index 2 metric 5",
            ],
        ),
        ([], [Route(ip_network("10.0.0.0/8"), index=2)], []),
        ([], [route("fe80::1", protocol=9)], []),
        ([], [Route(EVERYWHERE[6], index=1, metric=2**32 - 1, kind=7)], []),
    ],
)
def test_plan(hops, routes, steps):
    assert [str(step) for step in plan(hops, routes)] == steps


def test_family_that_waits_is_left_alone():
    assert plan([], [route("10.0.0.1"), route("fd00::1")], versions=[4]) == plan([], [route("10.0.0.1")])


def test_gateways_without_interface_are_told():
    here, away = hop("10.0.0.1").gateway, hop("fd00::1", 3).gateway
    assert find([here, away], {"eth2": 7}) == ((Hop(here, 7),), (away,))


addresses = st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"])
routes = st.lists(st.builds(route, addresses, st.integers(2, 3), st.sampled_from([None, 7])), unique=True)
hops = st.lists(st.builds(hop, addresses, st.integers(2, 3)), unique_by=lambda each: each.gateway.address.version)


@given(hops, routes)
def test_plan_leads_to_exactly_what_is_wanted_and_then_plans_nothing(wanted, standing):
    after = list(standing)
    for step in plan(wanted, standing):
        version = (step.destination or step.gateway).version
        if isinstance(step, AddRoute):
            metric = METRIC[version]
            place = [each for each in after if each.destination.version == version and each.metric == metric]
            after = [each for each in after if each not in place[:1]]
            after.append(route(str(step.gateway), step.index))
        else:
            after = [
                each
                for each in after
                if (each.destination, each.gateway, each.index) != (step.destination, step.gateway, step.index)
                or each.metric != (step.metric or 0)
            ]
    found = {(each.gateway, each.index) for each in after}
    assert found == {(each.gateway.address, each.index) for each in wanted}
    assert len(after) == len(wanted)
    assert plan(wanted, after) == ()
