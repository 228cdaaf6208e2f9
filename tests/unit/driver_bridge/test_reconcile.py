"""What a pass looks at, mends and removes."""

from cnm.errors import Conflict
from cnm.kernel.rtnl import Link
from cnm.messages.node import BridgeSlice
from cnm_driver_bridge.bridge import mark
from cnm_driver_bridge.plug import GROUP
from cnm_driver_bridge.reconcile import difference, mend


class FakeNode:
    """Notes what it is asked to mend; ``refuse`` names what it refuses."""

    def __init__(self, refuse=()):
        self.told = []
        self._refuse = refuse

    def _note(self, what):
        if what in self._refuse:
            raise Conflict(f"{what} is taken")
        self.told.append(what)
        return [f"made {what}"]

    async def mend_rules(self, networks, keep):
        return self._note(f"rules of {len(networks)} keeping {len(keep)}")

    async def mend_bridge(self, network):
        return self._note(network.name)

    async def mend_endpoint(self, attachment):
        return self._note(attachment.namespace)

    async def delete_link(self, identity, index):
        self._note(f"deleted {index}")


def wanted(networks=(), attachments=(), busy=()):
    return BridgeSlice(clock=1, networks=list(networks), attachments=list(attachments), busy=list(busy))


def test_only_links_with_our_mark_are_orphans():
    links = [
        Link(1, "lo"),
        Link(2, "br-user", kind="bridge", alias="mine"),
        Link(3, "br-old", kind="bridge", alias=mark("a" * 64)),
        Link(4, "veth1", kind="veth", alias=mark("b" * 64)),
        Link(5, "veth2", kind="veth", group=GROUP),
        Link(6, "veth3", kind="veth", group=GROUP, alias="mine"),
    ]
    found = difference(wanted(), links, ())
    assert [(orphan.link.index, orphan.identity) for orphan in found.orphans] == [
        (3, "a" * 64),
        (4, "b" * 64),
        (5, ""),
    ]


def test_busy_and_touched_ids_are_left_alone(make_network, make_attachment):
    one, two = make_network(1), make_network(2)
    points = [make_attachment(one, 3), make_attachment(two, 4)]
    links = [
        Link(4, "veth1", kind="veth", alias=mark("b" * 64)),
        Link(5, "br-x", kind="bridge", alias=mark("c" * 64)),
    ]
    busy, touched = [one.network_id, points[1].endpoint_id, "b" * 64], {"c" * 64}
    found = difference(wanted([one, two], points, busy), links, touched)
    assert found.networks == (two,)
    assert found.attachments == (points[0],)
    assert found.orphans == ()
    assert {one.network_id, "c" * 64} <= found.keep


def test_an_attachments_network_is_wanted_even_if_it_is_not_told_of(make_network, make_attachment):
    network = make_network(1)
    link = Link(3, network.bridge, kind="bridge", alias=mark(network.network_id))
    found = difference(wanted([], [make_attachment(network)]), [link], ())
    assert found.networks == (network,)
    assert found.orphans == ()


def test_a_strangers_device_gets_no_rules(make_network):
    network, other = make_network(1), make_network(2, bridge="no/name")
    found = difference(wanted([network, other]), [Link(3, network.bridge, kind="veth")], ())
    assert found.ruled == ()
    assert found.networks == (network, other)


async def test_rules_come_first_and_orphans_last(make_network, make_attachment):
    network = make_network(1)
    point = make_attachment(network)
    orphan = Link(4, "veth1", kind="veth", alias=mark("b" * 64))
    node = FakeNode()
    await mend(difference(wanted([network], [point]), [orphan], ()), node=node, is_touched=lambda _: False)
    assert node.told == ["rules of 1 keeping 0", "net1", point.namespace, "deleted 4"]


async def test_a_refusal_is_told_and_the_rest_goes_on(make_network):
    node = FakeNode(refuse=["net1"])
    found = difference(wanted([make_network(1), make_network(2)]), [], ())
    told = await mend(found, node=node, is_touched=lambda _: False)
    assert "network net1: conflict: net1 is taken" in told
    assert "net2" in node.told


async def test_what_is_touched_meanwhile_is_passed_over(make_network, make_attachment):
    network = make_network(1)
    point = make_attachment(network)
    node = FakeNode()
    found = difference(wanted([network], [point]), [], ())
    await mend(found, node=node, is_touched=lambda identity: identity == point.endpoint_id)
    assert point.namespace not in node.told
