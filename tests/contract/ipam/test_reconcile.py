"""What a document says and what is held, put right in one go."""

from ipaddress import ip_address, ip_network

import pytest

from cnm.errors import Conflict, NotFound
from cnm_ipam.redis_script import KEY_PREFIX

SUBNET = {
    "subnet": "172.28.0.0/16",
    "range": "172.28.5.0/24",
    "gateway": "172.28.5.254",
    "aux": {"router": "172.28.1.5"},
}


def held(leases):
    return {str(lease.address.ip): lease.owner for lease in leases}


def as_held(allocated):
    """Return a pool as an owner's document has it."""
    aux = {name: ip_address(address) for name, address in allocated["aux_addresses"].items()}
    gateway = allocated["gateway"]
    return {
        "pool_id": allocated["pool_id"],
        "subnet": ip_network(allocated["subnet"]),
        "range": ip_network(allocated["range"]) if allocated["range"] else None,
        "gateway": ip_address(gateway) if gateway else None,
        "aux_addresses": aux,
    }


async def network_web(ipam):
    return as_held(*await ipam.network("web", SUBNET))


async def test_what_is_as_it_should_be_is_left_alone(ipam):
    pool = await network_web(ipam)
    await ipam.endpoint("e1", (pool["pool_id"], None))
    before, _ = await ipam.state(), await ipam.events()
    assert await ipam.reconcile("web", pools=[pool]) == ([], [])
    assert await ipam.reconcile("e1", addresses=[(pool["pool_id"], "172.28.5.0")]) == ([], [])
    assert await ipam.events() == []
    await ipam.release_owned("e1")
    await ipam.release_owned("web")
    assert await ipam.state() == {}
    assert before != {}


async def test_everything_is_reserved_again_when_all_keys_are_lost(ipam):
    pool = await network_web(ipam)
    (address,) = await ipam.endpoint("e1", (pool["pool_id"], None), recall="web/e1")
    await ipam.pools.script.redis.flushall()
    restored, given = await ipam.reconcile("web", pools=[pool])
    assert (set(restored), given) == ({pool["pool_id"], "172.28.5.254", "172.28.1.5"}, [])
    assert await ipam.reconcile("e1", addresses=[(pool["pool_id"], "172.28.5.0")], recall="web/e1") == (
        ["172.28.5.0"],
        [],
    )
    assert [subject.rsplit(".", 1)[0] for subject, _ in await ipam.events()] == [
        "cnm.v1.event.pool.requested",
        "cnm.v1.event.address.requested",
    ]
    assert held(await ipam.addresses(pool["pool_id"])) == {
        "172.28.1.5": "web", "172.28.5.254": "web", "172.28.5.0": "e1",
    }  # fmt: skip
    assert await ipam.endpoint("e2", (pool["pool_id"], None)) == ["172.28.5.1/16"]
    for owner in ("e1", "e2", "web"):
        await ipam.release_owned(owner)
    assert await ipam.state() == {}
    assert address == "172.28.5.0/16"


async def test_lease_that_was_lost_is_taken_back_unless_another_has_it(ipam):
    pool = await network_web(ipam)
    await ipam.endpoint("e1", (pool["pool_id"], None))
    holders = f"{KEY_PREFIX}holders:LocalDefault/172.28.0.0/16"
    await ipam.pools.script.redis.hdel(holders, "ac1c0500")
    assert await ipam.reconcile("e1", addresses=[(pool["pool_id"], "172.28.5.0")]) == (["172.28.5.0"], [])
    await ipam.pools.script.redis.hdel(holders, "ac1c0500")
    await ipam.address(pool["pool_id"], "172.28.5.0", owner="thief")
    with pytest.raises(Conflict, match=r'^172.28.5.0 is held by owner "thief"$'):
        await ipam.reconcile("e1", addresses=[(pool["pool_id"], "172.28.5.0")])


async def test_pool_that_another_took_is_a_conflict_and_nothing_changes(ipam):
    pool = await network_web(ipam)
    await ipam.release_owned("web")
    await ipam.pool("172.28.0.0/15")
    before = await ipam.state()
    with pytest.raises(Conflict, match=r"^172.28.0.0/16 overlaps 172.28.0.0/15, which a client holds"):
        await ipam.reconcile("web", pools=[pool], exclusive=True)
    assert await ipam.state() == before


