"""The frame of the bridge driver's rules: two tables of chains, sets and maps that never change.

No rule names a network: rules ask sets and maps by the names of the links that a packet comes from and goes to. So
neither packets nor changes cost more with more networks. What leaves a bridge is judged before what enters one: an
internal network's endpoint must not reach another network's published port. Packets that concern no bridge of ours
are left to others: only the user's own chain sees them.

Whatever is refused or dropped is counted by network and reason, in counters that maps find by the bridge's name.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

FILTER: Final = "cnm_filter"
NAT: Final = "cnm_nat"
TABLES = (FILTER, NAT)
USER_CHAIN = "cnm-user"

REASONS: Mapping[str, str] = {
    "isolation": "came from another network",
    "internal": "would have entered or left an internal network",
    "direct": "came from outside, and was sent to an endpoint's own address",
    "icc": "came from another endpoint, and the network has enable_icc=false",
}
"""Why a packet was refused or dropped, by the name that its counter begins with."""

STRANGERS = "not-forwarded"
"""The counter of what would be forwarded between links of others, where forwarding was off before us."""
CLOSED = "closed"
"""The set of families of which that is so: it is the memory of it, too."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, and a comment that says what it is for and tells it from every other text."""

    text: str
    about: str

    @property
    def comment(self) -> str:
        """Return the comment, at most 128 characters."""
        return f"cnm {self.about} {hashlib.blake2s(self.text.encode(), digest_size=4).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain and its rules in order; one without rules of ours (``rules`` None) is made and never touched."""

    table: str
    name: str
    rules: tuple[Rule, ...] | None = ()
    hook: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """A set, or a map to counters or addresses (``value``); ``fields`` are the types of its key."""

    table: str
    name: str
    fields: tuple[str, ...]
    value: str = ""
    interval: bool = False

    @property
    def kind(self) -> str:
        """Return whether it is a set or a map."""
        return "map" if self.value else "set"

    @property
    def declaration(self) -> str:
        """Return what nft is told of it."""
        value = f" : {self.value}" if self.value else ""
        flags = " flags interval;" if self.interval else ""
        return f"{{ type {' . '.join(self.fields)}{value};{flags} }}"


def _containers() -> Iterator[Container]:
    link, pair = ("ifname",), ("ifname", "ifname")
    for table in TABLES:
        yield Container(table, "bridges", link)
        yield Container(table, "same_bridge", pair)
    yield Container(FILTER, "internal", link)
    yield Container(FILTER, "icc_off", link)
    yield Container(FILTER, "trusted", pair)
    for version in (4, 6):
        address = f"ipv{version}_addr"
        yield Container(FILTER, f"open{version}", link)
        yield Container(FILTER, f"routed{version}", link)
        ports = ("ifname", address, "inet_proto", "inet_service")
        yield Container(FILTER, f"ports{version}", ports, interval=True)
        yield Container(NAT, f"masquerade{version}", ("ifname", address), interval=True)
        yield Container(NAT, f"snat{version}", link, value=address)
    for reason in REASONS:
        yield Container(FILTER, f"{reason}_drops", link, value="counter")
    yield Container(FILTER, CLOSED, ("nf_proto",))


CONTAINERS: Mapping[tuple[str, str], Container] = {(each.table, each.name): each for each in _containers()}


def _rules(about: str, *texts: str) -> tuple[Rule, ...]:
    return tuple(Rule(text, about) for text in texts)


def _enter() -> Iterator[Rule]:
    """Yield what judges a packet for a bridge of ours, by where it comes from."""
    yield from _rules("its own endpoints", "iifname . oifname @same_bridge goto peers")
    yield from _rules("internal", "oifname @internal goto enter-internal")
    yield from _rules("replies", "ct state established,related accept")
    yield from _rules("published", "ct status dnat accept")
    for version, family, icmp in ((4, "ip", "ip protocol icmp"), (6, "ip6", "meta l4proto ipv6-icmp")):
        port = f"oifname . {family} daddr . meta l4proto . th dport @ports{version} accept"
        yield from _rules("nat-unprotected", f"meta nfproto ipv{version} oifname @open{version} accept")
        yield from _rules("routed", f"{icmp} oifname @routed{version} accept", f"oifname @routed{version} {port}")
        yield from _rules("a trusted link", f"iifname . oifname @trusted {port}")
    yield from _rules("another network", "iifname @bridges goto isolation")
    yield from _rules("direct access from outside", "counter name oifname map @direct_drops", "drop")


