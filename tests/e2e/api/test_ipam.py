"""What IPAM promises its clients (API 5 and 12)."""

import contextlib
import ipaddress
import time

SERIAL = {"com.docker.network.ipam.serial": True}


def lease(api, pool, **fields):
    return api.ask("ipam.address.request", {"pool_id": pool["pool_id"], **fields})["address"]


def usage(api, pool):
    shown = api.ask("ipam.pool.get", {"pool_id": pool["pool_id"]})
    return shown["in_use"], shown["available"]


def test_the_lowest_free_address_comes_first_and_counts_agree(api, make):
    pool = make.pool(pool="10.0.0.0/29")
    assert usage(api, pool) == (0, 6)
    assert [lease(api, pool) for _ in range(3)] == [f"10.0.0.{index}/29" for index in (1, 2, 3)]
    assert usage(api, pool) == (3, 3)
    assert lease(api, pool, address="10.0.0.5") == "10.0.0.5/29"
    assert [lease(api, pool) for _ in range(2)] == ["10.0.0.4/29", "10.0.0.6/29"]
    assert usage(api, pool) == (6, 0)
    api.refused("ipam.address.request", {"pool_id": pool["pool_id"]}, "exhausted", "10.0.0.0/29")
    api.refused("ipam.address.request", {"pool_id": pool["pool_id"], "owner": "late"}, "exhausted", "10.0.0.0/29")
    assert usage(api, pool) == (6, 0)


def test_what_was_given_back_rests_but_not_for_those_who_name_it_or_had_it(api, make):
    pool = make.pool(pool="10.0.0.0/29")
    for owner in ("a", "b", "c"):
        lease(api, pool, owner=owner)
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
        api.ask("ipam.address.release", {"pool_id": pool["pool_id"], "address": address})
    assert usage(api, pool)[0] == 0
    assert lease(api, pool) == "10.0.0.4/29"
    assert lease(api, pool, owner="b") == "10.0.0.2/29"
    assert lease(api, pool, address="10.0.0.1") == "10.0.0.1/29"


def test_a_pool_of_which_all_that_is_free_rests_still_serves(api, make):
    pool = make.pool(pool="10.0.0.0/30")
    for _ in range(2):
        lease(api, pool)
    api.ask("ipam.address.release", {"pool_id": pool["pool_id"], "address": "10.0.0.1"})
    reply, _ = api.call("ipam.address.request", {"pool_id": pool["pool_id"]})
    assert reply.get("address") == "10.0.0.1/30" or reply["error"]["code"] == "exhausted"


def test_serial_hands_out_in_turn(api, make):
    pool = make.pool(pool="10.0.0.0/28")
    assert [lease(api, pool, options=SERIAL) for _ in range(2)] == ["10.0.0.1/28", "10.0.0.2/28"]
    api.ask("ipam.address.release", {"pool_id": pool["pool_id"], "address": "10.0.0.1"})
    assert [lease(api, pool, options={"com.docker.network.ipam.serial": "true"}) for _ in range(2)] == [
        "10.0.0.3/28",
        "10.0.0.4/28",
    ]


def test_a_networks_serial_option_goes_for_its_endpoints(api, make):
    network = make.network(ipam={"options": SERIAL, "pools": [{"subnet": "10.91.0.0/28"}]})
    found = []
    for _ in range(3):
        endpoint = make.endpoint(network)
        found.append(endpoint["ipv4_address"])
        api.ask("endpoint.delete", {"endpoint": endpoint["id"]})
    assert found == ["10.91.0.2/28", "10.91.0.3/28", "10.91.0.4/28"]


def test_an_owner_that_asks_again_gets_the_same_address(api, make):
    pool = make.pool(pool="10.0.0.0/29")
    assert lease(api, pool, owner="a") == lease(api, pool, owner="a") == "10.0.0.1/29"
    assert lease(api, pool, owner="b") == "10.0.0.2/29"
    assert lease(api, pool, owner="a", address="10.0.0.1") == "10.0.0.1/29"
    assert usage(api, pool) == (2, 4)
    error = api.refused(
        "ipam.address.request",
        {"pool_id": pool["pool_id"], "owner": "b", "address": "10.0.0.1"},
        "conflict",
        "10.0.0.1",
    )
    assert "a" in error["message"]


def test_small_pools_have_no_network_or_broadcast_address(api, make):
    both = make.pool(pool="10.0.0.0/31")
    assert [lease(api, both) for _ in range(2)] == ["10.0.0.0/31", "10.0.0.1/31"]
    one = make.pool(pool="10.0.0.9/32")
    assert usage(api, one) == (0, 1)
    assert lease(api, one) == "10.0.0.9/32"


