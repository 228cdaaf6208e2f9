"""Who may connect to a published port: by translation and by the proxy, with those who may as control."""

import socket

import pytest

from .conftest import HOST, HOST6, LAN, LAN6

UDP = socket.SOCK_DGRAM


def refused(call, *args, **more):
    with pytest.raises(OSError, match=r"timed out|refused|reset"):
        call(*args, timeout=0.3, **more)


@pytest.fixture
def dropped(host, shell):
    """Return how many packets were dropped for not being among those allowed."""

    def read():
        listed = shell.nft(host, "list", "table", "inet", "cnm_ports")
        rules = [entry["rule"]["expr"] for entry in listed if entry.get("rule", {}).get("chain", "")[:6] == "refuse"]
        return sum(part["counter"]["packets"] for rule in rules for part in rule if "counter" in part)

    return read


@pytest.fixture
def guards(host, shell):
    """Return how many elements the sets of who may connect hold."""

    def read():
        listed = shell.nft(host, "list", "table", "inet", "cnm_ports")
        return sum(len(entry["set"].get("elem", ())) for entry in listed if "set" in entry)

    return read


def test_only_the_sources_that_are_named_reach_a_translated_port(mapper, c1, host, lan, wire, dropped):
    c1.serve(80)
    c1.serve(53, UDP)
    mapper.publish(
        c1.command(
            {"container_port": 80, "host_port": 8080, "allow": [f"{LAN}/32", f"{LAN6}/128"]},
            {"container_port": 80, "host_port": 8081, "allow": ["192.0.2.0/24", "2001:db8::/32"]},
            {"container_port": 80, "host_port": 8082},
            {"container_port": 53, "host_port": 5353, "protocol": "udp", "allow": [f"{LAN}/32"]},
            {"container_port": 53, "host_port": 5354, "protocol": "udp", "allow": ["192.0.2.0/24"]},
        )
    )
    assert wire.tcp(lan, HOST, 8080) == f"c1 {LAN} hello"
    assert wire.tcp(lan, HOST6, 8080) == f"c1 {LAN6} hello"
    assert wire.udp(lan, HOST, 5353) == f"c1 {LAN} hello"
    assert dropped() == 0
    before = dropped()
    for address in (HOST, HOST6):
        refused(wire.tcp, lan, address, 8081)
        assert dropped() > before
        before = dropped()
    refused(wire.udp, lan, HOST, 5354)
    refused(wire.udp, lan, HOST6, 5353)
    assert dropped() > before
    assert wire.tcp(lan, HOST, 8082) == f"c1 {LAN} hello"
    for address in (HOST, "127.0.0.1"):  # the node itself is not among them either
        refused(wire.tcp, host, address, 8080)
        assert wire.tcp(host, address, 8082).startswith("c1 ")


def test_the_proxy_asks_too_who_comes(mapper, c2, host, lan, wire, dropped):
    c2.serve(80)
    c2.serve(53, UDP)
    mapper.publish(
        c2.command(
            {"container_port": 80, "host_port": 8080, "allow": [f"{LAN6}/128", "::1/128"]},
            {"container_port": 80, "host_port": 8081, "allow": [f"{LAN}/32"]},
            {"container_port": 53, "host_port": 5353, "protocol": "udp", "allow": [f"{LAN6}/128"]},
            {"container_port": 53, "host_port": 5354, "protocol": "udp", "allow": [f"{LAN}/32"]},
            only=4,
        )
    )
    assert wire.tcp(lan, HOST6, 8080).startswith("c2 ")
    assert wire.tcp(host, "::1", 8080).startswith("c2 ")
    assert wire.udp(lan, HOST6, 5353).startswith("c2 ")
    assert dropped() == 0
    refused(wire.tcp, lan, HOST6, 8081)
    refused(wire.tcp, host, "::1", 8081)
    refused(wire.udp, lan, HOST6, 5354)
    refused(wire.tcp, lan, HOST, 8080)
    assert dropped() >= 4
    assert wire.tcp(lan, HOST, 8081).startswith("c2 ")


def test_the_same_port_on_two_addresses_may_be_open_to_different_sources(mapper, c1, c2, host, lan, wire):
    for box in (c1, c2):
        box.serve(80)
    here = {"container_port": 80, "host_port": 8080}
    mapper.publish(c1.command({**here, "host_ip": HOST, "allow": [f"{LAN}/32"]}))
    mapper.publish(c2.command({**here, "host_ip": "127.0.0.1", "allow": ["127.0.0.0/8"]}))
    assert wire.tcp(lan, HOST, 8080) == f"c1 {LAN} hello"
    assert wire.tcp(host, "127.0.0.1", 8080).startswith("c2 ")
    refused(wire.tcp, host, HOST, 8080)


