"""Elements and the DNS redirect, by raw messages, compared with what ``nft`` lists."""

import contextlib
import errno
import ipaddress
import socket

import pytest

from cnm.kernel import netns
from cnm.kernel.errors import KernelError
from cnm.kernel.nfnl import (
    AddElement,
    DeleteElement,
    Element,
    NfSocket,
    dns_redirect,
    join,
    pack_address,
    pack_name,
    pack_port,
    pack_protocol,
    remove_dns_redirect,
    single,
)
from cnm.kernel.nft import Nft
from cnm.kernel.rtnl import Rtnl, SetLink

address = ipaddress.ip_address

SETS = """
add table inet t
add map inet t ports { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }
add map inet t ports6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
add set inet t ranges { type inet_proto . inet_service; flags interval; }
add set inet t plain { type inet_service; flags interval; }
add set inet t pairs { type ifname . ifname; }
add set inet t addresses { type ipv4_addr; }
"""


@pytest.fixture
def nf(host):
    with Nft(host) as nft:
        nft.run(SETS)
    with NfSocket(host) as nf:
        yield nf


def port(number, to="172.17.0.2"):
    return Element(
        "t",
        "ports",
        join((pack_protocol("tcp"), pack_address(address("192.0.2.1")), pack_port(number))),
        data=join((pack_address(address(to)), pack_port(80))),
        comment=f"cnm endpoint {number}",
    )


def elements(shell, host, kind, name):
    """Return a set's elements as nft tells them."""
    (found,) = (each[kind] for each in shell.nft(host, "list", kind, "inet", "t", name))
    return found.get("elem", [])


def test_map_element_is_listed_with_its_comment(nf, host, shell):
    nf.apply([AddElement(port(8080))])
    key = {"elem": {"val": {"concat": ["tcp", "192.0.2.1", 8080]}, "comment": "cnm endpoint 8080"}}
    assert elements(shell, host, "map", "ports") == [[key, {"concat": ["172.17.0.2", 80]}]]


def test_ipv6_data_is_listed(nf, host, shell):
    key = join((pack_protocol("udp"), pack_port(53)))
    nf.apply([AddElement(Element("t", "ports6", key, data=join((address("fd00::2").packed, pack_port(5353)))))])
    assert elements(shell, host, "map", "ports6") == [[{"concat": ["udp", 53]}, {"concat": ["fd00::2", 5353]}]]


def test_ranges_names_and_single_fields_are_listed(nf, host, shell):
    def both(number):
        return join((pack_protocol("tcp"), pack_port(number)))

    nf.apply(
        [
            AddElement(Element("t", "ranges", both(9000), key_end=both(9010))),
            AddElement(Element("t", "plain", single(pack_port(5000), 2))),
            AddElement(Element("t", "plain", single(pack_port(5011), 2), interval_end=True)),
            AddElement(Element("t", "pairs", join((pack_name("br0"), pack_name("br1"))), comment="é" * 200)),
            AddElement(Element("t", "addresses", pack_address(address("192.0.2.9")))),
        ]
    )
    assert elements(shell, host, "set", "ranges") == [{"concat": ["tcp", {"range": [9000, 9010]}]}]
    assert elements(shell, host, "set", "plain") == [{"range": [5000, 5010]}]
    (pair,) = elements(shell, host, "set", "pairs")
    assert pair["elem"]["val"] == {"concat": ["br0", "br1"]}
    assert pair["elem"]["comment"] == "é" * 63
    assert elements(shell, host, "set", "addresses") == ["192.0.2.9"]
    nf.apply([DeleteElement(Element("t", "ranges", both(9000), key_end=both(9010)))])
    assert elements(shell, host, "set", "ranges") == []


def test_key_that_is_taken_is_refused(nf):
    nf.apply([AddElement(port(8080))])
    for element, exclusive in (
        (port(8080), True),
        (port(8080, "172.17.0.3"), True),
        (port(8080, "172.17.0.3"), False),
    ):
        with pytest.raises(KernelError) as caught:
            nf.apply([AddElement(element, exclusive=exclusive)])
        assert caught.value.errno in (errno.EEXIST, errno.EBUSY)


def test_same_element_is_accepted_again_where_not_exclusive(nf):
    for _ in range(2):
        nf.apply([AddElement(port(8080), exclusive=False)])


def test_batch_is_all_or_nothing(nf, host, shell):
    nf.apply([AddElement(port(1))])
    with pytest.raises(KernelError, match="absent") as caught:
        nf.apply([DeleteElement(port(1)), AddElement(port(2)), AddElement(Element("t", "absent", b"1234"))])
    assert caught.value.index == 2
    assert caught.value.errno == errno.ENOENT
    assert len(elements(shell, host, "map", "ports")) == 1


