"""Predefined pools: their order, their search, and how they are configured."""

from hashlib import sha256
from ipaddress import ip_network
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm.errors import Invalid
from cnm_ipam.config import Settings, from_environment
from cnm_ipam.pool import overlap
from cnm_ipam.predefined import (
    DOCKER_GLOBAL,
    DOCKER_LOCAL,
    Base,
    Predefined,
    free_pools,
    parse_bases,
    sized,
    unique_local_base,
)

LOCAL = [f"172.{n}.0.0/16" for n in range(17, 32)] + [f"192.168.{n}.0/20" for n in range(0, 256, 16)]


def names(pools):
    return [str(pool) for pool in pools]


# I01, I02
def test_local_pools_are_dockers_in_dockers_order():
    assert names(free_pools(DOCKER_LOCAL, (), after=None)) == LOCAL
    assert len(LOCAL) == 31


# I04
def test_global_pools_are_all_24s_of_10():
    found = names(free_pools(DOCKER_GLOBAL, (), after=None))
    assert (found[0], found[1], found[-1], len(found)) == ("10.0.0.0/24", "10.0.1.0/24", "10.255.255.0/24", 65536)


# I03
@pytest.mark.parametrize("index", range(31))
def test_search_begins_after_the_last_one_and_goes_once_round(index):
    found = names(free_pools(DOCKER_LOCAL, (), after=ip_network(LOCAL[index])))
    assert found == LOCAL[index + 1 :] + LOCAL[: index + 1]


def test_turn_of_another_configuration_begins_at_the_start():
    assert next(free_pools(DOCKER_LOCAL, (), after=ip_network("10.0.0.0/24"))) == ip_network("172.17.0.0/16")


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(0, 8)), max_size=12),
    st.one_of(st.none(), st.integers(0, 255)),
    st.integers(3, 6),
)
def test_search_finds_what_a_walk_over_all_pools_finds(blocks, after, step):
    bases = (Base(ip_network("10.0.0.0/25"), 32 - step), Base(ip_network("10.0.0.128/25"), 32 - step))
    taken = [ip_network((0x0A000000 + (n >> bits << bits), 32 - bits)) for n, bits in blocks]
    position = None if after is None else ip_network((0x0A000000 + (after >> 2 << 2), 30))
    every = [ip_network((0x0A000000 + n, 32 - step)) for n in range(0, 256, 1 << step)]
    if position is not None:
        later = [pool for pool in every if pool.network_address > position.broadcast_address]
        every = later + [pool for pool in every if pool not in later]
    expected = [pool for pool in every if not any(overlap(pool, other) for other in taken)]
    assert sorted(free_pools(bases, taken, after=position)) == sorted(expected)
    if position is None:
        assert list(free_pools(bases, taken, after=None)) == expected
    elif expected:
        assert next(free_pools(bases, taken, after=position)) == expected[0]


def test_size_that_no_base_has_room_for_has_no_bases():
    assert names(islice(free_pools(sized(DOCKER_LOCAL, 24), (), after=None), 2)) == ["172.17.0.0/24", "172.17.1.0/24"]
    assert sized(DOCKER_LOCAL, 13) == ()


def test_small_pool_is_found_at_once_in_a_base_of_any_size():
    taken = [ip_network(f"fd00::{n:x}:0/112") for n in range(100)]
    found = free_pools((Base(ip_network("fd00::/48"), 120),), taken, after=None)
    assert next(found) == ip_network("fd00::64:0/120")


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
    found = names(free_pools(bases, (), after=None))
    assert (found[0], found[255], found[256], len(found)) == (
        "172.80.0.0/24",
        "172.80.255.0/24",
        "172.90.0.0/24",
        512,
    )
    assert local.predefined.bases("LocalDefault", ipv6=True, installation="i") == (unique_local_base("i"),)
    assert local.predefined.bases("GlobalDefault", ipv6=False, installation="i") == DOCKER_GLOBAL
    assert local.predefined.bases("blue", ipv6=False, installation="i") == ()


def test_nothing_configured_means_dockers_pools():
    assert from_environment({}) == from_environment({"CNM_DEFAULT_ADDRESS_POOLS": " "}) == Settings()


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
