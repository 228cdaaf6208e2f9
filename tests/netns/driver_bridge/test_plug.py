"""Endpoints plugged and unplugged, as ``ip`` sees them from both ends."""

import asyncio
import ipaddress
from pathlib import Path

import msgspec
import pytest

from cnm.errors import Conflict, Invalid, Unavailable, Unsupported
from cnm.kernel import netns, sysctl
from cnm.kernel.rtnl import CreateBridge, CreateVeth, DeleteLink, Rtnl, SetLink
from cnm.messages.bridge import PlugEndpoint, UnplugEndpoint
from cnm_driver_bridge.nftables import Nftables


def host_links(shell, host):
    return sorted(link["ifname"] for link in shell.ip(host, "link", "show") if link["ifname"].startswith("veth"))


def test_a_plugged_endpoint_has_all_that_was_asked_for(driver, make_network, make_attachment, shell, host):
    attachment = make_attachment(make_network(1, mtu=1400), ifname="web0")
    name = driver.plug(attachment)
    assert name == f"veth{attachment.endpoint_id[:7]}"
    near, far = shell.link(host, name), shell.link(attachment.namespace, "web0")
    assert near["ifalias"] == f"cnm:{attachment.endpoint_id}"
    assert near["master"] == attachment.network.bridge
    assert far["address"] == attachment.mac_address.lower()
    assert near["mtu"] == far["mtu"] == 1400
    assert near["operstate"] == far["operstate"] == "UP"
    assert near["inet6_addr_gen_mode"] == "none"
    (shown,) = [link for link in shell.ip(attachment.namespace, "addr", "show") if link["ifname"] == "web0"]
    found = {f"{each['local']}/{each['prefixlen']}": each for each in shown["addr_info"]}
    assert {str(address) for address in attachment.addresses} <= set(found)
    assert not any(each.get("tentative") for name, each in found.items() if not name.startswith("fe80"))
    for version, gateway in ((4, "10.1.0.1"), (6, "fd00:1::1")):
        routes = shell.ip(attachment.namespace, f"-{version}", "route", "show", "default")
        assert [(route["gateway"], route["dev"]) for route in routes] == [(gateway, "web0")]
    assert "UP" in shell.link(attachment.namespace, "lo")["flags"]


def test_ipv6_stays_off_where_the_endpoint_has_no_ipv6_address(driver, make_network, make_attachment):
    plain = make_attachment(make_network(1, ipv6=False))
    driver.plug(plain)
    assert sysctl.read("net/ipv6/conf/eth0/disable_ipv6", plain.namespace) == "1"


def test_settings_of_the_endpoint_are_written_with_its_interfaces_name(driver, make_network, make_attachment):
    attachment = make_attachment(make_network(1), ifname="eth0.5", sysctls={"net.ipv4.conf.IFNAME.log_martians": "1"})
    driver.plug(attachment)
    assert sysctl.read("net/ipv4/conf/eth0.5/log_martians", attachment.namespace) == "1"


def test_an_endpoint_may_turn_its_ipv6_off(driver, make_network, make_attachment, shell):
    off = {"net.ipv6.conf.IFNAME.disable_ipv6": "1"}
    attachment = make_attachment(make_network(1), sysctls=off)
    driver.plug(attachment)
    assert shell.ip(attachment.namespace, "-6", "addr", "show", "dev", "eth0") in ([], [{}])
    driver.plug(attachment)


def test_a_setting_that_the_kernel_lacks_leaves_nothing(driver, make_network, make_attachment, shell, host):
    attachment = make_attachment(make_network(1), sysctls={"net.ipv4.conf.IFNAME.no_such_thing": "1"})
    with pytest.raises(Unsupported, match="no_such_thing"):
        driver.plug(attachment)
    assert host_links(shell, host) == []
    assert shell.link(attachment.namespace, "eth0") is None


def test_plugging_twice_is_plugging_once(driver, make_network, make_attachment, shell, host):
    attachment = make_attachment(make_network(1))
    name = driver.plug(attachment)
    before = shell.link(host, name)["ifindex"], shell.ip(attachment.namespace, "addr", "show")
    assert driver.plug(attachment) == name
    assert (shell.link(host, name)["ifindex"], shell.ip(attachment.namespace, "addr", "show")) == before


def test_plugging_again_mends_what_was_broken(driver, make_network, make_attachment, shell, host, traffic, ips):
    network = make_network(1)
    attachment, peer = make_attachment(network), make_attachment(network)
    name = driver.plug(attachment)
    driver.plug(peer)
    shell.run(attachment.namespace, "ip", "addr", "flush", "dev", "eth0")
    shell.run(host, "ip", "link", "set", name, "nomaster", "down")
    driver.plug(attachment)
    traffic.listen(attachment.namespace)
    for address in ips(attachment):
        assert traffic.tcp(peer.namespace, address) == "open"
    assert shell.ip(attachment.namespace, "route", "show", "default")


def test_unplugging_is_done_when_it_replies_and_may_be_repeated(driver, make_network, make_attachment, shell, host):
    attachment = make_attachment(make_network(1))
    driver.plug(attachment)
    for _ in range(2):
        driver.unplug(attachment)
        assert shell.link(attachment.namespace, "eth0") is None
        assert host_links(shell, host) == []


