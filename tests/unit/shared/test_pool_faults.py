"""What is wrong with the pools of a network."""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm.errors import Invalid
from cnm.messages.ipam import AllocatePools
from cnm.messages.message import decode
from cnm.messages.network import MAX_POOLS, CreateNetwork, PoolRequest
from cnm.pool_faults import network_faults
from cnm.prefix import overlap


def request(subnet, part=None, **more):
    return PoolRequest(subnet=ip_network(subnet), range=ip_network(part) if part else None, **more)


def faults(*requests):
    return [(each.field, each.reason) for each in network_faults("LocalDefault", requests, {})]


def test_each_subnet_names_the_first_that_it_overlaps():
    found = faults(
        request("10.0.0.0/16"),
        request("10.1.0.0/24"),
        request("10.0.5.0/24"),
        request("10.0.0.0/8"),
        request("10.1.0.0/24"),
        request("fd00::/64"),
    )
    assert found == [
        ("ipam.pools[2].subnet", "10.0.5.0/24 overlaps 10.0.0.0/16 of ipam.pools[0]"),
        ("ipam.pools[3].subnet", "10.0.0.0/8 overlaps 10.0.0.0/16 of ipam.pools[0]"),
        ("ipam.pools[4].subnet", "10.1.0.0/24 overlaps 10.1.0.0/24 of ipam.pools[1]"),
    ]


def test_ranges_share_their_very_subnet_only():
    low, high = ("10.0.0.0/24", "10.0.0.0/25"), ("10.0.0.0/24", "10.0.0.128/25")
    assert faults(request(*low), request(*high)) == []
    assert len(faults(request(*low), request(*low))) == 1
    assert len(faults(request(*low), request("10.0.0.0/24"))) == 1
    assert len(faults(request(*low), request("10.0.0.0/16", "10.0.128.0/25"))) == 1


def _clashes(one, other):
    if not overlap(one.subnet, other.subnet):
        return False
    return one.subnet != other.subnet or None in (one.range, other.range) or one.range == other.range


def subnets(family, width):
    """Return large prefixes, which meet often, without those that ask only for a size."""
    return st.integers(1, 6).flatmap(
        lambda length: st.integers(1, 2**length - 1).map(lambda bits: family((bits << (width - length), length)))
    )


SUBNETS = st.one_of(subnets(IPv4Network, 32), subnets(IPv6Network, 128))


@given(st.lists(st.tuples(SUBNETS, st.sampled_from([None, 0, 1])), max_size=12))
def test_overlaps_are_those_that_a_look_at_every_pair_finds(drawn):
    requests = [
        PoolRequest(subnet=subnet, range=None if part is None else list(subnet.subnets(new_prefix=8))[part])
        for subnet, part in drawn
    ]
    expected = {
        f"ipam.pools[{index}].subnet": next((each for each in requests[:index] if _clashes(one, each)), None)
        for index, one in enumerate(requests)
    }
    found = {field: reason for field, reason in faults(*requests) if " overlaps " in reason}
    assert found.keys() == {field for field, other in expected.items() if other is not None}
    for field, reason in found.items():
        assert f" overlaps {expected[field].subnet} of " in reason


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        (CreateNetwork, lambda pools: {"name": "web", "ipam": {"pools": pools}}),
        (
            AllocatePools,
            lambda pools: {"owner": "web", "owner_label": "web", "space": "LocalDefault", "pools": pools},
        ),
    ],
)
def test_number_of_pools_has_a_limit(command, fields):
    decode(command, msgspec.json.encode(fields([{}] * MAX_POOLS)))
    with pytest.raises(Invalid, match=rf"length <= {MAX_POOLS}"):
        decode(command, msgspec.json.encode(fields([{}] * (MAX_POOLS + 1))))


def test_address_of_two_uses_is_refused():
    aux = {"a": ip_address("10.0.0.1"), "b": ip_address("10.0.0.2"), "c": ip_address("10.0.0.2")}
    assert faults(request("10.0.0.0/24", gateway=ip_address("10.0.0.1"), aux_addresses=aux)) == [
        ("ipam.pools[0].aux_addresses.a", "10.0.0.1 is the address of gateway too"),
        ("ipam.pools[0].aux_addresses.c", "10.0.0.2 is the address of aux_addresses.b too"),
    ]
