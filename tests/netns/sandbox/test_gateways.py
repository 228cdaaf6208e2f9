"""Rows G01, G03 and G10: default routes come, move and go in a real kernel."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from cnm.errors import Invalid, NotFound
from cnm.kernel import netns
from cnm.messages.namespace import EnsureSandbox, Gateway, RouteSandbox

FIRST4 = Gateway(ifname="eth0", address=ip_address("172.28.0.1"))
FIRST6 = Gateway(ifname="eth0", address=ip_address("fd00:5::1"))
OTHER4 = Gateway(ifname="eth0", address=ip_address("172.28.0.254"))
OTHER6 = Gateway(ifname="eth0", address=ip_address("fd00:5::fe"))
SECOND4 = Gateway(ifname="eth1", address=ip_address("172.29.0.1"))
SECOND6 = Gateway(ifname="eth1", address=ip_address("fd00:6::1"))


@pytest.fixture
def plug(shell):
    """Give a namespace an interface with addresses, as a driver would."""

    def make(namespace, name, *addresses):
        shell.run(namespace, "ip", "link", "add", name, "type", "veth", "peer", f"{name}-out")
        shell.run(namespace, "sh", "-c", f"echo 0 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6")
        shell.run(namespace, "ip", "link", "set", f"{name}-out", "up")
        shell.run(namespace, "ip", "link", "set", name, "up")
        for address in addresses:
            nodad = ("nodad",) if ":" in address else ()
            shell.run(namespace, "ip", "addr", "add", address, "dev", name, *nodad)

    return make


@pytest.fixture
async def joined(ask, spec, plug):
    """A sandbox with two interfaces, each of both families."""
    wanted = spec(enable_ipv6=True)
    await ask(EnsureSandbox(sandbox=wanted))
    plug(wanted.namespace, "eth0", "172.28.0.2/16", "fd00:5::2/64")
    plug(wanted.namespace, "eth1", "172.29.0.2/16", "fd00:6::2/64")
    return wanted


@pytest.fixture
def defaults(shell):
    """Return the default routes of a namespace as ``ip`` shows them."""

    def show(namespace):
        found = shell.ip(namespace, "route", "show", "default") + shell.ip(
            namespace, "-6", "route", "show", "default"
        )
        return [(route["gateway"], route["dev"]) for route in found]

    return show


@pytest.mark.parametrize(
    "rounds",
    [
        [[FIRST4]],
        [[FIRST6]],
        [[FIRST4, FIRST6], [FIRST4, FIRST6]],
        [[FIRST4, FIRST6], [SECOND4, SECOND6], [FIRST4, FIRST6]],
        [[FIRST4, FIRST6], [OTHER4, OTHER6]],
        [[FIRST4, FIRST6], [SECOND4, FIRST6], [SECOND4]],
        [[FIRST4, FIRST6], [], []],
        [[], [SECOND6, FIRST4]],
    ],
    ids=["v4", "v6", "again", "moved", "next-hop", "one-family", "removed", "appeared"],
)
async def test_default_routes_become_exactly_those_told(ask, joined, defaults, rounds):
    for gateways in rounds:
        await ask(RouteSandbox(namespace=joined.namespace, gateways=gateways))
        wanted = sorted(gateways, key=lambda gateway: gateway.address.version)
        assert defaults(joined.namespace) == [(str(gateway.address), gateway.ifname) for gateway in wanted]


async def test_strange_default_routes_give_way(ask, joined, defaults, shell):
    for words in (
        "default via 172.29.0.9",
        "default via 172.29.0.8 metric 7",
        "default dev eth1 metric 9",
        "default metric 30 nexthop via 172.28.0.7 nexthop via 172.29.0.7",
    ):
        shell.run(joined.namespace, "ip", "route", "add", *words.split())
    shell.run(joined.namespace, "ip", "route", "append", "default", "via", "172.28.0.6")
    for metric in ("5", "1024"):
        shell.run(joined.namespace, "ip", "-6", "route", "add", "default", "via", "fd00:6::9", "metric", metric)
    shell.run(joined.namespace, "ip", "-6", "route", "append", "default", "via", "fd00:5::9", "metric", "1024")
    await ask(RouteSandbox(namespace=joined.namespace, gateways=[FIRST4, FIRST6]))
    assert defaults(joined.namespace) == [("172.28.0.1", "eth0"), ("fd00:5::1", "eth0")]


async def test_other_routes_are_left_alone(ask, joined, shell):
    shell.run(joined.namespace, "ip", "route", "add", "10.9.0.0/16", "via", "172.28.0.5")
    before = shell.ip(joined.namespace, "route")
    await ask(RouteSandbox(namespace=joined.namespace, gateways=[FIRST4]))
    await ask(RouteSandbox(namespace=joined.namespace, gateways=[]))
    assert shell.ip(joined.namespace, "route") == before


async def test_traffic_takes_the_route(ask, joined, shell):
    await ask(RouteSandbox(namespace=joined.namespace, gateways=[FIRST4, SECOND6]))
    assert shell.ip(joined.namespace, "route", "get", "203.0.113.1")[0]["gateway"] == "172.28.0.1"
    assert shell.ip(joined.namespace, "route", "get", "2001:db8::1")[0]["gateway"] == "fd00:6::1"


async def test_missing_interface_is_named(ask, joined, defaults):
    missing = Gateway(ifname="eth7", address=ip_address("172.28.0.1"))
    with pytest.raises(NotFound, match="no interface eth7"):
        await ask(RouteSandbox(namespace=joined.namespace, gateways=[missing]))
    assert defaults(joined.namespace) == []


async def test_gateway_out_of_reach_is_named(ask, joined):
    away = Gateway(ifname="eth0", address=ip_address("203.0.113.1"))
    with pytest.raises(Invalid, match=r"via 203\.0\.113\.1"):
        await ask(RouteSandbox(namespace=joined.namespace, gateways=[away]))


async def test_missing_namespace_is_named_unless_nothing_is_wanted(ask, settings):
    gone = str(settings.namespaces / "0123456789ab")
    with pytest.raises(NotFound, match=gone):
        await ask(RouteSandbox(namespace=gone, gateways=[FIRST4]))
    await ask(RouteSandbox(namespace=gone, gateways=[]))


async def test_the_node_s_own_namespace_is_never_routed(ask):
    before = Path("/proc/net/route").read_text()
    await ask(RouteSandbox(namespace="host", gateways=[]))
    with pytest.raises(Invalid, match="the node's own"):
        await ask(RouteSandbox(namespace="/proc/self/ns/net", gateways=[]))
    assert Path("/proc/net/route").read_text() == before


async def test_converging_brings_back_default_routes_when_their_interface_is_there(
    service, ask, joined, defaults, shell, slice_of
):
    wanted = [FIRST4, SECOND6]
    await ask(RouteSandbox(namespace=joined.namespace, gateways=wanted))
    shell.run(joined.namespace, "ip", "link", "set", "eth1", "down")
    shell.run(joined.namespace, "ip", "link", "set", "eth1", "name", "away")
    shell.run(joined.namespace, "ip", "route", "flush", "default")
    await service.converge(slice_of(joined))
    done = await service.converge(slice_of(joined, gateways=wanted))
    assert not done.failed
    assert defaults(joined.namespace) == [("172.28.0.1", "eth0")]
    assert netns.is_namespace(Path(joined.namespace))
