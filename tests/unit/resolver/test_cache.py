"""Answers from outside are kept for as long as they may be, and not a second longer unless nobody answers."""

import asyncio
from ipaddress import ip_address
from pathlib import Path

import pytest
from dnslib import CLASS, CNAME, EDNS0, QTYPE, RCODE, RR, SOA, TXT, A, DNSRecord, EDNSOption
from hypothesis import given
from hypothesis import strategies as st

from cnm_resolver import wire
from cnm_resolver.cache import OVERHEAD, Cache
from cnm_resolver.config import Limits
from cnm_resolver.zone import Server

FIRST, OTHER = (Server(ip_address(f"192.0.2.{number}")) for number in (1, 2))
INSIDE = Server(ip_address("10.0.0.53"), inside=True)
HERE, THERE = Path("/here"), Path("/there")
LIMITS = Limits(cache_bytes=20_000, stale_wait_s=0.02)


def question(name="example.com", kind="A", *, id=None, edns=None, recursion=True, flags=0):
    asked = DNSRecord.question(name, kind)
    asked.header.id = asked.header.id if id is None else id
    asked.header.rd = recursion
    if edns is not None:
        asked.add_ar(EDNS0(udp_len=1400, flags=edns))
    packet = bytearray(asked.pack())
    packet[3] |= flags
    query = wire.parse(bytes(packet))
    assert isinstance(query, wire.Query)
    return query


def zone(ttl, minimum):
    return RR("example.com", QTYPE.SOA, ttl=ttl, rdata=SOA("ns.example.com", "me.example.com", (1, 2, 3, 4, minimum)))


class Outside:
    """Servers that say what they are told to; ``gate`` holds them up."""

    def __init__(self):
        self.asked = []
        self.answers, self.authority, self.code, self.truncated = [], [], RCODE.NOERROR, False
        self.gate = None

    async def ask(self, query, servers, namespace, *, stream):
        self.asked.append(query)
        if self.gate is not None:
            await self.gate.wait()
        found = DNSRecord.parse(query.packet).reply()
        found.header.rcode, found.header.tc = self.code, self.truncated and not stream
        found.add_answer(*self.answers)
        found.add_auth(*self.authority)
        if query.edns:
            found.add_ar(EDNS0(udp_len=1232, opts=[EDNSOption(10, b"8bytes..cookie..")]))
        return bytes(found.pack())


@pytest.fixture
def outside():
    made = Outside()
    made.answers = [RR("example.com", QTYPE.A, ttl=60, rdata=A("198.51.100.7"))]
    return made


@pytest.fixture
def clock():
    return [1000.0]


@pytest.fixture
def cache(outside, clock):
    return Cache(outside, limits=LIMITS, clock=lambda: clock[0])


async def ask(cache, query, servers=(FIRST,), namespace=HERE, *, stream=False):
    return DNSRecord.parse(await cache.ask(query, servers, namespace, stream=stream))


async def test_answer_is_given_again_under_the_id_and_in_the_case_of_each_question(cache, outside, clock):
    await ask(cache, question(id=7))
    clock[0] += 13.9
    found = await ask(cache, question("ExAmPle.com", id=9))
    assert (found.header.id, str(found.q.qname)) == (9, "ExAmPle.com.")
    assert [(str(each.rdata), each.ttl) for each in found.rr] == [("198.51.100.7", 47)]
    assert (found.header.qr, found.header.ra, found.header.rd, found.header.aa) == (1, 1, 1, 1)
    clock[0] += 47
    await ask(cache, question())
    assert len(outside.asked) == 2, "it has expired"


@pytest.mark.parametrize(
    ("other", "servers", "namespace"),
    [
        (question("example.org"), (FIRST,), HERE),
        (question(kind="AAAA"), (FIRST,), HERE),
        (question(edns=""), (FIRST,), HERE),
        (question(edns="do"), (FIRST,), HERE),
        (question(flags=0x10), (FIRST,), HERE),
        (question(flags=0x20), (FIRST,), HERE),
        (question(), (OTHER,), HERE),
        (question(), (FIRST, OTHER), HERE),
    ],
)
async def test_another_question_or_other_servers_are_asked_anew(cache, outside, other, servers, namespace):
    await ask(cache, question())
    await ask(cache, other, servers, namespace)
    assert len(outside.asked) == 2


