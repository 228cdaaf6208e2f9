"""The table that brings DNS questions within a sandbox to its resolver, in nftables' own messages.

What nft would call::

    table ip cnm_dns {
        chain output {
            type nat hook output priority -100; policy accept;
            meta l4proto udp ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:<port>
            meta l4proto tcp ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:<port>
        }
    }

Written by hand, since a resolver has more files open than libnftables can bear.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from .element import NFNL_SUBSYS_NFTABLES, NFTA_LIST_ELEM, PROTOCOLS, nft_message
from .netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    attribute,
    attributes,
    be32,
    each_attribute,
    nest,
    read_text,
    text,
)

TABLE = "cnm_dns"
CHAIN = "output"
ADDRESS = IPv4Address("127.0.0.11")
DNS_PORT = 53

NFPROTO_IPV4 = 2
NF_INET_LOCAL_OUT = 3
NF_IP_PRI_NAT_DST = -100
NFT_MSG_GETRULE = 7
LIST_RULES = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETRULE
NFT_MSG_NEWTABLE, NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE, NFT_MSG_DELRULE = 0, 2, 3, 6, 8
NLM_F_APPEND = 0x800

REG_1, REG_2 = 1, 2
META_L4PROTO = 16
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2


Ports = tuple[int, int]
"""Of 127.0.0.11: UDP, TCP."""


@dataclass(frozen=True, slots=True)
class TableStep:
    """One message about the table; ``name`` is for people."""

    name: str
    kind: int
    flags: int
    body: bytes

    def __str__(self) -> str:
        return self.name

    def encode(self, sequence: int) -> bytes:
        return nft_message(self.kind, self.flags | NLM_F_ACK, sequence, NFPROTO_IPV4, self.body)


def redirect(udp_port: int, tcp_port: int) -> tuple[TableStep, ...]:
    """Return what makes the table, or leads the one that is there to other ports, in one batch.

    Emptying the chain costs nothing; deleting a table that has a hook costs the kernel 15 ms.
    """
    return (
        _make_table(),
        _make_chain(),
        _empty_chain(),
        _make_rule("udp", udp_port),
        _make_rule("tcp", tcp_port),
    )


def remove_redirect() -> tuple[TableStep, ...]:
    """Return what removes the table, whether or not it is there."""
    name = text(1, TABLE)
    return (_make_table(), TableStep(f"nft delete table ip {TABLE}", NFT_MSG_DELTABLE, 0, name))


def question() -> bytes:
    """Return what asks for the rules of the chain, behind nfgenmsg, for a dump of ``LIST_RULES``."""
    return struct.pack(">BBH", NFPROTO_IPV4, 0, 0) + text(1, TABLE) + text(2, CHAIN)


def leads_to(rules: Sequence[bytes]) -> Ports | None:
    """Return the ports that the rules of a chain, as dumped, lead to; None where ``redirect`` did not make them."""
    match [_destination(rule) for rule in rules]:
        case [int() as udp_port, int() as tcp_port]:
            return udp_port, tcp_port
    return None


def _destination(rule: bytes) -> int | None:
    """Return the port of 127.0.0.11 that a rule leads to: what its expressions load into the registers."""
    loaded: dict[int, bytes] = {}
    for _, each in each_attribute(attributes(rule, 4).get(4, b"")):
        expression = attributes(each)
        about = attributes(expression.get(2, b""))
        if read_text(expression.get(1, b"")) == "immediate" and 2 in about:
            register = int.from_bytes(about[1], "big")
            loaded[register] = attributes(about[2]).get(1, b"")
    port = loaded.get(REG_2, b"")
    return int.from_bytes(port, "big") if loaded.get(REG_1) == ADDRESS.packed and len(port) == 2 else None


def _make_table() -> TableStep:
    return TableStep(f"nft add table ip {TABLE}", NFT_MSG_NEWTABLE, NLM_F_CREATE, text(1, TABLE))


def _make_chain() -> TableStep:
    hook = nest(4, be32(1, NF_INET_LOCAL_OUT), attribute(2, struct.pack(">i", NF_IP_PRI_NAT_DST)))
    body = text(1, TABLE) + text(3, CHAIN) + hook + text(7, "nat")
    return TableStep(f"nft add chain ip {TABLE} {CHAIN}", NFT_MSG_NEWCHAIN, NLM_F_CREATE, body)


def _empty_chain() -> TableStep:
    return TableStep(f"nft flush chain ip {TABLE} {CHAIN}", NFT_MSG_DELRULE, 0, text(1, TABLE) + text(2, CHAIN))


def _make_rule(protocol: str, port: int) -> TableStep:
    expressions = nest(
        4,
        _meta(META_L4PROTO),
        _equals(bytes((PROTOCOLS[protocol],))),
        _payload(NETWORK_HEADER, 16, 4),
        _equals(ADDRESS.packed),
        _payload(TRANSPORT_HEADER, 2, 2),
        _equals(struct.pack(">H", DNS_PORT)),
        _immediate(REG_1, ADDRESS.packed),
        _immediate(REG_2, struct.pack(">H", port)),
        _destination_nat(REG_1, REG_2),
    )
    body = text(1, TABLE) + text(2, CHAIN) + expressions
    words = f"nft add rule ip {TABLE} {CHAIN} {protocol} dport {DNS_PORT} dnat to {ADDRESS}:{port}"
    return TableStep(words, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, body)


def _expression(name: str, *attributes: bytes) -> bytes:
    return nest(NFTA_LIST_ELEM, text(1, name), nest(2, *attributes))


def _meta(key: int) -> bytes:
    return _expression("meta", be32(1, REG_1), be32(2, key))


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression("payload", be32(1, REG_1), be32(2, base), be32(3, offset), be32(4, length))


def _equals(value: bytes) -> bytes:
    return _expression("cmp", be32(1, REG_1), be32(2, 0), nest(3, attribute(1, value)))


def _immediate(register: int, value: bytes) -> bytes:
    return _expression("immediate", be32(1, register), nest(2, attribute(1, value)))


def _destination_nat(address: int, port: int) -> bytes:
    return _expression("nat", be32(1, 1), be32(2, NFPROTO_IPV4), be32(3, address), be32(5, port))
