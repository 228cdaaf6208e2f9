"""Which predefined pool is chosen: the next one that is free, after the last one, once round the bases."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnm.errors import Exhausted, Invalid
from cnm.prefix import overlap, prefix_bits
from cnm_ipam.predefined import Base, Predefined
from cnm_ipam.redis_script import KEY_PREFIX, connect

LOCAL = [f"172.{n}.0.0/16" for n in range(17, 32)] + [f"192.168.{n}.0/20" for n in range(0, 256, 16)]


def bases(*texts):
    return Predefined(local=tuple(Base(ip_network(text.split()[0]), int(text.split()[1])) for text in texts))


def shown(pool_id):
    return pool_id.split("/", 1)[1]


# I03
@pytest.mark.parametrize("index", range(31))
async def test_search_begins_after_the_last_one_and_goes_once_round(ipam, index):
    await ipam.pools.script.redis.hset(
        f"{KEY_PREFIX}turns", "LocalDefault 4 default", prefix_bits(ip_network(LOCAL[index]))
    )
    expected = LOCAL[index + 1 :] + LOCAL[: index + 1]
    assert [shown(await ipam.pool()) for _ in expected] == expected
    with pytest.raises(Exhausted):
        await ipam.pool()


# I04
async def test_global_pools_are_all_24s_of_10(ipam):
    found = [shown(await ipam.pool(space="GlobalDefault")) for _ in range(3)]
    assert found == ["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"]
    await ipam.pools.script.redis.hset(
        f"{KEY_PREFIX}turns", "GlobalDefault 4 default", prefix_bits(ip_network("10.255.254.0/24"))
    )
    found = [shown(await ipam.pool(space="GlobalDefault")) for _ in range(2)]
    assert found == ["10.255.255.0/24", "10.0.3.0/24"]


async def test_turn_of_another_configuration_begins_at_the_start(ipam):
    await ipam.pools.script.redis.hset(
        f"{KEY_PREFIX}turns", "LocalDefault 4 default", prefix_bits(ip_network("10.0.0.0/24"))
    )
    assert shown(await ipam.pool()) == "172.17.0.0/16"


# modern 5.2: what is given, the bases, what is asked for, and what comes
DYNAMIC = [
    ("nothing is taken", ["10.0.0.0/8 16"], [], None, ["10.0.0.0/16", "10.1.0.0/16"]),
    ("the first is taken", ["10.0.0.0/8 16"], ["10.0.0.0/16"], None, ["10.1.0.0/16"]),
    ("a part of the first is taken", ["10.0.0.0/8 16"], ["10.0.7.0/24"], None, ["10.1.0.0/16"]),
    ("the end of the first is taken", ["10.0.0.0/8 16"], ["10.0.255.255/32"], None, ["10.1.0.0/16"]),
    ("a larger one covers the first", ["10.0.0.0/8 16"], ["10.0.0.0/14"], None, ["10.4.0.0/16"]),
    ("one covers the whole base", ["10.0.0.0/8 16", "172.16.0.0/12 16"], ["10.0.0.0/8"], None, ["172.16.0.0/16"]),
    ("one covers several bases", ["10.0.0.0/9 16", "10.128.0.0/9 16"], ["8.0.0.0/6"], None, []),
    ("a gap too small is passed over", ["10.0.0.0/8 16"], ["10.0.0.0/17", "10.1.128.0/17"], None, ["10.2.0.0/16"]),
    ("a gap that is not aligned is too small", ["10.0.0.0/22 23"], ["10.0.0.0/24", "10.0.3.0/24"], None, []),
    ("a gap between two is taken", ["10.0.0.0/8 16"], ["10.0.0.0/16", "10.2.0.0/16"], None, ["10.1.0.0/16"]),
    ("what stands before the base is no matter", ["10.8.0.0/13 16"], ["10.0.0.0/13"], None, ["10.8.0.0/16"]),
    ("what stands after the base is no matter", ["10.0.0.0/15 16"], ["10.2.0.0/15"], None, ["10.0.0.0/16"]),
    ("the base is one pool", ["10.7.0.0/16 16"], [], None, ["10.7.0.0/16"]),
    ("the base is one pool and taken", ["10.7.0.0/16 16"], ["10.7.1.0/24"], None, []),
    ("bases come in the order they are given", ["172.30.0.0/16 16", "10.0.0.0/16 16"], [], None,
     ["172.30.0.0/16", "10.0.0.0/16"]),
    ("the next base when the first is full", ["10.0.0.0/23 24", "10.9.0.0/24 24"], [], None,
     ["10.0.0.0/24", "10.0.1.0/24", "10.9.0.0/24"]),
    ("a base inside another is ignored", ["10.1.0.0/24 24", "10.0.0.0/8 16"], [], None, ["10.0.0.0/16"]),
    ("a base given twice counts once", ["10.0.0.0/24 24", "10.0.0.0/24 25"], [], None, ["10.0.0.0/24"]),
    ("a smaller size than that of the base", ["10.0.0.0/8 16"], [], 24, ["10.0.0.0/24", "10.0.1.0/24"]),
    ("a larger size than that of the base", ["10.0.0.0/8 16"], ["10.0.0.0/24"], 12, ["10.16.0.0/12"]),
    ("a size that only one base has room for", ["10.0.0.0/24 24", "172.16.0.0/12 16"], [], 13, ["172.16.0.0/13"]),
    ("a size as large as the base", ["10.0.0.0/8 16"], [], 8, ["10.0.0.0/8"]),
    ("single addresses", ["10.0.0.0/30 32"], ["10.0.0.1/32"], None, ["10.0.0.0/32", "10.0.0.2/32", "10.0.0.3/32"]),
    ("IPv6", ["fd00:1::/32 64"], ["fd00:1::/64", "fd00:1:0:2::/63"], 64, ["fd00:1:0:1::/64", "fd00:1:0:4::/64"]),
    ("IPv6 of a small size", ["fd00:1::/48 64"], ["fd00:1::100/120"], 120, ["fd00:1::/120", "fd00:1::200/120"]),
    ("IPv6 beside what covers it", ["fd00:1::/48 64"], ["fd00:1::/49"], 64, ["fd00:1:0:8000::/64"]),
    ("IPv6 when all is covered", ["fd00:1::/48 64"], ["fd00::/16"], 64, []),
    ("other families are no matter", ["fd00:1::/48 64", "10.0.0.0/8 16"], ["10.0.0.0/16"], 64, ["fd00:1::/64"]),
]  # fmt: skip


@pytest.mark.parametrize("kept_by", ["pools", "exclude", "routes"])
@pytest.mark.parametrize(("_title", "base", "taken", "size", "expected"), DYNAMIC, ids=[row[0] for row in DYNAMIC])
async def test_next_free_pool(ipam, _title, base, taken, size, expected, kept_by):
    ipam = replace(ipam, predefined=bases(*base))
    if kept_by == "pools":
        for pool in taken:
            await ipam.pool(pool)
    elif kept_by == "routes":
        await ipam.report("n1", *taken)
    wish = {"exclude": taken} if kept_by == "exclude" else {}
    if size is not None:
        wish["pool"] = f"::/{size}" if size > 32 else f"0.0.0.0/{size}"
    assert [shown(await ipam.pool(**wish)) for _ in expected] == expected
    if not expected:
        with pytest.raises(Exhausted):
            await ipam.pool(**wish)


async def test_size_without_a_family_is_refused_at_the_edge(ipam):
    with pytest.raises(Invalid, match="no predefined pool is as large as /7, the largest is /8"):
        await replace(ipam, predefined=bases("10.0.0.0/8 16")).pool("0.0.0.0/7")


async def test_sizes_take_turns_of_their_own(ipam):
    ipam = replace(ipam, predefined=bases("10.0.0.0/22 24"))
    assert [shown(await ipam.pool()) for _ in range(2)] == ["10.0.0.0/24", "10.0.1.0/24"]
    assert shown(await ipam.pool("0.0.0.0/25")) == "10.0.2.0/25"
    await ipam.release_pool("LocalDefault/10.0.0.0/24")
    assert shown(await ipam.pool("0.0.0.0/25")) == "10.0.2.128/25"
    assert shown(await ipam.pool()) == "10.0.3.0/24"
    assert shown(await ipam.pool()) == "10.0.0.0/24"


async def test_thousands_of_pools_are_passed_over_at_once(ipam):
    ipam = replace(ipam, predefined=bases("10.0.0.0/10 24"))
    tree = f"{KEY_PREFIX}prefixes:LocalDefault"
    taken = [
        prefix
        for prefix in ip_network("10.0.0.0/10").subnets(new_prefix=24)
        if prefix.network_address.packed[2] != 99
    ]
    last = ip_network("10.63.99.0/24")
    await ipam.pools.script.redis.zadd(tree, {prefix_bits(prefix): 0 for prefix in taken})
    await ipam.pools.script.redis.zadd(tree, {prefix_bits(ip_network(f"10.{n}.99.0/24")): 0 for n in range(63)})
    assert shown(await ipam.pool()) == str(last)
    with pytest.raises(Exhausted):
        await ipam.pool()


POOL = st.tuples(st.integers(0, 255), st.integers(0, 8))


def prefix(number, bits):
    return ip_network((0x0A000000 + (number >> bits << bits), 32 - bits))


def test_search_finds_what_a_walk_over_all_pools_finds(redis_url, ipam_class):
    """In 10.0.0.0/24, all sizes, over pools of the space, routes of nodes and what is excluded at once."""
    redis = connect(redis_url)
    runner = asyncio.Runner()

    async def searched(own, taken, routes, excluded, after):
        await redis.flushall()
        ipam = replace(ipam_class.over(redis), predefined=own)
        if taken:
            await redis.zadd(f"{KEY_PREFIX}prefixes:LocalDefault", {prefix_bits(pool): 0 for pool in taken})
        await ipam.report("n1", *map(str, routes[::2]))
        await ipam.report("n2", *map(str, routes[1::2]))
        if after is not None:
            await redis.hset(f"{KEY_PREFIX}turns", "LocalDefault 4 default", prefix_bits(after))
        found = []
        while True:
            try:
                found.append(ip_network(shown(await ipam.pool(exclude=[str(each) for each in excluded]))))
            except Exhausted:
                return found

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(
        st.lists(POOL, max_size=6, unique_by=lambda pair: pair[0] >> pair[1] << pair[1]),
        st.lists(POOL, max_size=4),
        st.lists(POOL, max_size=4),
        st.one_of(st.none(), POOL),
        st.integers(2, 6),
        st.integers(2, 6),
    )
    def search(taken, routes, excluded, after, first, second):
        own = bases(f"10.0.0.0/25 {32 - min(first, 6)}", f"10.0.0.128/25 {32 - min(second, 6)}")
        blocks = [prefix(*pair) for pair in (*taken, *routes, *excluded)]
        position = None if after is None else prefix(*after)
        every = [
            ip_network((0x0A000000 + number, 32 - bits))
            for base, bits in ((0, first), (128, second))
            for number in range(base, base + 128, 1 << bits)
        ]
        within = next(
            (base for base in ("10.0.0.0/25", "10.0.0.128/25") if position and position.subnet_of(ip_network(base))),
            None,
        )
        if within is not None:
            later = [pool for pool in every if pool.network_address > position.broadcast_address]
            later = [pool for pool in later if pool.subnet_of(ip_network(within))]
            if within == "10.0.0.0/25":
                later += [pool for pool in every if not pool.subnet_of(ip_network(within))]
            every = later + [pool for pool in every if pool not in later]
        expected = [pool for pool in every if not any(overlap(pool, other) for other in blocks)]
        found = runner.run(searched(own, [prefix(*p) for p in taken], [prefix(*p) for p in routes],
                                    [prefix(*p) for p in excluded], position))  # fmt: skip
        assert found == expected

    try:
        search()
    finally:
        runner.run(redis.aclose())
        runner.close()


@pytest.mark.parametrize("version", [4, 6])
def test_ids_of_chosen_pools_are_written_as_python_writes_them(redis_url, ipam_class, version):
    redis = connect(redis_url)
    runner = asyncio.Runner()
    width = 32 if version == 4 else 128

    async def chosen(own, size):
        await redis.flushall()
        ipam = replace(ipam_class.over(redis), predefined=own)
        pool = await ipam.get(await ipam.pool(f"0.0.0.0/{size}" if version == 4 else f"::/{size}"))
        first = await ipam.address(pool.pool_id)
        return pool, first

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**100 - 1), st.integers(1, width - 9))
    def write(number, length):
        length += 8
        top = 10 << 24 if version == 4 else 0xFD << 120
        low = number & ((1 << (width - 8)) - 1)
        base = ip_network(f"{ip_address((top | low) >> (width - length) << (width - length))}/{length}")
        pool, first = runner.run(chosen(Predefined(local=(Base(base, length),)), length))
        assert pool.pool == base
        assert pool.pool_id == f"LocalDefault/{base}"
        hosts = base.num_addresses
        usable = hosts if hosts <= 2 else hosts - (2 if version == 4 else 1)
        assert int(pool.available) == usable
        assert first == f"{base[0] if hosts <= 2 else base[1]}/{length}"

    try:
        write()
    finally:
        runner.run(redis.aclose())
        runner.close()
