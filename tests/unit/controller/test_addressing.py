"""What the IPAM driver of a network is asked."""

from datetime import UTC, datetime
from ipaddress import ip_address, ip_interface, ip_network

import msgspec
import pytest

from cnm.errors import Unavailable, Unsupported
from cnm.messages.ipam import AllocatedPool
from cnm.messages.network import PoolRequest
from cnm.testing import MemoryBus, MemoryStore
from cnm_controller.addressing import (
    addresses_step,
    check_addresses,
    check_pools,
    pools_step,
    release,
    wanted_addresses,
)
from cnm_controller.controller import Controller
from cnm_controller.documents import EndpointBody, NetworkBody
from cnm_controller.ledger import Ledger
from cnm_controller.pools import driver_of, with_pools
from cnm_controller.ports import IpamDriver
from cnm_controller.sagas import Sagas

NOW = datetime(2026, 1, 2, tzinfo=UTC)
MAC = "com.docker.network.endpoint.macaddress"
NAME = "com.docker.network.endpoint.name"


def network(*subnets, **more):
    pools = [AllocatedPool(pool_id=f"L/{subnet}", subnet=ip_network(subnet)) for subnet in subnets]
    fields = {"id": "n" * 64, "name": "web", "driver": "bridge", "scope": "local", "created": NOW, "pools": pools}
    return NetworkBody(**(fields | more))


def endpoint():
    return EndpointBody(id="e" * 64, name="db", network_id="n" * 64, created=NOW, mac_address="02:00:00:00:00:07")


def driver(**more):
    return IpamDriver(name="mock", instance="1", last_seen=NOW, **more)


class Drivers:
    def __init__(self, *drivers):
        self.drivers = list(drivers)

    async def every(self):
        return self.drivers


def controller(*drivers):
    store, bus = MemoryStore(), MemoryBus()
    return Controller(
        ledger=Ledger(store),
        sagas=Sagas(store, bus),
        bus=bus,
        nodes=None,
        ipam_drivers=Drivers(*drivers),
        now=lambda: NOW,
    )


# I21
def test_one_address_of_each_family_is_wanted_from_the_first_pool_that_has_one():
    on = network("10.0.0.0/30", "fd00::/64", "10.0.1.0/30", "10.0.2.0/30")
    v4, v6 = wanted_addresses(on, ip_address("10.0.1.1"), None)
    assert (v4.pool_id, v4.others, v4.address) == (
        "L/10.0.0.0/30", ["L/10.0.1.0/30", "L/10.0.2.0/30"], ip_address("10.0.1.1"),
    )  # fmt: skip
    assert (v6.pool_id, v6.others, v6.address) == ("L/fd00::/64", [], None)
    assert wanted_addresses(network(), None, None) == []


def test_built_in_ipam_is_asked_on_its_own_subject_and_others_on_theirs():
    assert pools_step(network()).subject == "cnm.v1.ipam.network.allocate"
    other = network(ipam_driver="dhcp.v2")
    assert pools_step(other).subject == "cnm.v1.ipam.driver.dhcp_v2.network.allocate"
    (step,) = release(other, "x", unused=True)
    assert step.compensation().subject == "cnm.v1.ipam.driver.dhcp_v2.owner.release"
    assert step.command.unused
    assert release(network(ipam_driver="null"), "x") == []


def test_bridges_want_their_subnets_alone_and_say_on_which_link_they_are():
    command = pools_step(network(options={"com.docker.network.bridge.name": "br-user"})).command
    assert (command.exclusive, command.device) == (True, "br-user")


@pytest.mark.parametrize(
    ("announced", "options"),
    [
        (None, {"o": "1"}),
        (driver(), {"o": "1", NAME: "db"}),
        (driver(requires_mac_address=True), {"o": "1", NAME: "db", MAC: "02:00:00:00:00:07"}),
    ],
)
def test_mac_address_and_name_are_options_for_drivers_that_want_them(announced, options):
    on = network("10.0.0.0/24", ipam_options={"o": "1"})
    command = addresses_step(endpoint(), on, wanted_addresses(on, None, None), announced).command
    assert command.options == options
    assert command.recall == f"{'n' * 64}/db"


async def test_driver_must_have_announced_itself_of_late():
    assert await driver_of(network(), controller()) is None
    assert await driver_of(network(ipam_driver="null"), controller()) is None
    there = driver()
    assert await driver_of(network(ipam_driver="mock"), controller(there)) == there
    with pytest.raises(Unsupported, match=r"no IPAM driver 'dhcp'; there are default, mock, null"):
        await driver_of(network(ipam_driver="dhcp"), controller(there))
    silent = msgspec.structs.replace(there, last_seen=datetime(2026, 1, 1, 23, 59, 50, tzinfo=UTC))
    with pytest.raises(Unavailable, match=r"IPAM driver 'mock' was last heard of at 2026-01-01T23:59:50Z"):
        await driver_of(network(ipam_driver="mock"), controller(silent))


# I22
async def test_null_driver_hands_out_nothing_and_is_not_asked():
    class NoSaga:
        ran = 0

        async def run(self, *steps):
            assert steps == ()
            self.ran += 1
            return []

    saga, on = NoSaga(), network(ipam_driver="null")
    assert await with_pools(on, saga) == (on, [])
    assert saga.ran == 1, "the rounds of a saga are counted"


@pytest.mark.parametrize(
    ("pools", "reason"),
    [
        ([], "was asked for IPv4 and gave nothing"),
        ([("fd00::/64", None)], "was asked for IPv4 and gave fd00::/64"),
        ([("10.0.0.0/24", "10.1.0.1")], "gave gateway 10.1.0.1, which is not in 10.0.0.0/24"),
    ],
)
def test_drivers_replies_are_looked_at(pools, reason):
    on = network(ipam_driver="mock", wanted=[PoolRequest()])
    given = [
        AllocatedPool(pool_id="x", subnet=ip_network(subnet), gateway=ip_address(gateway) if gateway else None)
        for subnet, gateway in pools
    ]
    with pytest.raises(Unavailable, match=f"IPAM driver 'mock' {reason}"):
        check_pools(on, given)
    check_pools(on, [AllocatedPool(pool_id="x", subnet=ip_network("10.0.0.0/24"))])


@pytest.mark.parametrize("given", [[], ["10.0.1.7/24"], ["10.0.0.7/24", "10.0.0.8/24"]])
def test_drivers_addresses_are_looked_at(given):
    on = network("10.0.0.0/24", ipam_driver="mock")
    wanted = wanted_addresses(on, None, None)
    shown = ", ".join(given) or "nothing"
    with pytest.raises(Unavailable, match=f"'mock' was asked for 1 addresses of network 'web' and gave {shown}$"):
        check_addresses(on, wanted, [ip_interface(each) for each in given])
    check_addresses(on, wanted, [ip_interface("10.0.0.7/24")])
