"""What a pool is: what of it is usable, how it is written."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm.prefix import prefix_bits
from cnm_ipam.pool import AddressPool, address_hex, from_address_hex, from_prefix_bits, parse_pool_id, shown_count

networks = st.one_of(
    st.builds(lambda n, p: ip_network((n >> (32 - p) << (32 - p), p)), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(
        lambda n, p: ip_network(f"{ip_address((n | 1 << 127) >> (128 - p) << (128 - p))}/{p}"),
        st.integers(0, 2**128 - 1),
        st.integers(1, 128),
    ),
)


@given(networks)
def test_prefix_and_address_are_read_as_they_were_written(network):
    assert from_prefix_bits(prefix_bits(network)) == network
    assert from_address_hex(address_hex(network.network_address)) == network.network_address


@given(networks, networks)
def test_pool_id_is_read_as_it_was_written(pool, sub_pool):
    for found in (AddressPool(space="s", pool=pool), AddressPool(space="s", pool=pool, sub_pool=sub_pool)):
        assert parse_pool_id(found.id) == found


def test_pool_ids_are_libnetworks():
    pool = AddressPool(space="default", pool=ip_network("172.27.0.0/16"))
    assert pool.id == "default/172.27.0.0/16"
    part = AddressPool(space="default", pool=pool.pool, sub_pool=ip_network("172.27.3.0/24"))
    assert part.id == "default/172.27.0.0/16/172.27.3.0/24"


@pytest.mark.parametrize("text", ["", "a", "a/10.0.0.0", "a/10.0.0.1/8", "a/10.0.0.0/8/10.0.0.0", "a/10.0.0.0/08"])
def test_text_that_is_no_pool_id_is_none(text):
    assert parse_pool_id(text) is None


@pytest.mark.parametrize(
    ("pool", "sub_pool", "first", "last", "usable"),
    [
        ("10.0.0.0/24", None, "10.0.0.1", "10.0.0.254", 254),
        ("10.0.0.0/30", None, "10.0.0.1", "10.0.0.2", 2),
        ("10.0.0.0/31", None, "10.0.0.0", "10.0.0.1", 2),
        ("10.0.0.7/32", None, "10.0.0.7", "10.0.0.7", 1),
        ("10.0.0.0/8", None, "10.0.0.1", "10.255.255.254", 2**24 - 2),
        ("172.28.0.0/16", "172.28.30.0/24", "172.28.30.0", "172.28.30.255", 256),
        ("172.28.0.0/16", "172.28.0.0/24", "172.28.0.1", "172.28.0.255", 255),
        ("172.28.0.0/16", "172.28.255.0/24", "172.28.255.0", "172.28.255.254", 255),
        ("172.18.0.0/16", "172.18.0.0/16", "172.18.0.1", "172.18.255.254", 65534),
        ("10.0.0.0/24", "10.0.0.0/31", "10.0.0.1", "10.0.0.1", 1),
        ("fd00::/64", None, "fd00::1", "fd00::ffff:ffff:ffff:ffff", 2**64 - 1),
        ("fd00::/126", None, "fd00::1", "fd00::3", 3),
        ("fd00::/127", None, "fd00::", "fd00::1", 2),
        ("fd00::/128", None, "fd00::", "fd00::", 1),
        ("fd00::/64", "fd00::100/120", "fd00::100", "fd00::1ff", 256),
        ("fd00::/64", "fd00::/120", "fd00::1", "fd00::ff", 255),
    ],
)
def test_usable_addresses_of_a_range(pool, sub_pool, first, last, usable):
    found = AddressPool(space="s", pool=ip_network(pool), sub_pool=ip_network(sub_pool) if sub_pool else None)
    assert (found.first, found.last) == (int(ip_address(first)), int(ip_address(last)))
    assert found.usable == usable


def test_range_of_the_network_address_alone_has_no_usable_address():
    for part in ("10.0.0.0/32", "10.0.0.255/32"):
        found = AddressPool(space="s", pool=ip_network("10.0.0.0/24"), sub_pool=ip_network(part))
        assert found.usable == 0


def test_counts_above_2_to_53_are_text():
    assert shown_count(2**53) == 2**53
    assert shown_count(2**53 + 1) == "9007199254740993"
