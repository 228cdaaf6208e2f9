"""A directory with three networks, and questions asked of it as packets."""

from collections.abc import Callable
from ipaddress import ip_address, ip_network

import pytest
from dnslib import DNSRecord

from cnm_resolver.answer import Drop, Forward, Response, Rota, answer
from cnm_resolver.directory import Directory
from cnm_resolver.zone import Record, Server, ServicePort, Settings, View

NODE_SERVER = Server(ip_address("192.0.2.53"))

Ask = Callable[..., DNSRecord | Forward | Drop]


def make_record(endpoint_id: str, network_id: str, *names: str, v4=None, v6=None, ready=True, ports=()) -> Record:
    return Record(
        endpoint_id,
        network_id,
        names,
        ip_address(v4) if v4 else None,
        ip_address(v6) if v6 else None,
        ready,
        ports,
    )


@pytest.fixture
def directory() -> Directory:
    directory = Directory((NODE_SERVER,))
    directory.put_network("n-web", "web", prefixes=(ip_network("172.28.0.0/16"),))
    directory.put_network(
        "n-six", "six.corp", enable_ipv6=True, prefixes=(ip_network("10.6.0.0/24"), ip_network("fd00:6::/64"))
    )
    directory.put_network("n-hidden", "hidden", prefixes=(ip_network("10.9.0.0/24"),))
    ports = (ServicePort(80, "tcp", "http"), ServicePort(53, "udp"))
    directory.put_record(make_record("e-api", "n-web", "api", "front", v4="172.28.0.2", ports=ports))
    directory.put_record(make_record("e-b1", "n-web", "b1", "pool", v4="172.28.0.11"))
    directory.put_record(make_record("e-b2", "n-web", "b2", "pool", v4="172.28.0.12"))
    directory.put_record(make_record("e-b3", "n-web", "b3", "pool", v4="172.28.0.13"))
    directory.put_record(make_record("e-dot", "n-web", "a.b", v4="172.28.0.20"))
    directory.put_record(make_record("e-both", "n-six", "both", v4="10.6.0.2", v6="fd00:6::2"))
    directory.put_record(make_record("e-only4", "n-six", "only4", v4="10.6.0.3"))
    directory.put_record(make_record("e-only6", "n-six", "only6", v6="fd00:6::4"))
    directory.put_record(make_record("e-secret", "n-hidden", "secret", v4="10.9.0.2"))
    return directory


@pytest.fixture
def settings() -> Settings:
    return Settings(sandbox_id="s1", networks=("n-web", "n-six"))


@pytest.fixture
def view(directory: Directory, settings: Settings) -> View:
    return directory.put_sandbox(settings)


@pytest.fixture
def ask() -> Ask:
    rota = Rota()

    def ask(view: View, name: str, kind: str = "A", *, stream: bool = False) -> DNSRecord | Forward | Drop:
        outcome = answer(bytes(DNSRecord.question(name, kind).pack()), view, rota, stream=stream)
        return DNSRecord.parse(outcome.packet) if isinstance(outcome, Response) else outcome

    return ask


@pytest.fixture
def data() -> Callable[[DNSRecord], list[str]]:
    """Give the data of a reply's answers as text."""

    def data(reply: DNSRecord) -> list[str]:
        assert isinstance(reply, DNSRecord), reply
        return [str(found.rdata) for found in reply.rr]

    return data


@pytest.fixture
def record() -> Callable[..., Record]:
    return make_record


@pytest.fixture
def node_server() -> Server:
    return NODE_SERVER