def test_a_ranges_own_first_and_last_address_are_usable_unless_the_pool_reserves_them(api, make):
    inner = make.pool(pool="10.0.0.0/24", sub_pool="10.0.0.64/30")
    assert [lease(api, inner) for _ in range(4)] == [f"10.0.0.{index}/24" for index in (64, 65, 66, 67)]
    first = make.pool(pool="10.0.0.0/24", sub_pool="10.0.0.0/30")
    assert [lease(api, first) for _ in range(3)] == [f"10.0.0.{index}/24" for index in (1, 2, 3)]
    assert usage(api, first)[1] == 0
    last = make.pool(pool="10.0.0.0/24", sub_pool="10.0.0.252/30")
    assert usage(api, last) == (0, 3)
    assert lease(api, last, address="10.0.0.7") == "10.0.0.7/24", "an address of the pool outside of the range"


def test_the_same_pool_again_and_overlapping_pools_conflict_within_a_space_only(api, make):
    space, other = api.name("space"), api.name("space")
    make.pool(space=space, pool="10.0.0.0/16", sub_pool="10.0.1.0/24")
    body = {"space": space, "pool": "10.0.0.0/16", "sub_pool": "10.0.1.0/24"}
    api.refused("ipam.pool.request", body, "conflict", "10.0.0.0/16")
    api.refused("ipam.pool.request", {"space": space, "pool": "10.0.1.0/24"}, "conflict", "10.0.0.0/16")
    api.refused("ipam.pool.request", {"space": space, "pool": "10.0.0.0/8"}, "conflict", "10.0.0.0/16")
    make.pool(space=other, pool="10.0.0.0/16", sub_pool="10.0.1.0/24")


def test_predefined_pools_follow_one_another_and_avoid_what_is_excluded(api, make):
    space = "GlobalDefault"
    first = make.pool(space=space)
    second = make.pool(space=space)
    assert first["pool"] != second["pool"]
    api.refused("ipam.pool.request", {"space": space, "exclude": ["10.0.0.0/8"]}, "exhausted", space)
    third = make.pool(space="LocalDefault", exclude=["172.16.0.0/12"])
    assert third["pool"].startswith("192.168.")
    six = make.pool(space="LocalDefault", ipv6=True)
    assert six["pool"].startswith("fd")
    sized = make.pool(space="LocalDefault", pool="0.0.0.0/26")
    assert sized["pool"].endswith("/26")
    sized = make.pool(space="LocalDefault", pool="::/120")
    assert sized["pool"].endswith("/120")
    assert ":" in sized["pool"]
    error = api.refused("ipam.pool.request", {"space": "LocalDefault", "exclude": ["0.0.0.0/0"]}, "exhausted")
    assert error["message"]


def test_a_network_reserves_gateway_and_auxiliary_addresses(api, make):
    network = make.network(
        ipam={"pools": [{"subnet": "10.92.0.0/29", "aux_addresses": {"one": "10.92.0.2", "two": "10.92.0.6"}}]}
    )
    (pool,) = network["ipam"]["pools"]
    assert pool["gateway"] == "10.92.0.1"
    assert (pool["in_use"], pool["available"]) == (3, 3)
    for address in ("10.92.0.1", "10.92.0.2", "10.92.0.6"):
        body = {"network": network["id"], "name": "x", "ipv4_address": address}
        api.refused("endpoint.create", body, "conflict", address, network["name"])
    made = [make.endpoint(network) for _ in range(3)]
    assert [each["ipv4_address"] for each in made] == [f"10.92.0.{index}/29" for index in (3, 4, 5)]
    with api.unchanged():
        api.refused("endpoint.create", {"network": network["id"], "name": "x"}, "exhausted", "10.92.0.0/29")
        box = make.sandbox()
        body = {"sandbox": box["id"], "network": network["id"]}
        api.refused("sandbox.connect", body, "exhausted", "10.92.0.0/29")
        api.ask("sandbox.delete", {"sandbox": box["id"]})


def test_the_gateway_lies_in_the_range_when_none_is_named(api, make):
    network = make.network(ipam={"pools": [{"subnet": "10.92.0.0/16", "range": "10.92.7.0/24"}]})
    assert network["ipam"]["pools"][0]["gateway"] == "10.92.7.0"
    aux = {"pools": [{"subnet": "10.93.0.0/24", "aux_addresses": {"a": "10.93.0.1"}}]}
    assert make.network(ipam=aux)["ipam"]["pools"][0]["gateway"] == "10.93.0.2"


