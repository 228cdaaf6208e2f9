"""Ports in a row: one element where they keep their numbers, one socket each, and traffic through every one."""

import socket

import pytest

from cnm.errors import Conflict

from .conftest import HOST, HOST6, HOST_TOO, LAN, LAN6

UDP = socket.SOCK_DGRAM


def row(first, last, host_first=None, protocol="tcp", **more):
    """Write a request for consecutive ports; without ``host_first`` they keep their numbers."""
    host_first = first if host_first is None else host_first
    return {
        "container_port": first,
        "container_port_end": last,
        "protocol": protocol,
        "host_port": host_first,
        "host_port_end": host_first + last - first,
        **more,
    }


def piece(published, clock=1):
    return {"clock": clock, "published": published}


def test_row_is_one_element_a_family_and_every_port_of_it_answers(mapper, c1, host, lan, wire, elements):
    for port in (10000, 15000, 19999):
        c1.serve(port)
        c1.serve(port, UDP)
    mapper.publish(c1.command(row(10000, 19999, protocol="udp"), row(15000, 19999)))
    assert len(elements()) == 4
    for port in (10000, 15000, 19999):
        for address, seen in ((HOST, LAN), (HOST6, LAN6)):
            assert wire.udp(lan, address, port) == f"c1 {seen} hello"
            if port > 10000:
                assert wire.tcp(lan, address, port) == f"c1 {seen} hello"
        for address in ("127.0.0.1", "::1", HOST):
            assert wire.udp(host, address, port).startswith("c1 ")
    for port in (9999, 20000):
        with pytest.raises(ConnectionRefusedError):
            wire.tcp(lan, HOST, port)
    mapper.unpublish(c1)
    assert elements() == []
    with pytest.raises(ConnectionRefusedError):
        wire.tcp(lan, HOST, 15000)


def test_every_port_of_a_row_goes_through_the_proxy_where_nothing_translates(mapper, c2, host, lan, wire, elements):
    for port in (7000, 7007, 7099):
        c2.serve(port)
        c2.serve(port, UDP)
    files = mapper.files()
    mapper.publish(c2.command(row(7000, 7099, 8000), row(7000, 7099, 8000, "udp")))
    assert len(elements()) == 200, "numbers that change are one each"
    for port in (8000, 8007, 8099):
        for where, address in ((lan, HOST6), (host, "::1")):
            assert wire.tcp(where, address, port).startswith("c2 ")
            assert wire.udp(where, address, port).startswith("c2 ")
    with wire.udp_client(host, "::1", 8007) as one, wire.udp_client(host, "::1", 8099) as other:
        one.send(b"one")
        other.send(b"other")
        assert (one.recv(99).split()[2], other.recv(99).split()[2]) == (b"one", b"other"), "sessions are apart"
    mapper.unpublish(c2)
    assert mapper.files() <= files
    for port in (8000, 8099):
        with pytest.raises(ConnectionRefusedError):
            wire.tcp(host, "::1", port)


@pytest.mark.parametrize("change", [(5000, 5099), (5000, 5049), (5050, 5199), (4000, 6000)])
def test_row_is_exchanged_for_one_that_overlaps_it(mapper, c1, c2, lan, wire, elements, change):
    first, last = change
    for port in (5000, 5050, 5099):
        c1.serve(port)
    mapper.publish(c1.command(row(5000, 5099)))
    mapper.publish(c2.command({"container_port": 80, "host_port": 8080}))
    mapper.publish(c1.command(row(first, last)))
    assert len(elements()) == 3
    for port in (5000, 5050, 5099):
        if first <= port <= last:
            assert wire.tcp(lan, HOST, port) == f"c1 {LAN} hello"
        else:
            with pytest.raises(ConnectionRefusedError):
                wire.tcp(lan, HOST, port)


def test_row_leads_to_another_sandbox_as_soon_as_the_first_lets_go(mapper, c1, c2, lan, wire):
    for box in (c1, c2):
        box.serve(30150, UDP)
    mapper.publish(c1.command(row(30000, 30299, protocol="udp")))
    with pytest.raises(Conflict, match=r"host port 0\.0\.0\.0:30150/udp is taken by c1"):
        mapper.publish(c2.command({"container_port": 53, "host_port": 30150, "protocol": "udp"}))
    with wire.udp_client(lan, HOST, 30150, timeout=0.5) as client:
        client.send(b"one")
        assert client.recv(100).decode() == f"c1 {LAN} one"
        mapper.unpublish(c1)
        client.send(b"two")
        with pytest.raises(OSError, match=r"timed out|refused"):
            client.recv(100)
        mapper.publish(c2.command(row(30000, 30299, protocol="udp")))
        client.send(b"three")
        assert client.recv(100).decode() == f"c2 {LAN} three"


