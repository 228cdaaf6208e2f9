"""Who holds what, and for how long it is remembered; and what nodes use besides."""

import asyncio
from ipaddress import ip_address, ip_network

import pytest

from cnm.errors import Conflict, Exhausted, Invalid, NotFound, Unavailable
from cnm.messages.ipam import AllocatePools, PoolWanted, RequestPool
from cnm.messages.network import PoolRequest
from cnm_ipam import handlers
from cnm_ipam.redis_script import KEY_PREFIX, connect

SUBNET = {
    "subnet": "172.28.0.0/16",
    "range": "172.28.5.0/24",
    "gateway": "172.28.5.254",
    "aux": {"router": "172.28.1.5"},
}


def held(leases):
    return {str(lease.address.ip): lease.owner for lease in leases}


async def test_each_lease_names_its_owner_and_what_it_is_for(ipam):
    (pool,) = await ipam.network("web", SUBNET)
    await ipam.endpoint("e1", (pool["pool_id"], None))
    await ipam.address(pool["pool_id"], "172.28.9.9", owner="printer")
    await ipam.address(pool["pool_id"], "172.28.9.8")
    shown = [
        (str(lease.address), lease.owner, lease.holder, lease.use) for lease in await ipam.addresses(pool["pool_id"])
    ]
    assert shown == [
        ("172.28.1.5/16", "web", 'network "web"', "auxiliary address router"),
        ("172.28.5.0/16", "e1", 'endpoint "e1"', None),
        ("172.28.5.254/16", "web", 'network "web"', "gateway"),
        ("172.28.9.8/16", None, "a client", None),
        ("172.28.9.9/16", "printer", 'owner "printer"', None),
    ]
    for address, text in (
        ("172.28.5.254", '172.28.5.254 is held by network "web" as its gateway'),
        ("172.28.1.5", '172.28.1.5 is held by network "web" as its auxiliary address router'),
        ("172.28.5.0", '172.28.5.0 is held by endpoint "e1"'),
    ):
        with pytest.raises(Conflict) as caught:
            await ipam.address(pool["pool_id"], address)
        assert caught.value.message == text


@pytest.mark.parametrize("prefix", ["10.0.0.0/24", "10.0.0.0/15", "fd00::/64", "10.0.255.128/25"])
async def test_addresses_are_listed_page_by_page_in_order(ipam, prefix):
    pool_id = await ipam.pool(prefix)
    network = ip_network(prefix)
    picked = sorted({1, 2, 3, 70, 99, 100, *(() if network.num_addresses < 2**16 else (65535, 65536, 70000))})
    for number in reversed(picked):
        await ipam.address(pool_id, str(network[number]), owner=f"o{number}")
    assert list(held(await ipam.addresses(pool_id)).values()) == [f"o{number}" for number in picked]
    found, after = [], None
    while page := await ipam.addresses(pool_id, limit=2, **({"after": after} if after else {})):
        found += page
        after = page[-1].address.ip
    assert held(found) == held(await ipam.addresses(pool_id))
    assert await ipam.addresses(pool_id, after=network[100] if len(picked) == 6 else network[70000]) == []


async def test_resting_addresses_and_those_of_other_sub_pools_are_not_listed(ipam):
    ipam = ipam.resting(60)
    one, two = await ipam.pool("10.0.0.0/16", "10.0.1.0/24"), await ipam.pool("10.0.0.0/16", "10.0.2.0/24")
    for _ in range(2):
        await ipam.address(one, owner=None)
    await ipam.address(two, "10.0.1.77", owner="x")
    await ipam.release(one, "10.0.1.0")
    assert list(held(await ipam.addresses(one))) == ["10.0.1.1"]
    assert held(await ipam.addresses(two)) == {"10.0.1.77": "x"}
    with pytest.raises(NotFound, match=r"no pool LocalDefault/10.0.0.0/16"):
        await ipam.addresses("LocalDefault/10.0.0.0/16")


