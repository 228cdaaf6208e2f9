"""Many at once: each request is answered truly, and what stands afterwards agrees with the answers."""

import pytest


def bodies(replies, code=None):
    """Return the bodies that worked; the others have this code."""
    worked = [reply for reply, _ in replies if "error" not in reply]
    for reply, _ in replies:
        assert reply in worked or reply["error"]["code"] == code, reply
    return worked


def test_fifty_sandboxes_connect_at_once(api, make, tidy):
    network = make.network(enable_ipv6=True)
    boxes = bodies(api.together(*[("sandbox.create", {"name": api.name("many")}) for _ in range(50)]))
    assert len(boxes) == 50
    asked = [("sandbox.connect", {"sandbox": box["id"], "network": network["id"]}) for box in boxes]
    joined = bodies(api.together(*asked))
    assert len(joined) == 50
    for key in ("ipv4_address", "ipv6_address", "mac_address", "id"):
        assert len({each[key] for each in joined}) == 50, key
    assert len({each["driver_info"]["host_ifname"] for each in joined}) == 50
    ports = api.ip(f"link show master br-{network['id'][:12]}")
    assert {each["ifname"] for each in ports} == {each["driver_info"]["host_ifname"] for each in joined}
    assert api.ask("network.get", {"network": network["id"]})["ipam"]["pools"][0]["in_use"] == 51
    for each in joined[:3]:
        api.sh(f"ping -c1 -W2 {joined[-1]['ipv4_address'].partition('/')[0]}", boxes[joined.index(each)]["key"])
    assert bodies(api.together(*[("sandbox.delete", {"sandbox": box["id"]}) for box in boxes])) == [{}] * 50
    make.end()


def test_one_sandbox_connects_to_five_networks_at_once(api, make):
    networks = [make.network() for _ in range(5)]
    box = make.sandbox()
    joined = bodies(
        api.together(*[("sandbox.connect", {"sandbox": box["id"], "network": each["id"]}) for each in networks])
    )
    assert len(joined) == 5
    assert {each["ifname"] for each in joined} == {f"eth{index}" for index in range(5)}
    shown = api.ask("sandbox.get", {"sandbox": box["id"]})
    assert {each["id"] for each in shown["endpoints"]} == {each["id"] for each in joined}
    lowest = min(networks, key=lambda each: each["name"])
    leader = next(each for each in shown["endpoints"] if each["id"] == shown["gateway_ipv4"])
    assert leader["network"] == lowest["id"]
    (route,) = api.ip("route show default", box["key"])
    assert route["gateway"] == leader["gateway_ipv4"]


@pytest.mark.parametrize("times", [8])
def test_of_equal_requests_exactly_one_wins(api, make, times):
    network, box, pool = make.network(), make.sandbox(), make.pool(pool="10.0.0.0/24")
    name = api.name("same")
    for verb, body, code, undo in (
        ("network.create", {"name": name}, "conflict", "network.delete"),
        (
            "network.create",
            {"name": name, "ipam": {"pools": [{"subnet": "10.99.0.0/24"}]}},
            "conflict",
            "network.delete",
        ),
        ("sandbox.create", {"name": name}, "conflict", "sandbox.delete"),
        ("endpoint.create", {"network": network["id"], "name": name}, "conflict", "endpoint.delete"),
        ("sandbox.connect", {"sandbox": box["id"], "network": network["id"]}, "conflict", "endpoint.delete"),
        ("ipam.pool.request", {"space": name, "pool": "10.0.0.0/24"}, "conflict", "ipam.pool.release"),
        (
            "ipam.address.request",
            {"pool_id": pool["pool_id"], "address": "10.0.0.9"},
            "conflict",
            None,
        ),
    ):
        before = api.lists()
        (made,) = bodies(api.together(*[(verb, body)] * times), code)
        if undo == "ipam.pool.release":
            api.ask(undo, {"pool_id": made["pool_id"]})
        elif undo:
            noun = undo.partition(".")[0]
            api.ask(undo, {noun: made["id"], "force": True})
            after = api.lists()
            for what in ("networks", "endpoints", "pools"):
                assert after[what] == before[what], (verb, what)
    for verb, body in (("sandbox.delete", {"sandbox": box["id"]}), ("network.delete", {"network": network["id"]})):
        assert bodies(api.together(*[(verb, body)] * times), "not_found") == [{}]


