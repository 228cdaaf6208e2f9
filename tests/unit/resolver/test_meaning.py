"""Every kind of answer beside the one that dnslib writes: both read back, they say the same."""

from ipaddress import ip_address

import pytest
from dnslib import CLASS, EDNS0, OPCODE, QTYPE, RCODE, RR, DNSHeader, DNSQuestion, DNSRecord

from cnm_resolver.answer import Response, Rota, answer
from cnm_resolver.zone import ServicePort, Settings

GLUE_4, GLUE_6 = "shop.six.corp. 10 A 10.6.0.30", "shop.six.corp. 10 AAAA fd00:6::30"


@pytest.fixture
def view(directory, record):
    ports = (ServicePort(80), ServicePort(8000, last=8010))
    directory.put_record(record("e-shop", "n-six", "shop", "*.app", v4="10.6.0.30", v6="fd00:6::30", ports=ports))
    directory.put_record(record("e-late", "n-web", "late", v4="172.28.0.31", ready=False, ports=ports))
    return directory.put_sandbox(
        Settings(
            sandbox_id="s1",
            networks=("n-web", "n-six"),
            links={"db": "api.web"},
            extra_hosts=(("db.local", ip_address("10.0.0.5")), ("db.local", ip_address("fd00::5"))),
            external=False,
            node_addresses=(ip_address("172.28.0.1"), ip_address("fd00:6::1")),
        )
    )


def said(record: DNSRecord):
    """Return what a message says, whatever bytes it is written in."""

    def one(found: RR):
        if found.rtype == QTYPE.OPT:
            return "OPT", found.edns_len, found.edns_ver, found.edns_do, found.edns_rcode
        return str(found.rname).lower(), found.rtype, found.rclass, found.ttl, str(found.rdata).lower()

    head = record.header
    flags = head.id, head.qr, head.opcode, head.aa, head.tc, head.rd, head.ra, head.ad, head.cd, head.rcode
    questions = [(str(each.qname), each.qtype, each.qclass) for each in record.questions]
    sections = [[one(each) for each in section] for section in (record.rr, record.auth)]
    return flags, questions, *sections, sorted(map(one, record.ar))


def question(name: str, kind: str, **header) -> DNSRecord:
    return DNSRecord(DNSHeader(id=4711, **{"rd": 1, **header}), q=DNSQuestion(name, getattr(QTYPE, kind)))


def expected(asked: DNSRecord, code: int, answers=(), additional=()) -> DNSRecord:
    reply = asked.reply(ra=1, aa=0)
    reply.header.rd, reply.header.cd, reply.header.rcode = asked.header.rd, asked.header.cd, code
    reply.add_answer(*(found for text in answers for found in RR.fromZone(text)))
    reply.add_ar(*(found for text in additional for found in RR.fromZone(text)))
    return reply


