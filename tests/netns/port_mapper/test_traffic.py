"""Published ports carry traffic from everywhere they should, and from nowhere else."""

import socket
import threading
from collections import Counter

import pytest

HOST, HOST_TOO, LAN = "10.9.0.1", "10.9.0.5", "10.9.0.2"
HOST6, LAN6 = "fd09::1", "fd09::2"
UDP = socket.SOCK_DGRAM


def test_lan_reaches_a_fixed_tcp_port_by_both_families(mapper, c1, lan, wire):
    c1.serve(80)
    with pytest.raises(ConnectionRefusedError):
        wire.tcp(lan, HOST, 8080)
    ports = mapper.publish(c1.command({"container_port": 80, "host_port": 8080}))
    assert [(p["host_ip"], p["host_port"], p["container_ip"]) for p in ports] == [
        ("0.0.0.0", 8080, "172.28.0.2"),
        ("::", 8080, "fd28::2"),
    ]
    assert wire.tcp(lan, HOST, 8080) == f"c1 {LAN} hello"
    assert wire.tcp(lan, HOST_TOO, 8080) == f"c1 {LAN} hello"
    assert wire.tcp(lan, HOST6, 8080) == f"c1 {LAN6} hello"


def test_lan_reaches_a_fixed_udp_port_by_both_families(mapper, c1, lan, wire):
    c1.serve(53, UDP)
    with pytest.raises(ConnectionRefusedError):
        wire.udp(lan, HOST, 5353)
    mapper.publish(c1.command({"container_port": 53, "host_port": 5353, "protocol": "udp"}))
    assert wire.udp(lan, HOST, 5353) == f"c1 {LAN} hello"
    assert wire.udp(lan, HOST6, 5353) == f"c1 {LAN6} hello"


def test_host_reaches_ports_by_its_own_address_and_by_loopback(mapper, c1, host, wire):
    c1.serve(80)
    c1.serve(53, UDP)
    mapper.publish(
        c1.command(
            {"container_port": 80, "host_port": 8080},
            {"container_port": 53, "host_port": 5353, "protocol": "udp"},
        )
    )
    for address in (HOST, "127.0.0.1", "127.0.0.9", HOST6, "::1"):
        assert wire.tcp(host, address, 8080).endswith(" hello"), address
        assert wire.udp(host, address, 5353).endswith(" hello"), address


def test_ipv6_clients_reach_a_sandbox_that_has_only_ipv4(mapper, c2, lan, host, wire):
    c2.serve(80)
    c2.serve(53, UDP)
    ports = mapper.publish(
        c2.command(
            {"container_port": 80, "host_port": 8080},
            {"container_port": 53, "host_port": 5353, "protocol": "udp"},
        )
    )
    assert ports[1] == {
        "container_port": 80,
        "protocol": "tcp",
        "host_ip": "::",
        "host_port": 8080,
        "container_ip": "172.28.0.3",
    }
    for path, address in ((lan, HOST6), (host, "::1"), (host, HOST6)):
        assert wire.tcp(path, address, 8080) == "c2 172.28.0.1 hello"
        assert wire.udp(path, address, 5353) == "c2 172.28.0.1 hello"


def test_link_local_clients_are_served(mapper, c1, host, lan, wire, shell):
    c1.serve(80)
    c1.serve(53, UDP)
    mapper.publish(
        c1.command(
            {"container_port": 80, "host_port": 8080},
            {"container_port": 53, "host_port": 5353, "protocol": "udp"},
        )
    )
    link = next(link for link in shell.ip(host, "addr", "show", "dev", "lan0") if link)
    local = next(about["local"] for about in link["addr_info"] if about["local"].startswith("fe80"))
    index = shell.link(lan, "eth0")["ifindex"]
    assert wire.tcp(lan, f"{local}%{index}", 8080) == "c1 fd28::1 hello"
    assert wire.udp(lan, f"{local}%{index}", 5353) == "c1 fd28::1 hello"


def test_ipv4_clients_reach_a_sandbox_that_has_only_ipv6(mapper, c3, lan, wire):
    c3.serve(80)
    c3.serve(53, UDP)
    mapper.publish(
        c3.command(
            {"container_port": 80, "host_port": 8080},
            {"container_port": 53, "host_port": 5353, "protocol": "udp"},
        )
    )
    for address in (HOST, HOST_TOO):
        assert wire.tcp(lan, address, 8080) == "c3 fd28::1 hello"
        assert wire.udp(lan, address, 5353) == "c3 fd28::1 hello"
    assert wire.tcp(lan, HOST6, 8080) == f"c3 {LAN6} hello"


