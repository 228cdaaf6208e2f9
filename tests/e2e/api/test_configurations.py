"""Configuration networks hold what others are made from, and carry nothing themselves (API 2, features C11-15)."""

import contextlib
import os
import signal

import nats
import pytest

MTU = "com.docker.network.driver.mtu"
HELD = {
    "config_only": True,
    "enable_ipv6": True,
    "labels": {"tier": "front"},
    "options": {MTU: 1400},
    "dns": {"ttl": 7, "search": ["corp.example"]},
    "ipam": {
        "options": {"com.docker.network.ipam.serial": True},
        "pools": [
            {"subnet": "10.66.0.0/16", "range": "10.66.5.0/24", "gateway": "10.66.5.254",
             "aux_addresses": {"router": "10.66.1.5"}},
            {"subnet": "fd00:66::/64", "gateway": "fd00:66::22"},
        ],
    },
}  # fmt: skip
COPIED = ("enable_ipv4", "enable_ipv6", "labels", "options", "dns")


def pools_of(network):
    fields = ("subnet", "range", "gateway", "aux_addresses")
    return [{field: pool[field] for field in fields} for pool in network["ipam"]["pools"]]


def test_a_configuration_holds_everything_and_makes_nothing(api, tidy, make):
    kernel, pools = api.kernel(), api.ask("ipam.pool.list")
    with api.recording() as events:
        held = make.network(**HELD)
    assert [event.what for event in events] == ["network.created"]
    assert events[0].body["object"] == held
    assert api.ask("network.get", {"network": held["name"]}) == held
    assert (held["config_only"], held["config_from"], held["driver"], held["scope"]) == (True, None, "null", "local")
    assert pools_of(held)[0] == HELD["ipam"]["pools"][0]
    assert [pool["in_use"] for pool in held["ipam"]["pools"]] == [0, 0]
    assert (held["labels"], held["options"]) == ({"tier": "front"}, {MTU: "1400"})
    assert (api.kernel(), api.ask("ipam.pool.list")) == (kernel, pools)
    for filters in ({"label": ["tier=front"]}, {"driver": ["null"], "name": [held["name"]]}, {"id": [held["id"]]}):
        listed = api.ask("network.list", {"filters": filters})["networks"]
        assert [each["id"] for each in listed] == [held["id"]]
    # Nothing of it is reserved: another network may have the subnet.
    make.network(ipam={"pools": [{"subnet": "10.66.0.0/24"}]})


def test_nothing_joins_a_configuration(api, make):
    held, box, other = make.network(config_only=True), make.sandbox(), make.network()
    make.connect(box, other)
    with api.unchanged():
        for verb, body in (
            ("endpoint.create", {"name": "e"}),
            ("sandbox.connect", {"sandbox": box["id"]}),
            ("sandbox.connect", {"sandbox": box["id"], "ipv4_address": "10.0.0.9"}),
        ):
            api.refused(verb, {**body, "network": held["id"]}, "forbidden", held["name"], "configuration")


def test_a_network_takes_everything_from_its_configuration(api, tidy, make):
    held = make.network(**HELD)
    with api.recording() as events:
        web = make.network(config_from=held["id"][:12], internal=True, attachable=True)
    assert sorted(event.what for event in events) == ["network.created", *["pool.requested"] * 2]
    assert (web["config_from"], web["config_only"], web["driver"]) == (held["name"], False, "bridge")
    assert (web["internal"], web["attachable"]) == (True, True)
    assert {field: web[field] for field in COPIED} == {field: held[field] for field in COPIED}
    assert web["ipam"]["options"] == held["ipam"]["options"]
    assert pools_of(web) == pools_of(held)
    assert api.ask("network.get", {"network": web["id"]}) == web
    box = make.sandbox()
    joined = make.connect(box, web)
    assert joined["ipv4_address"].startswith("10.66.5.")
    assert next(link["mtu"] for link in api.ip("link show", box["key"]) if link["ifname"] == "eth0") == 1400


def test_a_configuration_in_use_stays_and_names_its_users(api, tidy, make):
    label = api.name("config")
    held = make.network(config_only=True, labels={label: ""})
    users = [make.network(config_from=held["name"]) for _ in range(2)]
    make.endpoint(users[0])
    for force in (False, True):
        words = (held["name"], *(user["name"] for user in users))
        api.refused("network.delete", {"network": held["id"], "force": force}, "forbidden", *words)
    # The user that has no endpoint goes; the configuration is still in use by the other one, also at the next turn.
    for deleted in ([users[1]["id"]], []):
        assert api.ask("network.prune", {"filters": {"label": [label]}}) == {"deleted": deleted}
    listed = api.ask("network.list", {"filters": {"label": [label], "dangling": [True]}})["networks"]
    assert listed == []
    assert api.ask("network.delete", {"network": users[0]["id"], "force": True}) == {}
    assert api.ask("network.prune", {"filters": {"label": [label]}}) == {"deleted": [held["id"]]}


def test_deleting_and_using_a_configuration_at_once_leave_no_half(api, make):
    for _ in range(8):
        held, name = make.network(config_only=True), api.name("user")
        (gone, _), (made, _) = api.together(
            ("network.delete", {"network": held["id"]}), ("network.create", {"name": name, "config_from": held["id"]})
        )
        codes = [reply.get("error", {}).get("code") for reply in (gone, made)]
        assert codes in ([None, "not_found"], ["forbidden", None]), (gone, made)
        if codes[1] is None:
            api.ask("network.delete", {"network": name})


def test_a_configuration_that_suits_no_bridge_says_so_when_it_is_used(api, make):
    pools = [{"subnet": "10.67.0.0/24"}, {"subnet": "10.68.0.0/24"}]
    held = make.network(config_only=True, options={"parent": "eth0"}, ipam={"pools": pools})
    with api.unchanged():
        error = api.refused("network.create", {"name": "n", "config_from": held["id"]}, "invalid", held["name"])
    assert {fault["field"] for fault in error["details"]["fields"]} == {"options.parent", "ipam.pools[1].subnet"}


def listed(api):
    """Return all networks as soon as somebody tells: a request may be lost with who was to answer it."""
    with contextlib.suppress(nats.errors.Error):
        return api.call("network.list", timeout=1)[0].get("networks")


@pytest.mark.parametrize("servers", [("cnm-controller",), ("redis",), ("nats", "redis", "cnm-controller")])
def test_configurations_are_the_same_after_everything_was_killed(module_installation, module_api, patiently, servers):
    installation, api = module_installation, module_api
    held = api.ask("network.create", {"name": "held", **HELD})
    api.ask("network.create", {"name": "web", "config_from": "held"})
    before = api.ask("network.list")["networks"]
    for pid in [installation.pid(server) for server in servers]:
        os.kill(pid, signal.SIGKILL)
    assert patiently(lambda: listed(api)) == before
    api.refused("network.delete", {"network": "held"}, "forbidden", "web")
    installation.down()
    installation.up()
    assert patiently(lambda: listed(api)) == before
    api.ask("network.delete", {"network": "web"})
    api.ask("network.delete", {"network": held["id"]})
