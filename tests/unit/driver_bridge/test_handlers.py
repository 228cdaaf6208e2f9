"""Handlers, and who is answered in which order."""

from cnm.messages.bridge import BRIDGE_COMMANDS, EnsureBridge, PlugEndpoint, RemoveBridge, UnplugEndpoint
from cnm.touched import Touched
from cnm_driver_bridge import handlers


class FakeNode:
    """Keeps what stands, by id."""

    def __init__(self):
        self.bridges, self.links = set(), {}

    async def ensure(self, network):
        self.bridges.add(network.network_id)

    async def remove(self, network):
        self.bridges.discard(network.network_id)

    async def plug(self, attachment):
        await self.ensure(attachment.network)
        return self.links.setdefault(attachment.endpoint_id, f"veth{attachment.endpoint_id[:7]}")

    async def unplug(self, endpoint_id):
        self.links.pop(endpoint_id, None)


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