async def test_leases_of_networks_and_endpoints_are_listed_over_all_pools(ipam):
    expected = {}
    for number in range(5):
        (pool,) = await ipam.network(f"n{number}", {"subnet": f"10.{number}.0.0/16"})
        expected[f"10.{number}.0.1"] = f"n{number}"
        for index in range(3):
            (address,) = await ipam.endpoint(f"e{number}{index}", (pool["pool_id"], None))
            expected[address.split("/")[0]] = f"e{number}{index}"
        await ipam.address(pool["pool_id"], owner="a client's")
    for limit in (1, 3, 7, 20, 1000):
        found = await ipam.leases(limit=limit)
        assert held(found) == expected
        assert len(found) == 20
    with pytest.raises(Invalid, match="after: 'x' is nothing that a list replied"):
        await ipam.pools.leases(after="x", limit=3)


async def test_pools_are_listed_page_by_page(ipam):
    ids = [await ipam.pool(f"10.{number}.0.0/16", space="a" if number % 2 else "b") for number in range(7)]
    every = await ipam.list_pools()
    assert [pool.pool_id for pool in every] == ids
    assert [pool.pool_id for pool in await ipam.list_pools(limit=3)] == ids[:3]
    assert [pool.pool_id for pool in await ipam.list_pools(limit=3, after=ids[2])] == ids[3:6]
    assert [pool.pool_id for pool in await ipam.list_pools("a", limit=2, after=ids[1])] == [ids[3], ids[5]]
    assert await ipam.list_pools(after=ids[-1]) == []
    with pytest.raises(NotFound, match=r"no pool a/10.77.0.0/16"):
        await ipam.list_pools(after="a/10.77.0.0/16")


async def test_endpoint_of_the_same_name_gets_its_addresses_again_for_as_long_as_they_are_free(ipam):
    ipam = ipam.resting(60)
    v4, v6 = await ipam.pool("10.0.0.0/24"), await ipam.pool("fd00::/64")
    pools = ((v4, None), (v6, None))
    assert await ipam.endpoint("e1", *pools, recall="net/db") == ["10.0.0.1/24", "fd00::1/64"]
    assert await ipam.endpoint("e2", *pools, recall="net/web") == ["10.0.0.2/24", "fd00::2/64"]
    await ipam.release_owned("e1")
    assert await ipam.endpoint("e3", *pools, recall="net/cache") == ["10.0.0.3/24", "fd00::3/64"]
    assert await ipam.endpoint("e4", *pools, recall="net/db") == ["10.0.0.1/24", "fd00::1/64"]
    await ipam.release_owned("e4")
    assert await ipam.endpoint("e5", (v4, "10.0.0.1"), recall="net/thief") == ["10.0.0.1/24"]
    assert await ipam.endpoint("e6", *pools, recall="net/db") == ["10.0.0.4/24", "fd00::1/64"]


async def test_what_was_never_used_neither_rests_nor_is_remembered(ipam):
    ipam = ipam.resting(60)
    pool_id = await ipam.pool("10.0.0.0/24")
    await ipam.endpoint("e1", (pool_id, None), recall="net/db")
    await ipam.release_owned("e1", unused=True)
    assert await ipam.endpoint("e2", (pool_id, None), recall="net/web") == ["10.0.0.1/24"]
    assert await ipam.endpoint("e3", (pool_id, None), recall="net/db") == ["10.0.0.2/24"]


# C22
async def test_undoing_one_endpoint_lets_the_rest_of_others_be(ipam):
    ipam = ipam.resting(60)
    pool_id = await ipam.pool("10.0.0.0/24")
    await ipam.endpoint("e1", (pool_id, None))
    await ipam.endpoint("e2", (pool_id, None))
    await ipam.release_owned("e1")
    await ipam.release_owned("e2", unused=True)
    assert await ipam.endpoint("e3", (pool_id, None)) == ["10.0.0.2/24"], "10.0.0.1 still rests"


