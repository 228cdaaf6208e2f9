"""Does the alarm ring for what others changed, and for nothing else?"""

import struct

import pytest

from cnm.kernel.address import RTM_DELADDR
from cnm.kernel.link import RTM_DELLINK, RTM_NEWLINK, parse_link
from cnm.kernel.netlink import Reply, text, u32
from cnm.lately import Lately
from cnm_driver_bridge.alarm import Alarm

ENDPOINT, NETWORK = "e" * 64, "a" * 64
IFF_UP, AF_BRIDGE = 1, 7
IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_IFALIAS = 3, 4, 10, 20


def link(index=5, *, name="veth1", owner=ENDPOINT, up=True, master=4, mtu=1500, family=0):
    about = struct.pack("=BxHiII", family, 1, index, IFF_UP if up else 0, 0)
    alias = text(IFLA_IFALIAS, f"cnm:{owner}") if owner else b""
    return about + text(IFLA_IFNAME, name) + u32(IFLA_MTU, mtu) + u32(IFLA_MASTER, master) + alias


def told(kind, body):
    return Reply(kind, 0, 0, body)


@pytest.fixture
def now():
    return [10.0]


@pytest.fixture
def lately(now):
    return Lately(within_s=1.0, clock=lambda: now[0])


@pytest.fixture
def rung():
    return []


@pytest.fixture
def alarm(lately, rung):
    made = Alarm(lately)
    made.ring = lambda: rung.append(1)
    made.know([], [parse_link(link()), parse_link(link(4, name="br0", owner=NETWORK, master=0))])
    return made


@pytest.mark.parametrize(
    "reply",
    [
        told(RTM_DELLINK, link()),
        told(RTM_NEWLINK, link(up=False)),
        told(RTM_NEWLINK, link(master=0)),
        told(RTM_NEWLINK, link(mtu=1400)),
        told(RTM_NEWLINK, link(owner="")),
        told(RTM_NEWLINK, link(9, name="stray")),
        told(RTM_DELADDR, struct.pack("=BBBBi", 2, 24, 0, 0, 4)),
        None,
    ],
)
def test_what_others_change_rings_once_and_what_a_command_changed_does_not(alarm, lately, rung, now, reply):
    lately.note(ENDPOINT, NETWORK)
    if reply is not None:
        alarm.note(reply)
        assert rung == []
        alarm.know([], [parse_link(link()), parse_link(link(4, name="br0", owner=NETWORK, master=0))])
    now[0] += 2
    alarm.note(reply)
    assert rung == [1]


@pytest.mark.parametrize(
    "reply",
    [
        told(RTM_NEWLINK, link()),
        told(RTM_NEWLINK, link(up=False, family=AF_BRIDGE)),
        told(RTM_DELLINK, link(family=AF_BRIDGE)),
        told(RTM_NEWLINK, link(7, name="eth0", owner="", up=False)),
        told(RTM_DELLINK, link(7, name="eth0", owner="")),
        told(RTM_DELADDR, struct.pack("=BBBBi", 2, 24, 0, 0, 7)),
    ],
)
def test_what_is_as_before_or_a_strangers_does_not_ring(alarm, rung, reply):
    alarm.note(reply)
    assert rung == []
