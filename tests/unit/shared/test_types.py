"""Addresses, pools and interfaces as text, and what a person is told of the wrong ones."""

from ipaddress import ip_address, ip_interface, ip_network

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm import types
from cnm.types import canonical_mac, dec_hook, enc_hook, node_token, parse_address, parse_interface, parse_prefix


@given(st.ip_addresses())
def test_addresses_come_back(address):
    assert parse_address(str(address)) == address
    assert dec_hook(types.Address, enc_hook(address)) == address


@given(st.ip_addresses(), st.integers(0, 128))
def test_prefixes_come_back_and_host_bits_are_told(address, length):
    text = f"{address}/{min(length, address.max_prefixlen)}"
    right = ip_network(text, strict=False)
    assert parse_prefix(str(right)) == right
    assert parse_interface(text) == ip_interface(text)
    if right.network_address != address:
        with pytest.raises(ValueError) as refused:
            parse_prefix(text)
        assert str(refused.value) == f"{text} has host bits set, it should be {right}"


@given(st.text())
def test_any_text_parses_or_is_refused_by_name(text):
    for parse in (parse_address, parse_prefix, parse_interface):
        try:
            parse(text)
        except ValueError as error:
            assert text in str(error) or repr(text) in str(error)  # noqa: PT017  # it may parse as well


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_address, "10.0.0.1/8", "'10.0.0.1/8' is not an IP address"),
        (parse_address, "010.0.0.1", "'010.0.0.1' is not an IP address"),
        (parse_prefix, "10.0.0.0", "'10.0.0.0' is not a subnet in CIDR form, such as 172.28.0.0/16"),
        (parse_prefix, "10.0.0.0/33", "'10.0.0.0/33' is not a subnet in CIDR form, such as 172.28.0.0/16"),
        (parse_prefix, "fd00::1/64", "fd00::1/64 has host bits set, it should be fd00::/64"),
        (parse_interface, "x", "'x' is not an address in CIDR form, such as 172.28.5.1/16"),
    ],
)
def test_messages_are_for_a_person(parse, text, message):
    with pytest.raises(ValueError) as refused:
        parse(text)
    assert str(refused.value) == message


def test_family_is_checked():
    with pytest.raises(ValueError, match="is not of family IPv4"):
        dec_hook(types.IPv4Address, "::1")
    with pytest.raises(ValueError, match="expected text, got int"):
        dec_hook(types.IPv4Address, 3)


def test_unknown_types_are_our_bug():
    with pytest.raises(NotImplementedError):
        dec_hook(complex, "1")
    with pytest.raises(NotImplementedError):
        enc_hook(1j)


def test_either_family_is_an_address():
    assert isinstance(ip_address("::1"), types.Address)
    assert isinstance(ip_address("10.0.0.1"), types.Address)


def test_node_is_one_token_of_a_subject():
    assert node_token("web-1.example.com *>") == "web-1_example_com___"
    assert canonical_mac("02:AB:cd:00:00:01") == "02:ab:cd:00:00:01"


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (types.Id, "a" * 64, ["A" * 64, "a" * 63, "a" * 65, "g" * 64, "a" * 64 + "\n"]),
        (types.Name, "a_b.c-1", ["", "_a", ".a", "a b", "a" * 129, "é", "a/b", "a\n"]),
        (types.MacAddress, "02:ab:CD:00:00:01", ["02-ab-cd-00-00-01", "02:ab:cd:00:00", "x", "02:ab:cd:00:00:01\n"]),
        (types.InterfaceName, "eth0", ["", "a" * 16, "a b", "a/b", "a:b", "eth0\n"]),
        (types.Port, 80, [0, 65536, -1, "80"]),
        (types.HostPort, 0, [-1, 65536]),
        (types.Protocol, "sctp", ["icmp", "TCP"]),
    ],
)
def test_patterns_take_the_right_and_refuse_the_wrong(kind, good, bad):
    assert msgspec.convert(good, kind) == good
    for each in bad:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(each, kind)
