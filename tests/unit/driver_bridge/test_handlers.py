"""Handlers, and who is answered in which order."""

from cnm.messages.bridge import BRIDGE_COMMANDS, CountDrops, EnsureBridge, PlugEndpoint, RemoveBridge, UnplugEndpoint
from cnm.touched import Touched
from cnm_driver_bridge import handlers
from cnm_driver_bridge.blocks import short


class FakeNode:
    """Keeps what stands, by id."""

    def __init__(self):
        self.bridges, self.links = set(), {}

    async def ensure(self, network, gone=()):
        self.bridges.add(network.network_id)
        return [
            "ip link add br-1",
            "sysctl -w net.ipv4.ip_forward=1",
            "sysctl -w net.ipv4.conf.br-1.route_localnet=1",
        ]

    async def remove(self, network):
        self.bridges.discard(network.network_id)

    async def plug(self, attachment):
        await self.ensure(attachment.network)
        return self.links.setdefault(attachment.endpoint_id, f"veth{attachment.endpoint_id[:7]}")

    async def unplug(self, endpoint_id):
        self.links.pop(endpoint_id, None)

    async def drops(self):
        return {short("a" * 64): {"icc": (3, 180), "direct": (1, 60)}}


async def test_what_was_set_of_the_node_is_said(make_network):
    network = make_network(1)
    reply = await handlers.ensure_bridge(EnsureBridge(network=network), node=FakeNode(), touched=Touched())
    assert reply.settings == ["net.ipv4.ip_forward=1"]


async def test_drops_are_told_with_their_reasons():
    reply = await handlers.count_drops(CountDrops(network_id="a" * 64), node=FakeNode())
    assert [(each.reason, each.packets, each.bytes) for each in reply.drops] == [("direct", 1, 60), ("icc", 3, 180)]
    assert "outside" in reply.drops[0].about
    assert (await handlers.count_drops(CountDrops(network_id="b" * 64), node=FakeNode())).drops == []


async def test_every_command_may_come_twice(make_network, make_attachment):
    node, touched = FakeNode(), Touched()
    attachment = make_attachment(make_network())
    answer = {route.command: route.handler for route in handlers.routes(node=node, touched=touched)}
    for _ in range(2):
        await answer[EnsureBridge](EnsureBridge(network=attachment.network))
        reply = await answer[PlugEndpoint](PlugEndpoint(attachment=attachment))
        assert reply.host_ifname == f"veth{attachment.endpoint_id[:7]}"
    for _ in range(2):
        await answer[UnplugEndpoint](UnplugEndpoint(endpoint_id=attachment.endpoint_id))
        await answer[RemoveBridge](RemoveBridge(network=attachment.network))
    assert (node.bridges, node.links) == (set(), {})
    assert touched.ids_since(0) == {attachment.endpoint_id, attachment.network.network_id}


def test_commands_are_ordered_by_endpoint_or_by_network(make_network, make_attachment):
    attachment = make_attachment(make_network())
    routes = {route.command: route for route in handlers.routes(node=FakeNode(), touched=Touched())}
    assert set(routes) == set(BRIDGE_COMMANDS)
    network_id, endpoint_id = attachment.network.network_id, attachment.endpoint_id
    keys = [
        (EnsureBridge(network=attachment.network), network_id),
        (RemoveBridge(network=attachment.network), network_id),
        (PlugEndpoint(attachment=attachment), endpoint_id),
        (UnplugEndpoint(endpoint_id=endpoint_id), endpoint_id),
    ]
    assert all(routes[type(command)].order_by(command) == key for command, key in keys)


def test_what_was_touched_is_remembered_from_the_moment_asked_for():
    touched = Touched()
    touched.touch("a")
    moment = touched.now()
    touched.touch("b", "c")
    assert touched.ids_since(moment) == {"b", "c"}
    touched.forget(moment)
    assert touched.ids_since(0) == {"b", "c"}
