"""Which pool comes next, what may stand beside what, and what a network reserves at once."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

import pytest

from cnm.bus import Call, set_current_call
from cnm.errors import Conflict, Exhausted, Forbidden, Invalid, NotFound, Unavailable
from cnm.messages.ipam import IPAM_COMMANDS, PoolWanted
from cnm.messages.message import event_subject
from cnm.redis_outbox import RedisOutbox
from cnm_ipam.config import Settings
from cnm_ipam.predefined import Base, Predefined
from cnm_ipam.redis_script import OUTBOX, connect
from cnm_ipam.wiring import service

SUBNET = {
    "subnet": "172.28.0.0/16",
    "range": "172.28.5.0/24",
    "gateway": "172.28.5.254",
    "aux": {"router": "172.28.1.5"},
}
LOCAL = [f"172.{n}.0.0/16" for n in range(17, 32)] + [f"192.168.{n}.0/20" for n in range(0, 256, 16)]


def faults(caught):
    return {fault["field"]: fault["reason"] for fault in caught.value.details["fields"]}


async def test_predefined_pools_come_in_dockers_order_until_none_is_left(ipam):
    assert [await ipam.pool() for _ in LOCAL] == [f"LocalDefault/{pool}" for pool in LOCAL]
    with pytest.raises(Exhausted, match=r"^no predefined IPv4 pool is left in LocalDefault$"):
        await ipam.pool()
    assert await ipam.pool(space="GlobalDefault") == "GlobalDefault/10.0.0.0/24"
    assert await ipam.pool(space="GlobalDefault") == "GlobalDefault/10.0.1.0/24"


async def test_released_pool_is_not_reused_before_the_list_is_round(ipam):
    for expected in [*LOCAL, *LOCAL[:2]]:
        pool_id = await ipam.pool()
        assert pool_id == f"LocalDefault/{expected}"
        await ipam.release_pool(pool_id)


async def test_predefined_pools_skip_what_overlaps_pools_and_what_is_excluded(ipam):
    await ipam.pool("172.17.4.0/24")
    await ipam.pool("172.16.0.0/12", space="other")
    excluded = ["172.18.0.1/32", "172.19.0.0/16", "172.20.0.0/14"]
    assert await ipam.pool(exclude=excluded) == "LocalDefault/172.24.0.0/16"
    with pytest.raises(Exhausted):
        await ipam.pool(exclude=["0.0.0.0/0"])


async def test_a_dry_run_tells_what_would_be_reserved_and_reserves_nothing(ipam):
    await ipam.network("web", {"subnet": "10.1.0.0/24"})
    await ipam.pool("172.17.0.0/16")
    before = await ipam.state()
    await ipam.events()
    wanted = ({"subnet": "10.2.0.0/24", "range": "10.2.0.8/29"}, {}, {"ipv6": True})
    for owner in ("web", "new"):
        found = await ipam.network(owner, *wanted, dry_run=True)
        assert [each["gateway"] for each in found[:2]] == ["10.2.0.8", "172.18.0.1"]
    assert (await ipam.state(), await ipam.events()) == (before, [])
    with pytest.raises(Conflict, match=r'network "web"'):
        await ipam.network("new", {"subnet": "10.1.0.0/25"}, dry_run=True)
    assert await ipam.state() == before


async def test_size_hint_takes_a_pool_of_that_size(ipam):
    assert await ipam.pool("0.0.0.0/24") == "LocalDefault/172.17.0.0/24"
    assert await ipam.pool("0.0.0.0/24") == "LocalDefault/172.17.1.0/24"
    assert await ipam.pool() == "LocalDefault/172.18.0.0/16"
    assert await ipam.pool("0.0.0.0/15") == "LocalDefault/172.20.0.0/15"
    for size in (1, 13):
        with pytest.raises(Invalid) as caught:
            await ipam.pool(f"0.0.0.0/{size}")
        assert faults(caught) == {"pool": f"no predefined pool is as large as /{size}, the largest is /14"}


async def test_ipv6_pool_is_unique_local_and_the_same_for_every_worker(ipam, redis_url):
    first = ip_network((await ipam.pool(ipv6=True)).split("/", 1)[1])
    assert (first.prefixlen, first.network_address.packed[0]) == (64, 0xFD)
    other = connect(redis_url)
    try:
        worker = type(ipam).over(other)
        second = ip_network((await worker.pool(ipv6=True)).split("/", 1)[1])
    finally:
        await other.aclose()
    assert int(second.network_address) - int(first.network_address) == 2**64
    tiny = ip_network((await ipam.pool("::/120")).split("/", 1)[1])
    assert (tiny.prefixlen, tiny.supernet(new_prefix=48)) == (120, first.supernet(new_prefix=48))
    elsewhere = ip_network((await ipam.pool(ipv6=True, space="GlobalDefault")).split("/", 1)[1])
    assert elsewhere.supernet(new_prefix=48) != first.supernet(new_prefix=48)


async def test_configured_pools_replace_dockers(ipam):
    bases = (Base(ip_network("172.80.0.0/16"), 24), Base(ip_network("172.90.0.0/16"), 24))
    ipam = replace(ipam, predefined=Predefined(local=bases))
    assert await ipam.pool() == "LocalDefault/172.80.0.0/24"
    assert await ipam.pool() == "LocalDefault/172.80.1.0/24"


async def test_parallel_requests_never_get_the_same_pool(ipam):
    found = await asyncio.gather(*(ipam.pool(space="GlobalDefault") for _ in range(120)))
    assert sorted(found) == sorted(f"GlobalDefault/10.0.{n}.0/24" for n in range(120))


# inventory 11.6
async def test_overlapping_pools_are_refused_and_the_holder_is_named(ipam):
    await ipam.network("web", {"subnet": "10.0.0.0/8"})
    for pool in ("10.128.0.0/9", "10.20.2.0/24", "8.0.0.0/6"):
        with pytest.raises(Conflict) as caught:
            await ipam.pool(pool)
        assert caught.value.message == f'{pool} overlaps 10.0.0.0/8, which network "web" holds in LocalDefault'
        assert caught.value.details == {"pool_id": "LocalDefault/10.0.0.0/8", "holder": 'network "web"'}
    with pytest.raises(Conflict, match=r'^pool LocalDefault/10.0.0.0/8 is held by network "web" already$'):
        await ipam.pool("10.0.0.0/8")
    await ipam.pool("11.0.0.0/8")
    assert await ipam.pool("10.0.0.0/8", space="blue") == "blue/10.0.0.0/8"


async def test_ipv6_pools_overlap_too(ipam):
    await ipam.pool("1003:1:2:3:4:5:6:0/112")
    with pytest.raises(Conflict, match=r"^1003:1:2:3::/64 overlaps 1003:1:2:3:4:5:6:0/112, which a client holds"):
        await ipam.pool("1003:1:2:3::/64")


async def test_sub_pools_stand_beside_other_pools_but_not_beside_themselves(ipam):
    await ipam.pool("10.0.0.0/8")
    half = await ipam.pool("10.0.0.0/8", "10.128.0.0/9")
    assert half == "LocalDefault/10.0.0.0/8/10.128.0.0/9"
    with pytest.raises(Conflict, match="is held by a client already"):
        await ipam.pool("10.0.0.0/8", "10.128.0.0/9")
    await ipam.pool("10.0.0.0/8", "10.0.0.0/16")
    await ipam.pool("10.0.0.0/16", "10.0.0.0/24")
    assert await ipam.pool("172.18.0.0/16", "172.18.0.0/16") == "LocalDefault/172.18.0.0/16/172.18.0.0/16"
    with pytest.raises(Conflict):
        await ipam.pool("172.18.0.0/16")


async def test_sub_pools_share_the_addresses_of_their_pool(ipam):
    whole = await ipam.pool("10.0.0.0/16")
    part = await ipam.pool("10.0.0.0/16", "10.0.0.0/30")
    assert await ipam.address(part) == "10.0.0.1/16"
    assert await ipam.address(whole) == "10.0.0.2/16"
    assert await ipam.address(part) == "10.0.0.3/16"
    assert await ipam.counts(part) == (3, 0)
    assert await ipam.counts(whole) == (3, 65531)
    with pytest.raises(NotFound):
        await ipam.release(part, "10.0.0.2")
    await ipam.release_pool(whole)
    assert await ipam.counts(part) == (2, 1)
    with pytest.raises(NotFound):
        await ipam.release_pool(whole)
    with pytest.raises(Conflict):
        await ipam.pool("10.0.0.0/16")
    await ipam.release_pool(part)
    assert await ipam.pool("10.0.0.0/16") == whole
    assert await ipam.state() != {}
    await ipam.release_pool(whole)
    assert await ipam.state() == {}


async def test_released_pool_takes_its_addresses_with_it(ipam):
    pool_id = await ipam.pool("10.0.0.0/15")
    for address in (None, "10.1.0.7", "10.1.255.254"):
        await ipam.address(pool_id, address, owner=address)
    await ipam.endpoint("e", (pool_id, None))
    await ipam.release_pool(pool_id)
    with pytest.raises(NotFound, match=r"^no pool LocalDefault/10.0.0.0/15$"):
        await ipam.release_pool(pool_id)
    assert await ipam.pool("10.0.0.0/15") == pool_id
    assert await ipam.address(pool_id, owner="new") == "10.0.0.1/15"
    await ipam.release_owned("e")
    assert await ipam.counts(pool_id) == (1, 2**17 - 3), "the endpoint's old address is nobody's business"
    await ipam.endpoint("f", (pool_id, None))
    await ipam.release_pool(pool_id)
    await ipam.pool("10.0.0.0/15")
    assert await ipam.endpoint("f", (pool_id, None)) == ["10.0.0.1/15"]
    await ipam.release_owned("f")
    await ipam.release_pool(pool_id)
    assert await ipam.state() == {}


async def test_pool_of_a_network_is_not_for_clients_to_release(ipam):
    await ipam.network("web", {"subnet": "10.0.0.0/24"})
    with pytest.raises(Forbidden, match=r'^pool LocalDefault/10.0.0.0/24 belongs to network "web"$'):
        await ipam.release_pool("LocalDefault/10.0.0.0/24")
    with pytest.raises(Forbidden, match=r'^10.0.0.1 is held by network "web"$'):
        await ipam.release("LocalDefault/10.0.0.0/24", "10.0.0.1")


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"sub_pool": "10.0.0.0/24"}, {"sub_pool": "10.0.0.0/24 needs the pool that it is a part of"}),
        (
            {"pool": "10.0.0.0/24", "sub_pool": "10.0.1.0/25"},
            {"sub_pool": "10.0.1.0/25 is not inside 10.0.0.0/24, which has 10.0.0.0/25 for example"},
        ),
        (
            {"pool": "10.0.0.0/24", "sub_pool": "10.0.0.0/23"},
            {"sub_pool": "10.0.0.0/23 is bigger than 10.0.0.0/24, at most 10.0.0.0/24 is possible"},
        ),
        (
            {"pool": "10.0.0.0/24", "sub_pool": "fd00::/64"},
            {"sub_pool": "fd00::/64 and 10.0.0.0/24 are of different families"},
        ),
        ({"pool": "224.0.0.0/24"}, {"pool": "224.0.0.0/24 cannot be a pool, it is multicast"}),
        ({"pool": "127.1.0.0/16"}, {"pool": "127.1.0.0/16 cannot be a pool, it is loopback"}),
        ({"pool": "ff02::/64"}, {"pool": "ff02::/64 cannot be a pool, it is multicast"}),
        ({"pool": "0.0.0.0/0"}, {"pool": "0.0.0.0/0 is every address, it needs a prefix length above 0"}),
        ({"pool": "10.0.0.0/24", "ipv6": True}, {"ipv6": "10.0.0.0/24 is an IPv4 pool, leave ipv6 out"}),
        (
            {"space": "blue"},
            {"space": "blue has no predefined pools, name the pool; LocalDefault and GlobalDefault have"},
        ),
        (
            {"pool": "::1/128", "sub_pool": "10.0.0.0/8", "options": {"a": 1}},
            {
                "pool": "::1/128 cannot be a pool, it is loopback",
                "sub_pool": "10.0.0.0/8 and ::1/128 are of different families",
                "options.a": "unknown option a, the one there is is com.docker.network.ipam.serial",
            },
        ),
        (
            {"pool": "10.0.0.0/8", "options": {"com.docker.network.ipam.serial": "yes"}},
            {"options.com.docker.network.ipam.serial": "expected true or false, got 'yes'"},
        ),
    ],
)
async def test_every_fault_of_a_request_is_listed(ipam, request_, expected):
    with pytest.raises(Invalid) as caught:
        await ipam.pool(**request_)
    assert faults(caught) == expected
    assert await ipam.state() == {}


async def test_network_reserves_its_pools_gateways_and_auxiliary_addresses(ipam):
    found = await ipam.network("web", SUBNET, {"ipv6": True}, {"subnet": "0.0.0.0/28"})
    assert found[0] == {
        "pool_id": "LocalDefault/172.28.0.0/16/172.28.5.0/24",
        "subnet": "172.28.0.0/16",
        "range": "172.28.5.0/24",
        "gateway": "172.28.5.254",
        "aux_addresses": {"router": "172.28.1.5"},
    }
    assert found[1]["gateway"] == found[1]["subnet"].replace("::/64", "::1")
    assert (found[2]["subnet"], found[2]["gateway"]) == ("172.17.0.0/28", "172.17.0.1")
    assert await ipam.counts(found[0]["pool_id"]) == (1, 255)
    assert await ipam.counts(found[2]["pool_id"]) == (1, 13)
    assert await ipam.network("web", SUBNET, {"ipv6": True}, {"subnet": "0.0.0.0/28"}) == found
    with pytest.raises(Conflict, match=r'^network "web" holds other pools already$'):
        await ipam.network("web", {"subnet": "10.0.0.0/8"})
    await ipam.release_owned("web")
    await ipam.release_owned("web")
    assert await ipam.state() == {}


async def test_automatic_gateway_leaves_room_for_auxiliary_addresses(ipam):
    (found,) = await ipam.network("web", {"subnet": "10.0.0.0/29", "aux": {"a": "10.0.0.1", "b": "10.0.0.2"}})
    assert found["gateway"] == "10.0.0.3"
    assert await ipam.endpoint("e", (found["pool_id"], None)) == ["10.0.0.4/29"]


async def test_network_without_gateways_reserves_only_one_that_is_asked_for(ipam):
    first, second = await ipam.network(
        "web", {"subnet": "10.0.0.0/29"}, {"subnet": "10.1.0.0/29", "gateway": "10.1.0.6"}, gateways=False
    )
    assert (first["gateway"], second["gateway"]) == (None, "10.1.0.6")


async def test_network_of_point_to_point_pools(ipam):
    first, second = await ipam.network("web", {"subnet": "10.0.0.0/31"}, {"subnet": "fd00::2/127"})
    assert (first["gateway"], second["gateway"]) == ("10.0.0.0", "fd00::2")


async def test_network_that_wants_nothing_gets_nothing(ipam):
    assert await ipam.network("web") == []
    assert await ipam.state() == {}


async def test_network_gets_all_or_nothing(ipam):
    await ipam.pool("10.9.0.0/16")
    part = await ipam.pool("10.5.0.0/16", "10.5.1.0/24")
    await ipam.address(part, "10.5.0.9", owner="router")
    await ipam.events()
    before = await ipam.state()
    with pytest.raises(Conflict, match=r"^10.9.1.0/24 overlaps 10.9.0.0/16, which a client holds in LocalDefault$"):
        await ipam.network("web", SUBNET, {}, {"subnet": "10.9.1.0/24"})
    with pytest.raises(Conflict, match=r'^10.5.0.9 is held by owner "router"$'):
        await ipam.network(
            "web", SUBNET, {}, {"subnet": "10.5.0.0/16", "range": "10.5.2.0/24", "gateway": "10.5.0.9"}
        )
    with pytest.raises(Exhausted, match=r"^no free address in 10.7.0.0/32$"):
        await ipam.network("web", SUBNET, {}, {"subnet": "10.7.0.0/32", "aux": {"a": "10.7.0.0"}})
    assert await ipam.state() == before
    assert await ipam.events() == []
    assert (await ipam.network("web", {}))[0]["subnet"] == "172.17.0.0/16", "the turn did not move"


async def test_every_fault_of_every_pool_of_a_network_is_listed(ipam):
    with pytest.raises(Invalid) as caught:
        await ipam.network(
            "web",
            {"subnet": "10.0.0.0/24", "range": "10.0.1.0/28", "gateway": "10.0.1.1", "aux": {"a": "10.0.0.255"}},
            {"subnet": "10.0.0.128/25", "gateway": "10.0.0.129", "aux": {"b": "10.0.0.129"}},
            {"range": "10.2.0.0/24", "gateway": "10.2.0.1"},
            {"subnet": "0.0.0.0/24", "aux": {"c": "10.2.0.1"}},
            {"subnet": "239.0.0.0/24"},
            options={"com.docker.network.ipam.serial": "maybe"},
            space="blue",
        )
    assert faults(caught) == {
        "ipam.options.com.docker.network.ipam.serial": "expected true or false, got 'maybe'",
        "ipam.address_space": "blue has no predefined pools, name the pool; LocalDefault and GlobalDefault have",
        "ipam.pools[0].range": "10.0.1.0/28 is not inside 10.0.0.0/24, which has 10.0.0.0/28 for example",
        "ipam.pools[0].gateway": "10.0.1.1 is not in 10.0.0.0/24, choose one from 10.0.0.1 to 10.0.0.254",
        "ipam.pools[0].aux_addresses.a": (
            "10.0.0.255 is the broadcast address of 10.0.0.0/24, choose one from 10.0.0.1 to 10.0.0.254"
        ),
        "ipam.pools[1].subnet": "10.0.0.128/25 overlaps 10.0.0.0/24 of ipam.pools[0]",
        "ipam.pools[1].aux_addresses.b": "10.0.0.129 is the address of gateway too",
        "ipam.pools[2].range": "10.2.0.0/24 needs the subnet that it is a part of",
        "ipam.pools[2].gateway": "10.2.0.1 needs the subnet that it lies in",
        "ipam.pools[3].aux_addresses.c": "10.2.0.1 needs the subnet that it lies in",
        "ipam.pools[4].subnet": "239.0.0.0/24 cannot be a pool, it is multicast",
    }
    assert await ipam.state() == {}


async def test_repeated_network_gets_its_pool_though_none_is_left(ipam):
    ipam = replace(ipam, predefined=Predefined(local=(Base(ip_network("10.0.0.0/24"), 24),)))
    first = await ipam.network("web", {})
    assert await ipam.network("web", {}) == first
    with pytest.raises(Exhausted):
        await ipam.network("other", {})


async def test_serial_option_of_a_network_holds_for_its_endpoints(ipam):
    (pool,) = await ipam.network("web", {"subnet": "10.0.0.0/24"}, options={"com.docker.network.ipam.serial": "true"})
    assert await ipam.endpoint("a", (pool["pool_id"], None)) == ["10.0.0.2/24"]
    await ipam.release_owned("a")
    assert await ipam.endpoint("b", (pool["pool_id"], None)) == ["10.0.0.3/24"]


async def test_pools_are_shown_in_the_order_of_their_request(ipam):
    (web,) = await ipam.network("web", SUBNET)
    await ipam.pool("10.0.0.0/8", space="blue", options={"com.docker.network.ipam.serial": True})
    shown = await ipam.list_pools()
    assert [pool.pool_id for pool in shown] == [web["pool_id"], "blue/10.0.0.0/8"]
    assert await ipam.list_pools("blue") == shown[1:]
    assert await ipam.get(web["pool_id"]) == shown[0]
    assert (shown[0].owner, shown[0].in_use, shown[0].available) == ("web", 1, 255)
    assert (shown[1].owner, shown[1].options) == (None, {"com.docker.network.ipam.serial": "true"})
    assert await ipam.spaces() == {"LocalDefault": 1, "GlobalDefault": 0, "blue": 1}


async def test_spaces_are_listed_page_by_page(ipam):
    for space in ("red", "blue"):
        await ipam.pool("10.0.0.0/8", space=space)
    every = ["LocalDefault", "GlobalDefault", "blue", "red"]
    assert list(await ipam.spaces()) == every
    assert list(await ipam.spaces(limit=3)) == every[:3]
    assert list(await ipam.spaces(after="GlobalDefault", limit=1)) == ["blue"]
    assert await ipam.spaces(after="red") == {}
    with pytest.raises(NotFound, match="green"):
        await ipam.spaces(after="green")


async def test_each_change_tells_one_event_an_object(ipam):
    script = replace(ipam.pools.script, now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    ipam = replace(ipam, pools=replace(ipam.pools, script=script))
    set_current_call(Call(request_id="req", trace_id="a" * 32, deadline=0))
    try:
        web, _ = await ipam.network("web", SUBNET, {"subnet": "fd00::/64"})
        pool_id = web["pool_id"]
        (subject, body), (_, sixth) = await ipam.events()
        assert subject == event_subject("pool", "requested", pool_id)
        assert sixth["object"]["available"] == str(2**64 - 2)
        assert len(body["id"]) == 32
        assert body["id"] != sixth["id"]
        assert {key: value for key, value in body.items() if key != "id"} == {
            "time": "2026-01-02T03:04:05Z",
            "node": None,
            "trace_id": "a" * 32,
            "request_id": "req",
            "object": {
                "pool_id": pool_id,
                "space": "LocalDefault",
                "pool": "172.28.0.0/16",
                "sub_pool": "172.28.5.0/24",
                "options": {},
                "owner": "web",
                "in_use": 1,
                "available": 255,
            },
        }
        await ipam.network("web", SUBNET, {"subnet": "fd00::/64"})
        assert await ipam.events() == [], "nothing was changed"
        await ipam.endpoint("e", (pool_id, None), ("LocalDefault/fd00::/64", "fd00::1:0:0:a"))
        await ipam.release_owned("e")
        assert [(subject, body["object"]) for subject, body in await ipam.events()] == [
            (event_subject("address", participle, pool), {"pool_id": pool, "address": address, "owner": "e"})
            for participle in ("requested", "released")
            for pool, address in ((pool_id, "172.28.5.0/16"), ("LocalDefault/fd00::/64", "fd00::1:0:0:a/64"))
        ]
        await ipam.release_owned("web")
        assert [subject for subject, _ in await ipam.events()] == [
            event_subject("pool", "released", pool) for pool in (pool_id, "LocalDefault/fd00::/64")
        ]
    finally:
        set_current_call(None)
    await ipam.address(await ipam.pool("10.0.0.0/8"), owner=None)
    requested, address = await ipam.events()
    assert requested[1]["object"]["owner"] is None
    assert address[1]["object"] == {"pool_id": "LocalDefault/10.0.0.0/8", "address": "10.0.0.1/8", "owner": None}
    assert len(address[1]["trace_id"]) == 32


@pytest.mark.parametrize(
    "words",
    ["fd00:0:0:0:0:0:0:0", "fd00:0:0:1:0:0:0:0", "fd00:0:1:0:0:1:0:1", "fdff:1:2:3:4:5:6:7", "fd00:0:0:1:0:0:a0:1"],
)
async def test_events_write_addresses_as_python_does(ipam, words):
    pool_id = await ipam.pool("fc00::/7")
    await ipam.events()
    await ipam.address(pool_id, words)
    ((_, body),) = await ipam.events()
    assert body["object"]["address"] == f"{ip_address(words)}/7"


@pytest.mark.parametrize("killed_after_commit", [False, True])
async def test_worker_that_is_killed_leaves_nothing_that_a_repeat_does_not_find(ipam, redis_url, killed_after_commit):
    """A change is one run of the script: a worker that dies has done all of it or nothing, and can be asked again."""
    before = await ipam.state()
    dying = type(ipam).over(connect(redis_url, connections=1))
    task = asyncio.ensure_future(dying.network("web", SUBNET, {}))
    while killed_after_commit and not await ipam.pools.script.redis.exists("cnm:{ipam}:owned"):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await dying.pools.script.redis.aclose()
    assert (await ipam.state() == before) is not killed_after_commit
    pools = await ipam.network("web", SUBNET, {})
    assert len(await ipam.list_pools()) == len(pools) == 2
    await ipam.release_owned("web")
    assert await ipam.state() == {}


async def test_script_is_loaded_again_after_the_server_forgot_it(ipam):
    await ipam.pool()
    await ipam.pools.script.redis.script_flush()
    assert await ipam.pool() == "LocalDefault/172.18.0.0/16"


async def test_service_answers_every_command_and_says_when_redis_is_down(tmp_path):
    async with service(f"unix://{tmp_path}/none", Settings()) as (routes, _):
        assert {route.command for route in routes} == set(IPAM_COMMANDS)
        assert {route.command.__name__ for route in routes if route.once} == {
            "RequestPool",
            "ReleasePool",
            "RequestAddress",
            "ReleaseAddress",
        }
        by_command = {route.command: route.handler for route in routes}
        for command in IPAM_COMMANDS:
            if command.__name__ in ("ListSpaces", "ListPools", "AllocatePools"):
                fields = {"owner": "x", "owner_label": "x", "space": "LocalDefault", "pools": [PoolWanted()]}
                body = command(**(fields if command.__name__ == "AllocatePools" else {}))
                with pytest.raises(Unavailable, match=r"^Redis cannot be reached"):
                    await by_command[command](body)


async def test_relay_reads_what_the_script_wrote(ipam):
    pool_id = await ipam.pool()
    ((_, event),) = await RedisOutbox(ipam.pools.script.redis, OUTBOX).read(8)
    assert (event.id, event.subject) == (json.loads(event.body)["id"], event_subject("pool", "requested", pool_id))
