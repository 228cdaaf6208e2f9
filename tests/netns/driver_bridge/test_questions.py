"""What the driver asks a kernel about itself."""

import ipaddress

from cnm.kernel import netns
from cnm.kernel.nfnl import NfSocket
from cnm.kernel.rtnl import AddAddress, CreateBridge, Rtnl, SetLink


def test_every_change_of_the_ruleset_raises_its_generation_by_one(host, shell):
    with NfSocket(host) as nf:
        before = nf.generation()
        assert nf.generation() == before
        shell.run(host, "nft", "add table inet a; add table inet b")
        assert nf.generation() == before + 1


def test_an_address_is_local_once_packets_to_it_are_taken(host, wait_for):
    with Rtnl.open(host) as rtnl:
        (link,) = rtnl.send(CreateBridge("br0"))
        rtnl.send(SetLink(1, up=True))
        for text in ("10.7.0.1/24", "fd00:7::1/64"):
            interface = ipaddress.ip_interface(text)
            assert not rtnl.is_local(interface.ip)
            rtnl.send(AddAddress(link.index, interface))
            assert wait_for(lambda interface=interface: rtnl.is_local(interface.ip))
        assert not rtnl.is_local(ipaddress.ip_address("10.7.0.9"))
        assert not rtnl.is_local(ipaddress.ip_address("203.0.113.9"))


def test_a_namespace_that_never_had_a_route_has_none(host):
    with netns.inside(host), Rtnl.open() as rtnl:
        assert rtnl.routes() == []
