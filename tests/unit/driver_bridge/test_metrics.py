"""What is told of links and of what was dropped: by name, bounded."""

from cnm.kernel.rtnl import Link, Statistics
from cnm.messages.node import BridgeSlice
from cnm_driver_bridge.metrics import samples

SEEN = Statistics(
    rx_packets=1, tx_packets=2, rx_bytes=10, tx_bytes=20, rx_errors=0, tx_errors=0, rx_dropped=3, tx_dropped=4
)


def link(identity, index, kind="veth"):
    return Link(index, f"l{index}", kind=kind, alias=f"cnm:{identity}", statistics=SEEN)


def told(found):
    return {(each.metric.name.removeprefix("cnm_"), *each.labels): each.value for each in found}


def test_traffic_is_told_from_the_endpoint_s_side(make_network, make_attachment):
    network = make_network()
    attachment = make_attachment(network, name="api")
    wanted = BridgeSlice(clock=1, networks=[network], attachments=[attachment], busy=[])
    links = [link(network.network_id, 2, "bridge"), link(attachment.endpoint_id, 3), Link(9, "eth0", statistics=SEEN)]
    found = told(samples(wanted, links, {}, most=9))
    assert found["links", "network"] == found["links", "endpoint"] == 1
    assert found["endpoint_receive_bytes_total", "net1", "api"] == 20
    assert found["endpoint_transmit_bytes_total", "net1", "api"] == 10
    assert found["endpoint_receive_packets_total", "net1", "api"] == 2
    assert found["endpoint_transmit_packets_total", "net1", "api"] == 1
    assert found["endpoint_receive_dropped_total", "net1", "api"] == 4
    assert found["endpoint_transmit_dropped_total", "net1", "api"] == 3


def test_of_too_many_endpoints_the_first_are_told_one_by_one(make_network, make_attachment):
    network = make_network()
    attachments = [make_attachment(network, number, name=f"e{number}") for number in range(2, 7)]
    wanted = BridgeSlice(clock=1, networks=[network], attachments=attachments, busy=[])
    links = [link(each.endpoint_id, number) for number, each in enumerate(attachments, 5)]
    found = told(samples(wanted, links, {}, most=2))
    assert {key[2] for key in found if key[0] == "endpoint_receive_bytes_total"} == {"e2", "e3"}
    assert found["scrape_left_out", "endpoint"] == 3


def test_drops_are_told_by_name_and_reason(make_network):
    networks = [make_network(1), make_network(2), make_network(3)]
    wanted = BridgeSlice(clock=1, networks=networks, attachments=[], busy=[])
    drops = {each.network_id[:12]: {"isolation": (5, 300), "icc": (0, 0)} for each in networks[1:]} | {
        "0" * 12: {"internal": (9, 9)}  # of a network that is gone
    }
    found = told(samples(wanted, [], drops, most=1))
    assert {key: value for key, value in found.items() if "dropped" in key[0]} == {
        ("network_dropped_packets_total", "net2", "isolation"): 5,
        ("network_dropped_bytes_total", "net2", "isolation"): 300,
        ("network_dropped_packets_total", "net2", "icc"): 0,
        ("network_dropped_bytes_total", "net2", "icc"): 0,
    }
    assert found["scrape_left_out", "network"] == 1


def test_before_the_first_comparison_there_are_links_alone(make_network):
    found = told(samples(None, [link(make_network().network_id, 2, "bridge")], {}, most=9))
    assert found["links", "network"] == 1
    assert not [key for key in found if key[0].startswith("endpoint")]
