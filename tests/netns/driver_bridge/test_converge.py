"""The whole comparison: what is missing is made, what is ours and too much goes, strangers stay."""

import gc
from pathlib import Path

import pytest

from cnm.kernel import netns
from cnm.kernel.rtnl import CreateBridge, CreateVeth, Rtnl
from cnm_driver_bridge.blocks import Block
from cnm_driver_bridge.config import Config


def alias(identity):
    return f"cnm:{identity}"


def test_an_empty_host_becomes_what_the_slice_says(driver, make_network, make_attachment, traffic, ips):
    network = make_network(1)
    points = [make_attachment(network) for _ in range(2)]
    changed = driver.converge([network], points)
    assert any("ip link add" in line and "type bridge" in line for line in changed)
    traffic.listen(points[1].namespace)
    for address in ips(points[1]):
        assert traffic.tcp(points[0].namespace, address) == "open"


def test_the_second_pass_changes_nothing(driver, make_network, make_attachment, snapshot):
    networks = [make_network(1), make_network(2, internal=True), make_network(3, icc=False)]
    points = [make_attachment(network) for network in networks]
    driver.converge(networks, points)
    before = snapshot()
    assert driver.converge(networks, points) == []
    assert snapshot() == before


def test_a_driver_that_starts_again_finds_everything_in_place(driver, running, make_network, make_attachment):
    network = make_network(1)
    point = make_attachment(network)
    driver.converge([network], [point])
    driver.stop()
    assert running().converge([network], [point]) == []


def test_a_flushed_ruleset_is_built_again_in_one_transaction(
    driver, make_network, make_attachment, shell, host, traffic, ips
):
    networks = [make_network(1), make_network(2)]
    points = [make_attachment(network) for network in networks]
    driver.converge(networks, points)
    traffic.listen(points[1].namespace)
    shell.run(host, "nft", "flush", "ruleset")
    assert traffic.tcp(points[0].namespace, ips(points[1])[0]) == "open"
    assert driver.converge(networks, points)
    assert traffic.tcp(points[0].namespace, ips(points[1])[0]) == "refused"
    assert driver.converge(networks, points) == []


USERS_RULES = (
    "ip saddr 192.0.2.0/24 tcp dport { 22, 80-90 } counter reject with tcp reset",
    'iifname "eth9" ip6 daddr 2001:db8::/32 limit rate 5/second accept comment "of the owner"',
    "meta mark 7 drop",
)


@pytest.mark.parametrize("by", ["converge", "ensure"])
def test_a_flush_does_not_lose_the_users_rules(driver, make_network, shell, host, by):
    network = make_network(1)
    driver.converge([network])
    for rule in USERS_RULES:
        shell.run(host, "nft", "add", "rule", "inet", "cnm_filter", "cnm-user", rule)
    driver.converge([network])
    before = shell.run(host, "nft", "list", "chain", "inet", "cnm_filter", "cnm-user")
    shell.run(host, "nft", "flush", "ruleset")
    _ = driver.converge([network]) if by == "converge" else driver.ensure(make_network(2))
    assert shell.run(host, "nft", "list", "chain", "inet", "cnm_filter", "cnm-user") == before
    assert len(before.splitlines()) == len(USERS_RULES) + 4
    driver.converge([network])
    assert shell.run(host, "nft", "list", "chain", "inet", "cnm_filter", "cnm-user") == before


def test_what_the_user_flushes_stays_flushed(driver, make_network, shell, host):
    network = make_network(1)
    driver.converge([network])
    shell.run(host, "nft", "add", "rule", "inet", "cnm_filter", "cnm-user", "meta", "mark", "7", "drop")
    driver.converge([network])
    shell.run(host, "nft", "flush", "chain", "inet", "cnm_filter", "cnm-user")
    driver.converge([network])
    shell.run(host, "nft", "flush", "ruleset")
    driver.converge([network])
    assert "drop" not in shell.run(host, "nft", "list", "chain", "inet", "cnm_filter", "cnm-user")


def test_users_rules_that_cannot_come_back_keep_nothing_else_from_it(driver, make_network, shell, host):
    network = make_network(1)
    driver.converge([network])
    shell.run(host, "nft", "add set inet cnm_filter mine { type ipv4_addr; }")
    shell.run(host, "nft", "add", "rule", "inet", "cnm_filter", "cnm-user", "ip", "saddr", "@mine", "drop")
    driver.converge([network])
    whole = shell.run(host, "nft", "list", "chain", "inet", "cnm_filter", "forward")
    shell.run(host, "nft", "flush", "ruleset")
    assert driver.converge([network])
    assert shell.run(host, "nft", "list", "chain", "inet", "cnm_filter", "forward") == whole
    assert driver.converge([network]) == []


def test_a_network_made_after_a_flush_brings_the_frame_back(driver, make_network, shell, host):
    driver.ensure(make_network(1))
    shell.run(host, "nft", "flush", "ruleset")
    driver.ensure(make_network(2))
    assert make_network(2).network_id[:12] in shell.run(
        host, "nft", "list", "chain", "inet", "cnm_filter", "forward"
    ) + (shell.run(host, "nft", "list", "set", "inet", "cnm_filter", "bridges"))


def test_a_rule_that_somebody_deleted_or_added_is_mended(driver, make_network, shell, host):
    network = make_network(1)
    driver.converge([network])
    before = shell.run(host, "nft", "list", "ruleset")
    shell.run(host, "nft", "insert", "rule", "inet", "cnm_filter", "enter", "drop")
    shell.run(host, "nft", "delete", "element", "inet", "cnm_nat", "bridges", "{", f'"{network.bridge}"', "}")
    assert driver.converge([network])
    assert shell.run(host, "nft", "list", "ruleset") == before


