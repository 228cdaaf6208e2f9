"""What may be changed of a network under its endpoints, and what takes it there."""

from datetime import UTC, datetime
from ipaddress import ip_interface, ip_network

import msgspec
import pytest

from cnm.errors import Conflict, Forbidden, Invalid, Unsupported
from cnm.messages.bridge import EnsureBridge, PlugEndpoint
from cnm.messages.ipam import AllocatedPool
from cnm.messages.message import decode
from cnm.messages.names import UpdateNames
from cnm.messages.namespace import EnsureSandbox
from cnm.messages.network import CreateNetwork, NetworkDns, UpdateNetwork
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody
from cnm_controller.network import decide_create, predefined
from cnm_controller.network_change import Home, added_versions, change_steps, decide_update
from cnm_controller.ports import NodeState
from cnm_controller.specs import Joined

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ID = "a" * 64
MTU = "com.docker.network.driver.mtu"
ICC = "com.docker.network.bridge.enable_icc"
NAME = "com.docker.network.bridge.name"
INHIBIT = "com.docker.network.bridge.inhibit_ipv4"
MODE = "com.docker.network.bridge.gateway_mode_ipv4"
PREFIX = "com.docker.network.container_iface_prefix"


def pool(subnet: str) -> AllocatedPool:
    net = ip_network(subnet)
    return AllocatedPool(pool_id=f"LocalDefault/{subnet}", subnet=net, gateway=net[1])


def network(body: str = "", *subnets: str) -> NetworkBody:
    command = decode(CreateNetwork, b'{"name": "web"%s}' % body.encode())
    made = decide_create(command, id=ID, now=NOW)
    return made if made.config_only else made.with_pools([pool(each) for each in subnets or ("10.1.0.0/24",)])


def changed(body: str, of: NetworkBody | None = None, revision: int = 4) -> NetworkBody:
    command = decode(UpdateNetwork, b'{"network": "web", %s}' % body.encode())
    return decide_update(command, of or network(), revision)


def faults_of(body: str, of: NetworkBody | None = None) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        changed(body, of)
    return {fault["field"]: fault["reason"] for fault in refused.value.details["fields"]}


def test_what_is_left_out_stays_as_it_is():
    of = network(f', "labels": {{"a": "1"}}, "options": {{"{MTU}": 1400}}, "dns": {{"ttl": 5}}')

    assert changed('"labels": {"b": "2"}', of) == msgspec.structs.replace(of, labels={"b": "2"})
    assert changed('"labels": {}', of).labels == {}
    assert changed('"dns": {}', of) == msgspec.structs.replace(of, dns=NetworkDns())
    assert decide_update(UpdateNetwork(network="web"), of, 1) == of


def test_options_are_changed_one_by_one_and_null_takes_one_away():
    of = network(f', "options": {{"{MTU}": 1400, "{NAME}": "br-web"}}')

    assert changed(f'"options": {{"{ICC}": false}}', of).options == {MTU: "1400", NAME: "br-web", ICC: "false"}
    assert changed(f'"options": {{"{MTU}": null, "{ICC}": null}}', of).options == {NAME: "br-web"}
    assert changed(f'"options": {{"{NAME}": "br-web"}}', of) == of
    assert changed(f'"options": {{"{PREFIX}": "lan"}}', of).options[PREFIX] == "lan"


def test_all_faults_come_at_once():
    of = network(f', "options": {{"{NAME}": "br-web"}}')
    faults = faults_of(
        f'"options": {{"{NAME}": null, "{MTU}": "9x", "colour": "red", "{INHIBIT}": true, "{MODE}": "isolated"}},'
        ' "add_pools": [{"subnet": "10.1.0.128/25"}, {"subnet": "10.9.0.0/24", "gateway": "10.8.0.1"},'
        ' {"subnet": "10.9.0.0/25"}]',
        of,
    )

    assert set(faults) == {
        f"options.{NAME}",
        f"options.{MTU}",
        "options.colour",
        f"options.{INHIBIT}",
        f"options.{MODE}",
        "add_pools[0].subnet",
        "add_pools[1].gateway",
        "add_pools[2].subnet",
    }
    assert "anew" in faults[f"options.{NAME}"]
    assert "10.1.0.0/24" in faults["add_pools[0].subnet"]
    assert "add_pools[1]" in faults["add_pools[2].subnet"]


def test_ipv6_comes_to_no_network_of_too_small_an_mtu():
    small = network(f', "options": {{"{MTU}": 1000}}')

    assert set(faults_of('"add_pools": [{"subnet": "fd00::/64"}]', small)) == {f"options.{MTU}"}
    assert changed(f'"options": {{"{MTU}": 1280}}, "add_pools": [{{"subnet": "fd00::/64"}}]', small).enable_ipv6


def test_a_change_decided_on_another_revision_names_both():
    with pytest.raises(Conflict, match=r"revision 4.*revision 3") as refused:
        changed('"revision": 3, "labels": {}')

    assert refused.value.details == {"revision": 4}
    assert changed('"revision": 4, "labels": {"a": ""}').labels == {"a": ""}


@pytest.mark.parametrize("of", predefined(), ids=lambda of: of.name)
def test_predefined_networks_are_not_changed(of: NetworkBody):
    with pytest.raises(Forbidden, match=of.name):
        changed('"labels": {}', of)


def test_pools_of_another_ipam_driver_cannot_grow():
    with pytest.raises(Unsupported, match="dhcp"):
        changed('"add_pools": [{}]', network(', "ipam": {"driver": "dhcp"}'))