def test_sizes_and_families_that_name_no_subnet_come_from_the_predefined_pools(api, make):
    pools = make.network(enable_ipv6=True)["ipam"]["pools"]
    assert [":" in pool["subnet"] for pool in pools] == [False, True]
    pools = make.network(
        enable_ipv6=True, ipam={"pools": [{"subnet": "0.0.0.0/25"}, {"subnet": "::/120"}]}
    )["ipam"]["pools"]  # fmt: skip
    assert [pool["subnet"].rpartition("/")[2] for pool in pools] == ["25", "120"]
    (pool,) = make.network(enable_ipv4=False, enable_ipv6=True)["ipam"]["pools"]
    assert ":" in pool["subnet"]
    (pool,) = make.network(enable_ipv6=True, enable_ipv4=False, ipam={"pools": [{"subnet": "fd00:77::/64"}]})["ipam"][
        "pools"
    ]
    assert pool["subnet"] == "fd00:77::/64"


def test_a_network_in_a_space_of_its_own(api, make):
    space = api.name("space")
    network = make.network(ipam={"address_space": space, "pools": [{"subnet": "10.94.0.0/24"}]})
    (pool,) = api.ask("ipam.pool.list", {"space": space})["pools"]
    assert pool["pool"] == "10.94.0.0/24"
    api.refused("ipam.pool.release", {"pool_id": pool["pool_id"]}, "forbidden", network["name"])
    api.ask("network.delete", {"network": network["id"]})
    assert api.ask("ipam.pool.list", {"space": space}) == {"pools": []}


def test_the_address_of_a_deleted_endpoint_rests_and_then_is_free_for_those_who_name_it(api, make):
    network = make.network(ipam={"pools": [{"subnet": "10.95.0.0/24"}]})
    endpoint = make.endpoint(network)
    assert endpoint["ipv4_address"] == "10.95.0.2/24"
    api.refused(
        "endpoint.create",
        {"network": network["id"], "name": "x", "ipv4_address": "10.95.0.2"},
        "conflict",
        endpoint["name"],
    )
    api.ask("endpoint.delete", {"endpoint": endpoint["id"]})
    assert make.endpoint(network)["ipv4_address"] == "10.95.0.3/24"
    assert make.endpoint(network, ipv4_address="10.95.0.2")["ipv4_address"] == "10.95.0.2/24"


def test_no_predefined_pool_overlaps_a_route_of_the_node(api, make, patiently):
    api.sh(
        "ip link add elsewhere type dummy 2>/dev/null || ip link add elsewhere type bridge; ip link set elsewhere up"
    )
    try:
        api.sh("ip route add 172.16.0.0/13 dev elsewhere")
        wanted = ipaddress.ip_network("172.16.0.0/13")

        def knows():
            made = api.ask("network.create", {"name": api.name("net")})
            api.ask("network.delete", {"network": made["id"]})
            return not ipaddress.ip_network(made["ipam"]["pools"][0]["subnet"]).overlaps(wanted)

        patiently(knows)
    finally:
        api.sh("ip link del elsewhere")


def test_a_new_route_of_the_node_is_kept_clear_of_and_told_of_as_a_conflict(api, make, patiently):
    """I06, demand 4: a VPN comes up over a pool in use."""
    network = make.network()
    (pool,) = network["ipam"]["pools"]
    over = str(ipaddress.ip_network(pool["subnet"]).supernet(new_prefix=15))
    with stranger_link(api, "tun9", patiently), api.recording() as events:
        api.sh(f"ip route add {over} dev tun9")
        conflict = patiently(lambda: next((each for each in list(events) if each.what == "pool.conflict"), None))
        assert conflict.body["node"] == api.node
        shown = conflict.body["object"]
        assert (shown["pool"], shown["owner"]) == (pool["subnet"], network["id"])
        told = {"node": api.node, "prefix": over, "by": "route on tun9", "device": "tun9"}
        assert shown["conflicts"] == [told]
        api.sh("ip route add 192.168.0.0/17 dev tun9")
        api.sh("ip route add 10.0.0.0/9 via 10.99.0.2 dev tun9")

        def keeps_clear():
            found = api.ask("ipam.pool.request", {"space": "GlobalDefault"})
            api.ask("ipam.pool.release", {"pool_id": found["pool_id"]})
            return not ipaddress.ip_network(found["pool"]).overlaps(ipaddress.ip_network("10.0.0.0/9"))

        patiently(keeps_clear)
        chosen = [make.pool(space="LocalDefault")["pool"] for _ in range(14)]
        for text in chosen:
            found = ipaddress.ip_network(text)
            assert not any(found.overlaps(ipaddress.ip_network(each)) for each in (over, "192.168.0.0/17")), text
        named = make.network(ipam={"pools": [{"subnet": "10.1.7.0/24"}]})
        assert named["warnings"] == [
            f"pool 10.1.7.0/24 overlaps 10.0.0.0/9 (route via 10.99.0.2 on tun9 on node {api.node})"
        ]
    told = [each.body["object"]["conflicts"] for each in events if each.what == "pool.conflict"]
    assert {each["device"] for conflicts in told for each in conflicts} == {"tun9"}, (
        "the network's own routes are none"
    )