def test_networks_with_the_same_subnet_at_once_leave_one(api, make, tidy):
    pools = {"pools": [{"subnet": "10.99.0.0/24"}]}
    (made,) = bodies(
        api.together(*[("network.create", {"name": api.name(), "ipam": pools}) for _ in range(6)]), "conflict"
    )
    api.ask("network.delete", {"network": made["id"]})


def test_the_last_address_goes_to_one(api, make, tidy):
    network = make.network(ipam={"pools": [{"subnet": "10.99.0.0/29"}]})
    boxes = [make.sandbox() for _ in range(9)]
    asked = [("sandbox.connect", {"sandbox": box["id"], "network": network["id"]}) for box in boxes]
    joined = bodies(api.together(*asked), "exhausted")
    assert sorted(each["ipv4_address"] for each in joined) == [f"10.99.0.{index}/29" for index in range(2, 7)]
    shown = api.ask("network.get", {"network": network["id"]})
    assert (shown["ipam"]["pools"][0]["in_use"], shown["ipam"]["pools"][0]["available"]) == (6, 0)
    make.end()


def test_a_host_port_goes_to_one(api, make, tidy):
    network = make.network()
    boxes = [make.sandbox(ports=[{"container_port": 80, "host_port": 18600}]) for _ in range(5)]
    asked = [("sandbox.connect", {"sandbox": box["id"], "network": network["id"]}) for box in boxes]
    (joined,) = bodies(api.together(*asked), "conflict")
    for box in boxes:
        shown = api.ask("sandbox.get", {"sandbox": box["id"]})
        assert bool(shown["ports"]) == bool(shown["endpoints"]) == (box["id"] == joined["sandbox"])
        assert [link["ifname"] for link in api.ip("link show", box["key"])] == (
            ["lo", "eth0"] if box["id"] == joined["sandbox"] else ["lo"]
        )
    make.end()


def test_a_storm_of_connects_and_disconnects_ends_clean(api, make, tidy):
    networks = [make.network() for _ in range(3)]
    boxes = [make.sandbox(ports=[{"container_port": 80}]) for _ in range(4)]
    asked = []
    for turn in range(5):
        for box in boxes:
            for network in networks:
                on = {"sandbox": box["id"], "network": network["id"]}
                asked.append(("sandbox.connect" if turn % 2 == 0 else "sandbox.disconnect", on))
    for reply, _ in api.together(*asked):
        assert "error" not in reply or reply["error"]["code"] in ("conflict", "not_found"), reply
    for box in boxes:
        shown = api.ask("sandbox.get", {"sandbox": box["id"]})
        there = {link["ifname"]: link["address"] for link in api.ip("link show", box["key"])}
        del there["lo"]
        assert there == {each["ifname"]: each["mac_address"] for each in shown["endpoints"]}
    make.end()


def test_a_network_is_deleted_while_sandboxes_connect(api, make, tidy):
    network = make.network()
    boxes = [make.sandbox() for _ in range(6)]
    asked = [("sandbox.connect", {"sandbox": box["id"], "network": network["id"]}) for box in boxes]
    asked.insert(3, ("network.delete", {"network": network["id"], "force": True}))
    for reply, _ in api.together(*asked):
        assert "error" not in reply or reply["error"]["code"] in ("not_found", "forbidden"), reply
    make.end()


def test_sandboxes_are_deleted_while_they_connect(api, make, tidy):
    network = make.network()
    boxes = [make.sandbox() for _ in range(6)]
    asked = []
    for box in boxes:
        asked.append(("sandbox.connect", {"sandbox": box["id"], "network": network["id"]}))
        asked.append(("sandbox.delete", {"sandbox": box["id"]}))
    for reply, _ in api.together(*asked):
        assert "error" not in reply or reply["error"]["code"] == "not_found", reply
    assert api.ask("network.get", {"network": network["id"]})["endpoints"] == []
    make.end()
