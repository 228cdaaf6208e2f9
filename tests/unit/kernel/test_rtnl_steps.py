"""What steps say, and what pyroute2's decoder reads in their bytes."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from cnm.kernel.link import parse_link
from cnm.kernel.rtnl import (
    AddAddress,
    AddRoute,
    CreateBridge,
    CreateVeth,
    DeleteAddress,
    DeleteGroup,
    DeleteLink,
    DeleteRoute,
    SetBridge,
    SetBridgePort,
    SetLink,
)

address = ipaddress.ip_address
interface = ipaddress.ip_interface
prefix = ipaddress.ip_network

VETH = CreateVeth(
    "veth1", peer_name="eth0", peer_namespace_fd=7, peer_mac="02:00:00:00:00:02",
    mtu=1450, master=3, alias="cnm", group=9,
)  # fmt: skip

VETH_WORDS = (
    "ip link add veth1 mtu 1450 master 3 group 9 alias cnm up "
    "type veth peer eth0 address 02:00:00:00:00:02 mtu 1450 netns 7"
)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (CreateBridge("br0", mtu=1450), "ip link add br0 mtu 1450 up type bridge"),
        (VETH, VETH_WORDS),
        (SetLink(4, up=True), "ip link set index 4 up"),
        (SetLink("br0", up=False, mtu=1400), "ip link set dev br0 mtu 1400 down"),
        (SetBridge("br0", multicast_snooping=False), "ip link set dev br0 type bridge mcast_snooping 0"),
        (SetBridgePort("veth1", hairpin=True), "bridge link set dev veth1 hairpin on"),
        (DeleteLink("veth1"), "ip link del dev veth1"),
        (DeleteGroup(9), "ip link del group 9"),
        (AddAddress(2, interface("10.0.0.2/24")), "ip addr add 10.0.0.2/24 dev index 2"),
        (AddAddress(2, interface("fd00::2/64")), "ip addr add fd00::2/64 dev index 2 nodad"),
        (
            AddAddress(2, interface("169.254.0.1/32"), scope="link"),
            "ip addr add 169.254.0.1/32 dev index 2 scope link",
        ),
        (DeleteAddress(2, interface("10.0.0.2/24")), "ip addr del 10.0.0.2/24 dev index 2"),
        (AddRoute(gateway=address("10.0.0.1"), index=2), "ip route add default via 10.0.0.1 dev index 2"),
        (
            AddRoute(prefix("10.1.0.0/16"), index=2, source=address("10.1.0.1"), metric=5, replace=True),
            "ip route replace 10.1.0.0/16 dev index 2 src 10.1.0.1 metric 5",
        ),
        (DeleteRoute(prefix("10.1.0.0/16")), "ip route del 10.1.0.0/16"),
    ],
)
def test_step_reads_like_a_command(step, words):
    assert str(step) == words


def decode(kind, step):
    found = kind(step.encode(77))
    found.decode()
    assert found["header"]["sequence_number"] == 77
    assert found["header"]["length"] == len(step.encode(77))
    return found


def test_veth_is_one_message_with_its_peer():
    found = decode(ifinfmsg, VETH)
    assert found.get_attr("IFLA_IFNAME") == "veth1"
    assert found.get_attr("IFLA_MASTER") == 3
    assert found.get_attr("IFLA_GROUP") == 9
    assert found["flags"] & 1
    about = found.get_attr("IFLA_LINKINFO")
    assert about.get_attr("IFLA_INFO_KIND") == "veth"
    peer = about.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    assert peer["flags"] == 0
    assert peer.get_attr("IFLA_IFNAME") == "eth0"
    assert peer.get_attr("IFLA_ADDRESS") == "02:00:00:00:00:02"
    assert peer.get_attr("IFLA_MTU") == 1450
    assert peer.get_attr("IFLA_NET_NS_FD") == 7


def test_state_of_a_link_is_left_alone_unless_asked():
    assert decode(ifinfmsg, SetLink(4, mtu=1400))["change"] == 0
    down = decode(ifinfmsg, SetLink(4, up=False))
    assert (down["index"], down["flags"], down["change"]) == (4, 0, 1)


def test_port_options_are_slave_data():
    about = decode(ifinfmsg, SetBridgePort("veth1", hairpin=True, isolated=False)).get_attr("IFLA_LINKINFO")
    assert about.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge"
    options = about.get_attr("IFLA_INFO_SLAVE_DATA")
    assert options.get_attr("IFLA_BRPORT_MODE") == 1
    assert options.get_attr("IFLA_BRPORT_ISOLATED") == 0


@given(
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    st.integers(0, 32),
    st.integers(1, 2**31 - 1),
    st.booleans(),
)
def test_any_address_is_read_back(ip, length, index, nodad):
    given_interface = interface((ip, length))
    found = decode(ifaddrmsg, AddAddress(index, given_interface, nodad=nodad))
    assert (found["index"], found["prefixlen"]) == (index, length)
    assert address(found.get_attr("IFA_LOCAL")) == ip
    assert address(found.get_attr("IFA_ADDRESS")) == ip
    assert bool(found["flags"] & 2) == (nodad and ip.version == 6)
    broadcast = found.get_attr("IFA_BROADCAST")
    if ip.version == 4 and length < 31:
        assert address(broadcast) == given_interface.network.broadcast_address
    else:
        assert broadcast is None


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 32), st.integers(1, 2**31 - 1))
def test_any_route_is_read_back(gateway, length, index):
    destination = prefix((gateway, length), strict=False)
    found = decode(rtmsg, AddRoute(destination, gateway=gateway, index=index))
    assert found["dst_len"] == length
    assert address(found.get_attr("RTA_GATEWAY")) == gateway
    assert found.get_attr("RTA_OIF") == index
    assert found["scope"] == 0
    read = found.get_attr("RTA_DST")
    assert (read is None) if length == 0 else (address(read) == destination.network_address)


def test_ipv4_route_without_gateway_has_link_scope():
    assert decode(rtmsg, AddRoute(prefix("10.0.0.0/8"), index=2))["scope"] == 253
    assert decode(rtmsg, AddRoute(prefix("fd00::/8"), index=2))["scope"] == 0


def test_default_route_without_a_family_is_refused():
    with pytest.raises(ValueError, match=r"0\.0\.0\.0/0 or ::/0"):
        AddRoute(index=2).encode(1)


def test_rename_by_name_is_refused():
    with pytest.raises(ValueError, match="index"):
        SetLink("a", name="b").encode(1)


def test_own_decoder_reads_what_own_encoder_wrote():
    link = parse_link(VETH.encode(1)[16:])
    assert (link.name, link.kind, link.mtu, link.master, link.group, link.up) == ("veth1", "veth", 1450, 3, 9, True)
