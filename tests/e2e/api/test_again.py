"""What comes again is the same again: sandboxes that are made anew, everything after a restart."""

import os
import signal

import nats
import pytest

BRIDGE = "com.docker.network.bridge."
TIMES = 100


def interface(link):
    """Return what there is to an interface, but for the kernel's own numbers."""
    addresses = sorted((each["local"], each["prefixlen"], each["scope"]) for each in link["addr_info"])
    return link["ifname"], link["address"], link["mtu"], link["operstate"], sorted(link["flags"]), addresses


def route(entry):
    return {name: value for name, value in entry.items() if name not in ("metric", "pref")}


def look(api, box):
    key = box["key"]
    links = sorted(interface(link) for link in api.ip("addr show", key))
    return links, [[route(each) for each in api.ip(f"{family} route", key)] for family in ("-4", "-6")]


def test_a_sandbox_on_three_networks_is_the_same_a_hundred_times(api, make):
    networks = [make.network(enable_ipv6=True), make.network(), make.network(internal=True)]
    body = {"name": api.name("again"), "ports": [{"container_port": 80, "host_port": 18700}]}
    seen = []
    for number in range(TIMES):
        box = api.ask("sandbox.create", body)
        order = networks[number % 3 :] + networks[: number % 3]  # whatever comes first, names are asked for
        calls = [
            ("sandbox.connect", {"sandbox": box["id"], "network": each["id"], "ifname": f"eth{networks.index(each)}"})
            for each in order
        ]
        for reply, _ in api.together(*calls):
            assert "error" not in reply, reply
        seen.append(look(api, box))
        api.ask("sandbox.delete", {"sandbox": box["id"]})
    assert [link[0] for link in seen[0][0]] == ["eth0", "eth1", "eth2", "lo"]
    assert seen == [seen[0]] * TIMES


def everything(api):
    """Return all that the API shows."""
    lists = {f"{noun}.list": None for noun in ("network", "sandbox", "endpoint", "ipam.pool")}
    return {verb: api.ask(verb, timeout=2) for verb in lists}


@pytest.fixture
def inhabited(own_api):
    """Make some of each: networks of several kinds, endpoints in and out of sandboxes, ports, aliases."""
    ask = own_api.ask
    ask("network.create", {"name": "web", "enable_ipv6": True, "labels": {"a": "b"}})
    ask("network.create", {"name": "shut", "internal": True, "options": {f"{BRIDGE}enable_icc": "false"}})
    ask("network.create", {"name": "open", "options": {f"{BRIDGE}gateway_mode_ipv4": "routed"}})
    ask("network.create", {"name": "conf", "config_only": True, "ipam": {"pools": [{"subnet": "10.77.0.0/24"}]}})
    ask("network.create", {"name": "made", "config_from": "conf"})
    for name in ("one", "two"):
        ports = [{"container_port": 80, "host_port": 0}]
        ask("sandbox.create", {"name": name, "ports": ports, "extra_hosts": [{"name": "x", "ip": "192.0.2.1"}]})
        for network in ("web", "shut", "open", "made"):
            ask("sandbox.connect", {"sandbox": name, "network": network, "aliases": [f"{name}-alias"]})
    ask("sandbox.create", {"name": "later", "netns_later": True})
    ask("sandbox.connect", {"sandbox": "later", "network": "web"})
    ask("endpoint.create", {"network": "web", "name": "apart", "mac_address": "02:00:00:00:00:05"})
    ask("endpoint.update", {"network": "web", "endpoint": "apart", "ready": False})


def test_everything_is_the_same_after_a_restart(own_installation, own_api, inhabited, ask_anew):
    before, kernel = everything(own_api), own_api.kernel()
    boxes = [box for box in own_api.ask("sandbox.list")["sandboxes"] if box["name"] != "later"]
    seen = [look(own_api, box) for box in boxes]
    own_installation.down()
    own_installation.up()
    with ask_anew() as api:
        assert everything(api) == before
        assert [look(api, box) for box in boxes] == seen
        assert api.kernel() == kernel


@pytest.mark.parametrize("server", ["nats", "redis"])
def test_everything_is_the_same_after_a_server_was_killed(own_installation, own_api, inhabited, patiently, server):
    before, kernel = everything(own_api), own_api.kernel()
    os.kill(own_installation.pid(server), signal.SIGKILL)

    def settled():
        try:
            return everything(own_api) == before
        except (AssertionError, TimeoutError, nats.errors.Error):  # refused, or nobody there, while it is away
            return False

    patiently(settled, patience_s=40)
    assert own_api.kernel() == kernel
