"""Questions that are not ours, over real sockets: rows D12 to D17, D19, D20, D22."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address

import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, A, DNSHeader, DNSRecord

from cnm_resolver.node_servers import ResolvConf
from cnm_resolver.zone import Server, Settings

S1 = Settings(sandbox_id="s1", networks=("n-web",))


def answering(address="198.51.100.7"):
    def reply(question: DNSRecord) -> list[bytes]:
        found = question.reply()
        if question.q.qtype == QTYPE.A:
            found.add_answer(RR(question.q.qname, QTYPE.A, rdata=A(address), ttl=33))
        return [bytes(found.pack())]

    return reply


def failing(code):
    def reply(question: DNSRecord) -> list[bytes]:
        found = question.reply()
        found.header.rcode = code
        return [bytes(found.pack())]

    return reply


def silent(question: DNSRecord) -> list[bytes]:
    return []


@pytest.mark.parametrize("tcp", [False, True])
async def test_unknown_name_is_asked_of_the_nodes_server_over_the_same_transport(
    world, sandbox, query, make_server, tcp
):
    mock = await make_server(answering())
    world.directory.set_node_servers((mock.server,))
    await world.open(S1, sandbox)
    reply = await query(sandbox, "example.com", tcp=tcp)
    assert [(str(found.rdata), found.ttl) for found in reply.rr] == [("198.51.100.7", 33)]
    assert [transport for transport, _ in mock.asked] == ["tcp" if tcp else "udp"]


async def test_own_server_is_asked_from_inside_the_sandbox(world, sandbox, query, make_server):
    nodes, own = await make_server(answering("1.1.1.1")), await make_server(answering("2.2.2.2"), sandbox)
    world.directory.set_node_servers((nodes.server,))
    await world.open(replace(S1, servers=(own.server,), external=False), sandbox)
    for tcp in (False, True):
        reply = await query(sandbox, "example.com", tcp=tcp)
        assert [str(found.rdata) for found in reply.rr] == ["2.2.2.2"]
    assert nodes.asked == []


@pytest.mark.parametrize("code", [RCODE.SERVFAIL, RCODE.REFUSED])
async def test_failure_of_one_server_is_hidden_by_the_next(world, sandbox, query, make_server, code):
    first, second = await make_server(failing(code)), await make_server(answering())
    world.directory.set_node_servers((first.server, second.server))
    await world.open(S1, sandbox)
    assert (await query(sandbox, "example.com")).header.rcode == RCODE.NOERROR
    assert (len(first.asked), len(second.asked)) == (1, 1)


async def test_absent_name_is_passed_on(world, sandbox, query, make_server):
    first, second = await make_server(failing(RCODE.NXDOMAIN)), await make_server(answering())
    world.directory.set_node_servers((first.server, second.server))
    await world.open(S1, sandbox)
    assert (await query(sandbox, "example.com")).header.rcode == RCODE.NXDOMAIN
    assert second.asked == []


async def test_silent_and_dead_servers_are_passed_over(world, sandbox, query, make_server):
    first, second = await make_server(silent), await make_server(answering())
    dead = replace(first.server, port=1)
    world.directory.set_node_servers((dead, first.server, second.server))
    await world.open(S1, sandbox)
    for tcp in (False, True):
        assert (await query(sandbox, "example.com", tcp=tcp)).header.rcode == RCODE.NOERROR


@pytest.mark.parametrize("tcp", [False, True])
async def test_silence_of_all_is_a_server_failure(world, sandbox, query, make_server, tcp):
    mock = await make_server(silent)
    world.directory.set_node_servers((mock.server,))
    await world.open(S1, sandbox)
    assert (await query(sandbox, "example.com", tcp=tcp)).header.rcode == RCODE.SERVFAIL


async def test_packet_is_forwarded_untouched_under_another_id(world, sandbox, exchange, make_server):
    mock = await make_server(answering())
    world.directory.set_node_servers((mock.server,))
    await world.open(S1, sandbox)
    question = DNSRecord.question("ExAmple.com", "TXT")
    question.add_ar(EDNS0(udp_len=1400, flags="do"))
    packet = bytes(question.pack())
    replies = [await exchange(sandbox, packet) for _ in range(8)]  # there is nothing to keep of an empty answer
    assert all(reply[:2] == packet[:2] for reply in replies)
    assert all(asked[2:] == packet[2:] for _, asked in mock.asked)
    assert len({asked[:2] for _, asked in mock.asked}) > 1


async def test_forged_replies_are_ignored(world, sandbox, query, make_server):
    def forged(question: DNSRecord) -> list[bytes]:
        (right,) = answering()(question)
        other_id = (int.from_bytes(right[:2]) ^ 1).to_bytes(2) + right[2:]
        other = DNSRecord(DNSHeader(id=question.header.id, qr=1), q=DNSRecord.question("evil.com").q)
        (wrong,) = answering("6.6.6.6")(other)
        return [other_id, bytes(question.pack()), wrong, b"x", right]

    mock = await make_server(forged)
    world.directory.set_node_servers((mock.server,))
    await world.open(S1, sandbox)
    reply = await query(sandbox, "example.com")
    assert [str(found.rdata) for found in reply.rr] == ["198.51.100.7"]


async def test_truncated_reply_is_passed_on(world, sandbox, query, make_server):
    def truncated(question: DNSRecord) -> list[bytes]:
        found = question.reply()
        found.header.tc = 1
        return [bytes(found.pack())]

    mock = await make_server(truncated)
    world.directory.set_node_servers((mock.server,))
    await world.open(S1, sandbox)
    assert (await query(sandbox, "example.com")).header.tc == 1
    assert len(mock.asked) == 1


async def test_reply_beyond_the_clients_size_becomes_a_truncated_one(world, sandbox, query, make_server):
    def big(question: DNSRecord) -> list[bytes]:
        found = question.reply()
        for number in range(100):
            found.add_answer(RR(question.q.qname, QTYPE.A, rdata=A(f"198.51.100.{number}")))
        return [bytes(found.pack())]

    mock = await make_server(big)
    world.directory.set_node_servers((mock.server,))
    await world.open(S1, sandbox)
    short = await query(sandbox, "example.com")
    assert (short.header.tc, short.rr) == (1, [])
    assert len((await query(sandbox, "example.com", tcp=True)).rr) == 100


async def test_questions_beyond_the_limit_are_refused_and_names_of_ours_answered(world, sandbox, query, make_server):
    mock = await make_server(silent)
    world.directory.set_node_servers((mock.server,))
    await world.open(S1, sandbox)
    async with asyncio.TaskGroup() as group:
        replies = [group.create_task(query(sandbox, f"{number}.example.com")) for number in range(6)]
        own = group.create_task(query(sandbox, "api"))
    codes = sorted(reply.result().header.rcode for reply in replies)
    assert codes == [RCODE.SERVFAIL] * 4 + [RCODE.REFUSED] * 2
    assert own.result().header.rcode == RCODE.NOERROR
    assert len(mock.asked) == 4


async def test_closing_gives_up_what_is_under_way(world, sandbox, query, make_server):
    mock = await make_server(silent, sandbox)
    await world.open(replace(S1, servers=(mock.server,)), sandbox)
    waiting = asyncio.ensure_future(query(sandbox, "example.com", tcp=True))
    await mock.heard.wait()
    await world.listeners.close("s1")
    with pytest.raises((AssertionError, ConnectionResetError)):
        await waiting


async def test_answer_is_kept_for_udp_and_tcp_and_counts_down(world, sandbox, make_sandbox, query, make_server):
    mock = await make_server(answering())
    world.directory.set_node_servers((mock.server,))
    await world.open(S1, sandbox)
    await world.open(replace(S1, sandbox_id="s2"), other := make_sandbox("s2"))
    for where, tcp in ((sandbox, False), (sandbox, True), (other, False)):
        reply = await query(where, "example.com", tcp=tcp)
        assert [str(found.rdata) for found in reply.rr] == ["198.51.100.7"]
        assert 0 < reply.rr[0].ttl <= 33
    assert len(mock.asked) == 1


async def test_what_is_kept_takes_no_place_among_questions_under_way(world, sandbox, query, make_server):
    mock = await make_server(answering())
    world.directory.set_node_servers((mock.server,))
    await world.open(S1, sandbox)
    await query(sandbox, "example.com")
    mock.reply = silent
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(query(sandbox, f"{number}.example.com")) for number in range(4)]
        await mock.heard.wait()
        while len(mock.asked) < 5:
            await asyncio.sleep(0.005)
        assert (await query(sandbox, "example.com")).header.rcode == RCODE.NOERROR
    assert {each.result().header.rcode for each in waiting} == {RCODE.SERVFAIL}


async def test_names_below_a_domain_go_to_its_servers_the_longest_first(world, sandbox, query, make_server):
    node, corp, lab = [await make_server(answering(f"198.51.100.{number}")) for number in (1, 2, 3)]
    world.directory.set_node_servers((node.server,))
    domains = {"corp.example": (corp.server,), "Lab.Corp.Example.": (lab.server,), "2.10.in-addr.arpa": (lab.server,)}
    await world.open(replace(S1, domains=domains), sandbox)
    for name, mock in (
        ("www.corp.example", corp),
        ("CORP.example", corp),
        ("a.b.lab.corp.example", lab),
        ("notcorp.example", node),
        ("corp.example.org", node),
        ("7.7.2.10.in-addr.arpa", lab),
        ("7.7.3.10.in-addr.arpa", node),
    ):
        before = len(mock.asked)
        await query(sandbox, name)
        assert len(mock.asked) == before + 1, name
    assert len(node.asked) + len(corp.asked) + len(lab.asked) == 7
    await query(sandbox, "1.0.28.172.in-addr.arpa")
    await query(sandbox, "api.web")
    assert len(node.asked) + len(corp.asked) + len(lab.asked) == 7, "what is ours never leaves"


async def test_domain_is_asked_of_its_servers_though_there_is_no_way_out(world, sandbox, query, make_server):
    inside = await make_server(answering(), sandbox)
    await world.open(replace(S1, domains={"corp.example": (inside.server,)}, external=False), sandbox)
    assert (await query(sandbox, "www.corp.example")).header.rcode == RCODE.NOERROR
    assert (await query(sandbox, "www.example.com")).header.rcode == RCODE.SERVFAIL


async def test_the_nodes_servers_are_those_of_its_file(world, sandbox, query, make_server, tmp_path):
    first, second = await make_server(answering("198.51.100.1")), await make_server(answering("198.51.100.2"))
    ports = {"192.0.2.1": first.server, "192.0.2.2": second.server}
    (tmp_path / "one").write_text("nameserver 192.0.2.1\n")
    (tmp_path / "two").write_text("nameserver 192.0.2.2\n")
    conf = tmp_path / "resolv.conf"
    conf.symlink_to("one")
    read = ResolvConf(conf)
    world.directory.set_node_servers(lambda: tuple(ports[str(each.address)] for each in read()))
    await world.open(S1, sandbox)

    async def answer():
        return [str(found.rdata) for found in (await query(sandbox, "example.com")).rr]

    assert await answer() == ["198.51.100.1"]
    conf.unlink()
    conf.symlink_to("two")
    assert await answer() == ["198.51.100.2"]
    (tmp_path / "new").write_text("# a VPN came up\nnameserver 192.0.2.1\n")
    (tmp_path / "new").replace(conf)
    assert await answer() == ["198.51.100.1"]
    conf.write_text("nameserver 192.0.2.2\nsearch corp\n")
    assert await answer() == ["198.51.100.2"]
    conf.unlink()
    assert (await query(sandbox, "example.com")).header.rcode == RCODE.SERVFAIL


@pytest.mark.parametrize("own", ["127.0.0.11", "::ffff:127.0.0.11"])
async def test_we_never_ask_ourselves(world, sandbox, query, own):
    world.directory.set_node_servers((Server(ip_address(own)),))
    settings = replace(S1, domains={"corp.example": (Server(ip_address(own), inside=True),)})
    await world.open(settings, sandbox)
    for name in ("example.com", "www.corp.example"):
        assert (await query(sandbox, name)).header.rcode == RCODE.SERVFAIL