# I21
async def test_next_pool_of_a_network_serves_when_one_is_full(ipam):
    first, second, third = [await ipam.pool(f"10.0.{number}.0/30") for number in range(3)]
    wanted = (first, None, second, third)
    found = [(await ipam.endpoint(f"e{number}", wanted))[0] for number in range(6)]
    assert found == [f"10.0.{number}.{host}/30" for number in range(3) for host in (1, 2)]
    with pytest.raises(Exhausted, match=r"^no free address in 10\.0\.2\.0/30$"):
        await ipam.endpoint("e6", wanted)
    await ipam.release_owned("e3")
    with pytest.raises(Conflict, match=r'^10.0.1.1 is held by endpoint "e2"$'):
        await ipam.endpoint("e7", (first, "10.0.1.1", second, third))
    assert await ipam.endpoint("e7", (first, "10.0.1.2", second, third)) == ["10.0.1.2/30"]
    with pytest.raises(Invalid, match=r"ipv4_address: 10.0.9.1 is not in 10.0.0.0/30"):
        await ipam.endpoint("e8", (first, "10.0.9.1", second, third))


async def test_exclusive_pool_stands_alone_even_where_ranges_are_apart(ipam):
    await ipam.network("web", SUBNET, exclusive=True)
    with pytest.raises(Conflict, match=r'^172.28.0.0/16 overlaps 172.28.0.0/16, which network "web" holds'):
        await ipam.network("other", {"subnet": "172.28.0.0/16", "range": "172.28.6.0/24"}, exclusive=True)
    with pytest.raises(Conflict, match=r'^172.28.6.0/24 overlaps 172.28.0.0/16, which network "web" holds'):
        await ipam.network("other", {"subnet": "172.28.6.0/24", "range": "172.28.6.0/25"}, exclusive=True)
    with pytest.raises(Conflict, match=r'^172.16.0.0/12 overlaps 172.28.0.0/16, which network "web" holds'):
        await ipam.pool("172.16.0.0/12", "172.17.0.0/24")
    part = await ipam.pool("172.28.0.0/16", "172.28.7.0/24")
    assert await ipam.address(part) == "172.28.7.0/16", "a client may reserve addresses of a network's own pool"
    with pytest.raises(Conflict, match='is held by network "web" as its auxiliary address router'):
        await ipam.address(part, "172.28.1.5")


# demand 4: `pool.conflict`
async def test_route_that_appears_over_a_pool_is_told_of_once(ipam):
    (pool,) = await ipam.network("web", {"subnet": "10.7.0.0/16"})
    other = await ipam.pool("10.8.0.0/16", space="blue")
    await ipam.events()
    await ipam.report("n1", "10.0.0.0/8", "192.168.7.0/24", device="tun0")
    events = await ipam.events()
    assert [subject for subject, _ in events] == [
        "cnm.v1.event.pool.conflict.LocalDefault_10_7_0_0_16",
        "cnm.v1.event.pool.conflict.blue_10_8_0_0_16",
    ]
    body = events[0][1]
    shown = {name: body["object"][name] for name in ("pool_id", "owner", "in_use", "conflicts")}
    conflict = {"node": "n1", "prefix": "10.0.0.0/8", "by": "route on tun0", "device": "tun0"}
    assert shown == {"pool_id": pool["pool_id"], "owner": "web", "in_use": 1, "conflicts": [conflict]}
    assert body["node"] == "n1"
    assert body["trace_id"]
    await ipam.report("n1", "10.0.0.0/8", "192.168.7.0/24", device="tun0")
    assert await ipam.events() == [], "it is no news"
    await ipam.report("n2", "10.8.9.0/24", "10.8.10.0/24")
    ((subject, body),) = await ipam.events()
    assert subject == "cnm.v1.event.pool.conflict.blue_10_8_0_0_16"
    assert [each["prefix"] for each in body["object"]["conflicts"]] == ["10.8.9.0/24", "10.8.10.0/24"]
    await ipam.report("n1")
    await ipam.report("n1", "10.7.1.0/24")
    assert [subject for subject, _ in await ipam.events()] == ["cnm.v1.event.pool.conflict.LocalDefault_10_7_0_0_16"]
    await ipam.release_pool(other)


async def test_route_on_the_networks_own_device_is_no_conflict(ipam):
    (pool,) = await ipam.network("web", {"subnet": "10.7.0.0/16"}, device="br-user")
    await ipam.events()
    await ipam.report("n1", "10.7.0.0/16", device="br-user")
    assert await ipam.events() == []
    await ipam.report("n2", "10.7.0.0/16", device="eth0")
    assert len(await ipam.events()) == 1
    assert (await ipam.get(pool["pool_id"])).pool_id == pool["pool_id"]


