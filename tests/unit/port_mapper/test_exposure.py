"""What is told of ports that the internet may reach."""

from ipaddress import ip_address, ip_network

from cnm.messages.sandbox import PortBinding
from cnm_port_mapper.exposure import exposures

OWN = [ip_address(each) for each in ("127.0.0.1", "::1", "10.0.0.5", "fd00::5", "203.0.114.9", "2600::9", "fe80::1")]
INSIDE = ip_address("172.28.0.2")


def binding(host, **more):
    return PortBinding(
        container_port=80, protocol="tcp", host_ip=ip_address(host), host_port=8080, container_ip=INSIDE, **more
    )


def test_a_port_on_every_address_is_open_to_everybody_where_one_of_them_is_public():
    told = exposures([binding("0.0.0.0"), binding("::", host_port_end=8089)], OWN)
    assert told == [
        "0.0.0.0:8080/tcp is open to everybody: this node has the public address 203.0.114.9",
        "[::]:8080-8089/tcp is open to everybody: this node has the public address 2600::9",
    ]
    assert exposures([binding("203.0.114.9")], OWN)
    assert exposures([binding("0.0.0.0")], OWN[:4]) == []


def test_private_addresses_and_named_sources_are_no_matter():
    quiet = [binding("127.0.0.1"), binding("10.0.0.5"), binding("0.0.0.0", allow=[ip_network("10.0.0.0/8")])]
    assert exposures(quiet, OWN) == []