async def test_servers_inside_of_a_sandbox_answer_that_sandbox_alone(cache, outside):
    await ask(cache, question(), (INSIDE,), HERE)
    await ask(cache, question(), (INSIDE,), THERE)
    assert len(outside.asked) == 2
    await ask(cache, question(), (FIRST,), HERE)
    await ask(cache, question(), (FIRST,), THERE)
    assert len(outside.asked) == 3, "the node's are the same for all"


async def test_edns_of_the_answer_is_ours_and_a_cookie_is_nobody_elses(cache, outside):
    asked = DNSRecord.question("example.com")
    asked.add_ar(EDNS0(udp_len=1400, opts=[EDNSOption(10, b"mycookie")]))
    await ask(cache, wire.parse(bytes(asked.pack())))
    found = await ask(cache, question(edns=""))
    assert len(outside.asked) == 1
    assert [(each.rtype, list(each.rdata)) for each in found.ar] == [(QTYPE.OPT, [])]
    plain = await ask(cache, question())
    assert plain.ar == []


@pytest.mark.parametrize("option", [8, 15, 65001])
async def test_options_that_may_change_an_answer_go_on_and_nothing_is_kept(cache, outside, option):
    asked = DNSRecord.question("example.com")
    asked.add_ar(EDNS0(udp_len=1400, opts=[EDNSOption(option, b"abcd")]))
    for _ in range(2):
        await ask(cache, wire.parse(bytes(asked.pack())))
    assert (len(outside.asked), len(cache)) == (2, 0)


async def test_question_without_recursion_goes_on(cache, outside):
    for _ in range(2):
        await ask(cache, question(recursion=False))
    assert (len(outside.asked), len(cache)) == (2, 0)


@pytest.mark.parametrize("code", [RCODE.NXDOMAIN, RCODE.NOERROR])
@pytest.mark.parametrize(("ttl", "minimum", "life"), [(100, 30, 30), (20, 300, 20), (100_000, 100_000, 900)])
async def test_that_there_is_nothing_is_known_for_as_long_as_the_zone_says(
    cache, outside, clock, code, ttl, minimum, life
):
    outside.code, outside.answers, outside.authority = code, [], [zone(ttl, minimum)]
    await ask(cache, question())
    clock[0] += life - 1
    found = await ask(cache, question())
    assert (found.header.rcode, len(outside.asked)) == (code, 1)
    clock[0] += 1
    await ask(cache, question())
    assert len(outside.asked) == 2


async def test_alias_that_leads_to_nothing_is_nothing(cache, outside, clock):
    outside.answers = [RR("example.com", QTYPE.CNAME, ttl=500, rdata=CNAME("other.example.com"))]
    outside.authority = [zone(100, 30)]
    await ask(cache, question())
    clock[0] += 31
    await ask(cache, question())
    assert len(outside.asked) == 2


@pytest.mark.parametrize("what", ["no zone", "ttl 0", "truncated", "SERVFAIL", "REFUSED"])
async def test_what_may_not_be_kept_is_not(cache, outside, what):
    if what == "no zone":
        outside.answers = []
    elif what == "ttl 0":
        outside.answers[0].ttl = 0
    elif what == "truncated":
        outside.truncated = True
    else:
        outside.code = getattr(RCODE, what)
    for _ in range(2):
        await ask(cache, question())
    assert (len(outside.asked), len(cache), cache.size) == (2, 0, 0)


async def test_whole_answer_over_tcp_serves_udp_too(cache, outside):
    outside.truncated = True
    assert (await ask(cache, question())).header.tc == 1
    assert (await ask(cache, question(), stream=True)).header.tc == 0
    assert (await ask(cache, question())).header.tc == 0
    assert len(outside.asked) == 2


async def test_question_is_asked_once_however_many_ask_it(cache, outside):
    outside.gate = asyncio.Event()
    waiting = [asyncio.ensure_future(ask(cache, question(id=number))) for number in range(20)]
    await asyncio.sleep(0)
    outside.gate.set()
    found = await asyncio.gather(*waiting)
    assert len(outside.asked) == 1
    assert [each.header.id for each in found] == list(range(20))


async def test_who_asked_first_may_give_up(cache, outside):
    outside.gate = asyncio.Event()
    first = asyncio.ensure_future(ask(cache, question(id=1)))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(ask(cache, question(id=2)))
    await asyncio.sleep(0)
    first.cancel()
    outside.gate.set()
    assert (await second).header.id == 2
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_errors_are_not_shared(cache, outside):
    outside.gate, outside.code = asyncio.Event(), RCODE.SERVFAIL
    waiting = [asyncio.ensure_future(ask(cache, question(id=number))) for number in range(3)]
    await asyncio.sleep(0)
    outside.gate.set()
    assert [each.header.id for each in await asyncio.gather(*waiting)] == [0, 1, 2]


