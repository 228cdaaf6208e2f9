"""Do the options mean what Docker's users expect of them?"""

import argparse

import pytest

from cnm.errors import Invalid
from cnm_cli.__main__ import build_parser
from cnm_cli.arguments import duration_s, extra_host, filters, pair, published_port
from cnm_cli.network import network_body, pool_bodies, update_body
from cnm_cli.sandbox_options import sandbox_body

TCP = {"protocol": "tcp"}


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("80", {"container_port": 80} | TCP),
        ("53/udp", {"container_port": 53, "protocol": "udp"}),
        ("53/UDP", {"container_port": 53, "protocol": "udp"}),
        ("8080:80", {"container_port": 80, "host_port": 8080} | TCP),
        ("0:80", {"container_port": 80, "host_port": 0} | TCP),
        ("127.0.0.1:8080:80", {"container_port": 80, "host_port": 8080, "host_ip": "127.0.0.1"} | TCP),
        ("127.0.0.1::80", {"container_port": 80, "host_ip": "127.0.0.1"} | TCP),
        ("[::1]:8080:80/sctp", {"container_port": 80, "host_port": 8080, "host_ip": "::1", "protocol": "sctp"}),
        ("[::1]::80", {"container_port": 80, "host_ip": "::1"} | TCP),
        ("7000-7002", {"container_port": 7000, "container_port_end": 7002} | TCP),
        ("8000-9000:80", {"container_port": 80, "host_port": 8000, "host_port_end": 9000} | TCP),
        (
            "7000-7002:8000-8002/udp",
            {"container_port": 8000, "container_port_end": 8002, "host_port": 7000, "host_port_end": 7002}
            | {"protocol": "udp"},
        ),
    ],
)
def test_port_is_read_in_all_its_forms(text, entry):
    assert published_port(text) == entry


@pytest.mark.parametrize(
    "text",
    ["", "x", "80:", "a:80", "::1:80:80", "80/icmp", "70000", "8080:70000", "-1", "9-8", "9000-8000:80", "1:2:3:4",
     "80-", "-90:80"],
)  # fmt: skip
def test_what_is_no_port_is_a_usage_error(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"port|range|PORT|icmp"):
        published_port(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("db:10.0.0.5", ("db", "10.0.0.5")),
        ("db=10.0.0.5", ("db", "10.0.0.5")),
        ("db:fd00::1", ("db", "fd00::1")),
        ("db:[fd00::1]", ("db", "fd00::1")),
        ("host:host-gateway", ("host", "host-gateway")),
    ],
)
def test_extra_host_is_a_name_and_an_address(text, host):
    assert tuple(extra_host(text).values()) == host


@pytest.mark.parametrize("text", ["db", "db:", ":10.0.0.5"])
def test_extra_host_needs_both(text):
    with pytest.raises(argparse.ArgumentTypeError):
        extra_host(text)


def test_label_without_value_is_empty_and_later_equal_signs_belong_to_it():
    assert [pair("owner"), pair("a=b=c")] == [("owner", ""), ("a", "b=c")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1.5s", 1.5),
        ("", None),
        ("10", None),
        ("m", None),
    ],
)
def test_durations(text, seconds):
    assert duration_s(text) == seconds


def test_filters_of_one_key_are_alternatives_and_their_values_are_left_to_the_owner():
    told = [("name", "a"), ("name", "b"), ("dangling", "maybe")]
    assert filters(told) == {"name": ["a", "b"], "dangling": ["maybe"]}


def test_range_gateway_and_auxiliary_addresses_go_to_the_subnet_that_holds_them():
    made = pool_bodies(
        ["10.1.0.0/16", "fd00:1::/64"],
        ["10.1.5.0/24"],
        ["fd00:1::ff", "10.1.0.254"],
        [("router", "10.1.1.5"), ("nas", "10.1.1.6")],
    )
    assert made == [
        {
            "subnet": "10.1.0.0/16",
            "range": "10.1.5.0/24",
            "gateway": "10.1.0.254",
            "aux_addresses": {"router": "10.1.1.5", "nas": "10.1.1.6"},
        },
        {"subnet": "fd00:1::/64", "gateway": "fd00:1::ff"},
    ]


def test_gateway_outside_of_all_subnets_is_refused():
    with pytest.raises(Invalid, match=r"--gateway 10\.9\.0\.1 is in no subnet"):
        pool_bodies(["10.1.0.0/16", "10.2.0.0/16"], [], ["10.9.0.1"], [])


