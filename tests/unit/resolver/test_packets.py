"""Properties of the packet path, with dnslib as the oracle."""

from ipaddress import ip_address, ip_network

from dnslib import EDNS0, QTYPE, DNSError, DNSHeader, DNSQuestion, DNSRecord
from hypothesis import assume, given
from hypothesis import strategies as st

from cnm_resolver import wire
from cnm_resolver.answer import Drop, Forward, Response, Rota, answer
from cnm_resolver.directory import Directory
from cnm_resolver.wire import Fault
from cnm_resolver.zone import Record, Server, ServicePort, Settings

DIRECTORY = Directory((Server(ip_address("192.0.2.53")),))
DIRECTORY.put_network("n", "net", enable_ipv6=True, prefixes=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")))
for number in range(1, 60):
    found = ip_address(f"10.0.0.{number}"), ip_address(f"fd00::{number}")
    DIRECTORY.put_record(Record(f"e{number}", "n", (f"c{number}", "all"), *found))
DIRECTORY.put_record(Record("w", "n", ("web", "*.app", "*.c1.app"), ip_address("10.0.1.1"), ports=(ServicePort(80),)))
NODE = (ip_address("10.0.0.254"),)
VIEW = DIRECTORY.put_sandbox(Settings(sandbox_id="s", networks=("n",), links={"db": "c1"}, node_addresses=NODE))

labels = st.text("abcXYZ019-_", min_size=1, max_size=12) | st.sampled_from(["c1", "C2", "all", "net", "db", "app"])
names = st.lists(labels, min_size=1, max_size=5).map(".".join) | st.sampled_from(
    [
        "1.0.0.10.in-addr.arpa",
        "_80._tcp.c1",
        "_http._tcp.web",
        "_80._tcp.x.app",
        "host.internal",
        "0.0.10.in-addr.arpa",
        ip_address("fd00::1").reverse_pointer,
    ]
)
kinds = st.sampled_from([1, 2, 5, 6, 12, 15, 16, 28, 33, 64, 65, 255, 4242])


@st.composite
def questions(draw: st.DrawFn) -> DNSRecord:
    header = DNSHeader(id=draw(st.integers(0, 65535)), rd=draw(st.integers(0, 1)))
    question = DNSRecord(header, q=DNSQuestion(draw(names), draw(kinds)))
    if draw(st.booleans()):
        question.add_ar(EDNS0(udp_len=draw(st.integers(0, 65535)), flags=draw(st.sampled_from(["", "do"]))))
    return question


@given(st.binary(max_size=600), st.booleans())
def test_random_bytes_never_raise(packet, stream):
    assert isinstance(answer(packet, VIEW, Rota(), stream=stream), Response | Forward | Drop)


@given(questions(), st.data())
def test_damaged_questions_never_raise(question, choice):
    packet = bytearray(question.pack())
    for _ in range(choice.draw(st.integers(1, 4))):
        packet[choice.draw(st.integers(2, len(packet) - 1))] = choice.draw(st.integers(0, 255))
    packet = packet[: choice.draw(st.integers(0, len(packet)))]
    outcome = answer(bytes(packet), VIEW, Rota())
    if isinstance(outcome, Response):
        assert outcome.packet[:2] == packet[:2]
        assert outcome.packet[2] & 0x80


@given(questions())
def test_question_is_read_as_dnslib_reads_it(question):
    packet = bytes(question.pack())
    query = wire.parse(packet)
    assert not isinstance(query, Fault)
    read = DNSRecord.parse(packet)
    assert query.name == wire.encode_name(str(read.q.qname))
    assert (query.kind, query.klass) == (read.q.qtype, read.q.qclass)
    assert query.size == max([512, *(found.rclass for found in read.ar)])


@given(questions(), st.booleans())
def test_reply_is_what_dnslib_would_write(question, stream):
    outcome = answer(bytes(question.pack()), VIEW, Rota(), stream=stream)
    assume(isinstance(outcome, Response))
    reply = DNSRecord.parse(outcome.packet)
    assert reply.header.id == question.header.id
    assert reply.header.rd == question.header.rd
    assert str(reply.q.qname) == str(question.q.qname)
    assert reply.q.qtype == question.q.qtype
    assert len(reply.ar) >= len(question.ar)
    size = 65535 if stream else max([512, *(found.rclass for found in question.ar)])
    assert len(outcome.packet) <= size
    assert DNSRecord.parse(reply.pack()).rr == reply.rr
    for found in reply.rr:
        assert QTYPE[found.rtype] in ("A", "AAAA", "PTR", "SRV")


@given(st.binary(min_size=12, max_size=200))
def test_whatever_dnslib_reads_as_one_plain_query_is_no_fault(tail):
    packet = b"\x12\x34\x01\x00\0\1\0\0\0\0\0\0" + tail
    try:
        read = DNSRecord.parse(packet)
    except (DNSError, ValueError, IndexError):
        return
    assume(b"\xc0" not in packet)
    assume(len(str(read.q.qname)) < 200)
    assert not isinstance(wire.parse(packet), Fault)


@given(st.ip_addresses())
def test_reverse_name_is_read_back(address):
    name = wire.encode_name(address.reverse_pointer)
    assert wire.reverse_name(address) == name
    assert wire.reverse_address(name) == (address, address.max_prefixlen)


@given(st.binary(max_size=2000), questions())
def test_foreign_replies_are_told_apart(reply, question):
    packet = bytes(question.pack())
    query = wire.parse(packet)
    if wire.answers_to(reply, packet, query.end):
        assert reply[:2] == packet[:2]