def test_sandbox_reaches_its_own_and_its_neighbours_published_port(mapper, c1, c2, wire):
    c1.serve(80)
    mapper.publish(c1.command({"container_port": 80, "host_port": 8080}))
    assert wire.tcp(c1.path, HOST, 8080) == "c1 172.28.0.1 hello"
    assert wire.tcp(c2.path, HOST, 8080) == "c1 172.28.0.1 hello"
    assert wire.tcp(c2.path, "172.28.0.1", 8080).startswith("c1 ")


def test_port_on_one_host_address_is_not_on_another(mapper, c1, c2, lan, wire):
    c1.serve(80)
    c2.serve(80)
    mapper.publish(c1.command({"container_port": 80, "host_port": 8080, "host_ip": HOST}))
    assert wire.tcp(lan, HOST, 8080) == f"c1 {LAN} hello"
    with pytest.raises(ConnectionRefusedError):
        wire.tcp(lan, HOST_TOO, 8080)
    with pytest.raises(ConnectionRefusedError):
        wire.tcp(lan, HOST6, 8080)
    mapper.publish(c2.command({"container_port": 80, "host_port": 8080, "host_ip": HOST_TOO}))
    assert wire.tcp(lan, HOST, 8080) == f"c1 {LAN} hello"
    assert wire.tcp(lan, HOST_TOO, 8080) == f"c2 {LAN} hello"


def test_port_on_one_ipv6_address(mapper, c1, lan, wire):
    c1.serve(80)
    ports = mapper.publish(c1.command({"container_port": 80, "host_port": 8080, "host_ip": HOST6}))
    assert [port["host_ip"] for port in ports] == [HOST6]
    assert wire.tcp(lan, HOST6, 8080) == f"c1 {LAN6} hello"
    with pytest.raises(ConnectionRefusedError):
        wire.tcp(lan, HOST, 8080)