@pytest.mark.parametrize("can_destroy", [True, False], ids=["destroy", "before Linux 6.3"])
def test_deleting_may_be_repeated(nf, host, shell, can_destroy):
    nf._can_destroy = can_destroy
    nf.apply([AddElement(port(1))])
    for _ in range(2):
        nf.apply([DeleteElement(port(1)), DeleteElement(port(2)), AddElement(port(3), exclusive=False)])
    assert [key["elem"]["val"]["concat"][2] for key, _ in elements(shell, host, "map", "ports")] == [3]
    nf.apply([DeleteElement(port(9))])
    nf.apply([])


def test_target_is_swapped_in_one_batch(nf, host, shell):
    nf.apply([AddElement(port(1))])
    nf.apply([DeleteElement(port(1)), AddElement(port(1, "172.17.0.9"))])
    assert elements(shell, host, "map", "ports")[0][1] == {"concat": ["172.17.0.9", 80]}


def test_ten_thousand_elements_fit_in_a_batch(nf, host, shell):
    nf.apply([AddElement(port(number)) for number in range(1, 10001)])
    assert len(elements(shell, host, "map", "ports")) == 10000


def exchange_udp(container, server, target):
    """Ask by UDP; return the answer and who it came from."""
    with netns.open_socket(container, socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect(target)
        client.send(b"question")
        asked, sender = server.recvfrom(64)
        server.sendto(b"answer to " + asked, sender)
        return client.recv(64)


def exchange_tcp(container, server, target):
    with netns.open_socket(container, socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(2)
        client.connect(target)
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"hello")
        return client.recv(64)


@pytest.fixture
def servers(container):
    """Open a UDP and a TCP socket on a free port of 127.0.0.11 each."""
    with contextlib.ExitStack() as stack:
        with Rtnl.open(container) as rtnl:
            rtnl.send(SetLink(1, up=True))
        opened = []
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            each = stack.enter_context(netns.open_socket(container, socket.AF_INET, kind))
            each.settimeout(2)
            each.bind(("127.0.0.11", 0))
            opened.append(each)
        opened[1].listen()
        yield tuple(opened)


def ports_of(servers):
    return [each.getsockname()[1] for each in servers]


def test_questions_reach_the_resolver_by_udp_and_tcp(container, servers):
    target = ("127.0.0.11", 53)
    with netns.open_socket(container, socket.AF_INET, socket.SOCK_STREAM) as client:
        assert client.connect_ex(target) == errno.ECONNREFUSED
    dns_redirect(container, *ports_of(servers))
    # A connected socket takes the answer only if it comes from 127.0.0.11:53.
    assert exchange_udp(container, servers[0], target) == b"answer to question"
    assert exchange_tcp(container, servers[1], target) == b"hello"
    assert exchange_udp(container, servers[0], ("127.0.0.11", ports_of(servers)[0])) == b"answer to question"


def test_sandbox_may_have_a_server_on_port_53(container, servers):
    dns_redirect(container, *ports_of(servers))
    with netns.open_socket(container, socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.settimeout(2)
        own.bind(("0.0.0.0", 53))
        assert exchange_udp(container, own, ("127.0.0.1", 53)) == b"answer to question"
        assert exchange_udp(container, servers[0], ("127.0.0.11", 53)) == b"answer to question"


def test_redirect_is_replaced_and_removed(container, servers, shell):
    dns_redirect(container, 1, 2)
    dns_redirect(container, *ports_of(servers))
    udp, tcp = ports_of(servers)
    listed = shell.run(container, "nft", "list", "ruleset")
    assert (
        listed.split()
        == (
            "table ip cnm_dns { chain output { type nat hook output priority -100; policy accept; "
            f"ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:{udp} "
            f"ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:{tcp} }} }}"
        ).split()
    )
    assert exchange_udp(container, servers[0], ("127.0.0.11", 53)) == b"answer to question"
    for _ in range(2):
        remove_dns_redirect(container)
    assert shell.nft(container, "list", "ruleset") == []


def test_redirect_leaves_the_tables_of_others(container, shell):
    with Nft(container) as nft:
        nft.run("add table ip nat; add chain ip nat OUTPUT { type nat hook output priority -100; }")
    dns_redirect(container, 4000, 4001)
    remove_dns_redirect(container)
    assert [each["table"]["name"] for each in shell.nft(container, "list", "tables")] == ["nat"]


def test_generation_rises_with_every_transaction_of_anybody(nf, host):
    before = nf.generation()
    assert nf.generation() == before
    nf.apply([AddElement(port(1))])
    assert nf.generation() == before + 1
    with Nft(host) as nft:
        nft.run("add table inet other")
    assert nf.generation() == before + 2