def test_a_name_that_is_another_links_is_passed_over(driver, make_network, make_attachment, shell, host):
    attachment = make_attachment(make_network(1))
    taken, wanted = (f"veth{attachment.endpoint_id[place : place + 7]}" for place in (0, 7))
    with Rtnl.open(host) as rtnl:
        rtnl.send(CreateVeth(taken, peer_name="other", alias=f"cnm:{'0' * 64}"))
        assert driver.plug(attachment) == wanted
        assert driver.plug(attachment) == wanted
        rtnl.send(DeleteLink(taken))
    assert driver.plug(attachment) == wanted, "also when the first name has become free"
    driver.unplug(attachment)
    assert host_links(shell, host) == []


def test_what_a_crash_left_half_made_is_swept_aside(driver, make_network, make_attachment, shell, host):
    network = make_network(1)
    attachment = make_attachment(network)
    driver.ensure(network)
    name = f"veth{attachment.endpoint_id[:7]}"
    with Rtnl.open(host) as rtnl, netns.inside(host), Path(attachment.namespace).open() as namespace:
        rtnl.send(CreateVeth(name, peer_name="eth0", peer_namespace_fd=namespace.fileno(), group=0x434E4D))
    assert driver.plug(attachment) == name
    assert shell.link(host, name)["ifalias"] == f"cnm:{attachment.endpoint_id}"


def test_an_interface_that_is_there_already_is_a_conflict_that_names_it(
    driver, make_network, make_attachment, shell, host
):
    attachment = make_attachment(make_network(1))
    with Rtnl.open(attachment.namespace) as rtnl:
        rtnl.send(CreateBridge("eth0"))
    with pytest.raises(Conflict, match="has an interface eth0 already"):
        driver.plug(attachment)
    assert host_links(shell, host) == []


@pytest.mark.parametrize("made", [False, True])
def test_a_path_that_is_no_namespace_is_named(driver, make_network, make_attachment, tmp_path, made):
    path = tmp_path / "no-namespace"
    if made:
        path.write_text("")
    attachment = msgspec.structs.replace(make_attachment(make_network(1)), namespace=str(path))
    with pytest.raises(Invalid, match="no-namespace"):
        driver.plug(attachment)


def test_a_gateway_beyond_the_subnet_is_reached_all_the_same(driver, make_network, make_attachment, shell):
    attachment = make_attachment(make_network(1, ipv6=False), default_via=[ipaddress.ip_address("10.77.0.1")])
    driver.plug(attachment)
    (route,) = shell.ip(attachment.namespace, "route", "show", "default")
    assert (route["gateway"], route["flags"]) == ("10.77.0.1", ["onlink"])


def test_the_default_route_moves_to_the_network_that_has_it_now(driver, make_network, make_attachment, shell):
    first = make_attachment(make_network(1))
    second = make_attachment(make_network(2), path=first.namespace, ifname="eth1")
    driver.plug(first)
    driver.plug(second)
    for version, gateway in ((4, "10.2.0.1"), (6, "fd00:2::1")):
        routes = shell.ip(first.namespace, f"-{version}", "route", "show", "default")
        assert [route["gateway"] for route in routes] == [gateway]


def test_a_bridge_that_vanished_is_made_again(driver, make_network, make_attachment, shell, host):
    network = make_network(1)
    driver.plug(make_attachment(network))
    shell.run(host, "ip", "link", "del", network.bridge)
    name = driver.plug(make_attachment(network))
    assert shell.link(host, name)["master"] == network.bridge
    assert shell.link(host, network.bridge)["ifalias"] == f"cnm:{network.network_id}"


def test_a_link_that_lost_its_bridge_is_mended(driver, make_network, make_attachment, shell, host):
    attachment = make_attachment(make_network(1))
    name = driver.plug(attachment)
    with Rtnl.open(host) as rtnl:
        rtnl.send(SetLink(name, master=0))
    driver.plug(attachment)
    assert shell.link(host, name)["master"] == attachment.network.bridge


def test_many_at_once_all_come_and_all_go(driver, make_network, make_attachment, shell, host):
    network = make_network(1)
    attachments = [make_attachment(network) for _ in range(30)]

    async def all_of(commands):
        return await asyncio.gather(*(driver._handlers[type(command)](command) for command in commands))

    plugged = driver.call(all_of(PlugEndpoint(attachment=each) for each in attachments))
    assert sorted(reply.host_ifname for reply in plugged) == host_links(shell, host)
    driver.call(all_of(UnplugEndpoint(endpoint_id=each.endpoint_id) for each in attachments))
    assert host_links(shell, host) == []
    assert all(shell.link(each.namespace, "eth0") is None for each in attachments)


def test_a_firewall_that_refuses_takes_no_link_that_stood(
    driver, make_network, make_attachment, monkeypatch, shell, host
):
    network = make_network(1)
    stood, new = (make_attachment(network) for _ in range(2))
    name = driver.plug(stood)

    def refuse(*_):
        raise Unavailable("nftables refused a change")

    with monkeypatch.context() as patched:
        patched.setattr(Nftables, "open_ports", refuse)
        for attachment in (stood, new):
            with pytest.raises(Unavailable):
                driver.plug(attachment)
    assert shell.link(host, name)["master"] == network.bridge
    assert shell.link(stood.namespace, "eth0") is not None
    assert shell.link(new.namespace, "eth0") is None
    assert driver.plug(new)
