"""IPAM's books are put right: leases without an owner go, owners without a lease get it again (C29, demand 2)."""

import json
import os
import signal

import pytest
import redis as redis_py

KEY = "cnm:{ipam}:"


@pytest.fixture(scope="module")
def redis(installation):
    client = redis_py.Redis(unix_socket_path=f"{installation.inside}{installation.run_dir}/redis.sock")
    yield client
    client.close()


def pool_of(api, network):
    return next(pool["pool_id"] for pool in api.ask("ipam.pool.list")["pools"] if pool["owner"] == network["id"])


def found(api, **body):
    checked = api.ask("system.check", body)
    assert checked["compared"] == ["cnm-ipam", "cnm-driver-bridge", "cnm-port-mapper", "cnm-resolver", "cnm-sandbox"]
    assert "warnings" not in checked
    return sorted((each["what"], each["value"], each["id"], each["repaired"]) for each in checked["differences"])


def test_a_check_finds_nothing_where_all_is_well(api, make):
    network = make.network(enable_ipv6=True)
    make.sandbox(on=(network,))
    make.endpoint(network)
    with api.unchanged():
        assert found(api) == found(api, repair=False) == []


def test_lost_leases_and_strays_are_found_and_then_repaired_and_told_of(api, make, redis):
    network = make.network(ipam={"pools": [{"subnet": "10.40.0.0/24", "aux_addresses": {"a": "10.40.0.9"}}]})
    kept, stray = make.endpoint(network), make.endpoint(network)
    pool_id = pool_of(api, network)
    holders = f"{KEY}holders:LocalDefault/10.40.0.0/24"
    lease = json.loads(redis.hget(holders, "0a280003"))
    redis.hset(holders, "0a280007", json.dumps(["o:" + "f" * 64, pool_id, "endpoint 'ghost'", "", ""]))
    redis.setbit(f"{KEY}bits:LocalDefault/10.40.0.0/24", 7, 1)
    redis.hdel(holders, "0a280002", "0a280001")
    expected = [
        ("lease without an owner", "10.40.0.7", "f" * 64, False),
        ("owner without its lease", "10.40.0.1", network["id"], False),
        ("owner without its lease", "10.40.0.2", kept["id"], False),
    ]
    with api.unchanged():
        assert found(api, repair=False) == expected
    with api.recording() as events:
        assert found(api) == [(*each[:3], True) for each in expected]
    drift = [each for each in events if each.what.startswith("drift")]
    assert sorted((each.what, each.about) for each in drift) == sorted(
        (what, owner) for _, _, owner, _ in expected for what in ("drift.found", "drift.repaired")
    )
    for each in drift:
        (difference,) = each.body["object"]["differences"]
        assert (difference["what"], difference["value"], each.about, False) in expected
    assert found(api) == []
    held = {each["address"]: each["owner"] for each in api.ask("ipam.address.list", {"pool_id": pool_id})["leases"]}
    assert held == {
        "10.40.0.1/24": network["id"],
        "10.40.0.2/24": kept["id"],
        "10.40.0.3/24": stray["id"],
        "10.40.0.9/24": network["id"],
    }
    assert lease[0] == f"o:{stray['id']}"


def test_address_that_another_took_meanwhile_is_told_with_its_holder(api, make, redis):
    network = make.network(ipam={"pools": [{"subnet": "10.41.0.0/24"}]})
    endpoint = make.endpoint(network)
    redis.hdel(f"{KEY}holders:LocalDefault/10.41.0.0/24", "0a290002")
    pool_id = pool_of(api, network)
    api.ask("ipam.address.request", {"pool_id": pool_id, "owner": "thief", "address": "10.41.0.2"})
    for body in ({"repair": False}, {}):
        (difference,) = api.ask("system.check", body)["differences"]
        assert (difference["id"], difference["repaired"]) == (endpoint["id"], False)
        assert difference["reason"] == '10.41.0.2 is held by owner "thief"'
    api.ask("ipam.address.release", {"pool_id": pool_id, "address": "10.41.0.2"})
    assert found(api) == [("owner without its lease", "10.41.0.2", endpoint["id"], True)]


def test_all_of_ipam_is_restored_when_its_keys_are_lost(own_installation, wait_until):
    ask = own_installation.ask
    network, _ = ask("network.create", {"name": "web", "ipam": {"pools": [{"subnet": "10.42.0.0/16"}]}})
    ask("sandbox.create", {"name": "c1"})
    endpoint, _ = ask("sandbox.connect", {"sandbox": "c1", "network": "web"})
    client = redis_py.Redis(unix_socket_path=f"{own_installation.inside}{own_installation.run_dir}/redis.sock")
    for key in client.scan_iter(f"{KEY}*"):
        client.delete(key)
    client.close()
    os.kill(own_installation.pid("cnm-controller"), signal.SIGKILL)

    def restored():
        pools, _ = ask("ipam.pool.list")
        mine = [pool for pool in pools["pools"] if pool["owner"] == network["id"]]
        return mine and mine[0]["in_use"] == 2

    wait_until(restored)  # the next controller looks at once
    again, headers = ask("endpoint.create", {"network": "web", "name": "x", "ipv4_address": "10.42.0.2"})
    assert again["error"]["code"] == "conflict"
    assert "c1" in headers["Nats-Service-Error"]
    fresh, _ = ask("endpoint.create", {"network": "web", "name": "x"})
    assert fresh["ipv4_address"] == "10.42.0.3/16"
    assert endpoint["ipv4_address"] == "10.42.0.2/16"


def test_command_shows_what_was_found(installation, api, make, redis):
    assert (
        "all is as it should be (compared: cnm-ipam, cnm-driver-bridge, cnm-port-mapper, cnm-resolver, cnm-sandbox)"
        in installation.cnm("check", check=True).stdout
    )
    network = make.network(ipam={"pools": [{"subnet": "10.43.0.0/24"}]})
    redis.hdel(f"{KEY}holders:LocalDefault/10.43.0.0/24", "0a2b0001")
    shown = json.loads(installation.cnm("check", "--no-repair", "-o", "json", check=True).stdout)
    assert [(each["value"], each["repaired"]) for each in shown["differences"]] == [("10.43.0.1", False)]
    lines = installation.cnm("check", check=True).stdout.splitlines()
    assert lines[1].split()[-1] == "yes"
    assert network["name"] in lines[1]


def test_command_shows_pools_with_everybody_who_holds_an_address(installation, api, make):
    network = make.network(ipam={"pools": [{"subnet": "10.44.0.0/24"}]})
    endpoint = make.endpoint(network)
    pool_id = pool_of(api, network)
    api.ask("ipam.address.request", {"pool_id": pool_id, "owner": "printer-on-the-second-floor"})
    shown = json.loads(installation.cnm("ipam", "inspect", pool_id, "-o", "json", check=True).stdout)
    assert [each["owner"] for each in shown.pop("leases")] == [
        network["id"],
        endpoint["id"],
        "printer-on-the-second-floor",
    ]
    assert shown == api.ask("ipam.pool.get", {"pool_id": pool_id})
    table = installation.cnm("ipam", "inspect", pool_id, check=True).stdout
    for words in ("10.44.0.1/24", "gateway", endpoint["name"], endpoint["id"][:12], "printer-on-the-second-floor"):
        assert words in table
    assert pool_id in installation.cnm("ipam", "ls", check=True).stdout
    refused = installation.cnm("ipam", "inspect", "x/10.0.0.0/8")
    assert (refused.returncode, refused.stdout.strip()) == (1, "")
    assert "no pool x/10.0.0.0/8" in refused.stderr
