"""Rows R01, R04 to R08: the exact text of resolv.conf files, after section 38A.7 of the inventory."""

from ipaddress import ip_address

import pytest

from cnm_sandbox.resolv import (
    HEADER,
    ResolvConf,
    fingerprint,
    is_edited,
    is_systemd_stub,
    option_faults,
    parse,
    render,
    render_host,
)

NODE = "search pommesfrites.fr\nnameserver 12.34.56.78\nnameserver 2001:4860:4860::8888\n"


@pytest.mark.parametrize(
    ("node", "search", "options", "body"),
    [
        (NODE, [], [], "search pommesfrites.fr\nnameserver 127.0.0.11\noptions ndots:0\n"),
        ("", [], [], "nameserver 127.0.0.11\noptions ndots:0\n"),
        ("nameserver 127.0.0.1\n", [], [], "nameserver 127.0.0.11\noptions ndots:0\n"),
        (
            NODE,
            ["a.example", "b.example"],
            [],
            "search a.example b.example\nnameserver 127.0.0.11\noptions ndots:0\n",
        ),
        (NODE, ["."], [], "nameserver 127.0.0.11\noptions ndots:0\n"),
        ("search .\n", [], [], "nameserver 127.0.0.11\noptions ndots:0\n"),
        ("domain example.com\n", [], [], "search example.com\nnameserver 127.0.0.11\noptions ndots:0\n"),
        (NODE, [], ["ndots:5"], "search pommesfrites.fr\nnameserver 127.0.0.11\noptions ndots:5\n"),
        ("options timeout:1\n", [], ["rotate"], "nameserver 127.0.0.11\noptions rotate ndots:0\n"),
        ("options timeout:1\n", [], [], "nameserver 127.0.0.11\noptions timeout:1 ndots:0\n"),
        ("options ndots:3 rotate\n", [], [], "nameserver 127.0.0.11\noptions ndots:3 rotate\n"),
        ("options ndots:-1 rotate\n", [], [], "nameserver 127.0.0.11\noptions rotate ndots:0\n"),
        ("options ndots rotate\n", [], [], "nameserver 127.0.0.11\noptions rotate ndots:0\n"),
        ("sortlist 10.0.0.0/8  # c\n", [], [], "nameserver 127.0.0.11\noptions ndots:0\nsortlist 10.0.0.0/8\n"),
    ],
)
def test_sandbox_s_file(node, search, options, body):
    assert render(parse(node), search=search, options=options) == HEADER + body


@pytest.mark.parametrize(
    ("servers", "search", "options", "text"),
    [
        ([], [], [], NODE),
        (["10.0.0.1"], [], [], HEADER + "search pommesfrites.fr\nnameserver 10.0.0.1\n"),
        ([], ["."], ["ndots:2"], HEADER + NODE.partition("\n")[2] + "options ndots:2\n"),
    ],
)
def test_host_sandbox_s_file_is_the_node_s_unless_it_has_settings_of_its_own(servers, search, options, text):
    found = render_host(NODE, servers=[ip_address(each) for each in servers], search=search, options=options)
    assert found == text


def test_file_is_read_as_resolvers_read_it():
    text = (
        "# comment\n; another\n\n  nameserver\t192.0.2.1  # why\nnameserver nonsense\nnameserver fe80::1%eth0\n"
        "nameserver\nsearch first\nsearch last\tone\noptions a\noptions b c\nsortlist x y\n"
    )
    assert parse(text) == ResolvConf(
        servers=(ip_address("192.0.2.1"), ip_address("fe80::1%eth0")),
        search=("last", "one"),
        options=("b", "c"),
        others=("nameserver", "sortlist x y"),
    )


@pytest.mark.parametrize(
    ("text", "stub"),
    [
        ("nameserver 127.0.0.53\noptions edns0 trust-ad\n", True),
        ("nameserver 127.0.0.53\nnameserver 192.0.2.1\n", False),
        ("nameserver 127.0.0.1\n", False),
        ("", False),
    ],
)
def test_systemd_stub_is_told_by_its_one_server(text, stub):
    assert is_systemd_stub(text) is stub


@pytest.mark.parametrize(
    "option", ["ndots:foobar", "ndots:-1", "ndots:", "ndots", "ndots:1.5", "ndots:+1", "ndots:٣"]
)
def test_malformed_ndots_is_a_fault(option):
    (fault,) = option_faults(["rotate", option])
    assert (fault.field, fault.value) == ("dns.options[1]", option)


def test_well_formed_options_are_no_fault():
    assert option_faults(["ndots:0", "ndots:15", "rotate", "ndotsy"]) == ()


def test_edit_is_told_by_the_hash():
    ours = [fingerprint("old\n"), fingerprint("new\n")]
    assert not is_edited("old\n", ours)
    assert not is_edited("new\n\n\n", ours)
    assert not is_edited("", [])
    assert not is_edited("\n", ours)
    assert is_edited("mine\n", ours)
    assert is_edited("old\n", [])
