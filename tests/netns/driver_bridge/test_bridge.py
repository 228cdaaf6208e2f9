"""Bridges, their settings and rules, as ``ip``, ``nft`` and /proc see them."""

import ipaddress
import os

import msgspec
import pytest

from cnm.errors import Conflict, Invalid, Unsupported
from cnm.kernel import sysctl
from cnm.kernel.rtnl import AddAddress, CreateBridge, CreateVeth, Rtnl


def addresses(shell, host, name):
    (link,) = [link for link in shell.ip(host, "addr", "show") if link["ifname"] == name]
    return {f"{each['local']}/{each['prefixlen']}" for each in link["addr_info"]}


def test_a_bridge_stands_with_its_addresses_and_our_mark(driver, make_network, shell, host):
    network = make_network(1, mtu=1400)
    driver.ensure(network)
    link = shell.link(host, network.bridge)
    assert link["linkinfo"]["info_kind"] == "bridge"
    assert link["ifalias"] == f"cnm:{network.network_id}"
    assert link["mtu"] == 1400
    assert link["address"].startswith("02:42:")
    assert "UP" in link["flags"]
    assert {"10.1.0.1/24", "fd00:1::1/64", "fe80::1/64"} <= addresses(shell, host, network.bridge)


def test_settings_are_what_a_router_of_containers_needs(driver, make_network, host):
    network = make_network(1)
    driver.ensure(network)
    expected = {
        "net/ipv4/ip_forward": "1",
        "net/ipv6/conf/all/forwarding": "1",
        "net/bridge/bridge-nf-call-iptables": "0",
        "net/bridge/bridge-nf-call-ip6tables": "0",
        f"net/ipv4/conf/{network.bridge}/route_localnet": "1",
        f"net/ipv6/conf/{network.bridge}/accept_ra": "0",
        f"net/ipv6/conf/{network.bridge}/accept_dad": "0",
        f"net/ipv6/conf/{network.bridge}/disable_ipv6": "0",
    }
    assert {name: sysctl.read(name, host) for name in expected} == expected


def test_a_bridge_without_ipv6_has_none(driver, make_network, shell, host):
    network = make_network(1, ipv6=False)
    driver.ensure(network)
    assert addresses(shell, host, network.bridge) == {"10.1.0.1/24"}
    assert sysctl.read(f"net/ipv6/conf/{network.bridge}/disable_ipv6", host) == "1"
    assert sysctl.read("net/ipv6/conf/all/forwarding", host) == "0"


def test_an_internal_network_does_not_turn_the_host_into_a_router(driver, make_network, host):
    driver.ensure(make_network(1, internal=True))
    assert sysctl.read("net/ipv4/ip_forward", host) == "0"


def test_ensuring_twice_changes_nothing(driver, make_network, snapshot):
    network = make_network(1)
    driver.ensure(network)
    before = snapshot()
    driver.ensure(network)
    assert snapshot() == before


def test_nothing_is_left_of_a_removed_network(driver, make_network, make_attachment, left_behind, shell, host):
    network, internal = make_network(1), make_network(2, internal=True, icc=False)
    attachment = make_attachment(network)
    driver.plug(attachment)
    driver.ensure(internal)
    driver.unplug(attachment)
    for each in (network, internal):
        driver.remove(each)
        driver.remove(each)
    assert left_behind(network, internal) == ([], [])
    maps = [entry.get("map") or entry.get("set") for entry in shell.nft(host, "list", "ruleset")]
    assert [each["name"] for each in maps if each and each.get("elem")] == ["closed"]  # the node's, not a network's


def test_the_users_chain_survives_everything(driver, running, make_network, shell, host):
    network = make_network(1)
    driver.ensure(network)
    shell.run(host, "nft", "add", "rule", "inet", "cnm_filter", "cnm-user", "ip", "daddr", "10.1.0.9", "drop")

    def own_rules():
        return [
            entry for entry in shell.nft(host, "list", "chain", "inet", "cnm_filter", "cnm-user") if "rule" in entry
        ]

    assert len(own_rules()) == 1
    before = own_rules()
    driver.remove(network)
    driver.ensure(network)
    driver.converge([network])
    driver.stop()
    running().converge([make_network(2)])
    assert own_rules() == before
    forward = shell.nft(host, "list", "chain", "inet", "cnm_filter", "forward")
    first = next(entry["rule"] for entry in forward if "rule" in entry)
    assert first["expr"] == [{"jump": {"target": "cnm-user"}}]


def test_the_users_chain_is_asked_first(driver, make_network, make_attachment, lan, traffic, shell, host):
    attachment = make_attachment(make_network(1))
    driver.plug(attachment)
    traffic.listen(lan)
    assert traffic.tcp(attachment.namespace, "192.0.2.9") == "open"
    shell.run(host, "nft", "add", "rule", "inet", "cnm_filter", "cnm-user", "ip", "daddr", "192.0.2.9", "reject")
    assert traffic.tcp(attachment.namespace, "192.0.2.9") == "refused"


