"""Which address comes next, who holds it, and that two never get the same."""

import asyncio
from ipaddress import ip_interface, ip_network

import pytest

from cnm.bus import Call, set_current_call
from cnm.errors import Conflict, Exhausted, Forbidden, Invalid, NotFound

SERIAL = {"com.docker.network.ipam.serial": True}


async def fill(ipam, pool_id, **more):
    found = []
    while True:
        try:
            found.append(await ipam.address(pool_id, **more))
        except Exhausted:
            return found


@pytest.mark.parametrize("prefix", ["10.0.8.0/29", "10.0.255.252/30", "10.9.9.8/31", "10.9.9.9/32", "fd00::/127"])
async def test_small_pool_is_filled_to_the_last_address(ipam, prefix):
    pool_id = await ipam.pool(prefix)
    network = ip_network(prefix)
    expected = [f"{host}/{network.prefixlen}" for host in network.hosts()]
    assert await ipam.counts(pool_id) == (0, len(expected))
    assert await fill(ipam, pool_id) == expected
    assert await ipam.counts(pool_id) == (len(expected), 0)
    with pytest.raises(Exhausted, match=f"^no free address in {prefix}$"):
        await ipam.address(pool_id)


async def test_ipv6_pool_of_120_hands_out_everything_but_subnet_router_anycast(ipam):
    pool_id = await ipam.pool("2001:db8::ff00/120")
    expected = [f"2001:db8::ff{number:02x}/120" for number in range(1, 256)]
    assert await fill(ipam, pool_id) == expected
    assert await ipam.counts(pool_id) == (255, 0)


async def test_ipv6_64_begins_at_one_and_takes_addresses_from_anywhere(ipam):
    pool_id = await ipam.pool("fd00:1:2:3::/64")
    assert await ipam.counts(pool_id) == (0, str(2**64 - 1))
    assert [await ipam.address(pool_id) for _ in range(3)] == [f"fd00:1:2:3::{n}/64" for n in (1, 2, 3)]
    far = "fd00:1:2:3:ffff:ffff:ffff:ffff"
    assert await ipam.address(pool_id, far) == f"{far}/64"
    with pytest.raises(Conflict, match="ffff:ffff:ffff:ffff is held by a client"):
        await ipam.address(pool_id, far)
    assert await ipam.address(pool_id, "fd00:1:2:3::4") == "fd00:1:2:3::4/64"
    assert await ipam.address(pool_id) == "fd00:1:2:3::5/64"
    assert await ipam.counts(pool_id) == (6, str(2**64 - 7))
    await ipam.release(pool_id, "fd00:1:2:3::2")
    assert await ipam.address(pool_id) == "fd00:1:2:3::2/64"


async def test_addresses_of_a_very_large_pool_differ_in_every_bit(ipam):
    pool_id = await ipam.pool("2001::/16")
    assert await ipam.address(pool_id) == "2001::1/16"
    assert await ipam.address(pool_id, "2001:1::1") == "2001:1::1/16"
    assert await ipam.address(pool_id, "2001:8000::1") == "2001:8000::1/16"
    assert (await ipam.counts(pool_id))[0] == 3


async def test_sub_pool_of_ipv6_is_counted_by_itself(ipam):
    pool_id = await ipam.pool("fd00::/48", "fd00:0:0:7::/64")
    assert await ipam.address(pool_id) == "fd00:0:0:7::/48"
    assert await ipam.address(pool_id, "fd00::9") == "fd00::9/48"
    assert await ipam.counts(pool_id) == (1, str(2**64 - 1))


async def test_large_ipv4_pool_is_filled_beyond_one_bitmap(ipam):
    pool_id = await ipam.pool("10.0.0.0/8", "10.0.255.254/31")
    assert await fill(ipam, pool_id) == ["10.0.255.254/8", "10.0.255.255/8"]
    crossing = await ipam.pool("10.0.0.0/8", "10.0.0.0/15")
    await ipam.pools.script.redis.setrange("cnm:{ipam}:bits:LocalDefault/10.0.0.0/8:0a00", 0, b"\xff" * 8192)
    assert await ipam.address(crossing) == "10.1.0.0/8"
    memory = await ipam.pools.script.redis.memory_usage("cnm:{ipam}:bits:LocalDefault/10.0.0.0/8:0a01")
    assert memory < 500


