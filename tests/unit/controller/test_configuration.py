"""Configuration networks: what they cannot be, and what is made from them."""

from datetime import UTC, datetime

import pytest

from cnm.errors import Forbidden, Invalid, NotFound
from cnm.messages.message import decode
from cnm.messages.network import CreateNetwork
from cnm_controller.configuration import refuse_endpoints, refuse_in_use
from cnm_controller.documents import NetworkBody
from cnm_controller.network import decide_create, decide_from

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ID = "a" * 64
HELD = (
    b'{"name": "held", "config_only": true, "enable_ipv6": true, "labels": {"tier": "front"},'
    b' "options": {"com.docker.network.driver.mtu": 1400}, "dns": {"ttl": 7},'
    b' "ipam": {"options": {"com.docker.network.ipam.serial": true},'
    b' "pools": [{"subnet": "10.1.0.0/16", "range": "10.1.2.0/24", "gateway": "10.1.0.9"}]}}'
)


def decided(body: bytes) -> NetworkBody:
    return decide_create(decode(CreateNetwork, body), id=ID, now=NOW)


def faults_of(body: bytes) -> dict[str, str]:
    with pytest.raises(Invalid) as refused:
        decided(body)
    return {fault["field"]: fault["reason"] for fault in refused.value.details["fields"]}


def made_from(config: bytes, body: bytes = b'{"name": "web", "config_from": "held"}') -> NetworkBody:
    command = decode(CreateNetwork, body)
    decide_create(command, id=ID, now=NOW)
    return decide_from(command, decided(config), id=ID, now=NOW)


def test_a_configuration_holds_everything_and_carries_nothing():
    held = decided(HELD)

    assert (held.config_only, held.driver, held.scope, held.pools) == (True, "null", "local", [])
    assert [str(pool.subnet) for pool in held.wanted] == ["10.1.0.0/16"]
    assert held.options == {"com.docker.network.driver.mtu": "1400"}


def test_a_configuration_cannot_carry_and_is_told_all_that_it_cannot():
    faults = faults_of(
        b'{"name": "c", "config_only": true, "internal": true, "attachable": true, "ingress": true,'
        b' "scope": "swarm", "driver": "macvlan", "config_from": "other"}'
    )

    assert set(faults) == {"internal", "attachable", "ingress", "scope", "driver", "config_from"}


def test_a_configuration_is_for_any_driver_and_its_options_are_its_users_affair():
    held = b'{"name": "held", "config_only": true, "options": {"parent": "eth0"},'
    held += b' "ipam": {"pools": [{"subnet": "10.1.0.0/24"}, {"subnet": "10.2.0.0/24"}]}}'
    assert decided(held).options == {"parent": "eth0"}

    with pytest.raises(Invalid) as refused:
        made_from(held)

    faults = {fault["field"]: fault["reason"] for fault in refused.value.details["fields"]}
    assert set(faults) == {"options.parent", "ipam.pools[1].subnet"}
    assert all("'held'" in reason for reason in faults.values())


def test_a_network_takes_everything_from_its_configuration():
    web, held = made_from(HELD), decided(HELD)

    assert (web.config_from, web.config_id, web.config_only, web.driver) == ("held", ID, False, "bridge")
    for field in ("enable_ipv4", "enable_ipv6", "labels", "options", "dns", "ipam_driver", "ipam_options"):
        assert getattr(web, field) == getattr(held, field), field
    assert [str(pool.subnet) for pool in web.wanted] == ["10.1.0.0/16", "None"]


def test_what_comes_from_the_configuration_is_not_said_beside_it():
    faults = faults_of(
        b'{"name": "web", "config_from": "held", "enable_ipv6": true, "labels": {"a": "1"}, "dns": {"ttl": 1},'
        b' "options": {"com.docker.network.driver.mtu": 9000},'
        b' "ipam": {"driver": "dhcp", "address_space": "x", "options": {"a": 1}, "pools": [{}]}}'
    )

    ipam = {"ipam.driver", "ipam.address_space", "ipam.options", "ipam.pools"}
    assert set(faults) == {"enable_ipv6", "labels", "dns", "options", *ipam}
    assert all("'held'" in reason for reason in faults.values())


def test_what_is_its_own_may_be_said_beside_it():
    body = b'{"name": "web", "config_from": "held", "internal": true, "attachable": true, "scope": "local"}'
    web = made_from(HELD, body)

    assert (web.internal, web.attachable, web.scope) == (True, True, "local")


def test_only_a_configuration_is_taken_from():
    with pytest.raises(NotFound, match="held"):
        made_from(b'{"name": "held"}')


def test_nothing_is_put_on_a_configuration():
    with pytest.raises(Forbidden, match="held"):
        refuse_endpoints(decided(HELD))
    refuse_endpoints(decided(b'{"name": "web"}'))


def test_a_configuration_in_use_names_its_users():
    held = decided(HELD)
    with pytest.raises(Forbidden, match=rf"'web' \({ID[:12]}\)"):
        refuse_in_use(held, [made_from(HELD)])
    refuse_in_use(held, [])