@contextlib.contextmanager
def stranger_link(api, name, patiently):
    """A link that is not CNM's, up, with an address; when it is gone, IPAM has heard of that."""

    def is_used():
        found = api.ask("ipam.pool.request", {"space": api.name("space"), "pool": "10.99.0.0/24"})
        api.ask("ipam.pool.release", {"pool_id": found["pool_id"]})
        return "warnings" in found

    api.sh(f"ip link add {name} type veth peer {name}p && ip link set {name} up && ip link set {name}p up")
    api.sh(f"ip addr add 10.99.0.1/24 dev {name}")
    try:
        yield
    finally:
        api.sh(f"ip link del {name}")
        patiently(lambda: not is_used())


def test_routes_of_cnms_own_networks_are_no_conflicts(api, make):
    with api.recording() as events:
        network = make.network(enable_ipv6=True)
        make.sandbox(on=(network,))
        api.sh("ip link add br-adopted type bridge && ip link set br-adopted up")
        try:
            api.sh("ip addr add 10.97.0.1/24 dev br-adopted")
            adopted = make.network(
                ipam={"pools": [{"subnet": "10.97.0.0/24", "gateway": "10.97.0.1"}]},
                options={"com.docker.network.bridge.name": "br-adopted"},
            )
            assert "warnings" not in adopted
            time.sleep(1)  # the node's routes are looked at 0.2 s after they change
            api.ask("network.delete", {"network": adopted["id"]})
        finally:
            api.sh("ip link del br-adopted")
    assert [each for each in events if each.what == "pool.conflict"] == []


# E03, demand 2
def test_a_fixed_address_stays_its_endpoints_own_whether_it_has_joined_or_not(api, make):
    network = make.network(ipam={"pools": [{"subnet": "10.96.0.0/29"}]})
    fixed = make.endpoint(network, "fixed", ipv4_address="10.96.0.3")
    others = [make.endpoint(network)["ipv4_address"] for _ in range(4)]
    assert others == [f"10.96.0.{number}/29" for number in (2, 4, 5, 6)]
    box = make.sandbox()
    for _ in range(2):
        joined = {"network": network["id"], "endpoint": fixed["id"], "sandbox": box["id"]}
        assert api.ask("endpoint.join", joined)["ipv4_address"] == "10.96.0.3/29"
        api.refused("endpoint.create", {"network": network["id"], "name": "late"}, "exhausted", "10.96.0.0/29")
        assert api.ask("endpoint.leave", joined)["ipv4_address"] == "10.96.0.3/29"
        body = {"network": network["id"], "name": "late", "ipv4_address": "10.96.0.3"}
        api.refused("endpoint.create", body, "conflict", "10.96.0.3", "fixed")


# demand 3
def test_an_endpoint_of_the_same_name_gets_its_address_again_while_it_is_free(api, make):
    network = make.network(enable_ipv6=True, ipam={"pools": [{"subnet": "10.98.0.0/24"}]})
    boxes = {name: make.sandbox(name) for name in map(api.name, ("db", "web", "cache"))}
    addresses = {name: (api_connect(api, box, network)) for name, box in boxes.items()}
    for name, box in boxes.items():
        api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": network["id"]})
        assert name
    for name in reversed(boxes):
        assert api_connect(api, boxes[name], network) == addresses[name], name


def api_connect(api, box, network):
    found = api.ask("sandbox.connect", {"sandbox": box["id"], "network": network["id"]})
    return found["ipv4_address"], found["ipv6_address"]


# C21
def test_a_driver_that_fails_leaves_no_pool_and_no_gateway_reserved(api, make):
    api.sh("ip link add in-the-way type veth peer beside-it")
    body = {
        "name": api.name("net"),
        "ipam": {"pools": [{"subnet": "10.34.0.0/16", "gateway": "10.34.255.254"}]},
        "options": {"com.docker.network.bridge.name": "in-the-way"},
    }
    try:
        with api.unchanged():
            api.refused("network.create", body, "conflict", "in-the-way")
    finally:
        api.sh("ip link del in-the-way")
    network = make.network(ipam=body["ipam"])
    assert network["ipam"]["pools"][0]["gateway"] == "10.34.255.254"
    assert make.endpoint(network)["ipv4_address"] == "10.34.0.1/16"