CASES = [
    ("api", "A", "NOERROR", ["api. 10 A 172.28.0.2"]),
    ("API.", "A", "NOERROR", ["api. 10 A 172.28.0.2"]),
    ("front.web", "A", "NOERROR", ["front.web. 10 A 172.28.0.2"]),
    ("a.b.web", "A", "NOERROR", ["a.b.web. 10 A 172.28.0.20"]),
    ("both", "AAAA", "NOERROR", ["both. 10 AAAA fd00:6::2"]),
    ("both", "ANY", "NOERROR", ["both. 10 A 10.6.0.2", "both. 10 AAAA fd00:6::2"]),
    ("pool", "A", "NOERROR", [f"pool. 10 A 172.28.0.1{number}" for number in (1, 2, 3)]),
    ("db", "A", "NOERROR", ["db. 10 A 172.28.0.2"]),
    ("db.web", "A", "NOERROR", ["db.web. 10 A 172.28.0.2"]),
    ("db.local", "A", "NOERROR", ["db.local. 10 A 10.0.0.5"]),
    ("db.local", "AAAA", "NOERROR", ["db.local. 10 AAAA fd00::5"]),
    ("host.internal", "A", "NOERROR", ["host.internal. 10 A 172.28.0.1"]),
    ("host.internal", "AAAA", "NOERROR", ["host.internal. 10 AAAA fd00:6::1"]),
    ("x.y.app", "A", "NOERROR", ["x.y.app. 10 A 10.6.0.30"]),
    ("x.app", "AAAA", "NOERROR", ["x.app. 10 AAAA fd00:6::30"]),
    ("2.0.28.172.in-addr.arpa", "PTR", "NOERROR", ["2.0.28.172.in-addr.arpa. 10 PTR api.web."]),
    (
        ip_address("fd00:6::30").reverse_pointer,
        "PTR",
        "NOERROR",
        [f"{ip_address('fd00:6::30').reverse_pointer}. 10 PTR shop.six.corp."],
    ),
    *((name, kind, "NOERROR", []) for name in ("api", "db.local", "x.app", "late") for kind in ("MX", "TXT", "NS")),
    *(("api", kind, "NOERROR", []) for kind in ("AAAA", "SOA", "CNAME", "SRV", "HTTPS", "NAPTR", "CAA", "PTR")),
    ("only6", "A", "NOERROR", []),
    ("late", "A", "NOERROR", []),
    ("_80._tcp.late", "SRV", "NOERROR", []),
    ("_80._tcp.shop", "A", "NOERROR", []),
    ("28.172.in-addr.arpa", "PTR", "NOERROR", []),
    ("2.0.28.172.in-addr.arpa", "A", "NOERROR", []),
    ("nobody", "A", "NXDOMAIN", []),
    ("nobody.web", "TXT", "NXDOMAIN", []),
    ("secret.hidden", "A", "NXDOMAIN", []),
    ("99.0.28.172.in-addr.arpa", "PTR", "NXDOMAIN", []),
    ("_81._tcp.shop", "SRV", "NXDOMAIN", []),
    ("example.com", "A", "SERVFAIL", []),  # it does not get out
    ("8.8.8.8.in-addr.arpa", "PTR", "SERVFAIL", []),
    ("api.web", "AXFR", "REFUSED", []),
    ("api.web", "IXFR", "REFUSED", []),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("name", "kind", "code", "answers"), CASES)
def test_answer_says_what_dnslibs_own_would(view, name, kind, code, answers, stream):
    asked = question(name, kind)
    outcome = answer(bytes(asked.pack()), view, Rota(), stream=stream)
    assert isinstance(outcome, Response)
    wanted = expected(asked, getattr(RCODE, code), answers)
    assert said(DNSRecord.parse(outcome.packet)) == said(DNSRecord.parse(wanted.pack()))


@pytest.mark.parametrize("service", ["_80._tcp.shop", "_http._tcp.shop", "_80._tcp.shop.six.corp", "_80._tcp.x.app"])
def test_service_says_what_dnslibs_own_would(view, service):
    asked = question(service, "SRV")
    wanted = expected(asked, RCODE.NOERROR, [f"{service}. 10 SRV 0 0 80 shop.six.corp."], [GLUE_4, GLUE_6])
    outcome = answer(bytes(asked.pack()), view, Rota())
    assert said(DNSRecord.parse(outcome.packet)) == said(DNSRecord.parse(wanted.pack()))


@pytest.mark.parametrize("do", ["", "do"])
@pytest.mark.parametrize("header", [{"rd": 0}, {"rd": 1}, {"rd": 1, "cd": 1}])
def test_flags_and_edns_say_what_dnslibs_own_would(view, header, do):
    asked = question("api", "A", **header)
    asked.add_ar(EDNS0(udp_len=4096, flags=do))
    wanted = expected(asked, RCODE.NOERROR, ["api. 10 A 172.28.0.2"])
    wanted.add_ar(EDNS0(udp_len=1232, flags=do))
    outcome = answer(bytes(asked.pack()), view, Rota())
    assert said(DNSRecord.parse(outcome.packet)) == said(DNSRecord.parse(wanted.pack()))


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (question("version.bind", "TXT"), RCODE.REFUSED),
        (question("api", "A", opcode=OPCODE.NOTIFY), RCODE.NOTIMP),
        (question("api", "A", opcode=OPCODE.UPDATE), RCODE.NOTIMP),
    ],
)
def test_refusal_says_what_dnslibs_own_would(view, asked, code):
    if code == RCODE.REFUSED:
        asked.q.qclass = CLASS.CH
    wanted = expected(asked, code)
    if code == RCODE.NOTIMP:  # nothing is repeated of what was not read
        wanted.questions = []
    outcome = answer(bytes(asked.pack()), view, Rota())
    assert said(DNSRecord.parse(outcome.packet)) == said(DNSRecord.parse(wanted.pack()))
