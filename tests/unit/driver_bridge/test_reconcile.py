"""What a pass looks at, mends and removes."""

from dataclasses import replace

import pytest

from cnm.errors import Conflict
from cnm.kernel.rtnl import Link
from cnm.kernel.watch import Changes
from cnm.messages.node import BridgeSlice
from cnm_driver_bridge.bridge import mark
from cnm_driver_bridge.plug import GROUP
from cnm_driver_bridge.reconcile import Patrols, gap, mend

NOTHING_CHANGED = Changes()


class FakeNode:
    """Notes what it is asked to mend; ``refuse`` names what it refuses."""

    repairs = True

    def __init__(self, refuse=()):
        self.told = []
        self._refuse = refuse

    def _note(self, what):
        if what in self._refuse:
            raise Conflict(f"{what} is taken")
        self.told.append(what)
        return [f"made {what}"]

    async def mend_rules(self, networks, attachments, keep):
        return self._note(f"rules of {len(networks)} keeping {len(keep)}")

    async def mend_bridge(self, network):
        return self._note(network.name)

    async def mend_endpoint(self, attachment):
        return self._note(attachment.namespace)

    async def delete_link(self, identity, index):
        self._note(f"deleted {index}")


def patrols():
    """Return patrols that look only at what is suspect."""
    return Patrols.of(0.0)


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
    found = gap(wanted(), links, ())
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
    found = gap(wanted([one, two], points, busy), links, touched)
    assert found.networks == (two,)
    assert found.attachments == (points[0],)
    assert found.orphans == ()
    assert {one.network_id, "c" * 64} <= found.keep


def test_an_attachments_network_is_wanted_even_if_it_is_not_told_of(make_network, make_attachment):
    network = make_network(1)
    link = Link(3, network.bridge, kind="bridge", alias=mark(network.network_id))
    found = gap(wanted([], [make_attachment(network)]), [link], ())
    assert found.networks == (network,)
    assert found.orphans == ()


def test_a_strangers_device_gets_no_rules(make_network):
    network, other = make_network(1), make_network(2, bridge="no/name")
    found = gap(wanted([network, other]), [Link(3, network.bridge, kind="veth")], ())
    assert found.ruled == ()
    assert found.networks == (network, other)


async def test_rules_come_first_and_orphans_last(make_network, make_attachment):
    network = make_network(1)
    point = make_attachment(network)
    orphan = Link(4, "veth1", kind="veth", alias=mark("b" * 64))
    node = FakeNode()
    await mend(
        gap(wanted([network], [point]), [orphan], ()), node=node, is_touched=lambda _: False, patrols=patrols()
    )
    assert node.told == ["rules of 1 keeping 0", "net1", point.namespace, "deleted 4"]


async def test_a_refusal_is_told_and_the_rest_goes_on(make_network):
    node = FakeNode(refuse=["net1"])
    found = gap(wanted([make_network(1), make_network(2)]), [], ())
    told = await mend(found, node=node, is_touched=lambda _: False, patrols=patrols())
    (refused,) = (each for each in told if not each.repaired)
    assert str(refused) == "network net1: bridge cannot be mended: conflict: net1 is taken"
    assert [(each.what, each.about, each.value) for each in told if each.repaired] == [
        ("rules", "the node's firewall", "made rules of 2 keeping 0"),
        ("bridge", "network net2", "made net2"),
    ]
    assert "net2" in node.told


async def test_the_frame_of_a_node_that_has_nothing_is_no_difference():
    assert await mend(gap(wanted(), [], ()), node=FakeNode(), is_touched=lambda _: False, patrols=patrols()) == []
    refusing = FakeNode(refuse=["rules of 0 keeping 0"])
    (refused,) = await mend(gap(wanted(), [], ()), node=refusing, is_touched=lambda _: False, patrols=patrols())
    assert refused.reason == "conflict: rules of 0 keeping 0 is taken"


async def test_what_is_touched_meanwhile_is_passed_over(make_network, make_attachment):
    network = make_network(1)
    point = make_attachment(network)
    node = FakeNode()
    found = gap(wanted([network], [point]), [], ())
    await mend(found, node=node, is_touched=lambda identity: identity == point.endpoint_id, patrols=patrols())
    assert point.namespace not in node.told


NAMESPACE_ID = 7


class World:
    """A network with an endpoint that stands: its links, and who was mended in a pass."""

    def __init__(self, network, point):
        self.network, self.point, self.node, self._patrols = network, point, FakeNode(), patrols()
        self.bridge = Link(3, network.bridge, kind="bridge", up=True, alias=mark(network.network_id))
        self.near = Link(
            4, "veth1", kind="veth", up=True, master=3, alias=mark(point.endpoint_id), peer_namespace_id=NAMESPACE_ID
        )

    async def mended(self, changes=NOTHING_CHANGED, *, bridge=None, near=None, networks=None, refuse=(), touched=()):
        links = [bridge or self.bridge, near or self.near]
        found = gap(wanted(networks or [self.network], [self.point]), links, ())
        self._patrols.note(found, links, changes)
        self.node = FakeNode(refuse)
        await mend(found, node=self.node, is_touched=lambda identity: identity in touched, patrols=self._patrols)
        return self.node.told[1:]


@pytest.fixture
async def world(make_network, make_attachment):
    network = make_network(1)
    made = World(network, make_attachment(network))
    assert await made.mended() == ["net1", made.point.namespace], "the first pass looks at everything"
    return made


async def test_what_nothing_tells_of_is_not_looked_at(world):
    assert await world.mended() == []


@pytest.mark.parametrize(
    ("changes", "suspects"),
    [
        (Changes(namespaces=frozenset({NAMESPACE_ID})), ["point"]),
        (Changes(namespaces=frozenset({NAMESPACE_ID + 1})), []),
        (Changes(links=frozenset({3})), ["net1"]),
        (Changes(links=frozenset({4})), []),
        (Changes(lost=True), ["net1", "point"]),
    ],
)
async def test_whoever_a_notification_is_about_is_looked_at(world, changes, suspects):
    expected = [world.point.namespace if each == "point" else each for each in suspects]
    assert await world.mended(changes) == expected
    assert await world.mended() == []


@pytest.mark.parametrize(
    ("which", "change", "suspects"),
    [
        ("bridge", {"up": False}, ["net1"]),
        ("bridge", {"index": 9}, ["point"]),
        ("bridge", {"name": "br-other"}, ["net1", "point"]),
        ("near", {"up": False}, ["point"]),
        ("near", {"master": 0}, ["point"]),
        ("near", {"isolated": True}, ["point"]),
        ("near", {"alias": ""}, ["point"]),
        ("near", {"mtu": 9000}, []),
    ],
)
async def test_whoever_a_link_tells_of_is_looked_at(world, which, change, suspects):
    expected = [world.point.namespace if each == "point" else each for each in suspects]
    assert await world.mended(**{which: replace(getattr(world, which), **change)}) == expected


async def test_a_network_that_is_to_be_otherwise_is_looked_at(world, make_network):
    assert await world.mended(networks=[make_network(1, internal=True)]) == ["net1"]


async def test_what_was_refused_or_touched_is_looked_at_again(world):
    lost = Changes(lost=True)
    assert await world.mended(lost, refuse=["net1"], touched=[world.point.endpoint_id]) == []
    assert await world.mended() == ["net1", world.point.namespace]