def test_row_is_refused_for_one_port_that_is_held_and_binds_none(mapper, c1, c2, host, lan, wire, other_process):
    mapper.publish(c2.command({"container_port": 80, "host_port": 6050}))
    with pytest.raises(Conflict, match=r"host port 0\.0\.0\.0:6050/tcp is taken by c2"):
        mapper.publish(c1.command(row(6000, 6099)))
    holder = other_process("0.0.0.0", 6160)
    body = c1.command(row(6100, 6199))
    for verb, fields in (("check", ("sandbox_id", "label", "requests")), ("publish", tuple(body))):
        with pytest.raises(Conflict, match=rf"host port 0\.0\.0\.0:6160/tcp is taken by .*{holder.pid}"):
            mapper.ask(verb, {field: body[field] for field in fields})
    with pytest.raises(ConnectionRefusedError):
        wire.tcp(lan, HOST, 6000)
    c1.serve(6000)
    found = mapper.publish(c1.command(row(6000, 6099) | {"host_port": 6061, "host_port_end": 6300}))
    assert (found[0]["host_port"], found[0]["host_port_end"]) == (6161, 6260), "the first that are free in a row"
    assert wire.tcp(lan, HOST, 6161) == f"c1 {LAN} hello"


def test_row_with_sources_is_guarded_as_one(mapper, c1, lan, wire, shell, host, elements):
    c1.serve(7050)
    c1.serve(8050)
    allowed, others = [f"{LAN}/32"], ["192.0.2.0/24"]
    mapper.publish(
        c1.command(row(7000, 7099, allow=allowed), row(8000, 8099, allow=others), row(7000, 7099, 9000, allow=others))
    )
    assert wire.tcp(lan, HOST, 7050) == f"c1 {LAN} hello"
    for address, port in ((HOST, 8050), (HOST, 9050), (HOST6, 7050)):
        with pytest.raises(TimeoutError):
            wire.tcp(lan, address, port, timeout=0.3)
    listed = shell.nft(host, "list", "table", "inet", "cnm_ports")
    assert sum(len(entry["set"].get("elem", ())) for entry in listed if "set" in entry) == 9
    mapper.unpublish(c1)
    listed = shell.nft(host, "list", "table", "inet", "cnm_ports")
    assert sum(len(entry["set"].get("elem", ())) for entry in listed if "set" in entry) == 0


@pytest.mark.parametrize("damage", ["flush ruleset", "flush map inet cnm_ports rows4", "delete element"])
@pytest.mark.parametrize(("first", "last"), [(10000, 10099), (4096, 4351)])
def test_row_is_taken_over_and_mended(start, c1, host, lan, wire, shell, elements, damage, first, last):
    c1.serve(first + 1)
    before = start()
    rows = [row(first, last, allow=[f"{LAN}/32"]), row(first, last, host_ip=HOST_TOO, host_port=first + 9000)]
    rows[1]["host_port_end"] = last + 9000
    bound = before.publish(c1.command(*rows))
    whole = shell.run(host, "nft", "list", "table", "inet", "cnm_ports")
    before.kill()
    after = start()
    assert wire.tcp(lan, HOST, first + 1) == f"c1 {LAN} hello"
    done = after.ask("converge", piece([c1.command(bound=bound)]))
    assert (done["published"], done["repaired"]) == ([c1.id], [])
    if damage == "delete element":
        damage = f"delete element inet cnm_ports rows4 {{ tcp . 0.0.0.0/0 . {first}-{last} }}"
    shell.run(host, "nft", damage)
    after.ask("converge", piece([c1.command(bound=bound)], clock=2))
    assert sorted(shell.run(host, "nft", "list", "table", "inet", "cnm_ports")) == sorted(whole)
    assert wire.tcp(lan, HOST, first + 1) == f"c1 {LAN} hello"
    assert wire.tcp(lan, HOST_TOO, first + 9001) == f"c1 {LAN} hello"


def test_connection_through_a_row_keeps_its_port_though_another_uses_the_same(mapper, c1, lan, wire):
    """Two places that lead to one port of the sandbox, from one port of the client."""
    c1.serve(7001, UDP)
    mapper.publish(
        c1.command(row(7000, 7099, protocol="udp"), {"container_port": 7001, "host_port": 5000, "protocol": "udp"})
    )
    with wire.udp_client(lan, HOST, 7001) as one:
        one.send(b"one")
        assert one.recv(99) == f"c1 {LAN} one".encode()
        one.connect((HOST, 5000))
        one.send(b"two")
        assert one.recv(99) == f"c1 {LAN} two".encode()
