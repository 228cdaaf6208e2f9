"""How a network is reached from outside, by mode and family, and what its endpoints are seen as."""

import ipaddress

import pytest

from cnm.errors import Invalid
from cnm.kernel import sysctl
from cnm.messages.bridge import OpenPort

LAN = ("192.0.2.9", "2001:db8:1::9")
OPEN = [OpenPort(protocol="tcp", first=8080, last=8080), OpenPort(protocol="udp", first=9000, last=9010)]


@pytest.fixture
def reach(traffic):
    """Return how attempts from a namespace to an endpoint's own addresses end, IPv4 first."""

    def look(path, attachment, port=8080):
        return [traffic.tcp(path, address.ip, port) for address in attachment.addresses]

    return look


@pytest.fixture
def pings(traffic):
    return lambda path, attachment: [traffic.ping(path, address.ip) for address in attachment.addresses]


@pytest.fixture
def counted(shell, host):
    """Return how many packets a network's counter counted."""

    def look(reason, network):
        name = f"{reason}-{network.network_id[:12]}"
        return shell.nft(host, "list", "counter", "inet", "cnm_filter", name)[0]["counter"]["packets"]

    return look


@pytest.fixture
def plugged(driver, make_network, make_attachment, traffic):
    """Plug an endpoint that listens on ports 8080 and 8081 into a network of some kind."""

    def make(number=1, *, attachment=None, **network):
        point = make_attachment(make_network(number, **network), **(attachment or {}))
        driver.plug(point)
        for port in (8080, 8081):
            traffic.listen(point.namespace, port)
        return point

    return make


def test_nat_keeps_outsiders_from_endpoints_and_counts_them(plugged, lan, host, reach, pings, counted):
    point = plugged()
    assert reach(host, point) == ["open", "open"]
    assert reach(lan, point) == ["no answer", "no answer"]
    assert pings(lan, point) == ["no answer", "no answer"]
    assert counted("direct", point.network) >= 4


def test_nat_unprotected_lets_everybody_in_of_its_family(plugged, lan, reach, counted):
    point = plugged(ipv4_mode="nat-unprotected")
    other = plugged(2)
    assert reach(lan, point) == ["open", "no answer"]
    assert reach(lan, point, 8081) == ["open", "no answer"]
    assert reach(other.namespace, point) == ["open", "refused"]
    assert reach(lan, other) == ["no answer", "no answer"]
    assert counted("isolation", point.network) > 0


def test_routed_opens_published_ports_and_echo(plugged, lan, reach, pings):
    point = plugged(ipv4_mode="routed", ipv6_mode="routed", attachment={"open_ports": OPEN})
    other = plugged(2)
    for path in (lan, other.namespace):
        assert reach(path, point) == ["open", "open"]
        assert pings(path, point) == ["reply", "reply"]
    assert reach(lan, point, 8081) == ["no answer", "no answer"]
    assert reach(other.namespace, point, 8081) == ["refused", "refused"]


def test_routed_endpoints_are_seen_as_themselves_and_others_as_the_node(plugged, lan, traffic):
    routed, translated = plugged(ipv4_mode="routed"), plugged(2)
    listening = traffic.listen(lan)
    assert traffic.seen_as(listening, routed.namespace, LAN[0]) == str(routed.addresses[0].ip)
    assert traffic.seen_as(listening, routed.namespace, LAN[1]) == "2001:db8:1::1"
    assert traffic.seen_as(listening, translated.namespace, LAN[0]) == "192.0.2.1"


def test_an_open_port_closes_with_its_endpoint_and_outlives_a_restart(
    driver, running, plugged, lan, reach, make_attachment, traffic, shell, host
):
    point = plugged(ipv4_mode="routed", attachment={"open_ports": OPEN})
    driver.stop()
    again = running()
    assert again.converge([point.network], [point]) == []
    assert reach(lan, point)[0] == "open"
    shell.run(host, "nft", "flush", "set", "inet", "cnm_filter", "ports4")
    assert reach(lan, point)[0] == "no answer"
    assert again.converge([point.network], [point])
    assert reach(lan, point)[0] == "open"
    again.unplug(point)
    assert "ports4" in shell.run(host, "nft", "list", "sets", "inet")
    assert str(point.addresses[0].ip) not in shell.run(host, "nft", "list", "ruleset")
    again.remove(point.network)


def test_a_trusted_links_neighbours_reach_published_ports_only(plugged, lan, reach, pings):
    point = plugged(trusted=["wan0"], attachment={"open_ports": OPEN})
    distrusting = plugged(2, trusted=["wan1"], attachment={"open_ports": OPEN})
    assert reach(lan, point) == ["open", "open"]
    assert reach(lan, point, 8081) == ["no answer", "no answer"]
    assert pings(lan, point) == ["no answer", "no answer"]
    assert reach(lan, distrusting) == ["no answer", "no answer"]


def test_endpoints_are_seen_as_the_address_told(plugged, lan, traffic, shell, host):
    for address in ("192.0.2.77/24", "2001:db8:1::77/64"):
        shell.run(host, "ip", "addr", "add", address, "dev", "wan0", "nodad" if ":" in address else "noprefixroute")
    seen = (ipaddress.ip_address("192.0.2.77"), ipaddress.ip_address("2001:db8:1::77"))
    point = plugged(snat_ipv4=seen[0], snat_ipv6=seen[1])
    other = plugged(2)
    listening = traffic.listen(lan)
    for to, address in zip(LAN, seen, strict=True):
        assert traffic.seen_as(listening, point.namespace, to) == str(address)
    assert traffic.seen_as(listening, other.namespace, LAN[0]) == "192.0.2.1"


