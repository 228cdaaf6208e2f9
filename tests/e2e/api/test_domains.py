"""Servers of a domain: a network names them, its sandboxes ask them (API 2)."""

import subprocess
from contextlib import ExitStack

import pytest

# Answers every A question with one address and counts; the answer lives no second, so that each question comes here.
ANSWERER = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
print("there", flush=True)
while True:
    asked, client = server.recvfrom(4096)
    end = asked.index(b"\\0", 12) + 5
    record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\0\\0\\4" + socket.inet_aton(sys.argv[2])
    server.sendto(asked[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + asked[12:end] + record, client)
"""


@pytest.fixture
def serve(api):
    """Let a sandbox, or the node, be a name server at an address of its own that answers with one address."""
    with ExitStack() as stack:

        def start(address, answer, box=None):
            path = api.path(box["key"]) if box else api.namespace
            process = stack.enter_context(
                subprocess.Popen(
                    ["nsenter", f"--net={path}", "python3", "-c", ANSWERER, address, answer],
                    stdout=subprocess.PIPE,
                )
            )
            stack.callback(process.kill)
            assert process.stdout.readline() == b"there\n"

        yield start


def v4(box):
    return box["endpoints"][0]["ipv4_address"].partition("/")[0]


def test_names_of_a_domain_are_asked_of_its_servers(api, make, traffic, serve):
    network = make.network()
    servers = [make.sandbox(on=[network]) for _ in range(2)]
    for number, box in enumerate(servers):
        serve(v4(box), f"192.0.2.{number + 1}", box)
    serve("127.0.0.1", "192.0.2.9")
    settings = {"domains": {"corp.example": [v4(servers[0])], "node.example": ["127.0.0.1"]}}
    shown = api.ask("network.update", {"network": network["id"], "dns": settings})
    assert "warnings" not in shown
    assert shown["dns"]["domains"] == settings["domains"]
    box, before = make.sandbox(on=[network]), servers[1]
    for asking in (box, before):
        assert traffic.resolve(asking, "www.corp.example") == (0, ["192.0.2.1"])
        assert traffic.resolve(asking, "node.example") == (0, ["192.0.2.9"]), "a loopback server is the node's"
        assert traffic.resolve(asking, servers[0]["name"]) == (0, [v4(servers[0])])
    settings = {"domains": {"corp.example": [v4(servers[0])], "lab.corp.example": [v4(servers[1])]}}
    api.ask("network.update", {"network": network["id"], "dns": settings})
    assert traffic.resolve(box, "a.b.Lab.corp.example.") == (0, ["192.0.2.2"])
    assert traffic.resolve(box, "www.corp.example") == (0, ["192.0.2.1"])
    api.ask("network.update", {"network": network["id"], "dns": {}})
    assert traffic.resolve(box, "www.corp.example")[1] == []


def test_domains_of_an_internal_network_are_served_from_within(api, make, traffic, serve):
    network = make.network(internal=True)
    server = make.sandbox(on=[network])
    serve(v4(server), "192.0.2.1", server)
    api.ask("network.update", {"network": network["id"], "dns": {"domains": {"corp.example": [v4(server)]}}})
    box = make.sandbox(on=[network])
    assert traffic.resolve(box, "www.corp.example") == (0, ["192.0.2.1"])
    assert traffic.resolve(box, "www.example.com") == (2, []), "nothing else leaves"


def test_domains_that_cannot_be_are_told_all_at_once(api, make):
    network = make.network()
    domains = {
        "no domain": ["192.0.2.1"],
        "empty.example": [],
        "-x": ["0.0.0.0"],
        "ok.example": ["224.0.0.1"],
        ".": [],
    }
    for verb, body in (
        ("network.create", {"name": api.name()}),
        ("network.update", {"network": network["id"]}),
    ):
        error = api.refused(verb, {**body, "dns": {"domains": domains}}, "invalid", "no domain", "empty.example")
        faults = sorted(each["field"] for each in error["details"]["fields"])
        assert faults == sorted(
            f"dns.domains.{domain}" for domain in ("no domain", "empty.example", "-x", "-x", "ok.example", ".", ".")
        )
    assert api.ask("network.get", {"network": network["id"]})["dns"]["domains"] == {}


def test_what_the_dns_of_a_node_did_is_told(api, installation, make, traffic, serve):
    network = make.network()
    server = make.sandbox(on=[network])
    serve(v4(server), "192.0.2.1", server)
    api.ask("network.update", {"network": network["id"], "dns": {"domains": {"corp.example": [v4(server)]}}})

    def counted(source, kind, code):
        found = api.ask("node.dns", {"node": api.node})["dns"]["questions"]
        return sum(
            each["count"] for each in found if (each["source"], each["type"], each["code"]) == (source, kind, code)
        )

    own, outside = counted("own", "A", "NOERROR"), counted("outside", "A", "NOERROR")
    traffic.resolve(server, server["name"])
    traffic.resolve(server, "www.corp.example")
    assert (counted("own", "A", "NOERROR"), counted("outside", "A", "NOERROR")) == (own + 1, outside + 1)
    (health,) = [
        each for each in api.ask("node.dns", {"node": api.node})["dns"]["servers"] if each["address"] == v4(server)
    ]
    assert (health["asked"], health["answered"], health["failed"], health["silent"]) == (1, 1, 0, 0)
    assert health["last_ms"] > 0
    shown = installation.cnm("node", "dns", api.node, check=True).stdout
    assert v4(server) in shown
    assert "NOERROR" in shown
    api.refused("node.dns", {"node": "nonesuch"}, "not_found", "nonesuch")