# C22
def test_an_endpoint_that_fails_leaves_its_address_to_the_next_at_once(api, make):
    network = make.network(ipam={"pools": [{"subnet": "10.35.0.0/16", "gateway": "10.35.255.254"}]})
    box = make.sandbox()
    api.sh("ip link add dup0 type dummy 2>/dev/null || ip link add dup0 type bridge", box["key"])
    body = {"sandbox": box["id"], "network": network["id"], "ifname": "dup0"}
    with api.unchanged():
        api.refused("sandbox.connect", body, "conflict", "dup0")
    assert make.endpoint(network)["ipv4_address"] == "10.35.0.1/16"


# I23
def test_a_hundred_endpoints_at_once_get_a_hundred_addresses(api, make):
    network = make.network(ipam={"pools": [{"subnet": "10.36.0.0/24"}]})
    replies = api.together(
        *(("endpoint.create", {"network": network["id"], "name": f"e{number}"}) for number in range(100))
    )
    found = [reply["ipv4_address"] for reply, _ in replies]
    assert sorted(found, key=lambda text: int(text.split("/")[0].rpartition(".")[2])) == [
        f"10.36.0.{number}/24" for number in range(2, 102)
    ]


def test_two_bridges_never_share_a_subnet_even_with_ranges_apart(api, make):
    first = make.network(ipam={"pools": [{"subnet": "10.37.0.0/16", "range": "10.37.1.0/24"}]})
    body = {"name": api.name("net"), "ipam": {"pools": [{"subnet": "10.37.0.0/16", "range": "10.37.2.0/24"}]}}
    api.refused("network.create", body, "conflict", "10.37.0.0/16", first["name"])


def test_leases_are_listed_with_their_owners(api, make):
    network = make.network(ipam={"pools": [{"subnet": "10.38.0.0/24", "aux_addresses": {"router": "10.38.0.9"}}]})
    endpoint = make.endpoint(network)
    pool_id = next(pool["pool_id"] for pool in api.ask("ipam.pool.list")["pools"] if pool["owner"] == network["id"])
    api.ask("ipam.address.request", {"pool_id": pool_id, "owner": "printer"})
    leases = api.ask("ipam.address.list", {"pool_id": pool_id})["leases"]
    assert [(lease["address"], lease["owner"], lease["use"]) for lease in leases] == [
        ("10.38.0.1/24", network["id"], "gateway"),
        ("10.38.0.2/24", endpoint["id"], None),
        ("10.38.0.3/24", "printer", None),
        ("10.38.0.9/24", network["id"], "auxiliary address router"),
    ]
    assert api.ask("ipam.address.list", {"pool_id": pool_id, "after": "10.38.0.2", "limit": 1})["leases"] == [
        leases[2]
    ]
    assert endpoint["name"] in leases[1]["holder"]
    api.refused("ipam.address.list", {"pool_id": "x/10.0.0.0/8"}, "not_found", "x/10.0.0.0/8")


def test_pools_are_listed_page_by_page(api, make):
    space = api.name("space")
    ids = [make.pool(space=space, pool=f"10.{number}.0.0/16")["pool_id"] for number in range(5)]
    first = api.ask("ipam.pool.list", {"space": space, "limit": 2})["pools"]
    assert [pool["pool_id"] for pool in first] == ids[:2]
    rest = api.ask("ipam.pool.list", {"space": space, "after": ids[1]})["pools"]
    assert [pool["pool_id"] for pool in rest] == ids[2:]
    api.refused("ipam.pool.list", {"space": space, "after": "x/10.0.0.0/8"}, "not_found", "x/10.0.0.0/8")


def test_every_fault_of_a_pool_is_told_at_once_with_the_value_that_is_right(api):
    body = {"space": "a b", "pool": "10.1.2.3/24", "sub_pool": "10.1.3.0/25", "options": {"colour": "red"}}
    error = api.refused("ipam.pool.request", body)
    assert {fault["field"]: fault["reason"] for fault in error["details"]["fields"] if fault["field"] != "space"} == {
        "pool": "10.1.2.3/24 has host bits set, it should be 10.1.2.0/24",
        "sub_pool": "10.1.3.0/25 is not inside 10.1.2.0/24, which has 10.1.2.0/25 for example",
        "options.colour": "unknown option colour, the one there is is com.docker.network.ipam.serial",
    }
    assert "space" in {fault["field"] for fault in error["details"]["fields"]}
