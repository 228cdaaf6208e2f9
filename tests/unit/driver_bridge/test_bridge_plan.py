"""Plans for a bridge."""

import dataclasses
from ipaddress import ip_interface

import pytest

from cnm.errors import Conflict, Invalid
from cnm.kernel.rtnl import AddAddress, CreateBridge, DeleteAddress, DeleteLink, Link, SetLink
from cnm_driver_bridge import bridge
from cnm_driver_bridge.bridge import BridgeFound, Setting, mark, plan_bridge


def everything(network, *, ours=True, value="?"):
    return {setting.name: value for setting in bridge.settings(network, ours=ours)}


def carry_out(found, steps, network):
    """Return what a kernel would show after these steps."""
    for step in steps:
        match step:
            case CreateBridge(name=name, alias=alias, up=up):
                link = Link(7, name, kind="bridge", alias=alias, up=up, mtu=1500)
                found = dataclasses.replace(found, link=link, settings={**everything(network), **found.settings})
            case SetLink(up=up, mtu=mtu):
                link = dataclasses.replace(found.link, up=found.link.up or bool(up), mtu=mtu or found.link.mtu)
                found = dataclasses.replace(found, link=link)
            case AddAddress(interface=interface):
                found = dataclasses.replace(found, addresses=found.addresses | {interface})
            case DeleteAddress(interface=interface):
                found = dataclasses.replace(found, addresses=found.addresses - {interface})
            case Setting(name=name, value=value):
                found = dataclasses.replace(found, settings={**found.settings, name: value})
    return found


def test_a_missing_bridge_is_made_first_and_finished_by_the_next_plan(make_network):
    network = make_network()
    first = plan_bridge(network, BridgeFound(settings=everything(network)))
    assert isinstance(first[-1], CreateBridge)
    assert not any(isinstance(step, AddAddress) for step in first)
    found = carry_out(BridgeFound(settings={}), first, network)
    second = [str(step) for step in plan_bridge(network, found)]
    assert second[-4:] == [
        "ip addr add 10.1.0.1/24 dev index 7",
        "ip addr add fd00:1::1/64 dev index 7 nodad",
        "ip addr add fe80::1/64 dev index 7 scope link nodad",
        "ip link set index 7 up",
    ]


@pytest.mark.parametrize(
    "more", [{}, {"internal": True}, {"enable_ipv6": False, "bridge_addresses": []}, {"mtu": 1400}]
)
def test_a_plan_applied_twice_plans_nothing(make_network, more):
    network = make_network(**more)
    found = BridgeFound()
    for _ in range(3):
        found = carry_out(found, plan_bridge(network, found), network)
    assert plan_bridge(network, found) == ()


def test_settings_come_before_the_bridge_is_up(make_network):
    network = make_network()
    created = plan_bridge(network, BridgeFound())[-1]
    assert not created.up


def test_a_users_bridge_keeps_its_own_settings(make_network):
    network = make_network(enable_ipv6=False)
    names = {setting.name for setting in bridge.settings(network, ours=False)}
    assert not any("/ipv6/conf/br-1/" in name for name in names)


def test_an_optional_setting_that_the_kernel_lacks_is_left_out(make_network):
    steps = plan_bridge(make_network(), BridgeFound())
    assert not any("bridge-nf" in str(step) for step in steps)
    assert "sysctl -w net.ipv4.ip_forward=1" in map(str, steps)


def test_a_strangers_device_is_refused(make_network):
    with pytest.raises(Conflict, match="br-1 exists and is no bridge but a dummy"):
        plan_bridge(make_network(), BridgeFound(Link(7, "br-1", kind="dummy")))
    with pytest.raises(Conflict, match=f"belongs to network {'a' * 64}"):
        plan_bridge(make_network(), BridgeFound(Link(7, "br-1", kind="bridge", alias=mark("a" * 64))))


def test_every_fault_of_a_network_is_named(make_network):
    with pytest.raises(Invalid) as caught:
        bridge.check(make_network(bridge="no such/name", mtu=12, enable_ipv6=False))
    fields = [fault["field"] for fault in caught.value.details["fields"]]
    assert fields == ["network.bridge", "network.mtu", "network.bridge_addresses[1]"]


def test_each_step_knows_its_undo(make_network):
    address = make_network().bridge_addresses[0]
    assert bridge.undo(CreateBridge("br-1")) == DeleteLink("br-1")
    assert bridge.undo(AddAddress(7, address)) == DeleteAddress(7, address)
    assert bridge.undo(SetLink(7, up=True)) == SetLink(7, up=False)
    assert bridge.undo(Setting("net/ipv4/ip_forward", "1", "0")).value == "0"
    assert bridge.undo(Setting("net/ipv4/ip_forward", "1")) is None


@pytest.mark.parametrize("alias", ["", "mine", "cnm:", "cnm:short", "cnm:" + "G" * 64, "a" * 64])
def test_only_our_mark_is_our_mark(alias):
    assert bridge.marked(Link(7, "br-1", alias=alias)) is None


def test_the_bridges_mac_is_the_networks_own(make_network):
    assert bridge.bridge_mac("0123456789" + "f" * 54) == "02:42:01:23:45:67"


def test_addresses_that_are_gone_are_taken_away_and_strangers_stay(make_network):
    network = make_network()
    gone, wanted = ip_interface("10.2.0.1/24"), network.bridge_addresses[0]
    found = BridgeFound()
    for _ in range(3):
        found = carry_out(found, plan_bridge(network, found), network)
    stranger = ip_interface("10.3.0.1/24")
    found = dataclasses.replace(found, addresses=found.addresses | {gone, stranger})
    steps = plan_bridge(network, found, [gone, wanted])
    assert [str(step) for step in steps] == ["ip addr del 10.2.0.1/24 dev index 7"]
    assert plan_bridge(network, carry_out(found, steps, network), [gone, wanted]) == ()
    assert str(bridge.undo(steps[0])) == "ip addr add 10.2.0.1/24 dev index 7"
    users = dataclasses.replace(found, link=dataclasses.replace(found.link, alias=""))
    assert plan_bridge(network, users, [gone]) == ()
