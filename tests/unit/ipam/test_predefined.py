"""Predefined pools: their bases, and how they are configured."""

from hashlib import sha256
from ipaddress import ip_network

import pytest

from cnm.errors import Invalid
from cnm_ipam.config import from_environment, installation_of
from cnm_ipam.predefined import DOCKER_GLOBAL, DOCKER_LOCAL, Base, Predefined, parse_bases, sized, unique_local_base


def test_size_that_no_base_has_room_for_has_no_bases():
    assert sized(DOCKER_LOCAL, 24)[0] == Base(ip_network("172.17.0.0/16"), 24)
    assert [str(base.prefix) for base in sized(DOCKER_LOCAL, 14)] == [
        "172.20.0.0/14",
        "172.24.0.0/14",
        "172.28.0.0/14",
    ]
    assert sized(DOCKER_LOCAL, 13) == ()


# I20
def test_unique_local_base_follows_from_the_installation():
    low_40 = sha256(b"one").hexdigest()[6:16]
    expected = f"fd{low_40[:2]}:{low_40[2:6]}:{low_40[6:10]}::/48"
    assert unique_local_base("one") == Base(ip_network(expected), 64)
    assert unique_local_base("one") != unique_local_base("two")


# I05
def test_configured_bases_replace_those_of_their_family_only():
    local = from_environment({"CNM_DEFAULT_ADDRESS_POOLS": "base=172.80.0.0/16,size=24;base=172.90.0.0/16,size=24"})
    bases = local.predefined.bases("LocalDefault", ipv6=False, installation="i")
    assert bases == (Base(ip_network("172.80.0.0/16"), 24), Base(ip_network("172.90.0.0/16"), 24))
    assert local.predefined.bases("LocalDefault", ipv6=True, installation="i") == (unique_local_base("i"),)
    assert local.predefined.bases("GlobalDefault", ipv6=False, installation="i") == DOCKER_GLOBAL
    assert local.predefined.bases("blue", ipv6=False, installation="i") == ()


def test_nothing_configured_means_dockers_pools_and_ten_seconds_of_rest():
    for environment in ({}, {"CNM_DEFAULT_ADDRESS_POOLS": " ", "CNM_ADDRESS_REST_S": ""}):
        settings = from_environment(environment)
        assert (settings.predefined, settings.rest_s) == (Predefined(), 10)


def test_rest_is_a_setting_in_seconds():
    assert from_environment({"CNM_ADDRESS_REST_S": "0.5"}).rest_s == 0.5
    for wrong in ("-1", "soon", "nan", "inf", "604801"):
        with pytest.raises(Invalid, match=f"expected seconds from 0 to 604800, got '{wrong}'"):
            from_environment({"CNM_ADDRESS_REST_S": wrong})


def test_installation_follows_from_the_host_and_is_random_where_that_has_no_id():
    one = from_environment({}, machine_id="m1", node="n1").proposed_installation
    assert (
        one == from_environment({}, machine_id="m1", node="n1").proposed_installation == installation_of("m1", "n1")
    )
    others = [
        from_environment({}, machine_id=machine_id, node=node).proposed_installation
        for machine_id, node in (("m1", "n2"), ("m2", "n1"), ("", "n1"), ("", "n1"))
    ]
    assert len({one, *others}) == 5
    assert "m1" not in one


def test_base_inside_another_is_left_out():
    bases = parse_bases("base=10.1.0.0/16,size=24; base=10.0.0.0/8,size=16; base=10.0.0.0/8,size=20;")
    assert Predefined(local=bases).bases("LocalDefault", ipv6=False, installation="i") == (bases[1],)


def test_every_fault_of_the_configuration_is_listed():
    text = (
        "base=10.0.0.1/8,size=24;base=10.0.0.0/8;size=8;base=10.0.0.0/8,size=4;"
        "base=127.0.0.0/8,size=x;x=1;base=::/64,size=64"
    )
    with pytest.raises(Invalid) as caught:
        parse_bases(text)
    found = [(fault["field"], fault["reason"]) for fault in caught.value.details["fields"]]
    variable = "CNM_DEFAULT_ADDRESS_POOLS"
    assert found == [
        (f"{variable}[0].base", "10.0.0.1/8 has host bits set, it should be 10.0.0.0/8"),
        (f"{variable}[1].size", "size is missing in 'base=10.0.0.0/8'"),
        (f"{variable}[2].base", "base is missing in 'size=8'"),
        (f"{variable}[3].size", "a pool of 10.0.0.0/8 has a prefix length from 8 to 32, not 4"),
        (f"{variable}[4].base", "127.0.0.0/8 cannot be a pool, it is loopback"),
        (f"{variable}[4].size", "'x' is no prefix length"),
        (f"{variable}[5]", "expected base=SUBNET,size=LENGTH, got 'x=1'"),
        (f"{variable}[6].base", "::/64 names no network"),
    ]
