"""Prefixes: what overlaps, what can be a pool, and who can have which address of one."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm.prefix import first_usable, last_usable, overlap, unfit_address, unfit_part, unfit_pool

# inventory 11.6, the overlap matrix: held, asked for
APART = [("10.0.0.0/8", "11.0.0.0/8"), ("74.0.0.0/7", "9.111.99.72/30"), ("110.192.0.0/10", "16.0.0.0/10")]
TOUCHING = [
    ("10.0.0.0/8", "10.0.0.0/8"),
    ("10.0.0.0/8", "10.128.0.0/9"),
    ("10.0.0.0/8", "10.20.2.0/24"),
    ("0.0.0.0/1", "16.182.0.0/15"),
    ("16.0.0.0/4", "17.11.66.0/23"),
    ("0.0.0.0/1", "0.0.0.0/0"),
    ("64.0.0.0/6", "64.0.0.0/3"),
    ("112.0.0.0/6", "112.0.0.0/4"),
    ("96.0.0.0/3", "0.0.0.0/1"),
    ("192.0.0.0/2", "128.0.0.0/1"),
    ("95.0.0.0/8", "92.0.0.0/6"),
    ("10.0.0.0/8", "8.0.0.0/6"),
    ("25.173.144.0/20", "0.0.0.0/0"),
    ("::/0", "f656:3484:c878:a05:e540:a6ed:4d70:3740/123"),
    ("8000::/1", "8fe8:e7c4:5779::/49"),
    ("f000::/4", "ffc7:6000::/19"),
    ("::/2", "::/0"),
    ("::/3", "::/1"),
    ("::/6", "::/5"),
    ("c000::/2", "8000::/1"),
    ("7c00::/6", "::/1"),
    ("cf80::/9", "c000::/4"),
    ("ff77:93f8::/29", "::/0"),
    ("1003:1:2:3:4:5:6:0/112", "1003:1:2:3::/64"),
]


@pytest.mark.parametrize(("held", "asked"), APART)
def test_pools_apart_do_not_overlap(held, asked):
    assert not overlap(ip_network(held), ip_network(asked))


@pytest.mark.parametrize(("held", "asked"), TOUCHING)
def test_pools_that_share_an_address_overlap(held, asked):
    assert overlap(ip_network(held), ip_network(asked))


def test_families_never_overlap():
    assert not overlap(ip_network("0.0.0.0/0"), ip_network("::/0"))


networks = st.one_of(
    st.builds(lambda n, p: ip_network((n >> (32 - p) << (32 - p), p)), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(
        lambda n, p: ip_network(f"{ip_address((n | 1 << 127) >> (128 - p) << (128 - p))}/{p}"),
        st.integers(0, 2**128 - 1),
        st.integers(1, 128),
    ),
)


@given(networks, networks)
def test_overlap_agrees_with_the_standard_library(one, other):
    assert overlap(one, other) == (one.version == other.version and one.overlaps(other))


@pytest.mark.parametrize(("held", "asked"), [*APART, ("96.0.0.0/3", "64.0.0.0/6"), ("192.0.0.0/2", "169.254.0.0/16")])
def test_unicast_pools_are_pools(held, asked):
    assert unfit_pool(ip_network(held)) is None
    assert unfit_pool(ip_network(asked)) is None


@pytest.mark.parametrize(
    "pool", ["0.0.0.0/0", "::/0", "0.1.0.0/16", "127.0.0.0/8", "224.0.0.0/4", "ff05::/16", "::1/128"]
)
def test_what_can_be_no_pool_is_named(pool):
    assert str(unfit_pool(ip_network(pool))).startswith(pool)


def test_address_may_lie_anywhere_in_the_whole_pool():
    pool = ip_network("10.0.0.0/16")
    assert unfit_address(pool, ip_address("10.0.200.1")) is None
    assert unfit_address(pool, ip_address("10.0.5.0")) is None


@pytest.mark.parametrize(
    ("pool", "address", "reason"),
    [
        ("10.0.0.0/24", "10.0.0.0",
         "10.0.0.0 is the network address of 10.0.0.0/24, choose one from 10.0.0.1 to 10.0.0.254"),
        ("10.0.0.0/24", "10.0.0.255",
         "10.0.0.255 is the broadcast address of 10.0.0.0/24, choose one from 10.0.0.1 to"),
        ("10.0.0.0/24", "10.0.1.1", "10.0.1.1 is not in 10.0.0.0/24, choose one from"),
        ("10.0.0.0/24", "fd00::1", "fd00::1 is not in 10.0.0.0/24"),
        ("fd00::/64", "fd00::", "fd00:: is the subnet-router anycast address of fd00::/64, choose one from fd00::1"),
        ("fd00::/64", "fd00::1%eth0", "fd00::1%eth0 has a zone, which an address of a pool has not, choose one from"),
    ],
)  # fmt: skip
def test_address_that_nobody_can_have_is_named_with_those_that_one_can(pool, address, reason):
    assert str(unfit_address(ip_network(pool), ip_address(address))).startswith(reason)


@pytest.mark.parametrize("pool", ["10.0.0.0/31", "10.0.0.7/32", "fd00::/127", "fd00::7/128"])
def test_every_address_of_the_smallest_pools_is_usable(pool):
    network = ip_network(pool)
    assert all(unfit_address(network, address) is None for address in network)
    assert last_usable(network) - first_usable(network) + 1 == network.num_addresses


@pytest.mark.parametrize(
    ("part", "whole", "reason"),
    [
        ("10.0.1.0/25", "10.0.0.0/24", "10.0.1.0/25 is not inside 10.0.0.0/24, which has 10.0.0.0/25 for example"),
        ("10.0.0.0/23", "10.0.0.0/24", "10.0.0.0/23 is bigger than 10.0.0.0/24, at most 10.0.0.0/24 is possible"),
        ("fd00::/64", "10.0.0.0/24", "fd00::/64 and 10.0.0.0/24 are of different families"),
        ("10.0.0.0/24", "10.0.0.0/24", None),
    ],
)
def test_part_of_a_pool_lies_inside_it(part, whole, reason):
    assert unfit_part(ip_network(part), ip_network(whole)) == reason