async def test_surplus_goes_back_and_a_dry_run_only_tells_of_it(ipam):
    pool = await network_web(ipam)
    (extra,) = await ipam.network("ghost", {"subnet": "10.9.0.0/16"})
    await ipam.endpoint("e1", (pool["pool_id"], None))
    await ipam.endpoint("e2", (pool["pool_id"], None))
    before = await ipam.state()
    surplus = {"surplus_addresses": [(pool["pool_id"], "172.28.5.1"), (pool["pool_id"], "172.28.5.0")]}
    ghost = {"surplus_pools": [extra["pool_id"], pool["pool_id"]]}
    assert await ipam.reconcile("e2", dry_run=True, **surplus) == ([], ["172.28.5.1"])
    assert await ipam.reconcile("ghost", dry_run=True, **ghost) == ([], [extra["pool_id"]])
    lost = {**pool, "pool_id": "LocalDefault/10.77.0.0/16", "subnet": ip_network("10.77.0.0/16"), "range": None,
            "gateway": ip_address("10.77.0.1"), "aux_addresses": {}}  # fmt: skip
    found, _ = await ipam.reconcile("web", pools=[pool, lost], dry_run=True)
    assert found == ["LocalDefault/10.77.0.0/16", "10.77.0.1"]
    assert await ipam.state() == before
    assert await ipam.reconcile("e2", **surplus) == ([], ["172.28.5.1"])
    assert await ipam.reconcile("ghost", **ghost) == ([], [extra["pool_id"]])
    assert await ipam.reconcile("e2", **surplus) == ([], [])
    assert list(held(await ipam.addresses(pool["pool_id"]))) == ["172.28.1.5", "172.28.5.0", "172.28.5.254"]
    assert len(await ipam.list_pools()) == 1


async def test_address_of_a_pool_that_is_not_there_is_not_found(ipam):
    with pytest.raises(NotFound, match=r"no pool LocalDefault/10.0.0.0/8"):
        await ipam.reconcile("e1", addresses=[("LocalDefault/10.0.0.0/8", "10.0.0.1")])
    assert await ipam.state() == {}


async def test_pool_that_takes_the_place_of_a_surplus_one_keeps_its_gateway(ipam):
    (other,) = await ipam.network("web", {"subnet": "10.0.0.0/24", "range": "10.0.0.128/25"})
    (wanted,) = await ipam.network("later", {"subnet": "10.0.0.0/24", "range": "10.0.0.0/25"})
    await ipam.release_owned("later")
    wanted["gateway"] = "10.0.0.1"
    restored, given = await ipam.reconcile("web", pools=[as_held(wanted)], surplus_pools=[other["pool_id"]])
    assert (set(restored), given) == ({wanted["pool_id"], "10.0.0.1"}, [other["pool_id"]])
    assert await ipam.endpoint("e1", (wanted["pool_id"], None)) == ["10.0.0.2/24"]
    assert await ipam.endpoint("e2", (wanted["pool_id"], None)) == ["10.0.0.3/24"]
    assert held(await ipam.addresses(wanted["pool_id"])) == {"10.0.0.1": "web", "10.0.0.2": "e1", "10.0.0.3": "e2"}
    await ipam.release_owned("e1")
    await ipam.release_owned("e2")
    await ipam.release_owned("web")
    assert await ipam.state() == {}


async def test_larger_pool_takes_the_place_of_a_surplus_one_inside_it(ipam):
    (surplus,) = await ipam.network("web", {"subnet": "10.1.0.0/24"})
    lost = {"pool_id": "LocalDefault/10.1.0.0/16", "subnet": ip_network("10.1.0.0/16")}
    assert await ipam.reconcile("web", pools=[lost], surplus_pools=[surplus["pool_id"]], exclusive=True) == (
        [lost["pool_id"]],
        [surplus["pool_id"]],
    )
    assert [pool.pool_id for pool in await ipam.list_pools()] == [lost["pool_id"]]


