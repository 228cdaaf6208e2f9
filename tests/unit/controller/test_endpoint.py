"""What an endpoint is given that asks for nothing."""

from cnm_controller.endpoint import mac_of


def test_mac_is_locally_administered_and_no_groups():
    for number in range(100):
        first = int(mac_of("a" * 64, f"c{number}")[:2], 16)
        assert first & 0b11 == 0b10


def test_mac_is_the_endpoints_own_on_each_network():
    found = {mac_of(network * 64, f"c{number}") for network in "abc" for number in range(100)}
    assert len(found) == 300


def test_mac_comes_back_with_the_name():
    assert mac_of("a" * 64, "web") == mac_of("a" * 64, "web")