# inventory 11.6: the sub-pool rows
async def test_range_is_used_up_to_its_last_address_and_then_no_more(ipam):
    pool_id = await ipam.pool("172.28.0.0/16", "172.28.30.0/24")
    found = await fill(ipam, pool_id)
    assert found[0] == "172.28.30.0/16"
    assert found[-1] == "172.28.30.255/16"
    assert len(found) == 256
    await ipam.release(pool_id, "172.28.30.97")
    assert await ipam.address(pool_id) == "172.28.30.97/16"
    with pytest.raises(Exhausted, match=r"^no free address in 172\.28\.30\.0/24$"):
        await ipam.address(pool_id)
    assert await ipam.address(pool_id, "172.28.1.5") == "172.28.1.5/16"


async def test_range_at_the_start_of_its_pool_leaves_out_the_network_address(ipam):
    pool_id = await ipam.pool("10.0.0.0/16", "10.0.0.0/24")
    found = await fill(ipam, pool_id)
    assert (found[0], found[-1], len(found)) == ("10.0.0.1/16", "10.0.0.255/16", 255)
    await ipam.release(pool_id, "10.0.0.79")
    assert await ipam.address(pool_id) == "10.0.0.79/16"


async def test_lowest_free_address_of_a_range_comes_first(ipam):
    pool_id = await ipam.pool("10.2.0.0/16", "10.2.2.0/24")
    assert await ipam.address(pool_id, "10.2.2.1") == "10.2.2.1/16"
    assert await ipam.address(pool_id) == "10.2.2.0/16"
    assert await ipam.address(pool_id) == "10.2.2.2/16"
    await ipam.release(pool_id, "10.2.2.0")
    assert await ipam.address(pool_id) == "10.2.2.0/16"


@pytest.mark.parametrize("option_of", ["address", "pool"])
async def test_serial_option_goes_on_after_the_last_one_and_wraps(ipam, option_of):
    pool_id = await ipam.pool("10.2.0.0/16", "10.2.2.0/24", options=SERIAL if option_of == "pool" else {})
    options = SERIAL if option_of == "address" else {}
    assert await ipam.address(pool_id, "10.2.2.1", options=options) == "10.2.2.1/16"
    assert await ipam.address(pool_id, options=options) == "10.2.2.0/16"
    assert await ipam.address(pool_id, options=options) == "10.2.2.2/16"
    await ipam.release(pool_id, "10.2.2.0")
    assert await ipam.address(pool_id, options=options) == "10.2.2.3/16"
    await ipam.release(pool_id, "10.2.2.1")
    found = await fill(ipam, pool_id, options=options)
    assert found[0] == "10.2.2.4/16"
    assert found[-3:] == ["10.2.2.255/16", "10.2.2.0/16", "10.2.2.1/16"]


async def test_serial_option_wraps_at_the_very_end_of_ipv4(ipam):
    pool_id = await ipam.pool("255.255.255.252/31")
    assert await ipam.address(pool_id, options=SERIAL) == "255.255.255.252/31"
    await ipam.release(pool_id, "255.255.255.252")
    assert await ipam.address(pool_id, options=SERIAL) == "255.255.255.253/31"
    assert await ipam.address(pool_id, options=SERIAL) == "255.255.255.252/31"


@pytest.mark.parametrize(
    ("prefix", "count", "last"),
    [
        ("192.168.59.0/24", 254, "192.168.59.254/24"),
        ("192.168.240.0/20", 255, "192.168.240.255/20"),
        ("192.168.0.0/16", 255, "192.168.0.255/16"),
        ("192.168.0.0/16", 256, "192.168.1.0/16"),
        ("10.16.0.0/16", 255, "10.16.0.255/16"),
        ("10.128.0.0/12", 255, "10.128.0.255/12"),
        ("10.0.0.0/8", 256, "10.0.1.0/8"),
        ("192.168.128.0/18", 1023, "192.168.131.255/18"),
    ],
)
async def test_nth_address_of_a_pool(ipam, prefix, count, last):
    pool_id = await ipam.pool(prefix)
    found = [await ipam.address(pool_id) for _ in range(count)]
    assert found[-1] == last