def test_two_gateways_of_one_subnet_are_refused():
    with pytest.raises(Invalid, match=r"has 10\.1\.0\.1 already"):
        pool_bodies(["10.1.0.0/16"], [], ["10.1.0.1", "10.1.0.2"], [])


def _network(*words):
    return network_body(build_parser().parse_args(["network", "create", *words]))


def test_network_says_only_what_was_said():
    assert _network("web") == {"name": "web", "driver": "bridge"}


def test_switch_takes_no_word_that_follows_it():
    assert _network("--ipv6", "--internal", "web") == {
        "name": "web",
        "driver": "bridge",
        "enable_ipv6": True,
        "internal": True,
    }


def test_switch_may_be_turned_off_with_its_value():
    assert _network("--ipv4=false", "--ipv6=true", "web")["enable_ipv4"] is False
    assert "enable_ipv6" not in _network("--ipv6", "--ipv6=false", "web")


WORDS = """
--config-only --attachable --ingress --config-from base --scope local --label tier=front -o mtu=1400
--ipam-driver dhcp --address-space blue --ipam-opt a=1 --dns 10.0.0.53 --dns-search corp --dns-ttl 0
--subnet 10.1.0.0/16 --ip-range 10.1.5.0/24 --gateway 10.1.5.1 --aux-address router=10.1.1.1 web
"""


def test_every_word_of_a_network_reaches_its_field():
    assert _network(*WORDS.split()) == {
        "name": "web",
        "driver": "bridge",
        "scope": "local",
        "attachable": True,
        "ingress": True,
        "config_only": True,
        "config_from": "base",
        "ipam": {
            "driver": "dhcp",
            "address_space": "blue",
            "options": {"a": "1"},
            "pools": [
                {
                    "subnet": "10.1.0.0/16",
                    "range": "10.1.5.0/24",
                    "gateway": "10.1.5.1",
                    "aux_addresses": {"router": "10.1.1.1"},
                }
            ],
        },
        "dns": {"servers": ["10.0.0.53"], "search": ["corp"], "ttl": 0},
        "options": {"mtu": "1400"},
        "labels": {"tier": "front"},
    }


ADDED = {"subnet": "10.1.0.0/16", "gateway": "10.1.0.9"}
SHOWN = {
    "id": "a" * 64,
    "revision": 3,
    "labels": {"a": "1", "b": "2"},
    "dns": {"servers": ["10.0.0.53"], "search": [], "ttl": None, "domains": {}},
}


def _update(*words):
    body = update_body(build_parser().parse_args(["network", "update", "web", *words]), SHOWN)
    assert body.pop("network") == SHOWN["id"]
    return body


@pytest.mark.parametrize(
    ("words", "body"),
    [
        ("", {}),
        ("-o mtu=1400 --opt-rm icc", {"options": {"mtu": "1400", "icc": None}}),
        (
            "--subnet 10.1.0.0/16 --gateway 10.1.0.9",
            {"add_pools": [{"subnet": "10.1.0.0/16", "gateway": "10.1.0.9"}]},
        ),
        ("--label-add c=3 --label-rm a --label-rm z", {"labels": {"b": "2", "c": "3"}, "revision": 3}),
        ("--label-rm a --label-rm b", {"labels": {}, "revision": 3}),
        ("--label-add c=3 --revision 2", {"labels": {"a": "1", "b": "2", "c": "3"}, "revision": 2}),
        ("--dns-ttl 0", {"dns": {**SHOWN["dns"], "ttl": 0}, "revision": 3}),
        ("--dns-reset", {"dns": {}, "revision": 3}),
        ("--dns-reset --dns-search corp", {"dns": {"search": ["corp"]}, "revision": 3}),
    ],
)
def test_an_update_keeps_what_was_not_spoken_of(words, body):
    assert _update(*words.split()) == body


def _sandbox(*words):
    args = build_parser().parse_args(["run", *words])
    return sandbox_body(args, name="s"), args.command


def test_command_begins_after_the_dashes_and_keeps_its_own():
    body, command = _sandbox("-p", "8080:80", "--label", "a=b", "--", "sh", "-c", "x", "--", "--name", "y")
    assert body == {
        "name": "s",
        "ports": [{"container_port": 80, "protocol": "tcp", "host_port": 8080}],
        "labels": {"a": "b"},
    }
    assert command[-6:] == ["sh", "-c", "x", "--", "--name", "y"]


def test_command_needs_no_dashes():
    assert _sandbox("--name", "n", "sh", "-c", "x")[1] == ["sh", "-c", "x"]


def test_host_network_means_the_nodes_own_namespace():
    assert _sandbox("--network", "host", "--", "true")[0]["use_default_sandbox"] is True