def test_unpublishing_leaves_no_guard_and_the_next_may_let_everybody_in(mapper, c1, c2, lan, wire, guards):
    for box in (c1, c2):
        box.serve(80)
    request = {"container_port": 80, "host_port": 8080}
    mapper.publish(c1.command({**request, "allow": ["192.0.2.0/24"]}))
    refused(wire.tcp, lan, HOST, 8080)
    assert guards() == 3  # both families guarded, one source of IPv4
    mapper.unpublish(c1)
    assert guards() == 0
    mapper.publish(c2.command(request))
    assert wire.tcp(lan, HOST, 8080) == f"c2 {LAN} hello"


def test_a_udp_flow_that_goes_on_is_refused_when_the_port_is_published_anew_for_others(mapper, c1, lan, wire):
    c1.serve(53, UDP)
    request = {"container_port": 53, "host_port": 5353, "protocol": "udp"}
    mapper.publish(c1.command(request))
    with wire.udp_client(lan, HOST, 5353, timeout=0.5) as client:
        client.send(b"one")
        assert client.recv(100).decode() == f"c1 {LAN} one"
        mapper.publish(c1.command({**request, "allow": ["192.0.2.0/24"]}))
        client.send(b"two")
        with pytest.raises(OSError, match=r"timed out|refused"):
            client.recv(100)
        mapper.publish(c1.command({**request, "allow": [f"{LAN}/32"]}))
        client.send(b"three")
        assert client.recv(100).decode() == f"c1 {LAN} three"


def words(shell, host):
    """Return the table's text; the kernel lists elements in any order."""
    return sorted(shell.run(host, "nft", "-s", "list", "table", "inet", "cnm_ports").replace(",", " ").split())


@pytest.mark.parametrize(
    "damage",
    [
        "flush set inet cnm_ports guarded4",
        "flush set inet cnm_ports allowed4",
        "flush chain inet cnm_ports refuse",
        "add element inet cnm_ports allowed4 { tcp . 0.0.0.0/0 . 8080 . 10.9.0.2 }",
        "add element inet cnm_ports allowed4 { tcp . 10.9.0.1 . 9999 . 10.9.0.0/24 }",
        "flush ruleset",
    ],
)
def test_damaged_guards_are_mended(mapper, c1, host, lan, wire, shell, damage):
    c1.serve(80)
    closed = {"container_port": 80, "host_port": 8080, "allow": ["192.0.2.0/24"]}
    opened = {"container_port": 80, "host_port": 8081, "allow": [f"{LAN}/32"]}
    bound = mapper.publish(c1.command(closed, opened))
    slice = {"clock": 1, "published": [c1.command(bound=bound)], "busy": []}
    mapper.ask("converge", slice)
    sound = words(shell, host)
    shell.run(host, "nft", damage)
    assert mapper.ask("converge", {**slice, "clock": 2})["problems"] == {}
    assert words(shell, host) == sound
    assert mapper.ask("converge", {**slice, "clock": 3})["repaired"] == []
    refused(wire.tcp, lan, HOST, 8080)
    assert wire.tcp(lan, HOST, 8081) == f"c1 {LAN} hello"


def test_what_was_refused_is_counted_for_as_long_as_the_table_is_sound(mapper, c1, lan, wire, dropped):
    c1.serve(80)
    bound = mapper.publish(c1.command({"container_port": 80, "host_port": 8080, "allow": ["192.0.2.0/24"]}))
    refused(wire.tcp, lan, HOST, 8080)
    counted = dropped()
    assert counted
    slice = {"clock": 1, "published": [c1.command(bound=bound)], "busy": []}
    assert mapper.ask("converge", slice)["repaired"] == []
    assert dropped() >= counted


def test_guards_stand_while_no_process_runs_and_are_taken_over(start, c1, lan, wire):
    c1.serve(80)
    first = start()
    closed = {"container_port": 80, "host_port": 8080, "allow": ["192.0.2.0/24"]}
    opened = {"container_port": 80, "host_port": 8081, "allow": [f"{LAN}/32"]}
    bound = first.publish(c1.command(closed, opened))
    first.kill()
    refused(wire.tcp, lan, HOST, 8080)
    assert wire.tcp(lan, HOST, 8081) == f"c1 {LAN} hello"
    done = start().ask("converge", {"clock": 1, "published": [c1.command(bound=bound)], "busy": []})
    assert (done["problems"], done["repaired"]) == ({}, [])
    refused(wire.tcp, lan, HOST, 8080)
    assert wire.tcp(lan, HOST, 8081) == f"c1 {LAN} hello"