async def test_each_freed_address_of_a_full_pool_is_the_next(ipam):
    pool_id = await ipam.pool("192.168.0.0/23")
    assert len(await fill(ipam, pool_id)) == 510
    for address in ("192.168.0.1", "192.168.0.255", "192.168.1.0", "192.168.1.254", "192.168.0.97"):
        await ipam.release(pool_id, address)
        assert await ipam.counts(pool_id) == (509, 1)
        assert await ipam.address(pool_id) == f"{address}/23"


async def test_network_broadcast_and_foreign_addresses_are_refused_with_the_right_ones(ipam):
    pool_id = await ipam.pool("10.0.0.0/24")
    reason = {
        "10.0.0.0": "10.0.0.0 is the network address of 10.0.0.0/24",
        "10.0.0.255": "10.0.0.255 is the broadcast address of 10.0.0.0/24",
        "10.0.1.1": "10.0.1.1 is not in 10.0.0.0/24",
        "fd00::1": "fd00::1 is not in 10.0.0.0/24",
    }
    for address, text in reason.items():
        with pytest.raises(Invalid) as caught:
            await ipam.address(pool_id, address)
        fault = caught.value.details["fields"][0]
        assert fault == {
            "field": "address",
            "value": address,
            "reason": f"{text}, choose one from 10.0.0.1 to 10.0.0.254",
        }


async def test_taken_address_names_its_holder(ipam):
    pool_id = await ipam.pool("192.168.100.0/24")
    await ipam.address(pool_id, "192.168.100.250", owner="router")
    with pytest.raises(Conflict, match=r'^192\.168\.100\.250 is held by owner "router"$') as caught:
        await ipam.address(pool_id, "192.168.100.250", owner="other")
    assert caught.value.details == {"address": "192.168.100.250", "holder": 'owner "router"'}


async def test_owner_gets_the_same_address_when_it_asks_again(ipam):
    pool_id = await ipam.pool("10.0.0.0/24")
    first = await ipam.address(pool_id, owner="a\n b/ü")
    assert await ipam.address(pool_id, owner="a\n b/ü") == first
    assert await ipam.address(pool_id, first.split("/")[0], owner="a\n b/ü") == first
    assert await ipam.address(pool_id, "10.0.0.9", owner="a\n b/ü") == "10.0.0.9/24"
    assert await ipam.address(pool_id, owner="a\n b/ü") == first
    await ipam.release(pool_id, first)
    assert await ipam.address(pool_id, owner="a\n b/ü") == "10.0.0.9/24"
    assert await ipam.counts(pool_id) == (1, 253)


async def test_repeated_request_without_owner_gets_the_same_address(ipam):
    pool_id = await ipam.pool("10.0.0.0/24")
    set_current_call(Call(request_id="r1", trace_id="t", deadline=0))
    try:
        assert await ipam.address(pool_id) == await ipam.address(pool_id) == "10.0.0.1/24"
        assert await ipam.pool() == await ipam.pool()
    finally:
        set_current_call(None)
    assert await ipam.address(pool_id) == "10.0.0.2/24"


async def test_what_is_not_held_cannot_be_released(ipam):
    pool_id = await ipam.pool("10.0.0.0/24")
    for address in ("10.0.0.5", "10.0.1.1", "fd00::1"):
        with pytest.raises(NotFound, match=f"^{address} is not held in pool LocalDefault/10.0.0.0/24$"):
            await ipam.release(pool_id, address)
    await ipam.address(pool_id)
    await ipam.release(pool_id, "10.0.0.1")
    with pytest.raises(NotFound):
        await ipam.release(pool_id, "10.0.0.1")


@pytest.mark.parametrize(
    "pool_id", ["LocalDefault/10.0.0.0/8", "x", "a/b/c", "LocalDefault/010.0.0.0/8", "a//", "é/1/2"]
)
async def test_unknown_pool_is_not_found_and_named(ipam, pool_id):
    for call in (
        ipam.address(pool_id),
        ipam.release(pool_id, "10.0.0.1"),
        ipam.get(pool_id),
        ipam.release_pool(pool_id),
        ipam.endpoint("e", (pool_id, None)),
    ):
        with pytest.raises(NotFound, match=f"^no pool {pool_id}$"):
            await call
    with pytest.raises(NotFound):
        await ipam.address("LocalDefault/10.0.0.0/8", "11.0.0.1")


