"""A port mapper that ends leaves its sockets and its table to the next one: no port refuses or is free in between."""

import asyncio
import socket
import threading
from contextlib import contextmanager

import pytest

from cnm.deposit import DEPOSIT, open_deposit

HOST, LAN, HOST6 = "10.9.0.1", "10.9.0.2", "fd09::1"
TCP, UDP = {"container_port": 80, "host_port": 8080}, {"container_port": 80, "host_port": 8080, "protocol": "udp"}
RANGE = {"container_port": 9000, "container_port_end": 9599, "host_port": 9000, "host_port_end": 9599}


@contextmanager
def keeping(run_dir):
    """Keep what is deposited, as the supervisor does, and give what says how much it is."""
    began, over, kept = threading.Event(), asyncio.Event(), []

    async def keep():
        with open_deposit(run_dir / DEPOSIT) as deposit:
            kept.extend((deposit, asyncio.get_running_loop()))
            began.set()
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(keep(),))
    thread.start()
    began.wait()
    try:
        yield kept[0]
    finally:
        kept[1].call_soon_threadsafe(over.set)
        thread.join()


@pytest.fixture
def deposit(tmp_path):
    with keeping(tmp_path) as kept:
        yield kept


@pytest.fixture
def start_heir(start, tmp_path, deposit):
    return lambda: start(run_dir=str(tmp_path))


def piece(*published, busy=()):
    return {"clock": 1, "published": list(published), "busy": list(busy)}


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_what_comes_while_no_process_lives_is_served_by_the_next(start_heir, c2, host, wire, other_process, end):
    c2.serve(80)
    c2.serve(80, socket.SOCK_DGRAM)
    first = start_heir()
    bound = first.publish(c2.command(TCP, UDP))
    getattr(first, end)()
    with pytest.raises(AssertionError):
        other_process("0.0.0.0", 8080)
    with wire.connect(host, "::1", 8080) as client, wire.udp_client(host, "::1", 8080) as other:
        client.sendall(b"meanwhile")
        client.shutdown(socket.SHUT_WR)
        other.send(b"meanwhile")
        heir = start_heir()
        assert heir.ask("converge", piece(c2.command(bound=bound)))["problems"] == {}
        assert client.recv(100).decode().endswith("meanwhile")
        assert other.recv(100).decode().endswith("meanwhile")
    for ask in (wire.tcp, wire.udp):
        assert ask(host, "::1", 8080).startswith("c2 ")


def test_a_table_that_is_as_it_was_made_is_left_alone_and_any_other_is_made_anew(
    start_heir, c1, c2, host, lan, wire, shell
):
    c1.serve(80)
    first = start_heir()
    bound = first.publish(c1.command(TCP))

    def listed():
        return shell.run(host, "nft", "--handle", "--stateless", "list", "table", "inet", "cnm_ports")

    before = listed()
    assert wire.tcp(lan, HOST, 8080).startswith("c1 ")
    first.kill()
    second = start_heir()
    assert second.ask("converge", piece(c1.command(bound=bound)))["repaired"] == []
    assert listed() == before
    second.kill()
    shell.run(host, "nft", "flush", "chain", "inet", "cnm_ports", "translate")
    third = start_heir()
    third.ask("converge", piece(c1.command(bound=bound)))
    assert wire.tcp(lan, HOST, 8080).startswith("c1 ")
    third.kill()
    shell.run(host, "nft", "flush", "ruleset")
    third = start_heir()
    third.ask("converge", piece(c1.command(bound=bound)))
    assert wire.tcp(lan, HOST, 8080).startswith("c1 ")


def test_what_is_no_longer_wanted_is_let_go(start_heir, c1, c2, other_process, deposit):
    first = start_heir()
    bound = first.publish(c1.command(TCP, RANGE))
    others = first.publish(c2.command({"container_port": 80, "host_port": 8081}))
    assert len(deposit) == 2 + 600 // 253 + 1
    first.kill()
    second = start_heir()
    second.ask("converge", piece(c2.command(bound=others)))
    assert len(deposit) == 1
    other_process("0.0.0.0", 8080)
    other_process("0.0.0.0", 9300)
    second.unpublish(c2)
    assert len(deposit) == 0
    other_process("0.0.0.0", 8081)
    assert [each["host_port"] for each in bound] == [8080, 8080, 9000, 9000]


def test_a_range_is_inherited_whole(start_heir, c1, host, wire, other_process):
    c1.serve(9599)
    first = start_heir()
    bound = first.publish(c1.command(RANGE))
    first.kill()
    with pytest.raises(AssertionError):
        other_process("0.0.0.0", 9555)
    second = start_heir()
    second.ask("converge", piece(c1.command(bound=bound)))
    assert wire.tcp(host, "::1", 9599).startswith("c1 ")
    assert second.publish(c1.command(bound=bound)) == bound


def test_sockets_of_a_sandbox_that_is_being_changed_wait_for_its_command(start_heir, c1, c2, host, wire, deposit):
    c1.serve(80)
    first = start_heir()
    bound = first.publish(c1.command(TCP))
    first.kill()
    second = start_heir()
    second.ask("converge", piece(c1.command(bound=bound), busy=[c1.id]))
    with wire.connect(host, "::1", 8080) as client:
        client.shutdown(socket.SHUT_WR)
        second.publish(c1.command(bound=bound))
        assert client.recv(100).startswith(b"c1 ")
    second.ask("converge", piece(c1.command(bound=bound)))
    assert len(deposit) == 1
    second.unpublish(c1)
    assert len(deposit) == 0


def test_sandbox_may_change_the_addresses_of_its_own_port(start_heir, c1, host, lan, wire, deposit):
    c1.serve(80)
    mapper = start_heir()
    mapper.publish(c1.command(TCP))
    mapper.publish(c1.command({**TCP, "host_ip": HOST}))
    assert len(deposit) == 1
    assert wire.tcp(lan, HOST, 8080).startswith("c1 ")
    with pytest.raises(ConnectionRefusedError):
        wire.tcp(host, "::1", 8080)


def test_without_anybody_who_keeps_them_ports_are_bound_anew(start, c1, host, wire, tmp_path):
    c1.serve(80)
    first = start(run_dir=str(tmp_path))
    bound = first.publish(c1.command(TCP))
    first.kill()
    with pytest.raises(ConnectionRefusedError):
        wire.tcp(host, "::1", 8080)
    start(run_dir=str(tmp_path)).ask("converge", piece(c1.command(bound=bound)))
    assert wire.tcp(host, "::1", 8080).startswith("c1 ")


@pytest.mark.parametrize("remembered", [b"", b"[]", b"{}", b'{"of": 1, "listed": []}', b"\xff"])
def test_a_memory_of_the_table_that_cannot_be_read_is_none(start_heir, c1, lan, wire, tmp_path, remembered):
    c1.serve(80)
    first = start_heir()
    bound = first.publish(c1.command(TCP))
    first.kill()
    (tmp_path / "ports-table.json").write_bytes(remembered)
    start_heir().ask("converge", piece(c1.command(bound=bound)))
    assert wire.tcp(lan, HOST, 8080).startswith("c1 ")