def test_port_on_loopback_is_closed_to_neighbours_of_a_link(mapper, c1, host, lan, wire, shell):
    c1.serve(80)
    mapper.publish(c1.command({"container_port": 80, "host_port": 8080, "host_ip": "127.0.0.1"}))
    assert wire.tcp(host, "127.0.0.1", 8080) == "c1 172.28.0.1 hello"
    # A neighbour that routes 127.0.0.1 to the host, as nobody should.
    shell.run(lan, "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1", "net.ipv4.conf.all.rp_filter=0")
    shell.run(lan, "ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
    shell.run(lan, "ip", "route", "add", "127.0.0.1", "via", HOST, "src", LAN)
    with pytest.raises(TimeoutError):
        wire.tcp(lan, "127.0.0.1", 8080, timeout=0.5)
    listed = shell.nft(host, "-a", "list", "chain", "inet", "cnm_ports", "prerouting")
    guard = next(entry["rule"]["handle"] for entry in listed if "rule" in entry and "127.0.0.0" in str(entry))
    shell.run(host, "nft", "delete", "rule", "inet", "cnm_ports", "prerouting", "handle", str(guard))
    assert wire.tcp(lan, "127.0.0.1", 8080) == f"c1 {LAN} hello", "the attack works without the rule"


def test_range_is_one_entry_and_carries_traffic(mapper, c1, lan, wire):
    for port in (7000, 7001, 7002):
        c1.serve(port)
    ports = mapper.publish(
        c1.command(
            {"container_port": 7000, "container_port_end": 7002, "host_port": 8000, "host_port_end": 8010},
        )
    )
    assert ports[0] == {
        "container_port": 7000,
        "container_port_end": 7002,
        "protocol": "tcp",
        "host_ip": "0.0.0.0",
        "host_port": 8000,
        "host_port_end": 8002,
        "container_ip": "172.28.0.2",
    }
    for port in (8000, 8001, 8002):
        assert wire.tcp(lan, HOST, port) == f"c1 {LAN} hello"
    with pytest.raises(ConnectionRefusedError):
        wire.tcp(lan, HOST, 8003)


def test_automatic_port_is_the_same_for_both_families(mapper, c1, lan, wire):
    c1.serve(80)
    first, second = mapper.publish(c1.command({"container_port": 80}))
    assert first["host_port"] == second["host_port"]
    assert wire.tcp(lan, HOST, first["host_port"]) == f"c1 {LAN} hello"
    assert wire.tcp(lan, HOST6, first["host_port"]) == f"c1 {LAN6} hello"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_proxy_passes_each_end_on_and_keeps_the_other_way_open(start, c2, host, wire, loop):
    mapper = start(loop=loop)
    c2.serve(80)
    mapper.publish(c2.command({"container_port": 80, "host_port": 8080}))
    much = b"x" * 3_000_000
    assert len(wire.tcp(host, "::1", 8080, much)) == len("c2 172.28.0.1 ") + len(much)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_proxy_resets_a_client_when_the_sandbox_refuses(start, c2, host, wire, loop):
    mapper = start(loop=loop)
    mapper.publish(c2.command({"container_port": 80, "host_port": 8080}))
    with pytest.raises(ConnectionResetError):
        wire.tcp(host, "::1", 8080)
    c2.serve(80)
    assert wire.tcp(host, "::1", 8080) == "c2 172.28.0.1 hello"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_quiet_udp_sessions_end(start, c2, host, wire, wait_for, loop):
    mapper = start(loop=loop, udp_timeout_s=0.3)
    c2.serve(53, UDP)
    mapper.publish(c2.command({"container_port": 53, "host_port": 5353, "protocol": "udp"}))
    before = mapper.files()
    for _ in range(5):
        assert wire.udp(host, "::1", 5353) == "c2 172.28.0.1 hello"
    assert mapper.files() == before + 5
    wait_for(lambda: mapper.files() == before)


def test_new_target_takes_over_without_closing_the_port(mapper, c1, c2, lan, host, wire):
    c1.serve(80)
    c2.serve(80)
    bound = mapper.publish(c1.command({"container_port": 80, "host_port": 8080}))
    assert wire.tcp(lan, HOST, 8080).startswith("c1 ")
    moved = c1.command(bound=bound) | {"ipv4_address": c2.ipv4, "ipv6_address": None}
    assert [port["container_ip"] for port in mapper.publish(moved)] == [c2.ipv4, c2.ipv4]
    assert wire.tcp(lan, HOST, 8080).startswith("c2 ")
    assert wire.tcp(host, "::1", 8080).startswith("c2 ")
    assert wire.tcp(lan, HOST6, 8080).startswith("c2 ")


def test_no_connection_fails_while_a_port_changes_its_target_640_times(mapper, c1, c2, lan, wire):
    for box in (c1, c2):
        box.serve(80)
    bound = mapper.publish(c1.command({"container_port": 80, "host_port": 8080}))
    over, heard, failed = threading.Event(), Counter(), []

    def ask(address):
        while not over.is_set():
            try:
                heard[wire.tcp(lan, address, 8080).split()[0]] += 1
            except OSError as error:
                failed.append(repr(error))

    # By IPv6 as well: c2 has none of its own, so that half of the time the proxy serves it.
    askers = [threading.Thread(target=ask, args=(address,)) for address in (HOST, HOST, HOST6)]
    for asker in askers:
        asker.start()
    try:
        for number in range(640):
            box = (c2, c1)[number % 2]
            mapper.publish(box.command(bound=bound) | {"sandbox_id": c1.id})
    finally:
        over.set()
        for asker in askers:
            asker.join()
    assert failed == []
    assert min(heard["c1"], heard["c2"]) > 0


def test_proxy_serves_while_translation_is_away(mapper, c1, host, lan, wire, shell):
    c1.serve(80)
    c1.serve(53, UDP)
    mapper.publish(
        c1.command(
            {"container_port": 80, "host_port": 8080},
            {"container_port": 53, "host_port": 5353, "protocol": "udp"},
        )
    )
    shell.run(host, "nft", "delete", "table", "inet", "cnm_ports")
    for address, seen in ((HOST, "172.28.0.1"), (HOST_TOO, "172.28.0.1"), (HOST6, "fd28::1")):
        assert wire.tcp(lan, address, 8080) == f"c1 {seen} hello"
        assert wire.udp(lan, address, 5353) == f"c1 {seen} hello"