async def test_repeat_of_what_an_owner_asked_for_is_known_after_its_books_were_put_right(ipam):
    (pool,) = await ipam.network("web", {"subnet": "10.0.0.0/24"})
    await ipam.endpoint("e1", (pool["pool_id"], None))
    await ipam.pools.script.redis.hdel(f"{KEY_PREFIX}holders:LocalDefault/10.0.0.0/24", "0a000001", "0a000002")
    assert await ipam.reconcile("web", pools=[as_held(pool)]) == (["10.0.0.1"], [])
    assert await ipam.reconcile("e1", addresses=[(pool["pool_id"], "10.0.0.2")]) == (["10.0.0.2"], [])
    assert await ipam.network("web", {"subnet": "10.0.0.0/24"}) == [pool]
    assert await ipam.endpoint("e1", (pool["pool_id"], None)) == ["10.0.0.2/24"]


async def test_owner_gives_back_everything_though_only_a_part_was_put_right(ipam):
    v4, v6 = await ipam.network("web", {"subnet": "10.0.0.0/24"}, {"subnet": "fd00::/64"})
    await ipam.endpoint("e1", (v4["pool_id"], None), (v6["pool_id"], None))
    holders = f"{KEY_PREFIX}holders:LocalDefault/10.0.0.0/24"
    await ipam.pools.script.redis.hdel(holders, "0a000001", "0a000002")
    assert await ipam.reconcile("e1", addresses=[(v4["pool_id"], "10.0.0.2")]) == (["10.0.0.2"], [])
    assert await ipam.reconcile("web", pools=[as_held(v4)]) == (["10.0.0.1"], [])
    await ipam.release_owned("e1")
    assert held(await ipam.leases()) == {"10.0.0.1": "web", "fd00::1": "web"}
    await ipam.release_owned("web")
    assert await ipam.state() == {}


async def test_address_is_left_alone_where_another_pool_of_the_network_has_it(ipam):
    ranges = [{"subnet": "10.0.0.0/29", "range": f"10.0.0.{start}/30"} for start in (0, 4)]
    one, two = [pool["pool_id"] for pool in await ipam.network("web", *ranges, gateways=False)]
    await ipam.endpoint("e1", (two, None))
    assert await ipam.reconcile("e1", addresses=[(one, "10.0.0.4")]) == ([], [])
    await ipam.release_owned("e1")
    assert await ipam.leases() == []


@pytest.mark.parametrize("pool_id", ["x", "LocalDefault/x/24", "LocalDefault/10.0.0.1/24"])
async def test_surplus_of_a_pool_that_there_cannot_be_is_none(ipam, pool_id):
    found = await ipam.reconcile("e1", surplus_addresses=[(pool_id, "10.0.0.4")], surplus_pools=[pool_id])
    assert found == ([], [])


async def test_dry_run_and_refusal_leave_no_bitmap_behind(ipam):
    pool_id = await ipam.pool("fd00::/64")
    before = await ipam.state()
    lost = [(pool_id, "fd00::ffff:0:0:1")]
    assert await ipam.reconcile("e1", addresses=lost, dry_run=True) == (["fd00::ffff:0:0:1"], [])
    with pytest.raises(Conflict, match="is held by owner"):
        await ipam.reconcile("e1", addresses=lost * 2)
    with pytest.raises(Conflict, match="is held by endpoint"):
        await ipam.endpoint("e1", *lost, *lost)
    assert await ipam.state() == before


async def test_pools_that_came_later_and_went_leave_the_others_to_be_released(ipam):
    before = await ipam.state()
    (first,) = await ipam.network("web", {"subnet": "10.1.0.0/24"})
    chosen = await ipam.network("web", {"subnet": "10.2.0.0/24"}, {"subnet": "10.3.0.0/24"}, dry_run=True)
    first, *added = map(as_held, (first, *chosen))
    for _ in range(2):
        await ipam.reconcile("web", pools=[first, *added])
        assert len(await ipam.list_pools()) == 3
    for _ in range(2):
        await ipam.reconcile("web", surplus_pools=[added[0]["pool_id"]])
        assert [pool.pool_id for pool in await ipam.list_pools()] == [first["pool_id"], added[1]["pool_id"]]
    await ipam.release_owned("web")
    assert await ipam.state() == before
