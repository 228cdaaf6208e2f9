"""Plans for an endpoint's link."""

import dataclasses
import ipaddress

import pytest

from cnm.errors import Invalid
from cnm.kernel.rtnl import Link
from cnm_driver_bridge import plug
from cnm_driver_bridge.bridge import mark
from cnm_driver_bridge.plug import Inside


def test_a_new_pair_takes_three_sends(make_network, make_attachment):
    attachment = make_attachment(make_network(mtu=1400))
    name = next(plug.host_names(attachment.endpoint_id))
    made = plug.create(attachment, name, bridge=3, namespace_fd=9)
    assert str(made) == (
        f"ip link add {name} mtu 1400 master 3 group {plug.GROUP}"
        " type veth peer eth0 address 02:42:ac:00:00:02 mtu 1400 netns 9"
    )
    near = Link(5, name, kind="veth", master=3, mtu=1400, peer=2)
    assert [str(step) for step in plug.plan_host(attachment.endpoint_id, attachment.network, near, bridge=3)] == [
        f"ip link set index 5 alias {mark(attachment.endpoint_id)} addrgenmode none",
        "ip link set index 5 up",
    ]
    assert [str(step) for step in plug.plan_inside(attachment, plug.newborn(attachment, 2))] == [
        "ip link set index 1 up",
        "ip link set index 2 up",
        "ip addr add 10.1.0.2/24 dev index 2",
        "ip addr add fd00:1::2/64 dev index 2 nodad",
        "ip route replace default via 10.1.0.1 dev index 2",
        "ip route replace default via fd00:1::1 dev index 2",
    ]


def whole(attachment):
    """Return both ends as they should be."""
    near = Link(5, "veth1", kind="veth", master=3, alias=mark(attachment.endpoint_id), up=True, peer=2)
    far = Link(2, "eth0", kind="veth", mac=attachment.mac_address.lower(), up=True, peer=5)
    inside = Inside(far, True, frozenset(attachment.addresses), frozenset(attachment.default_via))
    return near, inside


def test_what_is_whole_needs_nothing(make_network, make_attachment):
    attachment = make_attachment(make_network())
    near, inside = whole(attachment)
    assert plug.plan_host(attachment.endpoint_id, attachment.network, near, bridge=3) == ()
    assert plug.plan_inside(attachment, inside) == ()


def test_what_is_broken_is_mended(make_network, make_attachment):
    attachment = make_attachment(make_network(icc=False))
    near, inside = whole(attachment)
    steps = plug.plan_host(attachment.endpoint_id, attachment.network, dataclasses.replace(near, master=0), bridge=3)
    assert [str(step) for step in steps] == ["ip link set index 5 master 3", "bridge link set index 5 isolated on"]
    moved = dataclasses.replace(inside, link=dataclasses.replace(inside.link, mac="02:00:00:00:00:01"))
    assert [str(step) for step in plug.plan_inside(attachment, moved)] == [
        "ip link set index 2 address 02:42:ac:00:00:02"
    ]


def test_ipv6_is_not_given_where_the_endpoint_turns_it_off(make_network, make_attachment):
    off = {"net.ipv6.conf.IFNAME.disable_ipv6": "1"}
    attachment = make_attachment(make_network(), sysctls=off)
    assert not plug.needs_ipv6(attachment)
    assert not any(":" in str(step) for step in plug.plan_inside(attachment, plug.newborn(attachment, 2))[2:])


def test_a_gateway_beyond_every_subnet_is_onlink(make_network, make_attachment):
    gateways = [ipaddress.ip_address("10.9.9.9"), ipaddress.ip_address("fe80::1")]
    attachment = make_attachment(make_network(), default_via=gateways)
    routes = [str(step) for step in plug.plan_inside(attachment, plug.newborn(attachment, 2))][-2:]
    assert routes == [
        "ip route replace default via 10.9.9.9 dev index 2 onlink",
        "ip route replace default via fe80::1 dev index 2",
    ]


def test_settings_are_paths_with_the_interfaces_name(make_network, make_attachment):
    attachment = make_attachment(make_network(), ifname="eth0.5", sysctls={"net.ipv4.conf.IFNAME.log_martians": "1"})
    assert plug.sysctls(attachment) == {"net/ipv4/conf/eth0.5/log_martians": "1"}


@pytest.mark.parametrize(
    "name", ["kernel.IFNAME.x", "net.ipv4.ip_forward", "net..IFNAME", "net.IFNAME./etc", "net/ipv4/IFNAME", ""]
)
def test_other_settings_are_refused_by_name(make_network, make_attachment, name):
    with pytest.raises(Invalid, match="is not a setting of an interface"):
        plug.sysctls(make_attachment(make_network(), sysctls={name: "1"}))


def test_names_of_the_hosts_end_go_through_the_id():
    names = list(plug.host_names("0123456789abcdef" * 4))
    assert names[:3] == ["veth0123456", "veth789abcd", "vethef01234"]
    assert len(names) == len(set(names)) == 9