async def test_address_rests_before_another_owner_gets_it(ipam):
    ipam = ipam.resting(1000)
    pool_id = await ipam.pool("10.0.0.0/29")
    assert await ipam.address(pool_id, owner="a") == "10.0.0.1/29"
    await ipam.release(pool_id, "10.0.0.1")
    assert await ipam.counts(pool_id) == (0, 6)
    assert await ipam.address(pool_id, owner="b") == "10.0.0.2/29"
    assert await ipam.resting(0).address(pool_id, owner="c") == "10.0.0.1/29", "rest is over"


async def test_rest_does_not_bind_explicit_requests(ipam):
    ipam = ipam.resting(1000)
    pool_id = await ipam.pool("10.0.0.0/29")
    await ipam.address(pool_id, owner="a")
    await ipam.release(pool_id, "10.0.0.1")
    assert await ipam.address(pool_id, "10.0.0.1", owner="b") == "10.0.0.1/29"
    assert await ipam.address(pool_id, owner="a") == "10.0.0.2/29"


@pytest.mark.parametrize("rest_s", [0, 1000])
async def test_former_owner_gets_its_last_address_back(ipam, rest_s):
    ipam = ipam.resting(rest_s)
    pool_id = await ipam.pool("10.0.0.0/29")
    for owner in "abc":
        await ipam.address(pool_id, owner=owner)
    for number in (1, 2, 3):
        await ipam.release(pool_id, f"10.0.0.{number}")
    assert await ipam.address(pool_id, owner="b") == "10.0.0.2/29"
    assert await ipam.address(pool_id, owner="c") == "10.0.0.3/29"
    assert await ipam.address(pool_id, owner="d") == ("10.0.0.4/29" if rest_s else "10.0.0.1/29")


async def test_address_that_another_owner_had_since_is_not_given_back(ipam):
    pool_id = await ipam.pool("10.0.0.0/29")
    for owner in "ab":
        await ipam.address(pool_id, "10.0.0.3", owner=owner)
        await ipam.release(pool_id, "10.0.0.3")
    assert await ipam.address(pool_id, owner="a") == "10.0.0.1/29"
    assert await ipam.address(pool_id, owner="b") == "10.0.0.3/29"


async def test_resting_addresses_are_handed_out_when_nothing_else_is_free(ipam):
    ipam = ipam.resting(1000)
    pool_id = await ipam.pool("10.0.0.0/16", "10.0.7.0/30")
    outside = await ipam.address(pool_id, "10.0.0.9")
    found = await fill(ipam, pool_id)
    await ipam.release(pool_id, outside)
    for address in (found[2], found[0]):
        await ipam.release(pool_id, address)
        await asyncio.sleep(0.002)
    assert [await ipam.address(pool_id, owner=owner) for owner in "xy"] == [found[2], found[0]], "longest rest first"
    with pytest.raises(Exhausted):
        await ipam.address(pool_id)


async def test_clients_of_a_full_pool_never_share_an_address(ipam):
    pool_id = await ipam.pool("10.4.0.0/22")

    async def client(number):
        mine = []
        while True:
            try:
                mine.append(await ipam.address(pool_id, owner=f"{number}.{len(mine)}"))
            except Exhausted:
                return mine

    found = [address for mine in await asyncio.gather(*map(client, range(64))) for address in mine]
    assert len(found) == len(set(found)) == 1022
    assert {ip_interface(address).ip for address in found} == set(ip_network("10.4.0.0/22").hosts())