def test_orphans_with_our_mark_go_and_strangers_stay(driver, make_network, make_attachment, shell, host):
    stale = make_network(1)
    point = make_attachment(stale)
    driver.plug(point)
    with Rtnl.open(host) as rtnl:
        rtnl.send(CreateBridge("br-user"), CreateVeth("veth1234567", peer_name="other", alias="mine"))
        rtnl.send(CreateVeth("vethunborn", peer_name="unborn", group=0x434E4D))
    shell.run(host, "nft", "add", "table", "inet", "user")
    changed = driver.converge([make_network(2)])
    assert len([line for line in changed if "should not be here" in line]) == 3
    names = {link["ifname"] for link in shell.ip(host, "link", "show")}
    assert names == {"lo", "br-user", "veth1234567", "other", make_network(2).bridge}
    assert shell.link(point.namespace, "eth0") is None
    ruleset = shell.run(host, "nft", "list", "ruleset")
    assert stale.network_id[:12] not in ruleset
    assert "table inet user" in ruleset


def test_what_is_busy_is_left_alone(driver, make_network, make_attachment, shell, host):
    coming, going = make_network(1), make_network(2)
    point = make_attachment(coming)
    driver.plug(point)
    assert driver.converge(busy=[coming.network_id, point.endpoint_id]) == []
    assert shell.link(host, coming.bridge)
    driver.converge([going], busy=[coming.network_id, point.endpoint_id, going.network_id])
    assert shell.link(host, going.bridge) is None


def test_what_a_command_touched_after_the_slice_was_asked_for_is_left_alone(
    driver, make_network, make_attachment, shell, host
):
    old, new = make_network(1), make_network(2)
    gone, come = make_attachment(old), make_attachment(new)
    driver.plug(gone)
    driver.asking()
    driver.plug(come)
    driver.unplug(gone)
    driver.converge([old], [gone])
    assert shell.link(come.namespace, "eth0"), "newer than the slice"
    assert shell.link(gone.namespace, "eth0") is None, "newer than the slice"
    driver.asking()
    driver.converge([old], [])
    assert shell.link(come.namespace, "eth0") is None
    assert shell.link(host, new.bridge) is None


def test_an_endpoint_whose_namespace_is_missing_waits(driver, make_network, make_attachment):
    network = make_network(1)
    point, other = make_attachment(network), make_attachment(network)
    netns.remove(Path(point.namespace))
    changed = driver.converge([network], [point, other])
    assert not any(point.endpoint_id[:12] in line for line in changed)
    assert any(other.endpoint_id[:12] in line for line in changed)


def test_one_refusal_does_not_keep_the_others_from_being_mended(driver, make_network, make_attachment, shell, host):
    with Rtnl.open(host) as rtnl:
        rtnl.send(CreateVeth("br-mine", peer_name="other"))
    bad, good = make_network(1, bridge="br-mine"), make_network(2)
    changed = driver.converge([bad, good], [make_attachment(bad), make_attachment(good)])
    assert any("conflict" in line and "br-mine" in line for line in changed)
    assert shell.link(host, good.bridge)


@pytest.mark.parametrize(
    ("where", "command"),
    [
        ("sandbox", "addr del {address} dev eth0"),
        ("sandbox", "-6 addr del {address6} dev eth0"),
        ("sandbox", "route del default"),
        ("sandbox", "-6 route del default"),
        ("sandbox", "link set eth0 down"),
        ("sandbox", "link set eth0 address 02:42:00:00:00:01"),
        ("sandbox", "link del eth0"),
        ("host", "link set {veth} nomaster"),
        ("host", "link set {veth} down"),
        ("host", "link del {veth}"),
        ("host", "link set {bridge} down"),
        ("host", "addr flush dev {bridge}"),
        ("host", "link del {bridge}"),
    ],
)
def test_what_changed_is_noticed_without_looking_at_everything(
    running, make_network, make_attachment, shell, host, traffic, ips, where, command
):
    driver = running(Config(patrol_budget_s=0.0))  # looks at nothing but what is suspect
    network = make_network(1)
    point, other = make_attachment(network), make_attachment(network)
    driver.converge([network], [point, other])
    assert driver.converge([network], [point, other]) == []
    words = {
        "veth": driver.plug(point),
        "bridge": network.bridge,
        "address": point.addresses[0],
        "address6": point.addresses[1],
    }
    shell.run(Path(point.namespace) if where == "sandbox" else host, "ip", *command.format(**words).split())
    traffic.listen(point.namespace)
    assert driver.converge([network], [point, other]), "it was noticed"
    for address in ips(point):
        assert traffic.tcp(other.namespace, address) == "open"
        assert traffic.tcp(host, address) == "open"
    defaults = shell.ip(point.namespace, "route", "show", "default") + shell.ip(
        point.namespace, "-6", "route", "show", "default"
    )
    assert {each["gateway"] for each in defaults} == {str(each.ip) for each in network.bridge_addresses}


def test_nothing_is_remembered_of_networks_that_went(driver, make_network):
    for number in range(1, 6):
        driver.ensure(make_network(number))
        driver.remove(make_network(number))
    for number in range(6, 11):
        driver.converge([make_network(number)])
    driver.converge([])
    gc.collect()
    assert [each.owner for each in gc.get_objects() if isinstance(each, Block)] == []
