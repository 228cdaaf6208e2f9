"""What may be created as a network."""

from datetime import UTC, datetime

import pytest

from cnm.errors import Forbidden, Invalid, Unsupported
from cnm.messages.message import decode
from cnm.messages.network import CreateNetwork
from cnm_controller.network import decide_create, has_label, matches, predefined, wanted_versions

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ID = "a" * 64


def decided(body: bytes):
    return decide_create(decode(CreateNetwork, body), id=ID, now=NOW)


def faults_of(body: bytes) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        decided(body)
    return {fault["field"]: fault["reason"] for fault in refused.value.details["fields"]}


def test_only_the_name_is_required():
    network = decided(b'{"name": "web"}')

    assert (network.driver, network.scope, network.enable_ipv4, network.enable_ipv6) == (
        "bridge",
        "local",
        True,
        False,
    )
    assert [pool.subnet for pool in network.wanted] == [None]
    assert wanted_versions(network) == [4]


def test_each_enabled_family_without_a_pool_gets_one():
    network = decided(b'{"name": "web", "enable_ipv6": true, "ipam": {"pools": [{"subnet": "10.1.0.0/16"}]}}')

    assert wanted_versions(network) == [4, 6]
    assert [str(pool.subnet) for pool in network.wanted] == ["10.1.0.0/16", "None"]


def test_ipv6_alone_is_possible():
    network = decided(b'{"name": "web", "enable_ipv4": false, "enable_ipv6": true}')

    assert wanted_versions(network) == [6]


@pytest.mark.parametrize("name", ["none", "host", "bridge"])
def test_predefined_names_are_forbidden(name: str):
    with pytest.raises(Forbidden, match=name):
        decided(b'{"name": "%s"}' % name.encode())


@pytest.mark.parametrize(
    ("body", "names"),
    [
        (b'{"name": "a", "driver": "warp"}', "warp"),
        (b'{"name": "a", "scope": "global"}', "global"),
        (b'{"name": "a", "ingress": true}', "ingress"),
        (b'{"name": "a", "config_only": true}', "config_only"),
        (b'{"name": "a", "ipam": {"driver": "dhcp"}}', "dhcp"),
        (b'{"name": "a", "options": {"com.docker.network.bridge.gateway_mode_ipv4": "routed"}}', "routed"),
    ],
)
def test_what_cannot_be_served_is_unsupported_and_named(body: bytes, names: str):
    with pytest.raises(Unsupported, match=names):
        decided(body)


def test_all_faults_come_at_once():
    faults = faults_of(
        b'{"name": "a", "scope": "wide", "options": {"com.docker.network.driver.mtu": "-1", "colour": "red"},'
        b' "ipam": {"pools": [{"subnet": "10.1.0.0/16", "gateway": "10.2.0.1", "range": "10.3.0.0/24",'
        b' "aux_addresses": {"x": "10.4.0.1"}}, {"subnet": "10.5.0.0/16"}, {"subnet": "fd00::/64"}]}}'
    )

    assert set(faults) == {
        "scope",
        "options.com.docker.network.driver.mtu",
        "options.colour",
        "ipam.pools[0].gateway",
        "ipam.pools[0].range",
        "ipam.pools[0].aux_addresses.x",
        "ipam.pools[1].subnet",
        "ipam.pools[2].subnet",
    }
    assert "10.2.0.1" in faults["ipam.pools[0].gateway"]
    assert "enable_ipv6" in faults["ipam.pools[2].subnet"]


def test_a_network_without_any_family_is_refused():
    assert "enable_ipv4" in faults_of(b'{"name": "a", "enable_ipv4": false}')


def test_bridges_refuse_the_null_ipam():
    assert "empty" in faults_of(b'{"name": "a", "ipam": {"driver": "null"}}')["ipam.driver"]


def test_predefined_networks_have_the_same_ids_everywhere():
    assert {network.name for network in predefined()} == {"none", "host", "bridge"}
    assert [network.id for network in predefined()] == [network.id for network in predefined()]


@pytest.mark.parametrize(
    ("filters", "passes"),
    [
        ({"name": ["eb"]}, True),
        ({"name": ["x", "web"]}, True),
        ({"name": ["x"]}, False),
        ({"id": ["aaa"]}, True),
        ({"id": ["b"]}, False),
        ({"driver": ["bridge"], "scope": ["local"]}, True),
        ({"label": ["tier"]}, True),
        ({"label": ["tier=front"]}, True),
        ({"label": ["tier=back"]}, False),
        ({"dangling": [True]}, True),
        ({"dangling": [False]}, False),
        ({"dangling": ["true"]}, True),
    ],
)
def test_filters_pass_any_value_of_all_names(filters, passes: bool):
    network = decided(b'{"name": "web", "labels": {"tier": "front"}}')

    assert matches(network, filters, endpoints=0) is passes


def test_a_label_without_a_value_matches_any():
    assert has_label({"a": ""}, "a")
    assert not has_label({"a": "1"}, "a=2")
