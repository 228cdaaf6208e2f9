"""What fits into an answer, and what hostile packets do, over real sockets: row D18."""

import asyncio
import random
import resource
import socket
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest
from dnslib import EDNS0, QTYPE, RCODE, DNSRecord

from cnm.kernel import netns
from cnm.kernel.netlink import SO_RCVBUFFORCE
from cnm_resolver.zone import Record, Settings

WEB = Settings(sandbox_id="s1", networks=("n-web",))
PAGE = resource.getpagesize()


async def dig(namespace, *words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "nsenter", f"--net={namespace}", "dig", "@127.0.0.11", *words, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return output.decode()


@pytest.mark.parametrize(
    ("words", "count", "truncated"),
    [
        (("+noedns", "+ignore"), (512 - 12 - 10) // 16, True),
        (("+bufsize=512", "+ignore"), (512 - 12 - 10 - 11) // 16, True),
        (("+bufsize=1232", "+ignore"), (1232 - 12 - 10 - 11) // 16, True),
        (("+bufsize=4096", "+ignore"), 100, False),
        (("+noedns",), 100, False),  # the same again over TCP
        (("+bufsize=512",), 100, False),
        (("+tcp", "+noedns"), 100, False),
    ],
)
async def test_answer_fits_what_the_client_takes(world, sandbox, words, count, truncated):
    await world.open(WEB, sandbox)
    # dig adds a cookie of its own accord: it is read over, and takes no room in the answer
    told = await dig(sandbox, "many", *words)
    flags = next(line for line in told.splitlines() if ";; flags:" in line)
    assert (" tc" in flags.partition(";; flags:")[2].partition(";")[0]) == truncated
    assert told.count("\t172.28.1.") == count


@pytest.mark.parametrize("tcp", [False, True])
async def test_edns_of_the_client_is_answered_with_ours(world, sandbox, exchange, tcp):
    await world.open(WEB, sandbox)
    for size, flags in ((0, ""), (100, ""), (1232, "do"), (65535, "do")):
        question = DNSRecord.question("api")
        question.add_ar(EDNS0(udp_len=size, flags=flags))
        reply = DNSRecord.parse(await exchange(sandbox, bytes(question.pack()), tcp=tcp))
        assert [str(found.rdata) for found in reply.rr] == ["172.28.0.2"]
        assert [(QTYPE[each.rtype], each.rclass, each.edns_do) for each in reply.ar] == [
            ("OPT", 1232, int(flags != ""))
        ]
    told = await dig(sandbox, "api", "+edns=1", "+noednsneg", "+tcp" if tcp else "+notcp")
    assert "status: BADVERS" in told


async def test_answer_of_almost_64_kib_comes_over_tcp(world, sandbox, query):
    await world.open(WEB, sandbox)
    for number in range(5000):
        address = ip_address("172.28.128.0") + number
        world.directory.put_record(Record(f"h{number}", "n-web", ("huge",), address))
    reply = await query(sandbox, "huge", tcp=True)
    assert (reply.header.rcode, len(reply.rr)) == (RCODE.NOERROR, (65535 - 12 - 10) // 16)
    assert len({str(found.rdata) for found in reply.rr}) == len(reply.rr)


async def test_ipv6_addresses_come_whole_too(world, sandbox, query):
    world.directory.put_network("n-six", "six", enable_ipv6=True)
    await world.open(Settings(sandbox_id="s1", networks=("n-six",)), sandbox)
    for number in range(100):
        world.directory.put_record(Record(f"s{number}", "n-six", ("many",), ipv6=ip_address("fd00:6::") + number))
    short, whole = await query(sandbox, "many", "AAAA"), await query(sandbox, "many", "AAAA", tcp=True)
    assert (short.header.tc, len(short.rr)) == (1, (512 - 12 - 10) // 28)
    assert (whole.header.tc, len(whole.rr)) == (0, 100)


def _hostile(count: int) -> list[bytes]:
    """Make packets that no client would send: noise, questions with bytes turned, cut short, or far too long."""
    chance = random.Random(7)
    plain = [bytes(DNSRecord.question(name, kind).pack()) for name in ("api", "many.web") for kind in ("A", "SRV")]
    found = [
        b"",
        b"\0",
        b"\xff" * 12,
        b"\0" * 65000,
        plain[0] + b"\0" * 5000,
        b"\0\7\1\0\xff\xff\xff\xff\xff\xff\xff\xff",
    ]
    while len(found) < count:
        packet = bytearray(chance.choice(plain)) if chance.random() < 0.8 else bytearray(chance.randbytes(300))
        for _ in range(chance.randrange(6)):
            packet[chance.randrange(len(packet))] = chance.randrange(256)
        found.append(bytes(packet[: chance.randrange(len(packet) + 1)]))
    return found


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


async def test_hostile_datagrams_harm_nobody_and_cost_no_memory(world, sandbox, query):
    await world.open(WEB, sandbox)
    packets = _hostile(2000)

    async def flood() -> None:
        with netns.open_socket(sandbox, socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.connect(("127.0.0.11", 53))
            for start in range(0, len(packets), 20):
                for packet in packets[start : start + 20]:
                    sock.send(packet)
                assert (await query(sandbox, "api")).header.rcode == RCODE.NOERROR

    await flood()
    before = _resident()
    for _ in range(5):
        await flood()
    assert _resident() - before < 4 << 20


async def test_hostile_streams_harm_nobody(world, sandbox, query):
    await world.open(WEB, sandbox)
    for packet in _hostile(300):
        with netns.open_socket(sandbox, socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, ("127.0.0.11", 53))
            await loop.sock_sendall(sock, len(packet).to_bytes(2) + packet)
            await loop.sock_sendall(sock, b"\xff\xff and then it goes")  # a message that never ends
    assert (await query(sandbox, "api", tcp=True)).header.rcode == RCODE.NOERROR


async def test_burst_of_questions_is_answered_whole(world, sandbox):
    await world.open(WEB, sandbox)
    with netns.open_socket(sandbox, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        sock.connect(("127.0.0.11", 53))
        for number in range(600):  # the server runs in this thread: it reads none of them before all are there
            sock.send(number.to_bytes(2) + bytes(DNSRecord.question("api").pack())[2:])
        loop = asyncio.get_running_loop()
        got = [int.from_bytes((await loop.sock_recv(sock, 512))[:2]) for _ in range(600)]
    assert got == list(range(600))
