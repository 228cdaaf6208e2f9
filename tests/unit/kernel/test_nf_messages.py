"""Elements, connections and socket tables as bytes and text."""

import ipaddress
import struct

from cnm.kernel.conntrack import parse_connection
from cnm.kernel.element import AddElement, DeleteElement, Element, pack_comment, pack_name, pack_port, pack_protocol
from cnm.kernel.netlink import attribute, nest
from cnm.kernel.redirect import redirect, remove_redirect
from cnm.kernel.sockdiag import BoundSocket, parse_endpoint, parse_socket

address = ipaddress.ip_address


def test_fields_are_padded_to_four_bytes():
    assert pack_protocol("tcp") == b"\x06\0\0\0"
    assert pack_port(8080) == b"\x1f\x90\0\0"
    assert pack_name("br0") == b"br0" + bytes(13)


def test_comment_is_kind_length_text_and_nul():
    assert pack_comment("cnm") == b"\x00\x04cnm\x00"


def test_long_comment_is_cut_between_characters():
    cut = pack_comment("é" * 100)
    assert cut[1] == len(cut) - 2 <= 128
    assert cut[2:-1].decode() == "é" * 63


def test_steps_read_like_nft():
    element = Element("t", "ports", pack_port(80), data=b"\x0a\0\0\x02")
    assert str(AddElement(element)) == "nft create element inet t ports { 00500000 : 0a000002 }"
    assert str(AddElement(element, exclusive=False)).startswith("nft add element")
    assert str(DeleteElement(element)).startswith("nft destroy element inet t ports")


def test_redirect_makes_table_and_chain_before_rules():
    assert [str(step) for step in redirect(4000, 4001)] == [
        "nft add table ip cnm_dns",
        "nft add chain ip cnm_dns output",
        "nft flush chain ip cnm_dns output",
        "nft add rule ip cnm_dns output udp dport 53 dnat to 127.0.0.11:4000",
        "nft add rule ip cnm_dns output tcp dport 53 dnat to 127.0.0.11:4001",
    ]
    assert [str(step) for step in remove_redirect()] == ["nft add table ip cnm_dns", "nft delete table ip cnm_dns"]


def direction(kind, source, destination, source_port, destination_port):
    first = 1 if address(source).version == 4 else 3
    ends = nest(1, attribute(first, address(source).packed), attribute(first + 1, address(destination).packed))
    ports = attribute(2, struct.pack(">H", source_port)) + attribute(3, struct.pack(">H", destination_port))
    return nest(kind, ends, nest(2, attribute(1, b"\x11"), ports))


def test_connection_is_read_in_both_directions():
    body = (
        bytes(4) + direction(1, "192.0.2.1", "192.0.2.2", 1234, 53) + direction(2, "10.0.0.2", "192.0.2.1", 53, 1234)
    )
    found = parse_connection(body + attribute(12, b"abcd"))
    assert found.version == 4
    assert (found.original.protocol, found.original.source_port, found.original.destination_port) == (17, 1234, 53)
    assert (found.reply.source, found.reply.destination) == (address("10.0.0.2"), address("192.0.2.1"))
    assert found.key == direction(1, "192.0.2.1", "192.0.2.2", 1234, 53) + attribute(12, b"abcd")


def test_lines_of_socket_tables_are_read():
    # Quoted from a little-endian machine.
    four = "  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  33 0 4711 1 0 100 0 0 10 0"
    six = (
        "  1: 00000000000000000000000001000000:01BB 00000000000000000000000000000000:0000 "
        "0A 00000000:00000000 00:00000000 00000000  0 0 4712 1 0 100 0 0 10 0"
    )
    assert parse_socket(four) == BoundSocket(address("127.0.0.1"), 8080, "0A", 33, 4711)
    assert parse_socket(six) == BoundSocket(address("::1"), 443, "0A", 0, 4712)


def test_lines_of_the_table_of_sctp_are_read_one_an_address():
    line = " ffff9d2b 2b1c6e00 2   10  27   3868      7 4713 192.0.2.1 fd00:0000:0000:0000:0000:0000:0000:0001 "
    assert list(parse_endpoint(line)) == [
        BoundSocket(address("192.0.2.1"), 3868, "0A", 7, 4713),
        BoundSocket(address("fd00::1"), 3868, "0A", 7, 4713),
    ]
