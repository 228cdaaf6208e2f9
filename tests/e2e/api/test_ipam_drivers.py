"""An IPAM driver that is a stranger's program: the one of docs/ipam-drivers.md (I25, I26)."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

SOON = {"Cnm-Deadline-Ms": "1500"}
PAGE = Path(__file__).parents[3] / "docs" / "ipam-drivers.md"


class Driver:
    """The program, and what it was asked."""

    def __init__(self, installation, name):
        self.asked = []
        program = PAGE.read_text().split("```python\n")[1].split("```")[0]
        self._process = subprocess.Popen(
            installation.entering(sys.executable, "-c", program, name), stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            verb, _, body = line.partition(" ")
            self.asked.append((verb, json.loads(body)))

    def of(self, verb):
        return [body for asked, body in list(self.asked) if asked == verb]

    def stop(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


@pytest.fixture
def name(api):
    return api.name("mock")


@pytest.fixture
def driver(installation, api, patiently, name):
    """The driver, announced."""
    with running(installation, api, patiently, name) as made:
        yield made
    api.ask("driver.announce", {"name": name, "instance": "x", "leaving": True})
    assert name not in api.ask("system.info")["drivers"]["ipam"]


@contextmanager
def running(installation, api, patiently, name):
    made = Driver(installation, name)
    try:
        patiently(lambda: name in api.ask("system.info")["drivers"]["ipam"])
        yield made
    finally:
        made.stop()


def test_driver_that_never_announced_itself_is_unsupported_by_name(api):
    body = {"name": api.name("net"), "ipam": {"driver": "dhcp"}}
    with api.unchanged():
        error = api.refused("network.create", body, "unsupported", "dhcp")
    assert "default, null" in error["message"]


def test_built_in_names_are_taken(api):
    api.refused("driver.announce", {"name": "default", "instance": "x"}, "conflict", "default")
    api.refused("driver.announce", {"name": "mock"}, "invalid", "instance")


def test_pools_gateway_and_addresses_are_the_drivers(api, make, driver, name, patiently):
    network = make.network(ipam={"driver": name, "options": {"colour": "red"}})
    (pool,) = network["ipam"]["pools"]
    assert (pool["subnet"], pool["gateway"]) == ("10.177.0.0/16", "10.177.255.254")
    assert network["ipam"]["driver"] == name
    (asked,) = driver.of("network.allocate")
    assert (asked["owner"], asked["options"]) == (network["id"], {"colour": "red"})
    assert asked["pools"] == [
        {
            "request": {"subnet": None, "range": None, "gateway": None, "aux_addresses": {}},
            "ipv6": False,
            "gateway": True,
        }
    ]
    box = make.sandbox(on=(network,))
    (endpoint,) = box["endpoints"]
    assert endpoint["ipv4_address"] == "10.177.0.1/16"
    (asked,) = driver.of("endpoint.allocate")
    assert asked["options"] == {
        "colour": "red",
        "com.docker.network.endpoint.name": endpoint["name"],
        "com.docker.network.endpoint.macaddress": endpoint["mac_address"],
    }
    assert "0% packet loss" in api.sh("ping -c 1 -W 2 10.177.255.254", box["key"])
    fixed = make.endpoint(network, ipv4_address="10.177.9.9")
    assert fixed["ipv4_address"] == "10.177.9.9/16"
    api.refused(
        "endpoint.create",
        {"network": network["id"], "name": "late", "ipv4_address": "10.177.9.9"},
        "conflict",
        "no address for endpoint 'late'",
    )
    assert [pool for pool in api.ask("ipam.pool.list")["pools"] if pool["owner"] == network["id"]] == []
    api.ask("endpoint.delete", {"network": network["id"], "endpoint": fixed["id"]})
    patiently(lambda: fixed["id"] in [body["owner"] for body in driver.of("owner.release")])
    make.end()
    assert {network["id"], endpoint["id"]} <= {body["owner"] for body in driver.of("owner.release")}


def test_driver_that_was_started_again_is_told_what_is_held(installation, api, make, patiently, name):
    with running(installation, api, patiently, name):
        network = make.network(ipam={"driver": name})
        endpoint = make.endpoint(network)
    with running(installation, api, patiently, name) as again:
        told = patiently(lambda: len(again.of("owner.reconcile")) == 2 and again.of("owner.reconcile"))
        assert [body["owner"] for body in told] == [network["id"], endpoint["id"]]
        assert told[0]["pools"][0]["gateway"] == "10.177.255.254"
        assert told[1]["addresses"] == [{"pool_id": "10.177.0.0/16", "address": "10.177.0.1"}]
        assert make.endpoint(network)["ipv4_address"] == "10.177.0.2/16"
        make.end()


def test_driver_that_is_away_is_unavailable_and_hears_later_what_went(installation, api, make, patiently, name):
    with running(installation, api, patiently, name):
        network = make.network(ipam={"driver": name})
        endpoint = make.endpoint(network)
    with api.unchanged():
        body = {"network": network["id"], "name": "x"}
        api.refused("endpoint.create", body, "unavailable", headers=SOON)
    assert api.ask("network.get", {"network": network["id"]})["ipam"]["pools"][0]["subnet"] == "10.177.0.0/16"
    api.ask("endpoint.delete", {"network": network["id"], "endpoint": endpoint["id"]}, SOON)
    with running(installation, api, patiently, name) as again:
        patiently(lambda: endpoint["id"] in [body["owner"] for body in again.of("owner.release")])
        make.end()
        assert network["id"] in [body["owner"] for body in again.of("owner.release")]


def test_driver_that_was_not_heard_of_for_long_is_unavailable_to_new_networks(installation, api, patiently, name):
    with running(installation, api, patiently, name):
        began = time.monotonic()
    patiently(lambda: name not in api.ask("system.info")["drivers"]["ipam"])
    assert time.monotonic() - began > 3
    body = {"name": api.name("net"), "ipam": {"driver": name}}
    api.refused("network.create", body, "unavailable", name)


def test_driver_that_replies_nonsense_is_told_of_and_nothing_is_left(api, patiently, name):
    """Its replies are looked at: the families asked for, a gateway inside, JSON of the right shape."""
    replies = [
        ({"pools": []}, "was asked for IPv4 and gave nothing"),
        ({"pools": [{"pool_id": "x", "subnet": "fd00::/64"}]}, "was asked for IPv4 and gave fd00::/64"),
        ({"pools": [{"pool_id": "x", "subnet": "10.1.0.0/16", "gateway": "10.2.0.1"}]}, "10.2.0.1"),
        ({"pools": "x"}, "replied what it must not"),
    ]
    answers = iter([reply for reply, _ in replies])

    async def answer(message):
        reply = next(answers) if message.subject.endswith("network.allocate") else {}
        await api.client.publish(message.reply, json.dumps(reply).encode())

    subscription = api.run(api.client.subscribe(f"cnm.v1.ipam.driver.{name}.>", cb=answer))
    api.ask("driver.announce", {"name": name, "instance": "1"})
    try:
        with api.unchanged():
            for _, words in replies:
                body = {"name": "nonsense", "ipam": {"driver": name}}
                api.refused("network.create", body, "unavailable", name, words)
    finally:
        api.run(subscription.unsubscribe())
        api.ask("driver.announce", {"name": name, "instance": "1", "leaving": True})


@contextmanager
def answering(api, name, replies):
    """A driver that answers each verb with what stands there for it, and is silent where nothing does."""

    async def answer(message):
        verb = ".".join(message.subject.split(".")[-2:])
        if verb in replies:
            await api.client.publish(message.reply, json.dumps(replies[verb]).encode())

    subscription = api.run(api.client.subscribe(f"cnm.v1.ipam.driver.{name}.>", cb=answer))
    api.ask("driver.announce", {"name": name, "instance": "1"})
    try:
        yield
    finally:
        api.run(subscription.unsubscribe())
        api.ask("driver.announce", {"name": name, "instance": "1", "leaving": True})


POOL = {"pool_id": "x", "subnet": "10.178.0.0/24", "gateway": "10.178.0.1"}


def test_driver_that_does_not_count_keeps_nobody_from_seeing_networks(api, name):
    with answering(api, name, {"network.allocate": {"pools": [POOL]}, "owner.release": {}}):
        body = {"name": name, "ipam": {"driver": name}}
        made = api.ask("network.create", body, {"Cnm-Deadline-Ms": "5000"})
        try:
            patient = {"Cnm-Deadline-Ms": "5000"}
            (pool,) = api.ask("network.get", {"network": made["id"]}, patient)["ipam"]["pools"]
            assert (pool["subnet"], pool["in_use"], pool["available"]) == ("10.178.0.0/24", 0, 0)
            assert made["id"] in [each["id"] for each in api.ask("network.list", {}, patient)["networks"]]
        finally:
            api.ask("network.delete", {"network": made["id"]})


@pytest.mark.parametrize("address", ["10.178.0.9", "10.178.0.9/16", "10.179.0.9/24"])
def test_address_that_has_not_the_prefix_of_its_pool_is_not_taken(api, name, address):
    replies = {
        "network.allocate": {"pools": [POOL]},
        "endpoint.allocate": {"addresses": [address]},
        "owner.release": {},
        "pool.count": {"usages": []},
    }
    with answering(api, name, replies):
        made = api.ask("network.create", {"name": name, "ipam": {"driver": name}})
        try:
            with api.unchanged():
                body = {"network": made["id"], "name": "e"}
                api.refused("endpoint.create", body, "unavailable", name, address.partition("/")[0])
            replies["endpoint.allocate"] = {"addresses": ["10.178.0.9/24"]}
            assert api.ask("endpoint.create", body)["ipv4_address"] == "10.178.0.9/24"
        finally:
            api.ask("network.delete", {"network": made["id"], "force": True})
