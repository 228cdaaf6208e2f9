"""Links, addresses and routes, compared with what ``ip`` sees."""

import errno
import ipaddress
import os
import socket
import time
from contextlib import contextmanager, suppress

import pytest

from cnm.kernel import link as links
from cnm.kernel import netns
from cnm.kernel.errors import KernelError
from cnm.kernel.netlink import NLM_F_ECHO
from cnm.kernel.rtnl import (
    AddAddress,
    AddRoute,
    CreateBridge,
    CreateVeth,
    DeleteAddress,
    DeleteGroup,
    DeleteLink,
    DeleteRoute,
    Rtnl,
    SetBridge,
    SetBridgePort,
    SetLink,
)

address = ipaddress.ip_address
interface = ipaddress.ip_interface
prefix = ipaddress.ip_network


@contextmanager
def opened(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def make_bridge(host):
    """Make br0 with the gateways of both families."""
    with Rtnl.open(host) as rtnl:
        (bridge,) = rtnl.send(CreateBridge("br0", mac="02:00:00:00:00:01", mtu=1450, alias="cnm network"))
        rtnl.send(
            AddAddress(bridge.index, interface("10.7.0.1/24")),
            AddAddress(bridge.index, interface("fd00:7::1/64")),
        )
    return bridge


def attach(host, container, bridge, number):
    """Attach an endpoint with two sends; return the host's link."""
    with Rtnl.open(host) as rtnl, opened(container) as fd:
        (link,) = rtnl.send(
            CreateVeth(
                f"veth{number}",
                peer_name="eth0",
                peer_namespace_fd=fd,
                peer_mac=f"02:00:00:00:07:{number:02x}",
                mtu=1450,
                master=bridge.index,
                alias=f"cnm endpoint {number}",
                group=700,
            )
        )
        with Rtnl.open(fd) as inner:
            inner.send(
                SetLink(1, up=True),
                SetLink(link.peer, up=True),
                AddAddress(link.peer, interface(f"10.7.0.{number}/24")),
                AddAddress(link.peer, interface(f"fd00:7::{number:x}/64")),
                AddRoute(gateway=address("10.7.0.1"), index=link.peer),
                AddRoute(gateway=address("fd00:7::1"), index=link.peer),
            )
    return link


def echo(source, target, family, where, *, patience_s=5):
    """Send datagrams from one namespace to another until one comes back; return whether one did.

    More than one, since a namespace joins the multicast group of a new IPv6 address a moment later.
    """
    with (
        netns.open_socket(source, family, socket.SOCK_DGRAM) as client,
        netns.open_socket(target, family, socket.SOCK_DGRAM) as server,
    ):
        server.bind((where, 7777))
        for each in (client, server):
            each.settimeout(0.1)
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            client.sendto(b"ping", (where, 7777))
            with suppress(TimeoutError):
                question, sender = server.recvfrom(64)
                server.sendto(question[::-1], sender)
                return client.recv(64) == b"gnip"
    return False


def await_carrier(rtnl, *names, patience_s=5):
    """Wait until links have a carrier: the kernel tells a bridge of its port's a moment later."""
    deadline = time.monotonic() + patience_s
    while not all(rtnl.link(name).carrier for name in names):
        assert time.monotonic() < deadline, f"no carrier on one of {', '.join(names)}"
        time.sleep(0.01)


def test_two_sends_attach_an_endpoint(host, container, shell):
    bridge = make_bridge(host)
    link = attach(host, container, bridge, 2)

    assert link.name == "veth2"
    assert link.alias == "cnm endpoint 2"
    outer = shell.link(host, "veth2")
    assert outer["ifindex"] == link.index
    assert outer["master"] == "br0"
    assert outer["mtu"] == 1450
    assert outer["ifalias"] == "cnm endpoint 2"
    assert outer["group"] == "700"
    assert outer["linkinfo"]["info_kind"] == "veth"
    assert "UP" in outer["flags"]
    inner = shell.link(container, "eth0")
    assert inner["ifindex"] == link.peer
    assert inner["address"] == "02:00:00:00:07:02"
    assert inner["mtu"] == 1450
    assert "UP" in inner["flags"]
    (about,) = [each for each in shell.ip(container, "addr", "show") if each["ifname"] == "eth0"]
    found = {(each["local"], each["prefixlen"]): each for each in about["addr_info"]}
    assert found["10.7.0.2", 24]["broadcast"] == "10.7.0.255"
    assert found["fd00:7::2", 64]["nodad"] is True
    assert {each["dst"] for each in shell.ip(container, "route", "show")} == {"default", "10.7.0.0/24"}
    assert "default" in {each["dst"] for each in shell.ip(container, "-6", "route", "show")}


def test_a_kernel_that_does_not_tell_of_new_links_is_asked(host, container, shell, monkeypatch):
    monkeypatch.setattr(links, "_CREATE", links._CREATE & ~NLM_F_ECHO)  # as Linux before 6.2, which ignores it
    made = attach(host, container, make_bridge(host), 2)
    assert (made.index, made.alias) == (shell.link(host, "veth2")["ifindex"], "cnm endpoint 2")
    assert made.peer == shell.link(container, "eth0")["ifindex"]
    assert shell.link(host, "veth2")["ifalias"] == "cnm endpoint 2"
    assert shell.link(host, "br0")["ifalias"] == "cnm network"


def test_attached_endpoints_reach_one_another(host, namespace):
    bridge = make_bridge(host)
    first, second = namespace("first"), namespace("second")
    attach(host, first, bridge, 2)
    attach(host, second, bridge, 3)
    assert echo(first, second, socket.AF_INET, "10.7.0.3")
    assert echo(first, second, socket.AF_INET6, "fd00:7::3")
    with Rtnl.open(host) as rtnl:
        rtnl.send(SetLink("veth3", up=False))
    assert not echo(first, second, socket.AF_INET, "10.7.0.3", patience_s=0.3)


def test_isolated_ports_do_not_reach_one_another(host, namespace):
    bridge = make_bridge(host)
    first, second = namespace("first"), namespace("second")
    attach(host, first, bridge, 2)
    attach(host, second, bridge, 3)
    assert echo(first, second, socket.AF_INET, "10.7.0.3")
    with Rtnl.open(host) as rtnl:
        rtnl.send(*(SetBridgePort(name, isolated=True) for name in ("veth2", "veth3")))
        assert rtnl.link("veth2").isolated
    assert not echo(first, second, socket.AF_INET, "10.7.0.3", patience_s=0.3)


def test_link_is_told_as_ip_tells_it(host, container, shell):
    bridge = make_bridge(host)
    attach(host, container, bridge, 2)
    with Rtnl.open(host) as rtnl:
        rtnl.send(SetBridgePort("veth2", hairpin=True))
        await_carrier(rtnl, "br0", "veth2")
        links = rtnl.links(statistics=True)
        assert rtnl.links(master=bridge.index) == [rtnl.link("veth2")]
        assert rtnl.link("absent") is None
        assert rtnl.link(4711) is None
    seen = {each["ifname"]: each for each in shell.ip(host, "-s", "link", "show")}
    assert {link.name for link in links} == set(seen)
    for link in links:
        told = seen[link.name]
        assert (link.index, link.mac, link.mtu) == (told["ifindex"], told["address"], told["mtu"])
        assert link.kind == told.get("linkinfo", {}).get("info_kind", "")
        assert link.alias == told.get("ifalias", "")
        assert link.up == ("UP" in told["flags"])
        assert link.carrier == ("LOWER_UP" in told["flags"])
        assert link.statistics.rx_packets <= told["stats64"]["rx"]["packets"]
    veth = next(link for link in links if link.name == "veth2")
    assert (veth.master, veth.group, veth.hairpin, veth.isolated) == (bridge.index, 700, True, False)
    assert seen["veth2"]["linkinfo"]["info_slave_data"]["hairpin"] is True


def test_addresses_and_routes_are_told_as_ip_tells_them(host, container, shell):
    bridge = make_bridge(host)
    link = attach(host, container, bridge, 2)
    with Rtnl.open(container) as rtnl:
        addresses = rtnl.addresses(link.peer)
        routes = rtnl.routes()
        assert {found.index for found in rtnl.addresses()} == {1, link.peer}
        assert rtnl.addresses(4711) == []
    assert {str(each.interface) for each in addresses if each.scope == "global"} == {"10.7.0.2/24", "fd00:7::2/64"}
    assert not any(each.tentative for each in addresses if each.scope == "global")
    told = shell.ip(container, "route", "show") + shell.ip(container, "-6", "route", "show")
    names = {"0.0.0.0/0": "default", "::/0": "default"}
    assert sorted(names.get(str(each.destination), str(each.destination)) for each in routes) == sorted(
        each["dst"] for each in told
    )
    default = next(each for each in routes if str(each.destination) == "0.0.0.0/0")
    assert (default.gateway, default.index, default.protocol) == (address("10.7.0.1"), link.peer, 3)


def test_existing_is_refused_or_forgiven(host, shell):
    bridge = make_bridge(host)
    with Rtnl.open(host) as rtnl:
        with pytest.raises(KernelError, match="ip link add br0") as caught:
            rtnl.send(CreateBridge("br0"))
        assert caught.value.errno == errno.EEXIST
        assert rtnl.send(CreateBridge("br0", alias="usurper", exists_ok=True)) == [None]
        for step in (
            AddAddress(bridge.index, interface("10.7.0.1/24"), exists_ok=True),
            AddRoute(prefix("10.9.0.0/16"), gateway=address("10.7.0.9"), index=bridge.index, exists_ok=True),
        ):
            rtnl.send(step)
            rtnl.send(step)
    assert shell.link(host, "br0")["ifalias"] == "cnm network"


def test_absent_is_deleted_without_complaint(host):
    bridge = make_bridge(host)
    with Rtnl.open(host) as rtnl:
        for _ in range(2):
            rtnl.send(
                DeleteRoute(prefix("10.9.0.0/16")),
                DeleteAddress(bridge.index, interface("10.7.0.1/24")),
                DeleteAddress(4711, interface("10.7.0.1/24")),
                DeleteGroup(700),
                DeleteLink("br0"),
                DeleteLink(4711),
            )
        assert [link.name for link in rtnl.links()] == ["lo"]


def test_first_failure_is_raised_and_what_was_applied_is_told(host):
    bridge = make_bridge(host)
    with Rtnl.open(host) as rtnl:
        with pytest.raises(KernelError) as caught:
            rtnl.send(
                SetLink(bridge.index, mtu=1400),
                SetLink("absent", up=True),
                CreateBridge("br0"),
                SetLink(bridge.index, mtu=1300),
            )
        assert (caught.value.index, caught.value.errno, caught.value.applied) == (1, errno.ENODEV, (0, 3))
        with pytest.raises(KernelError, match="mtu greater than device maximum: Invalid argument"):
            rtnl.send(SetLink("br0", mtu=70000))
        assert rtnl.link("br0").mtu == 1300


def test_group_is_deleted_at_once_and_others_stay(host, namespace, shell):
    bridge = make_bridge(host)
    for number in (2, 3, 4):
        attach(host, namespace(f"c{number}"), bridge, number)
    with Rtnl.open(host) as rtnl:
        rtnl.send(SetLink("veth4", group=0))
        rtnl.send(DeleteGroup(700))
        assert [link.name for link in rtnl.links()] == ["lo", "br0", "veth4"]
        with pytest.raises(KernelError) as caught:
            rtnl.send(DeleteGroup(0))
        assert caught.value.errno == errno.EPERM


def test_link_is_changed(host, container, shell):
    bridge = make_bridge(host)
    link = attach(host, container, bridge, 2)
    with Rtnl.open(host) as rtnl, opened(container) as fd:
        rtnl.send(
            SetLink(link.index, up=False, master=0, mac="02:00:00:00:00:99", mtu=1400, alias="other"),
            SetLink(link.index, name="renamed", address_mode="none"),
        )
        seen = shell.link(host, "renamed")
        assert (seen["address"], seen["mtu"], seen["ifalias"]) == ("02:00:00:00:00:99", 1400, "other")
        assert "master" not in seen
        assert seen["inet6_addr_gen_mode"] == "none"
        rtnl.send(SetLink(link.index, namespace_fd=fd))
    assert shell.link(host, "renamed") is None
    assert shell.link(container, "renamed") is not None


def test_bridge_options_are_set(host, shell):
    with Rtnl.open(host) as rtnl:
        rtnl.send(CreateBridge("br0", multicast_snooping=False, up=False))
        assert shell.link(host, "br0")["linkinfo"]["info_data"]["mcast_snooping"] == 0
        rtnl.send(SetBridge("br0", multicast_snooping=True))
    options = shell.link(host, "br0")["linkinfo"]["info_data"]
    assert options["mcast_snooping"] == 1
    assert "UP" not in shell.link(host, "br0")["flags"]


def test_routes_are_replaced_and_deleted(host, shell):
    bridge = make_bridge(host)
    where = prefix("10.9.0.0/16")
    with Rtnl.open(host) as rtnl:
        rtnl.send(AddRoute(where, gateway=address("10.7.0.9"), index=bridge.index))
        rtnl.send(AddRoute(where, gateway=address("10.7.0.8"), replace=True, source=address("10.7.0.1")))
        (route,) = shell.ip(host, "route", "show", "10.9.0.0/16")
        assert (route["gateway"], route["prefsrc"]) == ("10.7.0.8", "10.7.0.1")
        rtnl.send(AddRoute(prefix("203.0.113.0/24"), index=bridge.index, metric=50))
        (route,) = shell.ip(host, "route", "show", "203.0.113.0/24")
        assert (route["scope"], route["metric"]) == ("link", 50)
        rtnl.send(AddRoute(prefix("0.0.0.0/0"), gateway=address("198.51.100.1"), index=bridge.index, onlink=True))
        rtnl.send(DeleteRoute(gateway=address("198.51.100.1")))
        rtnl.send(DeleteRoute(where))
        rtnl.send(DeleteRoute(prefix("203.0.113.0/24")))
    assert [each["dst"] for each in shell.ip(host, "route", "show")] == ["10.7.0.0/24"]


def test_many_steps_fit_in_one_send(host):
    with Rtnl.open(host) as rtnl:
        assert rtnl.send() == []
        made = rtnl.send(*(CreateBridge(f"many{number}", up=False, alias="cnm") for number in range(200)))
        assert len({link.index for link in made}) == 200
        links = rtnl.links()
        assert len(links) == 201
        assert {link.alias for link in links if link.kind == "bridge"} == {"cnm"}


def test_step_that_cannot_be_encoded_sends_nothing(host):
    with Rtnl.open(host) as rtnl:
        with pytest.raises(ValueError, match="index"):
            rtnl.send(CreateBridge("br9"), SetLink("br9", name="br10"))
        assert [link.name for link in rtnl.links()] == ["lo"]


def test_pair_of_links_in_one_namespace(host, shell):
    with Rtnl.open(host) as rtnl:
        (link,) = rtnl.send(CreateVeth("left", peer_name="right", mac="02:00:00:00:00:0a", up=False))
        assert rtnl.link(link.peer).name == "right"
    assert shell.link(host, "left")["link"] == "right"
    assert shell.link(host, "left")["address"] == "02:00:00:00:00:0a"
