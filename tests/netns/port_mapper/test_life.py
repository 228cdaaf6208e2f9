"""Ports are had whole or not at all, given back at once, and found again after a restart."""

import json
import socket
from pathlib import Path

import pytest

from cnm.errors import Conflict, Exhausted, Invalid
from cnm.kernel import conntrack, netns

HOST, HOST_TOO, LAN = "10.9.0.1", "10.9.0.5", "10.9.0.2"
HOST6 = "fd09::1"
UDP = socket.SOCK_DGRAM


def bind(path, address, port, kind=socket.SOCK_STREAM):
    """Bind as another process would, without any option, and give it back."""
    with netns.open_socket(path, socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as bound:
        bound.bind((address, port))
        if kind == socket.SOCK_STREAM:
            bound.listen()


def piece(published, *busy, clock=1):
    return {"clock": clock, "published": published, "busy": list(busy)}


def test_published_port_cannot_be_bound_by_others(mapper, c1, host):
    bind(host, "0.0.0.0", 8080)
    bind(host, "0.0.0.0", 8080, UDP)
    mapper.publish(
        c1.command(
            {"container_port": 80, "host_port": 8080}, {"container_port": 80, "host_port": 8080, "protocol": "udp"}
        )
    )
    for kind in (socket.SOCK_STREAM, UDP):
        for address in ("0.0.0.0", HOST, "127.0.0.1", "::", "::1"):
            with pytest.raises(OSError, match="in use"):
                bind(host, address, 8080, kind)


def test_unpublished_port_closes_at_once_and_is_free_for_the_next(mapper, c1, c2, host, lan, wire, elements):
    c1.serve(80)
    c2.serve(80)
    before = mapper.files()
    for _ in range(20):
        for box in (c1, c2):
            mapper.publish(box.command({"container_port": 80, "host_port": 8080}))
            assert wire.tcp(lan, HOST, 8080).startswith(f"{box.name} ")
            assert wire.tcp(host, "::1", 8080).startswith(f"{box.name} ")
            mapper.unpublish(box)
            with pytest.raises(ConnectionRefusedError):
                wire.tcp(lan, HOST, 8080)
            with pytest.raises(ConnectionRefusedError):
                wire.tcp(host, "::1", 8080)
    bind(host, "0.0.0.0", 8080)
    assert elements() == []
    assert mapper.files() == before
    mapper.unpublish(c1)


def test_port_is_free_at_once_though_connections_that_it_ended_linger(mapper, c1, c2, host, wire, shell, wait_for):
    c2.serve(80)
    with netns.open_socket(c1.path, socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("0.0.0.0", 80))
        server.listen()
        mapper.publish(c1.command({"container_port": 80, "host_port": 8080}, only=4))
        with wire.connect(host, "::1", 8080) as client:
            server.accept()[0].close()  # the sandbox ends first, and so does the proxy
            assert client.recv(100) == b""
    waiting = ("ss", "-tanH", "state", "time-wait", "sport", "=", ":8080")
    wait_for(lambda: shell.run(host, *waiting))
    mapper.unpublish(c1)
    mapper.publish(c2.command({"container_port": 80, "host_port": 8080}))
    assert wire.tcp(host, "::1", 8080).startswith("c2 ")
    assert shell.run(host, *waiting), "they linger still"


def test_udp_stops_when_unpublished_and_goes_to_the_next_sandbox(mapper, c1, c2, host, lan, wire):
    c1.serve(53, UDP)
    c2.serve(53, UDP)
    request = {"container_port": 53, "host_port": 5353, "protocol": "udp"}
    mapper.publish(c1.command(request))
    with wire.udp_client(lan, HOST, 5353) as near, wire.udp_client(host, "::1", 5353) as inner:
        for client in (near, inner):
            client.send(b"one")
            assert client.recv(100).startswith(b"c1 ")
        mapper.unpublish(c1)
        for client in (near, inner):
            client.settimeout(0.2)
            client.send(b"two")
            with pytest.raises((TimeoutError, ConnectionRefusedError)):
                client.recv(100)
            client.settimeout(3)
        assert [found for found in udp_flows(host) if found.reply.source.packed == bytes((172, 28, 0, 2))] == []
        mapper.publish(c2.command(request))
        for client in (near, inner):
            client.send(b"three")
            assert client.recv(100).startswith(b"c2 "), "the flow of before is forgotten"


def udp_flows(host):
    with conntrack.Conntrack(host) as table:
        return [found for version in (4, 6) for found in table.connections(version) if found.original.protocol == 17]


def test_udp_through_a_large_range_stops_when_it_is_unpublished(mapper, c1, c2, lan, wire):
    for box in (c1, c2):
        box.serve(20150, UDP)
    wide = {"protocol": "udp", "host_port": 30000, "host_port_end": 30299}
    mapper.publish(c1.command({"container_port": 20000, "container_port_end": 20299, **wide}))
    with wire.udp_client(lan, HOST, 30150, timeout=0.5) as client:
        client.send(b"one")
        assert client.recv(100).decode() == f"c1 {LAN} one"
        mapper.unpublish(c1)
        client.send(b"two")
        with pytest.raises(OSError, match=r"timed out|refused"):
            client.recv(100)
        mapper.publish(c2.command({"container_port": 20000, "container_port_end": 20299, **wide}))
        client.send(b"three")
        assert client.recv(100).decode() == f"c2 {LAN} three"


def test_established_connection_outlives_another_sandboxs_changes(mapper, c1, c2, lan, wire):
    c1.serve(80)
    mapper.publish(c1.command({"container_port": 80, "host_port": 8080}))
    with wire.connect(lan, HOST, 8080) as client:
        mapper.publish(c2.command({"container_port": 80, "host_port": 8081}))
        mapper.unpublish(c2)
        client.sendall(b"still there")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == f"c1 {LAN} still there".encode()


def test_conflict_names_the_other_sandbox(mapper, c1, c2, host, elements):
    mapper.publish(c1.command({"container_port": 80, "host_port": 8080}, label="sandbox 'web'"))
    before = elements()
    with pytest.raises(Conflict, match=r"^host port 0\.0\.0\.0:8080/tcp is taken by sandbox 'web'$"):
        mapper.publish(
            c2.command({"container_port": 81, "host_port": 8081}, {"container_port": 80, "host_port": 8080})
        )
    with pytest.raises(Conflict, match=r"10\.9\.0\.1:8080/tcp is taken by sandbox 'web'"):
        mapper.publish(c2.command({"container_port": 80, "host_port": 8080, "host_ip": HOST}))
    assert elements() == before
    bind(host, "0.0.0.0", 8081)
    mapper.publish(c2.command({"container_port": 80, "host_port": 8080, "protocol": "udp"}))


@pytest.mark.parametrize(
    ("address", "protocol", "named"),
    [
        ("0.0.0.0", "tcp", "0.0.0.0:8080/tcp"),
        (HOST, "tcp", "0.0.0.0:8080/tcp"),
        ("::1", "tcp", "[::]:8080/tcp"),
        ("0.0.0.0", "udp", "0.0.0.0:8080/udp"),
    ],
)
def test_conflict_names_the_other_process(mapper, c1, host, other_process, elements, address, protocol, named):
    holder = other_process(address, 8080, protocol)
    before = mapper.files()
    request = {"container_port": 80, "host_port": 8080, "protocol": protocol}
    for verb in ("publish", "check"):
        body = c1.command({"container_port": 81, "host_port": 8081}, request)
        if verb == "check":
            body = {name: body[name] for name in ("sandbox_id", "label", "requests")}
        with pytest.raises(Conflict) as refused:
            mapper.ask(verb, body)
        assert refused.value.message == f"host port {named} is taken by python (pid {holder.pid})".replace(
            "python ", f"{_comm(holder.pid)} "
        )
        assert refused.value.details["host_port"] == 8080
    assert elements() == []
    assert mapper.files() == before
    bind(host, "0.0.0.0", 8081)
    holder.communicate()
    mapper.publish(c1.command(request))


def _comm(pid):
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_check_reserves_nothing(mapper, c1, c2, host):
    body = {"sandbox_id": c1.id, "label": "sandbox 'web'", "requests": [{"container_port": 80, "host_port": 8080}]}
    mapper.ask("check", body)
    bind(host, "0.0.0.0", 8080)
    mapper.publish(c1.command({"container_port": 80, "host_port": 8080}, label="sandbox 'web'"))
    mapper.ask("check", body)
    with pytest.raises(Conflict, match="taken by sandbox 'web'"):
        mapper.ask("check", body | {"sandbox_id": c2.id})


def test_address_of_another_node_is_refused(mapper, c1):
    with pytest.raises(Invalid, match=r"192\.0\.2\.7 is not an address of this node") as refused:
        mapper.publish(c1.command({"container_port": 80, "host_port": 8080, "host_ip": "192.0.2.7"}))
    assert refused.value.details["fields"][0]["field"] == "ports[0].host_ip"


def test_range_takes_what_another_process_left_and_is_exhausted_then(mapper, c1, c2, other_process):
    other_process("127.0.0.1", 8081)
    request = {"container_port": 80, "host_port": 8081, "host_port_end": 8083}
    assert {port["host_port"] for port in mapper.publish(c1.command(request))} == {8082}
    assert {port["host_port"] for port in mapper.publish(c1.command(request, request))} == {8082, 8083}
    with pytest.raises(Exhausted, match=r"no free host port in 8081-8083/tcp"):
        mapper.publish(c2.command(request))


def test_automatic_port_passes_over_taken_and_reserved_ones(mapper, c1, c2, host, shell, other_process):
    shell.run(host, "sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40005")
    shell.run(host, "sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=40001-40002")
    other_process("::", 40003)
    first = mapper.publish(c1.command({"container_port": 80}))
    second = mapper.publish(c2.command({"container_port": 80}))
    assert {port["host_port"] for port in (*first, *second)} == {40000, 40004}
    mapper.unpublish(c1)
    third = mapper.publish(c1.command({"container_port": 80}))
    assert {port["host_port"] for port in third} == {40005}, "it goes on after the last"
    assert mapper.publish(c1.command({"container_port": 80})) == third, "asked again, the same"


def test_sandbox_may_narrow_its_own_port(mapper, c1, lan, wire, elements):
    c1.serve(80)
    mapper.publish(c1.command({"container_port": 80, "host_port": 8080}))
    mapper.publish(c1.command({"container_port": 80, "host_port": 8080, "host_ip": HOST}))
    assert wire.tcp(lan, HOST, 8080) == f"c1 {LAN} hello"
    with pytest.raises(ConnectionRefusedError):
        wire.tcp(lan, HOST_TOO, 8080)
    with pytest.raises(Invalid):
        mapper.publish(
            c1.command(
                {"container_port": 80, "host_port": 8080, "host_ip": HOST_TOO},
                {"container_port": 80, "host_port": 8081, "host_ip": "192.0.2.7"},
            )
        )
    assert wire.tcp(lan, HOST, 8080) == f"c1 {LAN} hello", "what was stands"
    assert len(elements()) == 1


def test_traffic_goes_on_while_no_process_runs_and_the_same_ports_return(start, c1, c2, host, lan, wire, elements):
    c1.serve(80)
    c2.serve(80)
    first = start()
    mine = first.publish(c1.command({"container_port": 80}))
    port = mine[0]["host_port"]
    first.publish(c2.command({"container_port": 80, "host_port": 8081}))
    with wire.connect(lan, HOST, port) as client:
        first.kill()
        assert wire.tcp(lan, HOST, port) == f"c1 {LAN} hello"
        second = start()
        assert wire.tcp(lan, HOST, port) == f"c1 {LAN} hello"
        done = second.ask("converge", piece([c1.command(bound=mine)]))
        assert done == {"closed": [c2.id], "published": [c1.id], "repaired": [], "problems": {}}
        client.sendall(b"still there")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == f"c1 {LAN} still there".encode()
    assert wire.tcp(host, "::1", port).startswith("c1 ")
    with pytest.raises(OSError, match="in use"):
        bind(host, "0.0.0.0", port)
    bind(host, "0.0.0.0", 8081)
    assert len(elements()) == 2
    again = second.ask("converge", piece([c1.command(bound=mine)]))
    assert again == {"closed": [], "published": [], "repaired": [], "problems": {}}


def test_port_that_was_lost_while_no_process_ran_is_told_of(start, c1, c2, other_process):
    first = start()
    mine = first.publish(c1.command({"container_port": 80, "host_port": 8080}))
    its = first.publish(c2.command({"container_port": 80, "host_port": 8081}))
    first.kill()
    other_process("0.0.0.0", 8080)
    second = start()
    done = second.ask("converge", piece([c1.command(bound=mine), c2.command(bound=its)]))
    assert done["published"] == [c2.id]
    assert "0.0.0.0:8080/tcp is taken by" in done["problems"][c1.id]


@pytest.mark.parametrize("damage", ["flush ruleset", "flush table inet cnm_ports", "flush map inet cnm_ports dnat4"])
def test_damaged_table_is_rebuilt(mapper, c1, c2, host, lan, wire, shell, damage):
    c1.serve(80)
    c2.serve(80)
    mine = mapper.publish(c1.command({"container_port": 80, "host_port": 8080}))
    its = mapper.publish(c2.command({"container_port": 80, "host_port": 8081}))
    whole = shell.run(host, "nft", "list", "table", "inet", "cnm_ports")
    shell.run(host, "nft", damage)
    mapper.ask("converge", piece([c1.command(bound=mine), c2.command(bound=its)]))
    assert sorted(shell.run(host, "nft", "list", "table", "inet", "cnm_ports")) == sorted(whole)
    assert wire.tcp(lan, HOST, 8080) == f"c1 {LAN} hello"
    assert wire.tcp(lan, HOST, 8081) == f"c2 {LAN} hello"


@pytest.mark.parametrize("damage", ["flush ruleset", "delete table inet cnm_ports", "flush map inet cnm_ports dnat4"])
def test_command_mends_a_damaged_table_on_its_way(mapper, c1, c2, host, lan, wire, shell, damage, elements):
    c1.serve(80)
    mapper.publish(c1.command({"container_port": 80, "host_port": 8080}))
    shell.run(host, "nft", damage)
    if "map" in damage:
        mapper.unpublish(c1)
        assert [element for element in elements() if "fd28" not in json.dumps(element)] == []
        return
    mapper.publish(c2.command({"container_port": 80, "host_port": 8081}))
    assert wire.tcp(lan, HOST, 8080) == f"c1 {LAN} hello"
    assert len(elements()) == 3


def test_converge_leaves_busy_and_just_commanded_sandboxes_alone(mapper, c1, c2, c3):
    mapper.publish(c1.command({"container_port": 80, "host_port": 8080}))
    for _ in range(3):
        assert mapper.ask("converge", piece([]))["closed"] == [], "the slice may be older than the command"
    assert mapper.ask("converge", piece([], c1.id, clock=2))["closed"] == []
    assert mapper.ask("converge", piece([], clock=3))["closed"] == [c1.id]


def test_strange_elements_of_our_table_go(mapper, c1, host, shell, elements):
    mine = mapper.publish(c1.command({"container_port": 80, "host_port": 8080}))
    shell.run(host, "nft", "add element inet cnm_ports dnat4 { tcp . 99 : 172.28.0.9 . 99 }")
    assert len(elements()) == 3
    done = mapper.ask("converge", piece([c1.command(bound=mine)]))
    assert done["repaired"] == ["unmap 0.0.0.0:99/tcp from 172.28.0.9:99"]
    assert len(elements()) == 2


def test_many_commands_at_once_leave_each_port_with_one_sandbox(mapper, c1, c2, elements):
    for number in range(40):
        box = (c1, c2)[number % 2]
        mapper.send("publish", box.command({"container_port": 80, "host_port": 8080 + number // 2 % 2}))
    replies = [mapper._line() for _ in range(40)]
    assert any("ok" in reply for reply in replies)
    assert len(elements()) <= 3
    mapper.unpublish(c1)
    mapper.unpublish(c2)
    assert elements() == []


def test_thousands_of_open_files_do_not_hurt(mapper, c1, lan, wire, elements):
    c1.serve(80)
    bound = mapper.publish(
        c1.command({"container_port": 10000, "container_port_end": 11999, "host_port": 10000, "host_port_end": 11999})
    )
    assert len(elements()) == 2, "ports in a row are one element"
    assert mapper.files() > 1024, "where libnftables would abort"
    mapper.publish(c1.command({"container_port": 80, "host_port": 8080}, bound=bound))
    assert wire.tcp(lan, HOST, 8080) == f"c1 {LAN} hello"
    done = mapper.ask("converge", piece([]))
    assert (done["problems"], done["repaired"]) == ({}, [])
    mapper.unpublish(c1)
    assert elements() == []


def test_stopped_process_leaves_translations_and_no_sockets(start, c1, host, lan, wire):
    c1.serve(80)
    first = start()
    first.publish(c1.command({"container_port": 80, "host_port": 8080}))
    first.stop()
    assert wire.tcp(lan, HOST, 8080) == f"c1 {LAN} hello"
    bind(host, "0.0.0.0", 8080)