def test_an_isolated_network_leaves_the_node_out(plugged, driver, make_attachment, host, shell, reach, traffic):
    point = plugged(internal=True, ipv4_mode="isolated", ipv6_mode="isolated", bridge_addresses=[])
    peer = make_attachment(point.network)
    driver.plug(peer)
    assert reach(peer.namespace, point) == ["open", "open"]
    assert not [
        each for link in shell.ip(host, "addr", "show", "dev", point.network.bridge) for each in link["addr_info"]
    ]
    assert shell.run(host, "cat", f"/proc/sys/net/ipv6/conf/{point.network.bridge}/disable_ipv6").strip() == "1"


@pytest.fixture
def beyond(namespace, host, lan, traffic, shell):
    """Put a machine that listens behind the host, on a link that is none of ours, and return its address."""
    far = namespace("far")
    shell.run(host, "ip", "link", "add", "wan2", "type", "veth", "peer", "name", "eth0", "netns", str(far))
    for path, link in ((host, "wan2"), (far, "eth0")):
        sysctl.write(f"net/ipv6/conf/{link}/accept_dad", 0, path)
    for path, words in (
        (host, "addr add 198.51.100.1/24 dev wan2"),
        (host, "addr add 2001:db8:2::1/64 dev wan2 nodad"),
        (host, "link set wan2 up"),
        (far, "addr add 198.51.100.9/24 dev eth0"),
        (far, "addr add 2001:db8:2::9/64 dev eth0 nodad"),
        (far, "link set eth0 up"),
        (far, "route add default via 198.51.100.1"),
        (far, "-6 route add default via 2001:db8:2::1"),
        (lan, "route add 198.51.100.0/24 via 192.0.2.1"),
        (lan, "-6 route add 2001:db8:2::/64 via 2001:db8:1::1"),
    ):
        shell.run(path, "ip", *words.split())
    traffic.listen(far)
    return "198.51.100.9", "2001:db8:2::9"


@pytest.mark.parametrize("before", ["0", "1"])
def test_what_was_not_forwarded_before_us_still_is_not(
    driver, make_network, host, lan, traffic, shell, beyond, before
):
    sysctl.write("net/ipv4/ip_forward", before, host)
    assert traffic.tcp(lan, "198.51.100.9") == ("open" if before == "1" else "no answer")
    driver.ensure(make_network(1))
    assert sysctl.read("net/ipv4/ip_forward", host) == "1"
    assert traffic.tcp(lan, "198.51.100.9") == ("open" if before == "1" else "no answer")
    if before == "0":
        driver.stop()
        shell.run(
            host, "nft", "add", "rule", "inet", "cnm_filter", "cnm-user", "ip", "daddr", "198.51.100.9", "accept"
        )
        shell.run(
            host, "nft", "add", "rule", "inet", "cnm_filter", "cnm-user", "ip", "saddr", "198.51.100.9", "accept"
        )
        assert traffic.tcp(lan, "198.51.100.9") == "open", "the user's own rules come first"


@pytest.mark.parametrize("before", ["0", "1"])
def test_a_flush_does_not_open_what_was_not_forwarded_before_us(
    driver, running, make_network, host, lan, traffic, shell, beyond, before
):
    for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        sysctl.write(name, before, host)
    network, other = make_network(1), make_network(2)
    driver.converge([network])
    expected = ["open" if before == "1" else "no answer"] * 2
    for mend in (lambda: driver.converge([network]), lambda: driver.ensure(other)):
        shell.run(host, "nft", "flush", "ruleset")
        assert [traffic.tcp(lan, address) for address in beyond] == ["open"] * 2, "nothing drops now"
        mend()
        assert [traffic.tcp(lan, address) for address in beyond] == expected
    driver.stop()
    again = running()
    again.converge([network, other])
    shell.run(host, "nft", "flush", "ruleset")
    again.converge([network, other])
    assert [traffic.tcp(lan, address) for address in beyond] == expected, "a restart forgets nothing"


def test_a_network_that_did_not_come_to_be_closes_nothing(driver, make_network, host, lan, traffic, beyond):
    names = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")
    for name in names:
        sysctl.write(name, "0", host)
    with pytest.raises(Invalid):
        driver.ensure(make_network(1, bridge_addresses=[ipaddress.ip_interface("ff02::9/64")]))
    assert [sysctl.read(name, host) for name in names] == ["0", "0"]
    for name in names:
        sysctl.write(name, "1", host)
    assert [traffic.tcp(lan, address) for address in beyond] == ["open"] * 2


def test_who_opens_forwarding_again_is_not_overruled(driver, make_network, host, lan, traffic, shell, beyond):
    sysctl.write("net/ipv4/ip_forward", "0", host)
    network = make_network(1)
    driver.converge([network])
    assert traffic.tcp(lan, beyond[0]) == "no answer"
    shell.run(host, "nft", "delete", "element", "inet", "cnm_filter", "closed", "{", "ipv4", "}")
    driver.converge([network])
    shell.run(host, "nft", "flush", "ruleset")
    driver.converge([network])
    assert traffic.tcp(lan, beyond[0]) == "open"
