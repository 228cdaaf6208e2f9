"""What may reach what, each refusal beside something that works."""

import socket
import struct

import pytest

from cnm.kernel import netns


@pytest.fixture
def two(driver, make_network, make_attachment, lan):
    """Two networks, with two endpoints on the first and one on the second."""
    first, second = make_network(1), make_network(2)
    points = [make_attachment(first), make_attachment(first), make_attachment(second)]
    for point in points:
        driver.plug(point)
    return points


def test_endpoints_of_one_network_reach_each_other(two, traffic, ips):
    one, other, _ = two
    traffic.listen(other.namespace)
    for address in ips(other):
        assert traffic.tcp(one.namespace, address) == "open"
        assert traffic.ping(one.namespace, address) == "reply"


def test_endpoints_of_other_networks_are_refused_at_once(two, traffic, ips, shell, host):
    one, peer, stranger = two
    for point in (peer, stranger):
        traffic.listen(point.namespace)
    for address, near in zip(ips(stranger), ips(peer), strict=True):
        assert traffic.tcp(one.namespace, near) == "open"
        assert traffic.tcp(one.namespace, address) == "refused"
        assert traffic.ping(one.namespace, address) == "prohibited"
    key = stranger.network.network_id[:12]
    counter = shell.nft(host, "list", "counter", "inet", "cnm_filter", f"isolation-{key}")[0]["counter"]
    assert counter["packets"] == 4


def test_the_way_out_is_masqueraded(two, traffic, lan):
    one, _, _ = two
    listener = traffic.listen(lan)
    assert traffic.seen_as(listener, one.namespace, "192.0.2.9") == "192.0.2.1"
    assert traffic.seen_as(listener, one.namespace, "2001:db8:1::9") == "2001:db8:1::1"
    assert traffic.ping(one.namespace, "192.0.2.9") == "reply"


def test_without_masquerade_an_endpoint_shows_its_own_address(
    driver, make_network, make_attachment, lan, traffic, ips
):
    plain = make_attachment(make_network(3, masquerade=False))
    driver.plug(plain)
    listener = traffic.listen(lan)
    assert traffic.seen_as(listener, plain.namespace, "192.0.2.9") == str(ips(plain)[0])


def test_nobody_outside_reaches_an_endpoint_directly(two, traffic, lan, ips, host):
    one, _, _ = two
    traffic.listen(one.namespace)
    for address in ips(one):
        assert traffic.tcp(host, address) == "open"
        assert traffic.tcp(lan, address) == "no answer"
        assert traffic.ping(lan, address) == "no answer"


@pytest.fixture
def walled(driver, make_network, make_attachment, lan):
    """An internal network with two endpoints whose default route is the host all the same, and one outside."""
    internal, outside = make_network(4, internal=True), make_network(5)
    gateways = [address.ip for address in internal.bridge_addresses]
    points = [make_attachment(internal, default_via=gateways) for _ in range(2)] + [make_attachment(outside)]
    driver.ensure(outside)
    for point in points:
        driver.plug(point)
    return points


def test_an_internal_network_has_peers_but_no_way_out(walled, traffic, lan, ips):
    one, peer, outside = walled
    for path in (peer.namespace, outside.namespace, lan):
        traffic.listen(path)
    for address in ips(peer):
        assert traffic.tcp(one.namespace, address) == "open"
        assert traffic.ping(one.namespace, address) == "reply"
    for address in (*ips(outside), "192.0.2.9", "2001:db8:1::9"):
        assert traffic.tcp(one.namespace, address) == "refused"
        assert traffic.ping(one.namespace, address) == "prohibited"


def test_an_internal_network_has_no_way_in(walled, traffic, lan, ips, host):
    one, _, outside = walled
    traffic.listen(one.namespace)
    for address in ips(one):
        assert traffic.tcp(host, address) == "open"
        assert traffic.tcp(outside.namespace, address) == "refused"
        assert traffic.tcp(lan, address) == "refused"


def test_an_internal_network_reaches_the_host_at_its_gateway_only(walled, traffic, host):
    one, _, outside = walled
    traffic.listen(host, 9090)
    for gateway in one.network.bridge_addresses:
        assert traffic.tcp(one.namespace, gateway.ip, 9090) == "open"
        assert traffic.ping(one.namespace, gateway.ip) == "reply"
    for address in ("192.0.2.1", "2001:db8:1::1"):
        assert traffic.tcp(outside.namespace, address, 9090) == "open"
        assert traffic.tcp(one.namespace, address, 9090) == "refused"


def test_an_internal_network_does_not_reach_a_published_port(walled, traffic, shell, host, ips):
    one, _, outside = walled
    traffic.listen(outside.namespace)
    publish(shell, host, ips(outside)[0])
    gateway = one.network.bridge_addresses[0].ip
    assert traffic.tcp(host, "192.0.2.1", 8081) == "open"
    assert traffic.tcp(one.namespace, gateway, 8081) == "refused"