async def test_routes_are_kept_clear_of_until_the_last_node_lost_them(ipam):
    await ipam.report("n1", "172.17.0.0/16")
    await ipam.report("n2", "172.17.0.0/16")
    await ipam.report("n1")
    assert await ipam.pool() == "LocalDefault/172.18.0.0/16"
    await ipam.report("n2", "172.19.0.0/16")
    assert await ipam.pool() == "LocalDefault/172.20.0.0/16"
    assert await ipam.pool("172.17.0.0/16") == "LocalDefault/172.17.0.0/16"


async def test_node_that_was_not_heard_of_for_a_day_is_forgotten(ipam):
    await ipam.report("gone", "172.17.0.0/16")
    redis = ipam.pools.script.redis
    known = float(await redis.hget(f"{KEY_PREFIX}node-times", "gone"))
    await redis.hset(f"{KEY_PREFIX}node-times", "gone", str(known - 25 * 3600 * 1000))
    await ipam.report("n1", "172.18.0.0/16")
    assert await ipam.pool() == "LocalDefault/172.17.0.0/16"


# I06, I07
async def test_named_pool_over_a_route_is_granted_with_a_warning(ipam):
    await ipam.report("n1", "10.0.0.0/12", device="tun0")
    command = RequestPool(space="LocalDefault", pool=ip_network("10.1.0.0/16"))
    requested = await handlers.request_pool(command, pools=ipam.pools, predefined=ipam.predefined)
    assert requested.warnings == ["pool 10.1.0.0/16 overlaps 10.0.0.0/12 (route on tun0 on node n1)"]
    wanted = [PoolWanted(request=PoolRequest(subnet=ip_network("10.2.0.0/16")))]
    command = AllocatePools(owner="web", owner_label="web", space="LocalDefault", pools=wanted)
    allocated = await handlers.allocate_pools(command, pools=ipam.pools, predefined=ipam.predefined)
    assert allocated.warnings == ["pool 10.2.0.0/16 overlaps 10.0.0.0/12 (route on tun0 on node n1)"]


async def test_exhausted_space_says_which_routes_stand_in_the_way(ipam):
    await ipam.report("n1", "172.16.0.0/12", device="tun0")
    for _ in range(16):
        await ipam.pool()
    with pytest.raises(Exhausted) as caught:
        await ipam.pool()
    assert caught.value.message == (
        "no predefined IPv4 pool is left in LocalDefault; nodes use 172.16.0.0/12 (route on tun0 on node n1)"
    )


# I13
async def test_undone_endpoint_leaves_what_it_found(ipam):
    ipam = ipam.resting(60)
    pool_id = await ipam.pool("10.0.0.0/24")
    for name in ("db", "web"):
        await ipam.endpoint(name, (pool_id, None), recall=f"net/{name}")
    for name in ("db", "web"):
        await ipam.release_owned(name)
    before = await ipam.state()
    assert await ipam.endpoint("web again", (pool_id, None), recall="net/web") == ["10.0.0.2/24"]
    await ipam.release_owned("web again", unused=True)
    await ipam.endpoint("thief", (pool_id, "10.0.0.1"), recall="net/thief")
    await ipam.release_owned("thief", unused=True)
    assert await ipam.state() == before
    assert await ipam.endpoint("other", (pool_id, None), recall="net/other") == ["10.0.0.3/24"], "both rest"
    assert await ipam.endpoint("db again", (pool_id, None), recall="net/db") == ["10.0.0.1/24"]


# I21
async def test_rest_and_memory_hold_over_all_pools_of_a_network(ipam):
    ipam = ipam.resting(60)
    first, second = await ipam.pool("10.0.0.0/30"), await ipam.pool("10.0.1.0/24")
    wanted = (first, None, second)
    for name in ("a", "b", "c"):
        await ipam.endpoint(name, wanted, recall=f"net/{name}")
    await ipam.release_owned("a")
    assert await ipam.endpoint("d", wanted, recall="net/d") == ["10.0.1.2/24"], "10.0.0.1 rests"
    await ipam.release_owned("c")
    assert await ipam.endpoint("c again", wanted, recall="net/c") == ["10.0.1.1/24"]