def test_a_device_that_is_no_bridge_is_refused_by_name(driver, make_network, host, shell):
    with Rtnl.open(host) as rtnl:
        rtnl.send(CreateVeth("br-mine", peer_name="other"))
    network = make_network(1, bridge="br-mine")
    with pytest.raises(Conflict, match="br-mine exists and is no bridge but a veth"):
        driver.ensure(network)
    assert network.network_id[:12] not in shell.run(host, "nft", "list", "ruleset")


def test_a_users_bridge_is_adopted_and_stays(driver, make_network, make_attachment, host, shell):
    with Rtnl.open(host) as rtnl:
        (link,) = rtnl.send(CreateBridge("br-mine"))
        rtnl.send(AddAddress(link.index, ipaddress.ip_interface("10.99.0.1/24")))
        rtnl.send(AddAddress(link.index, ipaddress.ip_interface("fd00:1::1/64")))  # one of the network's, before it
    network = make_network(1, bridge="br-mine")
    attachment = make_attachment(network)
    driver.plug(attachment)
    assert {"10.99.0.1/24", "10.1.0.1/24", "fd00:1::1/64"} <= addresses(shell, host, "br-mine")
    driver.unplug(attachment)
    driver.remove(network)
    assert {"10.99.0.1/24", "fd00:1::1/64"} <= addresses(shell, host, "br-mine")
    assert "10.1.0.1/24" not in addresses(shell, host, "br-mine"), "what we gave goes with the network"
    assert "ifalias" not in shell.link(host, "br-mine")


def test_one_bridge_serves_one_network(driver, make_network, host):
    driver.ensure(make_network(1))
    with pytest.raises(Conflict, match="belongs to network"):
        driver.ensure(make_network(2, bridge=make_network(1).bridge))
    with Rtnl.open(host) as rtnl:
        rtnl.send(CreateBridge("br-mine"))
    driver.ensure(make_network(3, bridge="br-mine"))
    with pytest.raises(Conflict, match="belongs to network"):
        driver.ensure(make_network(4, bridge="br-mine"))


@pytest.mark.parametrize("name", ["", "br 1", 'br"; flush ruleset', "a" * 16, "..", "br/0"])
def test_a_name_that_is_none_reaches_neither_kernel_nor_rules(driver, make_network, name, left_behind):
    network = make_network(1, bridge=name)
    with pytest.raises(Invalid, match="is not an interface name"):
        driver.ensure(network)
    driver.remove(network)
    assert left_behind(network) == ([], [])


def test_what_was_made_is_taken_back_when_a_later_step_fails(driver, make_network, left_behind):
    clash = make_network(1, bridge_addresses=[ipaddress.ip_interface("ff02::9/64")])
    with pytest.raises(Invalid):
        driver.ensure(clash)
    assert left_behind(clash) == ([], [])


def test_two_thousand_open_files_do_not_end_the_driver(driver, make_network, make_attachment):
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(2000)]
    try:
        network = make_network(1)
        driver.plug(make_attachment(network))
        driver.converge([network])
        driver.remove(network)
    finally:
        for each in files:
            os.close(each)


@pytest.mark.parametrize("whose", ["ours", "the user's"])
def test_addresses_that_are_gone_from_the_network_leave_its_bridge(driver, make_network, shell, host, whose):
    network = make_network(1, ipv6=False)
    if whose == "the user's":
        with Rtnl.open(host) as rtnl:
            rtnl.send(CreateBridge(network.bridge))
    grown = msgspec.structs.replace(
        network,
        enable_ipv6=True,
        subnets=[*network.subnets, ipaddress.ip_network("10.9.0.0/24"), ipaddress.ip_network("fd00:9::/64")],
        bridge_addresses=[
            *network.bridge_addresses,
            ipaddress.ip_interface("10.9.0.1/24"),
            ipaddress.ip_interface("fd00:9::1/64"),
        ],
    )
    driver.ensure(network)
    before = addresses(shell, host, network.bridge)
    shell.run(host, "ip", "addr", "add", "10.77.0.1/24", "dev", network.bridge)
    driver.ensure(grown)
    assert {"10.9.0.1/24", "fd00:9::1/64"} <= addresses(shell, host, network.bridge)
    for _ in range(2):
        driver.ensure(network, gone=grown.bridge_addresses)
        assert addresses(shell, host, network.bridge) == before | {"10.77.0.1/24"}
    assert driver.converge([network]) == []


def test_a_change_that_fails_leaves_the_rules_of_a_network_that_stands(driver, make_network, shell, host):
    network = make_network(1)
    driver.ensure(network)
    before = shell.run(host, "nft", "-s", "list", "ruleset")
    with pytest.raises(Unsupported):  # the kernel takes IPv6 from a link of that MTU
        driver.ensure(msgspec.structs.replace(network, masquerade=False, mtu=70))
    assert shell.run(host, "nft", "-s", "list", "ruleset") == before
