"""What names mean inside sandboxes, asked with dig and with dnslib, which must agree: rows D01 to D10, D24, L03."""

import subprocess
import sys
from ipaddress import ip_address

import pytest

ASK = """
import sys
from dnslib import QTYPE, RCODE, DNSRecord
question = DNSRecord.question(sys.argv[1], sys.argv[2])
reply = DNSRecord.parse(question.send('127.0.0.11', 53, tcp=sys.argv[3] == 'tcp', timeout=5))
assert reply.header.id == question.header.id
print(RCODE.get(reply.header.rcode), reply.header.aa, reply.header.ra)
for found in reply.rr:
    print(QTYPE[found.rtype], found.rdata)
"""
NOERROR, NXDOMAIN = "NOERROR", "NXDOMAIN"


class Asking:
    """Asks from inside a sandbox with both clients."""

    def __init__(self, api):
        self.api = api

    def inside(self, box, *words):
        command = ["nsenter", f"--net={self.api.path(box['key'])}", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def __call__(self, box, name, kind="A", protocol="udp"):
        """Return the response code and the answers' data, in order, as dnslib reads them; dig's must be the same."""
        head, *lines = self.inside(box, sys.executable, "-c", ASK, name, kind, protocol).splitlines()
        code, aa, ra = head.split()
        assert (aa, ra) == ("0", "1")
        found = [line.removeprefix(f"{kind} ") for line in lines]
        dug = self.inside(box, "dig", "@127.0.0.11", "+nosearch", f"+{'tcp' if protocol == 'tcp' else 'notcp'}",
                          "+noall", "+comments", "+answer", name, kind)  # fmt: skip
        assert f"status: {code}," in dug
        answers = [line.split(maxsplit=4) for line in dug.splitlines() if line and not line.startswith(";")]
        assert all(each[3] == kind for each in answers)
        assert sorted(each[4] for each in answers) == sorted(found)
        return code, found


@pytest.fixture
def asking(api):
    return Asking(api)


def bare(text):
    return text.partition("/")[0]


def reverse(address):
    return ip_address(bare(address)).reverse_pointer


@pytest.fixture
def pair(make):
    """Make a network of both families with somebody who asks, and an endpoint of all kinds of names."""
    network = make.network(enable_ipv6=True)
    asker, box = make.sandbox(on=[network]), make.sandbox(domainname="corp.example")
    endpoint = make.connect(box, network, name="Api", aliases=["www", "v1.api.internal"])
    return network, asker, box, endpoint


def test_every_name_of_an_endpoint_resolves_in_any_case(pair, asking):
    network, asker, box, endpoint = pair
    v4, v6 = bare(endpoint["ipv4_address"]), bare(endpoint["ipv6_address"])
    for name in ("Api", "www", "v1.api.internal", box["name"], box["id"][:12]):
        for text in (name, name.upper() + ".", f"{name}.{network['name']}"):
            assert asking(asker, text) == (NOERROR, [v4]), text
    assert asking(asker, "www", "AAAA") == (NOERROR, [v6])
    assert asking(asker, "www", "A", "tcp") == (NOERROR, [v4])
    assert asking(asker, reverse(v4), "PTR") == asking(asker, reverse(v6), "PTR")
    # dnslib writes names as they are, and ours are lower-case on the wire
    assert asking(asker, reverse(v4), "PTR") == (NOERROR, [f"api.{network['name']}."])


@pytest.mark.parametrize("kind", ["MX", "TXT", "SRV", "HTTPS", "CNAME", "NS", "SOA"])
def test_known_name_has_nothing_of_another_type(pair, asking, kind):
    _, asker, _, _ = pair
    assert asking(asker, "www", kind) == (NOERROR, [])


def test_known_name_without_the_family_is_empty_and_unknown_ones_are_absent(make, asking):
    network, six = make.network(), make.network(enable_ipv4=False, enable_ipv6=True)
    asker, box, other = make.sandbox(on=[network, six]), make.sandbox(on=[network]), make.sandbox(on=[six])
    assert asking(asker, box["name"], "AAAA") == (NOERROR, [])
    assert asking(asker, other["name"]) == (NOERROR, [])
    assert asking(asker, "nonesuch") == (NXDOMAIN, [])
    assert asking(asker, f"nonesuch.{network['name']}") == (NXDOMAIN, [])
    assert asking(box, f"{other['name']}.{six['name']}", "AAAA") == (NXDOMAIN, [])  # not shared
    assert asking(asker, f"{other['name']}.{six['name']}", "AAAA")[1] != []


def test_shared_alias_gives_all_its_endpoints_each_first_in_turn(make, asking):
    network, asker = make.network(), make.sandbox()
    make.connect(asker, network)
    made = [make.connect(make.sandbox(), network, aliases=["pool"]) for _ in range(3)]
    addresses = {bare(each["ipv4_address"]) for each in made}
    firsts = set()
    for _ in range(6):  # each question is asked twice
        code, found = asking(asker, "pool")
        assert (code, set(found)) == (NOERROR, addresses)
        firsts.add(found[0])
    assert firsts == addresses


def test_link_alias_is_seen_by_its_sandbox_alone_and_hides_a_real_name(api, make, asking):
    network, plain = make.network(), make.sandbox()
    make.connect(plain, network)
    db = bare(make.connect(make.sandbox(), network, name="db")["ipv4_address"])
    hidden = bare(make.connect(make.sandbox(), network, name="store")["ipv4_address"])
    linked = make.sandbox()
    made = make.connect(linked, network, links={"store": "db", "nowhere": "nonesuch"})
    assert made["links"] == {"store": "db", "nowhere": "nonesuch"}
    assert asking(linked, "store") == asking(linked, f"store.{network['name']}") == (NOERROR, [db])
    assert asking(plain, "store") == (NOERROR, [hidden])
    assert asking(linked, "nowhere") == (NXDOMAIN, [])
    shown = api.ask("endpoint.update", {"endpoint": made["id"], "links": {"sql": "db"}})
    assert shown["links"] == {"sql": "db"}
    assert asking(linked, "sql") == (NOERROR, [db])
    assert asking(linked, "store") == (NOERROR, [hidden])
    assert "links" not in api.ask("endpoint.update", {"endpoint": made["id"], "links": {}})
    assert asking(linked, "sql") == (NXDOMAIN, [])


def test_wildcard_alias_answers_for_every_name_below_it(api, make, asking):
    network, asker = make.network(), make.sandbox()
    make.connect(asker, network)
    wide = make.connect(make.sandbox(exposed_ports=["443"]), network, name="proxy", aliases=["*.app"])
    deep = bare(make.connect(make.sandbox(), network, aliases=["*.eu.app"])["ipv4_address"])
    exact = bare(make.connect(make.sandbox(), network, aliases=["exact.app"])["ipv4_address"])
    address = bare(wide["ipv4_address"])
    assert wide["dns_names"][:2] == ["proxy", "*.app"]
    for name in ("x.app", "X.y.APP.", f"x.app.{network['name']}"):
        assert asking(asker, name) == (NOERROR, [address])
    assert asking(asker, "x.eu.app") == (NOERROR, [deep])
    assert asking(asker, "exact.app") == (NOERROR, [exact])
    assert asking(asker, "app") == (NXDOMAIN, [])
    assert asking(asker, "x.app", "TXT") == (NOERROR, [])
    assert asking(asker, "_443._tcp.x.app", "SRV") == (NOERROR, [f"0 0 443 proxy.{network['name']}."])
    assert asking(asker, reverse(address), "PTR") == (NOERROR, [f"proxy.{network['name']}."])
    api.ask("endpoint.update", {"endpoint": wide["id"], "aliases": []})
    assert asking(asker, "x.app")[1] == []  # it is nobody's here now, and asked elsewhere


@pytest.mark.parametrize("alias", ["*", "*app", "*.", "a.*", "*.*.app", "**.app", "*.-x", ""])
def test_what_is_no_alias_is_refused_by_name(api, make, alias):
    network, box = make.network(), make.sandbox()
    refused = {"sandbox": box["id"], "network": network["id"], "aliases": ["ok", alias]}
    error = api.refused("sandbox.connect", refused, "invalid")
    assert [fault["field"] for fault in error["details"]["fields"]] == ["aliases[1]"]


def test_wildcard_is_no_name_of_an_endpoint(api, make):
    network = make.network()
    api.refused("endpoint.create", {"network": network["id"], "name": "*.app"}, "invalid")


def test_the_node_and_extra_hosts_have_names(api, make, asking):
    network = make.network(enable_ipv6=True)
    extra = [{"name": "db.local", "ip": "10.0.0.5"}, {"name": "db.local", "ip": "fd00::5"},
             {"name": "gate", "ip": "host-gateway"}]  # fmt: skip
    box, plain = make.sandbox(on=[network], extra_hosts=extra), make.sandbox(on=[network])
    gateways = [pool["gateway"] for pool in network["ipam"]["pools"]]
    v4, v6 = sorted(map(bare, gateways), key=lambda text: ":" in text)
    assert asking(box, "DB.local") == (NOERROR, ["10.0.0.5"])
    assert asking(box, "db.local", "AAAA") == (NOERROR, ["fd00::5"])
    assert asking(box, "db.local", "MX") == (NOERROR, [])
    for name in ("host.internal", "gate"):
        assert asking(box, name) == (NOERROR, [v4])
        assert asking(box, name, "AAAA") == (NOERROR, [v6])
    assert asking(plain, "host.internal") == (NOERROR, [v4])
    assert asking(plain, "gate") == (NXDOMAIN, [])
    api.ask("sandbox.update", {"sandbox": plain["id"], "extra_hosts": [{"name": "gate", "ip": "192.0.2.9"}]})
    assert asking(plain, "gate") == (NOERROR, ["192.0.2.9"])


def test_node_has_no_address_for_who_does_not_get_out(make, asking):
    box = make.sandbox(on=[make.network(internal=True)])
    assert asking(box, "host.internal") == (NOERROR, [])


def test_services_are_found_from_exposed_and_published_ports(api, make, asking):
    network, asker = make.network(), make.sandbox()
    make.connect(asker, network)
    box = make.sandbox(
        exposed_ports=["80", "53/udp", "9000-9002/tcp"], ports=[{"container_port": 8443, "host_port": 18443}]
    )
    make.connect(box, network, name="web")

    def target(port):
        return NOERROR, [f"0 0 {port} web.{network['name']}."]

    for service, port in (
        ("_80._tcp", 80), ("_http._tcp", 80), ("_HTTP._TCP", 80), ("_domain._udp", 53), ("_9000._tcp", 9000),
        ("_9002._tcp", 9002), ("_8443._tcp", 8443),
    ):  # fmt: skip
        assert asking(asker, f"{service}.web", "SRV") == target(port), service
        assert asking(asker, f"{service}.web.{network['name']}", "SRV") == target(port), service
    for service in ("_81._tcp", "_80._udp", "_9003._tcp", "_https._tcp", "_5432._tcp"):
        assert asking(asker, f"{service}.web", "SRV") == (NXDOMAIN, []), service
    assert asking(asker, "_80._tcp.web", "A") == (NOERROR, [])
    more = asking.inside(asker, "dig", "@127.0.0.11", "+noall", "+additional", "_80._tcp.web", "SRV")
    assert bare(api.ask("sandbox.get", {"sandbox": box["id"]})["endpoints"][0]["ipv4_address"]) in more
    api.ask("sandbox.publish", {"sandbox": box["id"], "ports": [{"container_port": 5432}]})
    assert asking(asker, "_postgresql._tcp.web", "SRV") == target(5432)
    api.ask("sandbox.unpublish", {"sandbox": box["id"], "ports": [{"container_port": 5432}]})
    assert asking(asker, "_postgresql._tcp.web", "SRV") == (NXDOMAIN, [])


def test_service_of_several_endpoints_names_each(make, asking):
    network, asker = make.network(), make.sandbox()
    make.connect(asker, network)
    for name in ("one", "two"):
        make.connect(make.sandbox(exposed_ports=["80"]), network, name=name, aliases=["web"])
    make.connect(make.sandbox(), network, name="three", aliases=["web"])
    code, found = asking(asker, "_80._tcp.web", "SRV")
    assert code == NOERROR
    assert sorted(found) == [f"0 0 80 {name}.{network['name']}." for name in ("one", "two")]


def test_endpoint_that_is_made_unready_is_answered_once_it_is_ready(api, make, asking):
    network, asker = make.network(), make.sandbox()
    make.connect(asker, network)
    created = make.endpoint(network, "late", aliases=["pool", "*.late"], ready=False)
    assert created["ready"] is False
    box = make.sandbox(exposed_ports=["80"])
    joined = api.ask("endpoint.join", {"endpoint": created["id"], "sandbox": box["id"]})
    assert joined["ready"] is False
    other = make.connect(make.sandbox(), network, aliases=["pool"])
    never = make.connect(make.sandbox(), network, name="never", ready=False)
    assert never["ready"] is False
    address = bare(created["ipv4_address"])
    for name, kind in (("late", "A"), ("x.late", "A"), (box["name"], "A"), ("_80._tcp.late", "SRV"), ("never", "A")):
        assert asking(asker, name, kind) == (NOERROR, []), name
    assert asking(asker, "pool") == (NOERROR, [bare(other["ipv4_address"])])
    assert api.ask("endpoint.update", {"endpoint": created["id"], "ready": True})["ready"] is True
    for name in ("late", "x.late", box["name"]):
        assert asking(asker, name) == (NOERROR, [address])
    assert asking(asker, "_80._tcp.late", "SRV") == (NOERROR, [f"0 0 80 late.{network['name']}."])
    assert sorted(asking(asker, "pool")[1]) == sorted([address, bare(other["ipv4_address"])])
    assert asking(asker, "never") == (NOERROR, [])


def test_service_without_an_address_of_its_own_is_found_at_its_endpoints_in_turn(api, make, asking):
    network, asker = make.network(), make.sandbox()
    make.connect(asker, network)
    addresses = []
    for number in (1, 2, 3):
        backend = {"name": "shop", "task_name": f"shop.{number}"}
        made = make.endpoint(network, service=backend)
        assert "shop" in made["warnings"][0]
        api.ask("endpoint.join", {"endpoint": made["id"], "sandbox": make.sandbox()["id"]})
        addresses.append(bare(made["ipv4_address"]))
        assert asking(asker, f"shop.{number}") == (NOERROR, addresses[-1:])
    firsts = set()
    for name in ("shop", f"shop.{network['name']}", "tasks.shop"):
        for _ in range(3):
            code, found = asking(asker, name)
            assert (code, sorted(found)) == (NOERROR, sorted(addresses))
            firsts.add(found[0])
    assert firsts == set(addresses)
    api.ask("endpoint.update", {"endpoint": made["id"], "ready": False})
    assert sorted(asking(asker, "tasks.shop")[1]) == sorted(addresses[:2])


def test_sandbox_of_ipv6_alone_is_served_too(make, asking):
    network = make.network(enable_ipv4=False, enable_ipv6=True)
    asker, box = make.sandbox(on=[network]), make.sandbox(exposed_ports=["80"])
    address = bare(make.connect(box, network, name="six", aliases=["*.app"])["ipv6_address"])
    for protocol in ("udp", "tcp"):
        assert asking(asker, "six", "AAAA", protocol) == (NOERROR, [address])
        assert asking(asker, "six", "A", protocol) == (NOERROR, [])
    assert asking(asker, "x.app", "AAAA") == (NOERROR, [address])
    assert asking(asker, reverse(address), "PTR") == (NOERROR, [f"six.{network['name']}."])
    assert asking(asker, "_80._tcp.six", "SRV") == (NOERROR, [f"0 0 80 six.{network['name']}."])
    gateway = bare(network["ipam"]["pools"][0]["gateway"])
    assert asking(asker, "host.internal", "AAAA") == (NOERROR, [gateway])
    assert asking(asker, "host.internal") == (NOERROR, [])


def test_names_are_gone_with_their_endpoint(api, make, asking):
    network, asker, box = make.network(), make.sandbox(), make.sandbox()
    make.connect(asker, network)
    address = bare(make.connect(box, network, name="gone", aliases=["*.gone"])["ipv4_address"])
    assert asking(asker, "gone") == asking(asker, "x.gone") == (NOERROR, [address])
    api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": network["id"]})
    assert asking(asker, "x.gone")[1] == []
    for name, kind in (("gone", "A"), (box["name"], "A"), (reverse(address), "PTR")):
        assert asking(asker, name, kind) == (NXDOMAIN, []), name
