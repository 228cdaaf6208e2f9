"""Rows D01 to D11, D18, D20, D21 and D25 as far as they are decisions."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from dnslib import EDNS0, OPCODE, QTYPE, RCODE, DNSHeader, DNSQuestion, DNSRecord

from cnm_resolver.answer import Drop, Forward, Response, Rota, answer
from cnm_resolver.zone import OWN_ADDRESS, Realm, Server, ServicePort, Settings, View


@pytest.mark.parametrize(
    ("name", "kind", "answers"),
    [
        ("api", "A", ["172.28.0.2"]),
        ("api.", "A", ["172.28.0.2"]),
        ("ApI", "A", ["172.28.0.2"]),
        ("front", "A", ["172.28.0.2"]),
        ("api.web", "A", ["172.28.0.2"]),
        ("API.Web", "A", ["172.28.0.2"]),
        ("a.b", "A", ["172.28.0.20"]),
        ("a.b.web", "A", ["172.28.0.20"]),
        ("both", "A", ["10.6.0.2"]),
        ("both.six.corp", "A", ["10.6.0.2"]),
        ("both", "AAAA", ["fd00:6::2"]),
        ("only6", "AAAA", ["fd00:6::4"]),
        ("both", "ANY", ["10.6.0.2", "fd00:6::2"]),
        ("2.0.28.172.in-addr.arpa", "PTR", ["api.web."]),
        ("2.0.28.172.IN-ADDR.arpa", "PTR", ["api.web."]),
        ("2.0.6.10.in-addr.arpa", "PTR", ["both.six.corp."]),
        (ip_address("fd00:6::2").reverse_pointer, "PTR", ["both.six.corp."]),
        ("_80._tcp.api", "SRV", ["0 0 80 api.web."]),
        ("_http._tcp.front.web", "SRV", ["0 0 80 api.web."]),
        ("_53._udp.api", "SRV", ["0 0 53 api.web."]),
    ],
)
def test_known_name_is_answered(view, ask, data, name, kind, answers):
    reply = ask(view, name, kind)
    assert data(reply) == answers
    assert reply.header.rcode == RCODE.NOERROR


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("api", "AAAA"),  # its network has no IPv6
        ("only4", "AAAA"),  # its network has, the endpoint has not
        ("only6", "A"),
        ("api", "MX"),
        ("api", "TXT"),
        ("api.web", "SRV"),
        ("api", "HTTPS"),
        ("2.0.28.172.in-addr.arpa", "TXT"),
        ("28.172.in-addr.arpa", "PTR"),  # there are addresses below it
        ("_80._tcp.api", "TXT"),
    ],
)
def test_known_name_without_such_a_record_is_answered_empty(view, ask, name, kind, data):
    reply = ask(view, name, kind)
    assert data(reply) == []
    assert reply.header.rcode == RCODE.NOERROR


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nobody", "A"),
        ("nobody", "MX"),
        ("nobody.web", "A"),
        ("nobody.six.corp", "A"),
        ("secret", "A"),  # on a network that is not shared
        ("secret.hidden", "A"),
        ("secret.hidden", "TXT"),
        ("99.0.28.172.in-addr.arpa", "PTR"),
        ("2.0.9.10.in-addr.arpa", "PTR"),
        (ip_address("fd00:6::99").reverse_pointer, "PTR"),
        ("_81._tcp.api", "SRV"),
        ("_80._udp.api", "SRV"),
        ("_80._tcp.nobody", "SRV"),
    ],
)
def test_unknown_name_that_can_only_be_ours_does_not_leak(view, ask, name, kind):
    reply = ask(view, name, kind)
    assert isinstance(reply, DNSRecord)
    assert reply.header.rcode == RCODE.NXDOMAIN


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("example.com", "A"),
        ("example.com", "TXT"),
        ("example.com", "MX"),
        ("www.example.web", "A"),  # a top-level domain may have a network's name
        ("_sip._udp.example.com", "SRV"),
        ("8.8.8.8.in-addr.arpa", "PTR"),
        ("172.in-addr.arpa", "PTR"),
        ("300.0.28.172.in-addr.arpa", "PTR"),
        ("02.0.28.172.in-addr.arpa", "PTR"),
        (".", "NS"),
    ],
)
def test_other_names_are_forwarded_to_the_nodes_servers(view, ask, name, kind, node_server):
    outcome = ask(view, name, kind)
    assert isinstance(outcome, Forward)
    assert outcome.servers == (node_server,)


def test_flags_and_life_time(view, ask):
    reply = ask(view, "api")
    assert (reply.header.ra, reply.header.aa, reply.header.rd, reply.header.tc) == (1, 0, 1, 0)
    assert reply.rr[0].ttl == 10


def test_life_time_is_the_networks_else_the_sandboxs(directory, settings, ask):
    view = directory.put_sandbox(replace(settings, ttl_s=3))
    assert ask(view, "api").rr[0].ttl == 3
    assert directory.put_network("n-web", "web", ttl_s=77) == ("s1",)
    view = directory.view("s1")
    assert ask(view, "api").rr[0].ttl == 77
    assert ask(view, "both").rr[0].ttl == 3


def test_shared_name_gives_all_and_each_stands_first_in_turn(view, ask, data):
    replies = [data(ask(view, "pool")) for _ in range(3)]
    assert [sorted(reply) for reply in replies] == [["172.28.0.11", "172.28.0.12", "172.28.0.13"]] * 3
    assert len({reply[0] for reply in replies}) == 3


def test_asking_both_families_in_turn_does_not_disturb_the_turns(directory, view, ask, data, record):
    for number in (1, 2):
        directory.put_record(record(f"d{number}", "n-six", "duo", v4=f"10.6.0.5{number}", v6=f"fd00:6::5{number}"))
    firsts = [(data(ask(view, "duo"))[0], data(ask(view, "duo", "AAAA"))[0]) for _ in range(2)]
    assert {first for first, _ in firsts} == {"10.6.0.51", "10.6.0.52"}


def test_first_network_with_the_name_wins(directory, settings, ask, data, record):
    directory.put_record(record("e-api2", "n-six", "api", v4="10.6.0.77"))
    assert data(ask(directory.put_sandbox(settings), "api")) == ["172.28.0.2"]
    turned = replace(settings, networks=("n-six", "n-web"))
    assert data(ask(directory.put_sandbox(turned), "api")) == ["10.6.0.77"]


def test_whole_name_goes_before_name_and_network_and_shorter_networks_first(directory, settings, ask, data, record):
    directory.put_network("n-c", "c")
    directory.put_network("n-bc", "b.c")
    view = directory.put_sandbox(replace(settings, networks=("n-bc", "n-c", "n-web")))
    directory.put_record(record("x1", "n-bc", "a", v4="10.0.0.1"))
    assert data(ask(view, "a.b.c")) == ["10.0.0.1"]
    directory.put_record(record("x2", "n-c", "a.b", v4="10.0.0.2"))
    assert data(ask(view, "a.b.c")) == ["10.0.0.2"]
    directory.put_record(record("x3", "n-web", "a.b.c", v4="10.0.0.3"))
    assert data(ask(view, "a.b.c")) == ["10.0.0.3"]


def test_link_alias_holds_in_its_sandbox_only_and_hides_the_real_text(directory, settings, ask, data):
    plain = directory.put_sandbox(replace(settings, sandbox_id="s2"))
    linked = directory.put_sandbox(replace(settings, links={"DB": "api", "b1": "b2.web", "gone": "nobody"}))
    assert data(ask(linked, "db")) == data(ask(linked, "db.web")) == ["172.28.0.2"]
    assert ask(plain, "db").header.rcode == RCODE.NXDOMAIN
    assert data(ask(linked, "b1")) == ["172.28.0.12"]
    assert data(ask(plain, "b1")) == ["172.28.0.11"]
    assert ask(linked, "gone").header.rcode == RCODE.NXDOMAIN


def test_dotted_link_alias_that_leads_nowhere_does_not_leak(directory, settings, ask):
    view = directory.put_sandbox(replace(settings, links={"db.example.com": "nobody"}))
    assert ask(view, "db.example.com").header.rcode == RCODE.NXDOMAIN


def test_extra_hosts_are_answered(directory, settings, ask, data):
    hosts = (("db.local", ip_address("10.0.0.5")), ("db.local", ip_address("fd00::5")))
    view = directory.put_sandbox(replace(settings, extra_hosts=hosts))
    assert data(ask(view, "DB.local")) == ["10.0.0.5"]
    assert data(ask(view, "db.local", "AAAA")) == ["fd00::5"]
    assert data(ask(view, "db.local", "MX")) == []


def test_ndots_set_by_the_user_answers_single_labels_empty(directory, settings, ask):
    view = directory.put_sandbox(replace(settings, ndots_set=True))
    assert ask(view, "nobody").header.rcode == RCODE.NOERROR
    assert ask(view, "nobody", "AAAA").header.rcode == RCODE.NOERROR
    assert isinstance(ask(view, "nobody.example"), Forward)


def test_own_servers_are_asked_instead_of_the_nodes_even_without_a_way_out(directory, settings, ask):
    own = Server(ip_address("10.6.0.2"), inside=True)
    view = directory.put_sandbox(replace(settings, servers=(own,), external=False))
    assert ask(view, "example.com").servers == (own,)


def test_sandbox_on_internal_networks_resolves_peers_and_fails_at_once_for_others(directory, settings, ask, data):
    view = directory.put_sandbox(replace(settings, external=False))
    assert data(ask(view, "api")) == ["172.28.0.2"]
    assert ask(view, "example.com").header.rcode == RCODE.SERVFAIL


def test_at_most_three_servers_are_asked_and_never_ourselves():
    servers = (Server(OWN_ADDRESS), *(Server(ip_address(f"192.0.2.{number}")) for number in range(1, 6)))
    view = View(Settings(sandbox_id="s"), (), Realm(servers))
    assert [str(server.address) for server in view.servers] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


def test_node_servers_change_for_every_view(directory, view, ask):
    other = Server(ip_address("192.0.2.99"))
    directory.set_node_servers((other,))
    assert ask(view, "example.com").servers == (other,)


def test_endpoint_that_is_not_ready_keeps_its_name_and_lends_no_address(directory, view, ask, data):
    directory.set_ready("e-b2", ready=False)
    assert sorted(data(ask(view, "pool"))) == ["172.28.0.11", "172.28.0.13"]
    assert data(ask(view, "b2")) == []
    assert ask(view, "b2").header.rcode == RCODE.NOERROR
    assert data(ask(view, "12.0.28.172.in-addr.arpa", "PTR")) == ["b2.web."]
    directory.set_ready("e-api", ready=False)
    assert data(ask(view, "_80._tcp.api", "SRV")) == []
    assert ask(view, "_80._tcp.api", "SRV").header.rcode == RCODE.NOERROR
    directory.set_ready("e-b2", ready=True)
    assert data(ask(view, "b2")) == ["172.28.0.12"]


@pytest.mark.parametrize(
    ("name", "kind", "answers"),
    [
        ("_http._tcp.shop", "SRV", ["0 0 80 shop.web."]),  # by its well-known name
        ("_HTTP._TCP.Shop.Web.", "SRV", ["0 0 80 shop.web."]),
        ("_8000._tcp.shop", "SRV", ["0 0 8000 shop.web."]),
        ("_8005._tcp.shop", "SRV", ["0 0 8005 shop.web."]),
        ("_8009._tcp.shop", "SRV", ["0 0 8009 shop.web."]),
        ("_domain._udp.shop", "SRV", ["0 0 53 shop.web."]),
    ],
)
def test_service_is_found_by_number_within_a_range_and_by_well_known_name(
    directory, view, ask, data, record, name, kind, answers
):
    ports = (ServicePort(80), ServicePort(8000, last=8009), ServicePort(53, "udp"))
    directory.put_record(record("e-shop", "n-web", "shop", v4="172.28.0.30", ports=ports))
    assert data(ask(view, name, kind)) == answers


@pytest.mark.parametrize("name", ["_7999._tcp", "_8010._tcp", "_080._tcp", "_http._udp", "_nonesuch._tcp", "_._tcp"])
def test_service_that_nobody_has_is_absent(directory, view, ask, record, name):
    ports = (ServicePort(80), ServicePort(8000, last=8009))
    directory.put_record(record("e-shop", "n-web", "shop", v4="172.28.0.30", ports=ports))
    assert ask(view, f"{name}.shop", "SRV").header.rcode == RCODE.NXDOMAIN


@pytest.fixture
def wild(directory, settings, record) -> View:
    """A network whose endpoints carry wildcards, deep and shallow, beside a name that is written out."""
    ports = (ServicePort(443),)
    directory.put_record(record("w1", "n-web", "proxy", "*.app", v4="172.28.0.41", ports=ports))
    directory.put_record(record("w2", "n-web", "deep", "*.eu.app", v4="172.28.0.42"))
    directory.put_record(record("w3", "n-web", "exact.app", v4="172.28.0.43"))
    directory.put_record(record("w4", "n-six", "other", "*.app", "*.six", v4="10.6.0.44", v6="fd00:6::44"))
    return directory.put_sandbox(settings)


@pytest.mark.parametrize(
    ("name", "kind", "answers"),
    [
        ("x.app", "A", ["172.28.0.41"]),
        ("X.aPP.", "A", ["172.28.0.41"]),
        ("x.y.z.app", "A", ["172.28.0.41"]),
        ("x.app.web", "A", ["172.28.0.41"]),
        ("x.app.six.corp", "A", ["10.6.0.44"]),
        ("x.app.six.corp", "AAAA", ["fd00:6::44"]),
        ("x.eu.app", "A", ["172.28.0.42"]),  # the longest wins
        ("x.y.eu.app", "A", ["172.28.0.42"]),
        ("eu.app", "A", ["172.28.0.41"]),
        ("exact.app", "A", ["172.28.0.43"]),  # what is written out beats it
        ("x.exact.app", "A", ["172.28.0.41"]),
        ("x.six", "AAAA", ["fd00:6::44"]),
        ("x.app", "AAAA", []),
        ("x.app", "MX", []),
        ("x.app", "TXT", []),
        ("_443._tcp.x.app", "SRV", ["0 0 443 proxy.web."]),
        ("_https._tcp.x.app", "SRV", ["0 0 443 proxy.web."]),
        ("41.0.28.172.in-addr.arpa", "PTR", ["proxy.web."]),
    ],
)
def test_wildcard_answers_for_every_name_below(wild, ask, data, name, kind, answers):
    reply = ask(wild, name, kind)
    assert data(reply) == answers
    assert reply.header.rcode == RCODE.NOERROR


@pytest.mark.parametrize(("name", "code"), [("app", RCODE.NXDOMAIN), ("app.web", RCODE.NXDOMAIN)])
def test_wildcard_does_not_answer_for_the_name_itself(wild, ask, name, code):
    assert ask(wild, name).header.rcode == code


def test_wildcard_is_gone_with_its_endpoint_and_waits_for_it_to_be_ready(directory, wild, ask, data):
    directory.set_ready("w1", ready=False)
    assert data(ask(wild, "x.app")) == []
    directory.set_ready("w1", ready=True)
    assert data(ask(wild, "x.app")) == ["172.28.0.41"]
    directory.drop_record("w1")
    assert data(ask(wild, "x.app")) == ["10.6.0.44"]
    directory.drop_record("w4")
    assert isinstance(ask(wild, "x.app"), Forward)
    assert wild.zones[0].wildcards == {b"\1*\2eu\3app\0"}


def test_names_below_one_wildcard_share_its_turns(directory, wild, ask, data, record):
    directory.put_record(record("w5", "n-web", "second", "*.app", v4="172.28.0.45"))
    firsts = {data(ask(wild, f"x{number}.app"))[0] for number in range(2)}
    assert firsts == {"172.28.0.41", "172.28.0.45"}


def test_node_has_a_name_that_is_never_asked_elsewhere(directory, settings, ask, data, record):
    addresses = ip_address("172.28.0.1"), ip_address("fd00:6::1")
    view = directory.put_sandbox(replace(settings, node_addresses=addresses))
    assert data(ask(view, "Host.Internal.")) == ["172.28.0.1"]
    assert data(ask(view, "host.internal", "AAAA")) == ["fd00:6::1"]
    assert data(ask(view, "host.internal", "TXT")) == []
    assert isinstance(ask(view, "other.internal"), Forward)
    nowhere = directory.put_sandbox(settings)
    assert (data(ask(nowhere, "host.internal")), ask(nowhere, "host.internal").header.rcode) == ([], RCODE.NOERROR)
    directory.put_record(record("e-own", "n-web", "host.internal", v4="172.28.0.60"))
    assert data(ask(view, "host.internal")) == ["172.28.0.60"]
    own = replace(settings, extra_hosts=(("host.internal", ip_address("10.0.0.9")),), node_addresses=addresses)
    assert data(ask(directory.put_sandbox(own), "host.internal")) == ["10.0.0.9"]


def test_link_alias_with_its_network_leads_to_that_network_only(directory, settings, ask, data):
    view = directory.put_sandbox(replace(settings, links={"db": "api.web"}))
    assert data(ask(view, "db")) == data(ask(view, "db.web")) == ["172.28.0.2"]
    assert ask(view, "db.six.corp").header.rcode == RCODE.NXDOMAIN


def test_service_record_brings_the_addresses_along(view, ask):
    reply = ask(view, "_http._tcp.api", "SRV")
    assert [(str(found.rname), str(found.rdata)) for found in reply.ar] == [("api.web.", "172.28.0.2")]


def test_network_of_length_zero_covers_no_reverse_names(directory, view, ask):
    directory.put_network("n-null", "none", prefixes=(ip_network("0.0.0.0/0"),))
    assert isinstance(ask(view, "8.8.8.8.in-addr.arpa", "PTR"), Forward)


def _many(directory, record, count):
    for number in range(count):
        directory.put_record(record(f"m{number}", "n-web", "many", v4=f"172.28.{1 + number // 250}.{number % 250}"))


@pytest.mark.parametrize(("size", "limit"), [(None, 512), (100, 512), (1232, 1232), (4096, 4096)])
def test_udp_answer_is_cut_to_the_clients_size(directory, view, size, limit, record):
    _many(directory, record, 300)
    question = DNSRecord.question("many")
    if size is not None:
        question.add_ar(EDNS0(udp_len=size))
    outcome = answer(bytes(question.pack()), view, Rota())
    assert limit - 16 < len(outcome.packet) <= limit
    reply = DNSRecord.parse(outcome.packet)
    assert reply.header.tc == 1
    assert bool(reply.ar) == (size is not None)


def test_tcp_answer_is_whole(directory, view, ask, record):
    _many(directory, record, 300)
    reply = ask(view, "many", stream=True)
    assert len(reply.rr) == 300
    assert reply.header.tc == 0


def test_tcp_answer_stays_below_64_kib(directory, view, ask, record):
    _many(directory, record, 5000)
    reply = ask(view, "many", stream=True)
    assert len(reply.rr) == (65535 - 12 - 10) // 16
    assert reply.header.tc == 0


def test_edns_is_answered_with_ours(view):
    question = DNSRecord.question("api")
    question.add_ar(EDNS0(udp_len=4096, flags="do"))
    reply = DNSRecord.parse(answer(bytes(question.pack()), view, Rota()).packet)
    assert [(QTYPE[found.rtype], found.rclass, found.edns_do) for found in reply.ar] == [("OPT", 1232, 1)]


def test_unknown_edns_version_is_refused(view):
    question = DNSRecord.question("api")
    question.add_ar(EDNS0(version=1))
    reply = DNSRecord.parse(answer(bytes(question.pack()), view, Rota()).packet)
    assert reply.rr == []
    assert reply.ar[0].edns_rcode == 1  # 16, BADVERS, without its lower four bits


def _packet(name="api", *kind, **header) -> bytes:
    return bytes(DNSRecord(DNSHeader(id=7, **header), q=DNSQuestion(name, *kind)).pack())


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (_packet(opcode=OPCODE.NOTIFY), RCODE.NOTIMP),
        (_packet(opcode=OPCODE.UPDATE), RCODE.NOTIMP),
        (_packet()[:20], RCODE.FORMERR),
        (_packet()[:12], RCODE.FORMERR),
        (b"\0\7\1\0\0\0\0\0\0\0\0\0", RCODE.FORMERR),
        (b"\0\7\1\0\0\2\0\0\0\0\0\0" + _packet()[12:] * 2, RCODE.FORMERR),
        (b"\0\7\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", RCODE.FORMERR),
        (b"\0\7\1\0\0\1\0\0\0\0\0\1" + _packet()[12:], RCODE.FORMERR),
        (_packet("version.bind", QTYPE.TXT, 3), RCODE.REFUSED),
        (_packet("api.web", QTYPE.AXFR), RCODE.REFUSED),
    ],
)
def test_what_we_do_not_do_is_refused_with_a_code(view, packet, code):
    outcome = answer(packet, view, Rota())
    assert isinstance(outcome, Response)
    reply = DNSRecord.parse(outcome.packet)
    assert (reply.header.rcode, reply.header.qr, reply.header.id) == (code, 1, int.from_bytes(packet[:2]))


@pytest.mark.parametrize("packet", [b"", b"\0" * 11, _packet(qr=1)])
def test_what_is_no_query_is_dropped(view, packet):
    assert isinstance(answer(packet, view, Rota()), Drop)


def test_question_is_echoed_in_its_own_letters(view):
    packet = bytes(DNSRecord.question("aPi.WeB").pack())
    assert answer(packet, view, Rota()).packet[12 : len(packet)] == packet[12:]