async def test_endpoint_gets_all_its_addresses_or_none(ipam):
    v4, v6, tiny = await ipam.pool("10.0.0.0/24"), await ipam.pool("fd00::/64"), await ipam.pool("10.1.0.0/32")
    assert await ipam.endpoint("e1", (v4, None), (v6, "fd00::9")) == ["10.0.0.1/24", "fd00::9/64"]
    assert await ipam.endpoint("e1", (v4, None), (v6, "fd00::9")) == ["10.0.0.1/24", "fd00::9/64"]
    await ipam.address(tiny)
    before = await ipam.state()
    with pytest.raises(Exhausted, match=r"^no free address in 10\.1\.0\.0/32$"):
        await ipam.endpoint("e2", (v4, None), (v6, None), (tiny, None))
    with pytest.raises(Conflict, match=r'^fd00::9 is held by endpoint "e1"$'):
        await ipam.endpoint("e2", (v4, None), (v6, "fd00::9"))
    with pytest.raises(Conflict, match=r'^10\.0\.0\.7 is held by endpoint "e2"$'):
        await ipam.endpoint("e2", (v4, "10.0.0.7"), (v4, "10.0.0.7"))
    with pytest.raises(Invalid) as caught:
        await ipam.endpoint("e2", (v4, None), (v6, "fd01::1"))
    assert caught.value.details["fields"][0]["field"] == "ipv6_address"
    with pytest.raises(Conflict, match=r'^endpoint "e1" holds other addresses already$'):
        await ipam.endpoint("e1", (v4, "10.0.0.77"))
    after = await ipam.state()
    assert {key: value for key, value in after.items() if ":bits:" not in key} == {
        key: value for key, value in before.items() if ":bits:" not in key
    }
    assert await ipam.endpoint("e2", (v4, None), (v4, None)) == ["10.0.0.2/24", "10.0.0.3/24"]
    assert await ipam.endpoint("e3") == []


async def test_failed_endpoint_leaves_resting_addresses_resting(ipam):
    ipam = ipam.resting(1000)
    pool_id, full = await ipam.pool("10.0.0.0/30"), await ipam.pool("10.1.0.0/32")
    await ipam.address(full)
    await ipam.address(pool_id, owner="a")
    await ipam.release(pool_id, "10.0.0.1")
    for lapsed in (ipam, ipam.resting(0)):
        with pytest.raises(Exhausted):
            await lapsed.endpoint("e", (pool_id, "10.0.0.1"), (pool_id, None), (full, None))
    assert await ipam.counts(pool_id) == (0, 2)
    assert sorted(await fill(ipam, pool_id)) == ["10.0.0.1/30", "10.0.0.2/30"]


async def test_endpoints_and_clients_do_not_take_each_others_addresses_for_their_own(ipam):
    pool_id = await ipam.pool("10.0.0.0/24")
    assert await ipam.endpoint("same", (pool_id, None)) == ["10.0.0.1/24"]
    assert await ipam.address(pool_id, owner="same") == "10.0.0.2/24"
    with pytest.raises(Forbidden, match=r'^10\.0\.0\.1 is held by endpoint "same"$'):
        await ipam.release(pool_id, "10.0.0.1")
    await ipam.release_owned("same")
    assert await ipam.counts(pool_id) == (1, 253)
    await ipam.release(pool_id, "10.0.0.2")


async def test_owner_is_released_twice_as_well_as_once(ipam):
    pool_id = await ipam.pool("10.0.0.0/24")
    before = await ipam.state()
    await ipam.endpoint("e", (pool_id, None), (pool_id, None))
    await ipam.release_owned("e")
    await ipam.release_owned("e")
    await ipam.release_owned("never seen")
    assert await ipam.counts(pool_id) == (0, 254)
    left = {key for key in await ipam.state() if key not in before}
    assert {key.removeprefix("cnm:{ipam}:").split(":")[0] for key in left} == {"former", "last"}


async def test_former_owners_of_a_pool_are_forgotten_at_a_limit(ipam):
    pool_id = await ipam.pool("fd00::/64")
    prefix = "cnm:{ipam}:"
    digits = [f"{2**127 + n:032x}" for n in range(65536)]
    await ipam.pools.script.redis.hset(f"{prefix}former:{pool_id}", mapping={d: f"c:{d}" for d in digits})
    await ipam.pools.script.redis.hset(f"{prefix}last:{pool_id}", mapping={f"c:{d}": d for d in digits})
    await ipam.address(pool_id, owner="one more")
    await ipam.release(pool_id, "fd00::1")
    assert await ipam.pools.script.redis.hlen(f"{prefix}former:{pool_id}") == 65536
    assert await ipam.pools.script.redis.hlen(f"{prefix}last:{pool_id}") == 65536
