"""docs/rules.md says what stands in the kernel: it is written by this test (`make docs`), and compared with it.

It is made from what the driver plans, not from what ``nft list`` shows, so that it is the same with every version.
"""

import os
from ipaddress import ip_address, ip_interface
from pathlib import Path

from msgspec.structs import replace

from cnm.messages.bridge import OpenPort
from cnm_driver_bridge.blocks import block, ports_block
from cnm_driver_bridge.firewall import plan
from cnm_driver_bridge.frame import CHAINS, CONTAINERS, FILTER, REASONS, STRANGERS, TABLES, USER_CHAIN

from .conftest import whole

PAGE = Path(__file__).parents[3] / "docs" / "rules.md"
WEB = "3d5b4b33cdd4" + "0" * 52

INTRODUCTION = f"""# Rules

*Written by a test from the code; do not edit. `make docs` writes it anew.*

What the bridge driver puts into nftables. Two tables, `inet cnm_filter` and `inet cnm_nat`, hold a frame that is the
same whatever networks there are; a network, an endpoint's open ports, are elements of its sets and maps. A packet's
way through `forward` is: your own rules (`{USER_CHAIN}`), out of an internal network, into a bridge of ours. What
concerns no bridge of ours ends there and is left to others.

Published ports are the port mapper's, in a table of its own (`inet cnm_ports`): its maps translate them, and
`ct status dnat accept` lets them in. `cnm network drops NETWORK` shows the counters, with the reasons."""

SCENARIOS = {
    "A network": ({}, {}),
    "IPv4 alone": ({"ipv6": False}, {}),
    "IPv6 alone": ({"ipv4": False}, {}),
    "Internal": ({"internal": True}, {}),
    "enable_icc=false": ({"icc": False}, {}),
    "enable_ip_masquerade=false": ({"masquerade": False}, {}),
    "host_ipv4=192.0.2.7 and host_ipv6=2001:db8::7": (
        {"snat_ipv4": ip_address("192.0.2.7"), "snat_ipv6": ip_address("2001:db8::7")},
        {},
    ),
    "gateway_mode_ipv4=nat-unprotected": ({"ipv4_mode": "nat-unprotected"}, {}),
    "gateway_mode_ipv4=routed, with ports 80/tcp and 5000-5009/udp published": (
        {"ipv4_mode": "routed"},
        {"version": 4},
    ),
    "gateway_mode_ipv6=routed, with the same ports": ({"ipv6_mode": "routed"}, {"version": 6}),
    "trusted_host_interfaces=wg0, with the same ports": ({"trusted": ["wg0"]}, {"version": None}),
    "gateway_mode_ipv4=isolated and gateway_mode_ipv6=isolated": (
        {"internal": True, "ipv4_mode": "isolated", "ipv6_mode": "isolated"},
        {},
    ),
}


def code(lines):
    return "\n".join(("```", *lines, "```"))


def frame():
    for table in TABLES:
        yield f"table inet {table} {{"
        if table == FILTER:
            yield f"    counter {STRANGERS}"
        for each in CONTAINERS.values():
            if each.table == table:
                yield f"    {each.kind} {each.name} {each.declaration}"
        for chain in CHAINS:
            if chain.table != table:
                continue
            yield f"    chain {chain.name} {{" + (f" {chain.hook}" if chain.hook else "")
            width = max((len(rule.text) for rule in chain.rules or ()), default=0)
            for rule in chain.rules or ():
                yield f"        {rule.text:<{width}}  # {rule.about}"
            if chain.rules is None:
                yield "        # yours: made once, asked first, never flushed or deleted"
            yield "    }"
        yield "}"


def elements(make_network, make_attachment, options, ports):
    options = dict(options)
    only = {4: options.pop("ipv4", True), 6: options.pop("ipv6", True)}
    network = make_network(1, network_id=WEB, name="web", bridge="br-3d5b4b33cdd4", **options)
    blocks = [block(_only(network, only))]
    if ports:
        open_ports = [
            OpenPort(protocol="tcp", first=80, last=80, **ports),
            OpenPort(protocol="udp", first=5000, last=5009, **ports),
        ]
        addresses = [ip_interface("10.1.0.2/24"), ip_interface("fd00:1::2/64")]
        point = make_attachment(network, addresses=addresses, open_ports=open_ports)
        blocks.append(ports_block(point))
    change = plan(blocks, whole())
    for member, _ in change.add:
        yield f"{member.table} {member.container}: {member}"


def _only(network, families):
    return replace(network, subnets=[each for each in network.subnets if families[each.version]])


def page(make_network, make_attachment):
    reasons = ["| counter | counts what |", "|---|---|"]
    reasons += [f"| `{reason}-<12 of the network's id>` | {about} |" for reason, about in REASONS.items()]
    strangers = "would be forwarded between links of others, where forwarding was off before us"
    reasons.append(f"| `{STRANGERS}` | {strangers} |")
    parts = [INTRODUCTION, "## The frame", code(frame()), "## Why packets are dropped", "\n".join(reasons)]
    parts += ["## What a network adds", "Elements by table and set; each has a comment that names its network."]
    for title, (options, ports) in SCENARIOS.items():
        parts += [f"### {title}", code(elements(make_network, make_attachment, options, ports))]
    return "\n\n".join(parts) + "\n"


def test_the_page_is_what_the_driver_does(make_network, make_attachment):
    wanted = page(make_network, make_attachment)
    if os.environ.get("CNM_WRITE_DOCS"):
        PAGE.write_text(wanted)
    assert PAGE.read_text() == wanted, "docs/rules.md is stale: make docs"