def test_an_internal_network_has_no_way_between_two_pools_of_a_family():
    of = network(', "internal": true')

    assert "gateway" in faults_of('"add_pools": [{"subnet": "10.2.0.0/24"}]', of)["add_pools[0].subnet"]
    assert changed('"add_pools": [{"subnet": "fd00::/64"}]', of).enable_ipv6
    assert set(faults_of('"add_pools": [{"subnet": "fd00::/64"}, {"subnet": "fd01::/64"}]', of)) == {
        "add_pools[1].subnet"
    }


@pytest.mark.parametrize(
    ("of", "added", "versions"),
    [
        ("", '{"subnet": "10.2.0.0/24"}', [4]),
        ("", "{}", [4]),
        ("", '{"subnet": "::/120"}, {}', [6, 4]),
        (', "enable_ipv4": false, "enable_ipv6": true', "{}", [6]),
        (', "config_only": true, "enable_ipv6": true, "ipam": {"pools": [{"subnet": "10.1.0.0/16"}]}', "{}", [6]),
    ],
)
def test_pools_that_say_no_family_are_of_the_networks(of: str, added: str, versions: list[int]):
    base = network(of, "fd00:1::/64" if "false" in of else "10.1.0.0/24")
    command = decode(UpdateNetwork, b'{"network": "web", "add_pools": [%s]}' % added.encode())

    assert added_versions(command.add_pools, base) == versions


def test_a_configuration_takes_any_option_and_pools_without_reserving_them():
    of = network(', "config_only": true, "ipam": {"pools": [{"subnet": "10.1.0.0/16"}]}')
    new = changed('"options": {"parent": "eth0"}, "add_pools": [{"subnet": "fd00::/64"}]', of)

    assert new.options == {"parent": "eth0"}
    assert new.enable_ipv6
    assert [str(each.subnet) for each in new.wanted] == ["10.1.0.0/16", "fd00::/64"]
    assert new.pools == []
    assert set(faults_of('"add_pools": [{"subnet": "10.1.2.0/24"}]', of)) == {"add_pools[0].subnet"}


NODES = [NodeState(name="n1"), NodeState(name="n2")]


def home(of: NetworkBody, node: str = "n1") -> Home:
    sandbox = SandboxBody(
        id="b" * 64, name="c1", node=node, created=NOW, key="/k", hosts_path="/h", resolv_conf_path="/r"
    )
    endpoint = EndpointBody(
        id="e" * 64, name="c1", network_id=of.id, created=NOW, mac_address="02:00:00:00:00:01",
        ipv4=ip_interface("10.1.0.2/24"), sandbox_id=sandbox.id, node=node, ifname="eth0",
    )  # fmt: skip
    return Home(sandbox=sandbox, joined=[Joined(endpoint=endpoint, network=of)])


def told(steps) -> list[tuple[type, str]]:
    return sorted(((type(step.command), step.node) for step in steps), key=lambda pair: (pair[0].__name__, pair[1]))


def test_a_change_of_labels_tells_nobody():
    before = network()
    assert change_steps(NODES, [home(before)], before, changed('"labels": {"a": "1"}')) == []


def test_an_mtu_reaches_every_bridge_and_every_port_and_is_undone_by_the_plain_one():
    before = network()
    after = changed(f'"options": {{"{MTU}": 1400}}')
    there = change_steps(NODES, [home(before)], before, after)
    back = change_steps(NODES, [home(before)], after, before)

    assert told(there) == told(back) == [(EnsureBridge, "n1"), (EnsureBridge, "n2"), (PlugEndpoint, "n1")]
    assert {mtu_of(step.command) for step in there} == {1400}
    assert {mtu_of(step.command) for step in back} == {1500}


def mtu_of(command) -> int | None:
    return (command.network if isinstance(command, EnsureBridge) else command.attachment.network).mtu


def test_what_is_on_a_node_that_is_away_is_left_to_its_comparison():
    before = network()
    after = changed(f'"options": {{"{ICC}": false}}')
    steps = change_steps(NODES[:1], [home(before), home(before, "n9")], before, after)

    assert told(steps) == [(EnsureBridge, "n1"), (PlugEndpoint, "n1")]


def test_dns_settings_reach_the_zone_and_the_sandboxes():
    before = network()
    ttl = change_steps(NODES, [home(before)], before, changed('"dns": {"ttl": 5}'))
    search = change_steps(NODES, [home(before)], before, changed('"dns": {"search": ["corp"]}'))

    assert told(ttl) == [(UpdateNames, "n1"), (UpdateNames, "n2")]
    assert told(search) == [(EnsureSandbox, "n1"), (UpdateNames, "n1")]


def test_a_pool_is_added_with_its_gateway_and_goes_with_it():
    before = network()
    added = pool("10.2.0.0/24")
    after = before.with_pools([*before.pools, added])
    there, back = (change_steps(NODES[:1], [], *way) for way in ((before, after), (after, before)))

    bridge = next(step.command for step in there if isinstance(step.command, EnsureBridge))
    assert (bridge.network.bridge_addresses[1], bridge.gone) == (ip_interface("10.2.0.1/24"), [])
    assert next(step.command for step in back if isinstance(step.command, EnsureBridge)).gone == [
        ip_interface("10.2.0.1/24")
    ]


def test_an_endpoint_leads_out_by_the_gateway_of_its_own_pool():
    of = network("", "10.1.0.0/24", "10.2.0.0/24")
    (joined,) = home(of).joined
    second = msgspec.structs.replace(joined.endpoint, ipv4=ip_interface("10.2.0.7/24"))

    assert str(joined.gateway(4)) == "10.1.0.1"
    assert str(Joined(endpoint=second, network=of).gateway(4)) == "10.2.0.1"
