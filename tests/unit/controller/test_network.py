"""What may be created as a network."""

from datetime import UTC, datetime

import pytest

from cnm.errors import Forbidden, Invalid, Unsupported
from cnm.messages.message import decode
from cnm.messages.network import CreateNetwork
from cnm_controller.network import check_create, decide_create, has_label, matches, predefined, wanted_versions

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


def test_a_subnet_with_host_bits_hides_no_fault_beside_it():
    with pytest.raises(Invalid) as refused:
        decode(
            CreateNetwork,
            b'{"name": "a b", "ipam": {"options": {"colour": "red"}, "pools": [{"subnet": "10.1.2.3/16",'
            b' "gateway": "10.2.0.1", "range": "10.1.9.9/24",'
            b' "aux_addresses": {"x": "10.1.0.0", "y": "10.1.0.9"}}]}}',
            check=check_create,
        )
    assert {fault["field"]: fault["reason"] for fault in refused.value.details["fields"]} == {
        "name": "Expected `str` matching regex '^[a-zA-Z0-9][a-zA-Z0-9_.-]*$' (got \"a b\")",
        "ipam.pools[0].subnet": "10.1.2.3/16 has host bits set, it should be 10.1.0.0/16",
        "ipam.pools[0].range": "10.1.9.9/24 has host bits set, it should be 10.1.9.0/24",
        "ipam.pools[0].gateway": "10.2.0.1 is not in 10.1.0.0/16, choose one from 10.1.0.1 to 10.1.255.254",
        "ipam.pools[0].aux_addresses.x":
            "10.1.0.0 is the network address of 10.1.0.0/16, choose one from 10.1.0.1 to 10.1.255.254",
        "ipam.options.colour": "unknown option colour, the one there is is com.docker.network.ipam.serial",
    }  # fmt: skip


def invalid(kind, body: bytes, check) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        decode(kind, body, check=check)
    return {fault["field"]: fault["reason"] for fault in refused.value.details["fields"]}


def test_what_cannot_be_read_hides_no_fault_of_the_same_pool():
    faults = invalid(
        CreateNetwork,
        b'{"name": "a", "ipam": {"pools": [{"subnet": "10.1.2.0/24", "gateway": "10.9.9.9", "range": "10.1.3.0/25",'
        b' "aux_addresses": {"a": "10.8.8.8", "b": "x"}}]}}',
        check_create,
    )
    assert faults == {
        "ipam.pools[0].gateway": "10.9.9.9 is not in 10.1.2.0/24, choose one from 10.1.2.1 to 10.1.2.254",
        "ipam.pools[0].range": "10.1.3.0/25 is not inside 10.1.2.0/24, which has 10.1.2.0/25 for example",
        "ipam.pools[0].aux_addresses.a": "10.8.8.8 is not in 10.1.2.0/24, choose one from 10.1.2.1 to 10.1.2.254",
        "ipam.pools[0].aux_addresses.b": "'x' is not an IP address",
    }


@pytest.mark.parametrize(
    ("ipam", "fields"),
    [
        (b'{"address_space": "mine", "pools": [{"subnet": "bad"}]}', ["ipam.pools[0].subnet"]),
        (b'{"address_space": "mine", "pools": [{"subnet": 5, "gateway": "10.0.0.1"}]}', ["ipam.pools[0].subnet"]),
        (b'{"pools": [{"subnet": "bad", "range": "10.0.0.0/24"}]}', ["ipam.pools[0].subnet"]),
        (b'{"pools": [{"subnet": "10.0.0.0/24"}, {"subnet": "bad"}]}', ["ipam.pools[1].subnet"]),
    ],
)
def test_nothing_is_called_a_fault_that_only_follows_from_one_that_is_told(ipam: bytes, fields: list[str]):
    assert list(invalid(CreateNetwork, b'{"name": "a", "ipam": %s}' % ipam, check_create)) == fields


@pytest.mark.parametrize(
    ("pools", "more", "faults"),
    [
        ('{"subnet": "224.0.0.0/8"}', "", {"ipam.pools[0].subnet": "224.0.0.0/8 cannot be a pool, it is multicast"}),
        ('{"subnet": "0.0.0.0/24", "gateway": "10.0.0.1"}', "",
         {"ipam.pools[0].gateway": "10.0.0.1 needs the subnet that it lies in"}),
        ('{"range": "10.0.0.0/24"}', "",
         {"ipam.pools[0].range": "10.0.0.0/24 needs the subnet that it is a part of"}),
        ('{"subnet": "10.0.0.0/24", "gateway": "10.0.0.7", "aux_addresses": {"a": "10.0.0.7"}}', "",
         {"ipam.pools[0].aux_addresses.a": "10.0.0.7 is the address of gateway too"}),
        ('{"subnet": "10.0.0.0/24"}', '"address_space": "blue"', {}),
        ('{"subnet": "0.0.0.0/24"}', '"address_space": "blue"',
         {"ipam.address_space": "blue has no predefined pools, name the pool; LocalDefault and GlobalDefault have"}),
        ("{}, {}", "",
         {"ipam.pools[1].subnet": "driver 'bridge' takes one IPv4 subnet, ipam.pools[0] is one already"}),
        ('{"subnet": "10.0.0.0/24"}, {"subnet": "0.0.0.0/24"}', "",
         {"ipam.pools[1].subnet": "driver 'bridge' takes one IPv4 subnet, ipam.pools[0] is one already"}),
    ],
)  # fmt: skip
def test_what_ipam_would_refuse_is_refused_with_everything_else(pools: str, more: str, faults: dict[str, str]):
    more = f", {more}" if more else ""
    body = f'{{"name": "a", "ipam": {{"pools": [{pools}]{more}}}}}'.encode()
    assert (faults_of(body) if faults else decided(body) and {}) == faults


def test_pools_that_say_no_family_are_of_those_still_open():
    network = decided(b'{"name": "a", "enable_ipv4": false, "enable_ipv6": true, "ipam": {"pools": [{}]}}')
    assert wanted_versions(network) == [6]
    network = decided(b'{"name": "a", "enable_ipv6": true, "ipam": {"pools": [{}, {"subnet": "10.1.0.0/16"}]}}')
    assert wanted_versions(network) == [6, 4]


def test_ipv6_needs_its_least_mtu():
    body = b'{"name": "a", "enable_ipv6": %s, "options": {"com.docker.network.driver.mtu": 1279}}'
    assert "1280" in faults_of(body % b"true")["options.com.docker.network.driver.mtu"]
    assert decided(body % b"false")


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

    assert matches(network, filters, used=False) is passes


def test_a_label_without_a_value_matches_any():
    assert has_label({"a": ""}, "a")
    assert not has_label({"a": "1"}, "a=2")
