"""A sandbox's questions over real sockets: rows D01, D06, D11, D17, D18, D23, D24."""

import asyncio
import os
import shutil
import socket
import subprocess
from ipaddress import ip_address

import pytest
from dnslib import RCODE, DNSRecord

from cnm.kernel import netns
from cnm_resolver.zone import Record, Settings

WEB = Settings(sandbox_id="s1", networks=("n-web",))


@pytest.mark.parametrize("tcp", [False, True])
async def test_name_resolves_inside_the_sandbox(world, sandbox, query, tcp):
    await world.open(WEB, sandbox)
    reply = await query(sandbox, "API.", tcp=tcp)
    assert [str(found.rdata) for found in reply.rr] == ["172.28.0.2"]
    assert (reply.header.ra, reply.header.aa, reply.rr[0].ttl) == (1, 0, 10)


async def test_each_sandbox_sees_its_own_networks(world, make_sandbox, query):
    web, db = make_sandbox("web"), make_sandbox("db")
    await world.open(WEB, web)
    await world.open(Settings(sandbox_id="s2", networks=("n-db",)), db)
    assert (await query(web, "api")).header.rcode == RCODE.NOERROR
    assert (await query(db, "api")).header.rcode == RCODE.NXDOMAIN
    assert (await query(db, "sql")).header.rcode == RCODE.NOERROR
    assert (await query(web, "sql.db")).header.rcode == RCODE.NXDOMAIN


async def test_changes_are_seen_by_the_next_question(world, sandbox, query):
    await world.open(WEB, sandbox)
    world.directory.put_record(Record("e-api", "n-web", ("new",), ip_address("172.28.0.2")))
    assert (await query(sandbox, "api")).header.rcode == RCODE.NXDOMAIN
    assert (await query(sandbox, "new")).header.rcode == RCODE.NOERROR
    world.directory.drop_record("e-api")
    assert (await query(sandbox, "new")).header.rcode == RCODE.NXDOMAIN
    world.listeners.update(world.directory.put_sandbox(Settings(sandbox_id="s1", networks=("n-db",))))
    assert (await query(sandbox, "sql")).header.rcode == RCODE.NOERROR


async def test_long_answer_is_truncated_over_udp_and_whole_over_tcp(world, sandbox, query):
    await world.open(WEB, sandbox)
    short, whole = await query(sandbox, "many"), await query(sandbox, "many", tcp=True)
    assert short.header.tc == 1
    assert len(short.pack()) <= 512
    assert (whole.header.tc, len(whole.rr)) == (0, 100)


async def test_dig_agrees(world, sandbox):
    if shutil.which("dig") is None or shutil.which("nsenter") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs dig and nsenter")
    await world.open(WEB, sandbox)
    for words, expected in (
        (["api.web"], "172.28.0.2"),
        (["+tcp", "api"], "172.28.0.2"),
        (["-x", "172.28.0.2"], "api.web."),
        (["api", "AAAA"], ""),
    ):
        dig = await asyncio.create_subprocess_exec(
            "nsenter", f"--net={sandbox}", "dig", "@127.0.0.11", "+short", *words, stdout=subprocess.PIPE
        )
        output, _ = await dig.communicate()
        assert (dig.returncode, output.decode().strip()) == (0, expected), words
    dig = await asyncio.create_subprocess_exec(
        "nsenter", f"--net={sandbox}", "dig", "@127.0.0.11", "many", stdout=subprocess.PIPE
    )
    output, _ = await dig.communicate()
    assert output.count(b"172.28.1.") == 100  # it came back over TCP


async def test_malformed_packet_is_refused_and_the_next_one_answered(world, sandbox, query, exchange):
    await world.open(WEB, sandbox)
    reply = await exchange(sandbox, b"\x12\x34\x01\x00\0\1\0\0\0\0\0\0\x40broken")
    assert (reply[:2], reply[3] & 15) == (b"\x12\x34", RCODE.FORMERR)
    assert (await query(sandbox, "api")).header.rcode == RCODE.NOERROR


async def test_port_53_stays_free_for_the_sandbox(world, sandbox, query):
    await world.open(WEB, sandbox)
    with (
        netns.open_socket(sandbox, socket.AF_INET, socket.SOCK_DGRAM) as udp,
        netns.open_socket(sandbox, socket.AF_INET, socket.SOCK_STREAM) as tcp,
    ):
        udp.bind(("0.0.0.0", 53))
        tcp.bind(("0.0.0.0", 53))
        tcp.listen()
        assert (await query(sandbox, "api")).header.rcode == RCODE.NOERROR
        assert (await query(sandbox, "api", tcp=True)).header.rcode == RCODE.NOERROR