def publish(shell, host, address):
    """Publish port 8081 as another worker would."""
    ruleset = f"""
        table ip published {{
            map ports {{
                type inet_service : ipv4_addr . inet_service
                elements = {{ 8081 : {address} . 8080 }}
            }}
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                fib daddr type local dnat ip to tcp dport map @ports
            }}
            chain output {{
                type nat hook output priority -100;
                fib daddr type local dnat ip to tcp dport map @ports
            }}
        }}
    """
    shell.run(host, "nft", "-f", "-", stdin=ruleset)


def test_a_published_port_is_reached_from_everywhere(two, traffic, shell, host, lan, ips):
    one, peer, stranger = two
    listener = traffic.listen(one.namespace)
    publish(shell, host, ips(one)[0])
    assert traffic.seen_as(listener, lan, "192.0.2.1", 8081) == "192.0.2.9"
    assert traffic.seen_as(listener, host, "192.0.2.1", 8081) == "192.0.2.1"
    gateway = str(one.network.bridge_addresses[0].ip)
    assert traffic.seen_as(listener, host, "127.0.0.1", 8081) == gateway
    assert traffic.seen_as(listener, peer.namespace, "192.0.2.1", 8081) == gateway
    assert traffic.seen_as(listener, one.namespace, "192.0.2.1", 8081) == gateway
    assert traffic.seen_as(listener, stranger.namespace, "192.0.2.1", 8081) == gateway


def test_its_own_network_reaches_a_published_port_though_nothing_is_masqueraded(
    driver, make_network, make_attachment, lan, traffic, shell, host, ips
):
    network = make_network(1, masquerade=False)
    one, peer = make_attachment(network), make_attachment(network)
    for each in (one, peer):
        driver.plug(each)
    listener = traffic.listen(one.namespace)
    publish(shell, host, ips(one)[0])
    for path in (one.namespace, peer.namespace):
        assert traffic.seen_as(listener, path, "192.0.2.1", 8081) == str(network.bridge_addresses[0].ip)


def send_to_loopback(path, mac, source, port):
    """Send a datagram for 127.0.0.1 out of a sandbox, as no kernel would of its own accord."""
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 32, 0, 0, 64, 17, 0, source.packed, socket.inet_aton("127.0.0.1"))
    total = sum(struct.unpack("!10H", header))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    packet = header[:10] + struct.pack("!H", checksum) + header[12:] + struct.pack("!HHHH", 9, port, 12, 0) + b"cnm!"
    with netns.open_socket(path, socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sending, netns.inside(path):
        sending.sendto(packet, ("eth0", 0x0800, 0, 0, bytes.fromhex(mac.replace(":", ""))))


def test_the_hosts_loopback_stays_out_of_reach(two, shell, host, ips):
    one, _, _ = two
    mac = shell.link(host, one.network.bridge)["address"]
    with netns.open_socket(host, socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 9090))
        listening.settimeout(0.5)
        send_to_loopback(one.namespace, mac, ips(one)[0], 9090)
        with pytest.raises(TimeoutError):
            listening.recv(16)
        shell.run(host, "nft", "flush", "chain", "inet", "cnm_filter", "loopback-guard")
        send_to_loopback(one.namespace, mac, ips(one)[0], 9090)
        assert listening.recv(16) == b"cnm!", "it was not the guard that stopped it"


def test_without_icc_endpoints_reach_the_world_but_not_each_other(
    driver, make_network, make_attachment, lan, traffic, ips, shell, host
):
    quiet = make_network(6, icc=False)
    one, peer = make_attachment(quiet), make_attachment(quiet)
    for point in (one, peer):
        driver.plug(point)
        traffic.listen(point.namespace)
    traffic.listen(lan)
    assert traffic.tcp(one.namespace, "192.0.2.9") == "open"
    for address in ips(peer):
        assert traffic.tcp(host, address) == "open"
        assert traffic.tcp(one.namespace, address) != "open"
    publish(shell, host, ips(peer)[0])
    assert traffic.tcp(one.namespace, "192.0.2.1", 8081) == "open"


def test_an_address_that_moves_to_another_mac_is_reached_at_once(
    driver, make_network, make_attachment, traffic, host
):
    network = make_network(7)
    old, peer, new = (make_attachment(network) for _ in range(3))
    new_at_old = type(new)(
        **{field: getattr(new, field) for field in new.__struct_fields__ if field != "addresses"},
        addresses=old.addresses,
    )
    for point in (old, peer):
        driver.plug(point)
    traffic.listen(old.namespace)
    for address in old.addresses:
        assert traffic.tcp(peer.namespace, address.ip) == traffic.tcp(host, address.ip) == "open"
    driver.unplug(old)
    driver.plug(new_at_old)
    traffic.listen(new.namespace)
    for address in old.addresses:
        assert traffic.tcp(peer.namespace, address.ip) == "open"
        assert traffic.tcp(host, address.ip) == "open"