@pytest.mark.parametrize("how", ["fails", "is silent"])
async def test_expired_answer_is_given_while_nobody_answers(cache, outside, clock, how):
    await ask(cache, question())
    clock[0] += 3600
    if how == "fails":
        outside.code = RCODE.SERVFAIL
    else:
        outside.gate = asyncio.Event()
    found = await ask(cache, question(id=5))
    assert [(str(each.rdata), each.ttl) for each in found.rr] == [("198.51.100.7", LIMITS.stale_ttl_s)]
    assert len(outside.asked) == 2
    await ask(cache, question())
    assert len(outside.asked) == 2, "they are left in peace for a moment"
    outside.code, outside.gate = RCODE.NOERROR, None
    clock[0] += LIMITS.recheck_s
    assert [each.ttl for each in (await ask(cache, question())).rr] == [60]
    assert len(outside.asked) == 3


async def test_expired_answer_is_forgotten_when_the_zone_says_otherwise_or_after_a_day(cache, outside, clock):
    await ask(cache, question())
    clock[0] += 3600
    outside.code, outside.answers = RCODE.NXDOMAIN, []
    assert (await ask(cache, question())).header.rcode == RCODE.NXDOMAIN
    outside.code = RCODE.SERVFAIL
    assert (await ask(cache, question())).header.rcode == RCODE.SERVFAIL
    outside.code, outside.answers = RCODE.NOERROR, [RR("example.com", QTYPE.A, ttl=60, rdata=A("198.51.100.8"))]
    await ask(cache, question())
    clock[0] += LIMITS.stale_s + 61
    outside.code = RCODE.SERVFAIL
    assert (await ask(cache, question())).header.rcode == RCODE.SERVFAIL


async def test_a_flood_of_names_takes_no_more_than_it_may_and_the_oldest_go(cache, outside):
    await ask(cache, question("kept.example.com"))
    for number in range(200):
        await ask(cache, question(f"{number}.example.com"))
        await ask(cache, question("kept.example.com"))
        assert cache.size <= LIMITS.cache_bytes
    assert 1 < len(cache) < LIMITS.cache_bytes / OVERHEAD
    assert len(outside.asked) == 201, "what is used stays"
    big = [RR("big.example.com", QTYPE.TXT, ttl=60, rdata=TXT([b"x" * 250] * 100))]
    outside.answers = big
    await ask(cache, question("big.example.com", "TXT"))
    assert cache.size <= LIMITS.cache_bytes
    assert len(cache) > 1, "one that is larger than all of it pushes nothing out"


@given(st.binary(max_size=120), st.integers(0, 200))
def test_nothing_that_a_server_sends_raises(noise, cut):
    query = question(edns="do")
    found = DNSRecord.parse(query.packet).reply()
    found.add_answer(RR("example.com", QTYPE.A, ttl=60, rdata=A("198.51.100.7")))
    found.add_auth(zone(60, 30))
    whole = bytes(found.pack())
    for packet in (whole[:cut], whole[:cut] + noise, query.packet[: query.end] + noise, noise):
        reply = wire.read_reply(packet, query)
        if reply is not None:
            assert reply.to(query, 10)[: query.end][12:] == query.question


@given(
    st.lists(
        st.tuples(st.sampled_from(["A", "CNAME", "TXT"]), st.integers(0, 2**31 - 1), st.binary(max_size=30)),
        max_size=6,
    ),
    st.integers(0, 1000),
)
def test_reply_is_what_was_read_but_for_its_life_times(records, age):
    query = question(kind="ANY")
    found = DNSRecord.parse(query.packet).reply()
    for kind, ttl, text in records:
        rdata = {
            "A": lambda: A("192.0.2.1"),
            "CNAME": lambda: CNAME("a.example.com"),
            "TXT": lambda text=text: TXT(text),
        }
        found.add_answer(RR("www.example.com", getattr(QTYPE, kind), CLASS.IN, ttl, rdata[kind]()))
    found.add_auth(zone(60, 30))
    reply = wire.read_reply(bytes(found.pack()), query)
    again = DNSRecord.parse(reply.to(query, age))
    assert [(each.rtype, each.ttl, str(each.rdata)) for each in (*again.rr, *again.auth)] == [
        (each.rtype, max(0, each.ttl - age), str(each.rdata)) for each in (*found.rr, *found.auth)
    ]