def _tables(shell, sandbox) -> list[str]:
    return [item["table"]["name"] for item in shell.nft(sandbox, "list", "tables")]


async def test_closed_sandbox_leaves_nothing(world, sandbox, shell, query):
    await world.open(WEB, sandbox)
    assert (await query(sandbox, "api")).header.rcode == RCODE.NOERROR
    assert _tables(shell, sandbox) == ["cnm_dns"]
    await world.listeners.close("s1")
    await world.listeners.close("s1")
    assert _tables(shell, sandbox) == []
    assert "s1" not in world.listeners
    with pytest.raises(ConnectionRefusedError):
        await query(sandbox, "api", tcp=True)
    assert "127.0.0.11" not in shell.run(sandbox, "ss", "-Hlntu")


async def test_sandbox_may_be_closed_after_its_namespace_is_gone(world, sandbox):
    await world.open(WEB, sandbox)
    netns.remove(sandbox)
    await world.listeners.close("s1")


async def test_opening_twice_changes_the_view_and_another_namespace_moves(world, make_sandbox, query):
    first, second = make_sandbox("first"), make_sandbox("second")
    await world.open(WEB, first)
    await world.open(Settings(sandbox_id="s1", networks=("n-db",)), first)
    assert (await query(first, "sql")).header.rcode == RCODE.NOERROR
    await world.open(WEB, second)
    assert (await query(second, "api")).header.rcode == RCODE.NOERROR
    with pytest.raises(ConnectionRefusedError):
        await query(first, "api", tcp=True)
    assert len(world.listeners) == 1


async def test_missing_namespace_is_an_error_and_leaves_no_listener(world, tmp_path):
    with pytest.raises(FileNotFoundError):
        await world.open(WEB, tmp_path / "absent")
    assert "s1" not in world.listeners


def _connect(sandbox) -> socket.socket:
    sock = netns.open_socket(sandbox, socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


async def _connection(sandbox) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = _connect(sandbox)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.11", 53))
    return await asyncio.open_connection(sock=sock)


async def _read(reader: asyncio.StreamReader) -> DNSRecord:
    size = int.from_bytes(await reader.readexactly(2))
    return DNSRecord.parse(await reader.readexactly(size))


def _framed(name: str, identifier: int) -> bytes:
    question = DNSRecord.question(name)
    question.header.id = identifier
    packet = bytes(question.pack())
    return len(packet).to_bytes(2) + packet


async def test_one_connection_carries_many_questions_however_they_are_cut(world, sandbox):
    await world.open(WEB, sandbox)
    reader, writer = await _connection(sandbox)
    stream = b"".join(_framed("api", number) for number in range(500))
    for start in range(0, len(stream), 333):
        writer.write(stream[start : start + 333])
        await writer.drain()
    assert [(await _read(reader)).header.id for _ in range(500)] == list(range(500))
    writer.close()
    await writer.wait_closed()


async def test_client_that_stopped_asking_gets_what_it_is_owed(world, sandbox):
    await world.open(WEB, sandbox)
    reader, writer = await _connection(sandbox)
    writer.write(b"".join(_framed("many", number) for number in range(200)))
    writer.write_eof()
    replies = [(await _read(reader)).header.id for _ in range(200)]
    assert replies == list(range(200))
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_client_that_does_not_read_stops_being_read_and_others_are_served(world, sandbox, query):
    await world.open(WEB, sandbox)
    reader, writer = await _connection(sandbox)
    writer.write(b"".join(_framed("many", number % 65536) for number in range(20_000)))
    assert (await query(sandbox, "api")).header.rcode == RCODE.NOERROR
    for number in range(20_000):
        size = int.from_bytes(await reader.readexactly(2))
        assert int.from_bytes((await reader.readexactly(size))[:2]) == number
    writer.close()
    await writer.wait_closed()


async def test_connections_beyond_the_limit_are_closed_and_room_is_made(world, sandbox, query):
    await world.open(WEB, sandbox)
    connections = [await _connection(sandbox) for _ in range(3)]
    for reader, writer in connections:
        writer.write(_framed("api", 1))
        await _read(reader)
    reader, extra = await _connection(sandbox)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await _read(reader)
    for _, writer in (*connections, (reader, extra)):
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for _, writer in connections))
    await asyncio.gather(extra.wait_closed(), return_exceptions=True)
    async with asyncio.timeout(5):
        while True:
            try:
                reply = await query(sandbox, "api", tcp=True)
                break
            except (ConnectionResetError, AssertionError):
                continue
    assert reply.header.rcode == RCODE.NOERROR
