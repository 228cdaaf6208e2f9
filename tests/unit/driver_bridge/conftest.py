"""Networks and attachments to plan for."""

import hashlib
import ipaddress

import pytest

from cnm.messages.bridge import Attachment, BridgeNetwork
from cnm_driver_bridge.frame import CHAINS, CONTAINERS, STRANGERS
from cnm_driver_bridge.standing import Standing


def network_of(number=1, **more):
    identity = hashlib.sha256(f"network {number}".encode()).hexdigest()
    fields = {
        "network_id": identity,
        "name": f"net{number}",
        "bridge": f"br-{number}",
        "subnets": [ipaddress.ip_network(f"10.{number}.0.0/24"), ipaddress.ip_network(f"fd00:{number}::/64")],
        "bridge_addresses": [
            ipaddress.ip_interface(f"10.{number}.0.1/24"),
            ipaddress.ip_interface(f"fd00:{number}::1/64"),
        ],
        "enable_ipv6": True,
    }
    return BridgeNetwork(**{**fields, **more})


def whole():
    """Return a frame that stands, without networks."""
    chains = {(chain.table, chain.name): tuple(rule.comment for rule in chain.rules or ()) for chain in CHAINS}
    return Standing(chains=chains, containers=set(CONTAINERS), counters={STRANGERS})


@pytest.fixture
def make_network():
    return network_of


@pytest.fixture
def make_attachment():
    def make(network, number=2, **more):
        fields = {
            "endpoint_id": hashlib.sha256(f"endpoint {number}".encode()).hexdigest(),
            "sandbox_id": hashlib.sha256(f"sandbox {number}".encode()).hexdigest(),
            "network": network,
            "namespace": f"/run/cnm/netns/{number}",
            "ifname": "eth0",
            "mac_address": f"02:42:AC:00:00:{number:02x}",
            "addresses": [
                ipaddress.ip_interface(f"{subnet[number]}/{subnet.prefixlen}") for subnet in network.subnets
            ],
            "default_via": [address.ip for address in network.bridge_addresses],
        }
        return Attachment(**{**fields, **more})

    return make


@pytest.fixture(scope="session")
def make_network_plain():
    """Make networks for properties, which want no fixture of a function."""
    return network_of