async def test_memory_of_a_large_pool_is_that_of_what_it_holds(ipam):
    pool_id = await ipam.pool("fd00::/64")
    before = await ipam.state()
    for number in range(40):
        await ipam.address(pool_id, f"fd00::{number:x}:0:5")
        await ipam.release(pool_id, f"fd00::{number:x}:0:5")
    after = await ipam.state()
    assert set(after) == set(before)
    assert await ipam.counts(pool_id) == (0, str(2**64 - 1))


async def test_an_owner_s_many_addresses_are_each_its_own(ipam):
    pool_id = await ipam.pool("10.0.0.0/24")
    asked = [f"10.0.0.{number}/24" for number in range(1, 41)]
    for address in asked:
        assert await ipam.address(pool_id, address[:-3], owner="db") == address
    assert await ipam.address(pool_id, owner="db") == asked[0]
    assert await ipam.address(pool_id, "10.0.0.40", owner="db") == asked[-1]
    for address in asked:
        await ipam.release(pool_id, address)
    assert await ipam.counts(pool_id) == (0, 254)


@pytest.mark.parametrize("after", ["10.0.0.255", "10.0.2.0", "9.0.0.0", "fd00::1"])
async def test_list_goes_on_only_after_an_address_of_the_pool(ipam, after):
    pool_id = await ipam.pool("10.0.1.0/24")
    with pytest.raises(Invalid, match=rf"after: {after} is not in 10\.0\.1\.0/24"):
        await ipam.addresses(pool_id, after=ip_address(after))


@pytest.mark.parametrize("after", ["9" * 5000 + "-00000000", "1e5-00000000", "-00000000", "1-0", "1-" + "g" * 8])
async def test_place_that_no_list_told_is_refused(ipam, after):
    with pytest.raises(Invalid, match="is nothing that a list replied"):
        await ipam.pools.leases(after=after, limit=3)


async def test_route_that_comes_on_another_device_is_told_of(ipam):
    await ipam.network("web", {"subnet": "10.0.0.0/24"}, device="br-lan", exclusive=True)
    await ipam.events()
    await ipam.report("n1", "10.0.0.0/24", device="br-lan")
    assert await ipam.events() == []
    await ipam.report("n1", "10.0.0.0/24", device="tun0")
    ((subject, body),) = await ipam.events()
    assert subject == "cnm.v1.event.pool.conflict.LocalDefault_10_0_0_0_24"
    assert body["object"]["conflicts"] == [
        {"node": "n1", "prefix": "10.0.0.0/24", "by": "route on tun0", "device": "tun0"}
    ]


# A change that was made is never told as one that was not
async def test_change_that_outlasts_its_deadline_is_told_as_made(ipam, redis_url, ipam_class):
    pool_id = await ipam.pool("10.0.0.0/24")
    redis = connect(redis_url)
    late = ipam_class.over(redis)
    await late.pools.installation()

    async def overdue(work):
        await redis.execute_command("CLIENT", "PAUSE", "200", "ALL")
        async with asyncio.timeout(0.05):
            return await work

    try:
        assert await overdue(late.pool("10.1.0.0/24")) == "LocalDefault/10.1.0.0/24"
        assert await overdue(late.address(pool_id, owner="db")) == "10.0.0.1/24"
        assert await overdue(late.release(pool_id, "10.0.0.1")) is None
        with pytest.raises(TimeoutError):
            await overdue(late.get(pool_id))
    finally:
        await redis.aclose()
    assert await ipam.counts(pool_id) == (0, 254)
    assert [pool.pool_id for pool in await ipam.list_pools()] == [pool_id, "LocalDefault/10.1.0.0/24"]


async def test_server_that_refuses_to_write_is_unavailable(ipam):
    pool_id = await ipam.pool("10.0.0.0/24")
    redis = ipam.pools.script.redis
    await redis.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(Unavailable, match=r"^Redis refuses to work: NOREPLICAS"):
            await ipam.address(pool_id)
    finally:
        await redis.config_set("min-replicas-to-write", 0)
    assert await ipam.counts(pool_id) == (0, 254)