def _refusing(name: str, link: str, reason: str) -> Chain:
    # Counted in a rule of its own: one whose map knows nothing of a link does no more.
    return Chain(FILTER, name, _rules(reason, f"counter name {link} map @{reason}_drops", "goto refuse"))


def _postrouting() -> Iterator[Rule]:
    yield from _rules("hairpin", "iifname . oifname @same_bridge goto hairpin")
    for version, family in ((4, "ip"), (6, "ip6")):
        source = f"iifname . {family} saddr @masquerade{version}"
        yield from _rules("source address", f"{source} snat {family} to iifname map @snat{version}")
        yield from _rules("masquerade", f"{source} masquerade")
    local = "ip saddr 127.0.0.0/8 oifname @bridges ct status dnat masquerade"
    yield from _rules("published on 127.0.0.1", local)


def chains() -> tuple[Chain, ...]:
    """Return all chains of the frame, each with its rules."""
    # On all links: others may have turned route_localnet on for all, as kube-proxy does (modern 3, moby#45610).
    guard = tuple(f'iifname != "lo" ip {end} 127.0.0.0/8 counter drop' for end in ("daddr", "saddr"))
    closed = f"meta nfproto @{CLOSED} iifname != @bridges counter name {STRANGERS} drop"
    return (
        Chain(FILTER, USER_CHAIN, None),
        # Refused at once, rather than leave somebody waiting.
        Chain(
            FILTER,
            "refuse",
            _rules("refused", "meta l4proto tcp reject with tcp reset", "reject with icmpx type admin-prohibited"),
        ),
        _refusing("leave-internal", "iifname", "internal"),
        _refusing("enter-internal", "oifname", "internal"),
        _refusing("isolation", "oifname", "isolation"),
        _refusing("icc-off", "oifname", "icc"),
        Chain(
            FILTER,
            "peers",
            (
                *_rules("icc", "oifname != @icc_off accept"),
                *_rules("replies", "ct state established,related accept"),
                *_rules("published", "ct status dnat accept"),
                *_rules("icc off", "goto icc-off"),
            ),
        ),
        Chain(FILTER, "enter", tuple(_enter())),
        Chain(
            FILTER,
            "host-from-internal",
            (
                *_rules("replies", "ct state established,related accept"),
                *_rules("neighbours", "meta l4proto ipv6-icmp accept"),
                *_rules("the gateway's own", "fib daddr . iif type { local, broadcast, multicast } accept"),
                *_rules("internal", "goto leave-internal"),
            ),
        ),
        Chain(
            FILTER,
            "forward",
            (
                *_rules("your own rules", f"jump {USER_CHAIN}"),
                *_rules("leaves internal", "iifname @internal iifname . oifname != @same_bridge goto leave-internal"),
                *_rules("enters a bridge", "oifname @bridges goto enter"),
                *_rules("forwarding was off", closed),
            ),
            "type filter hook forward priority filter; policy accept;",
        ),
        Chain(
            FILTER,
            "input",
            _rules("internal", "iifname @internal goto host-from-internal"),
            "type filter hook input priority filter; policy accept;",
        ),
        Chain(
            FILTER,
            "loopback-guard",
            _rules("no loopback addresses from elsewhere", *guard),
            "type filter hook prerouting priority raw; policy accept;",
        ),
        Chain(NAT, "hairpin", _rules("hairpin", "ct status dnat masquerade")),
        Chain(NAT, "postrouting", tuple(_postrouting()), "type nat hook postrouting priority srcnat; policy accept;"),
    )


CHAINS = chains()
