"""What stops a packet where one installation on one node cannot show it."""

import asyncio
from datetime import UTC, datetime
from ipaddress import ip_address, ip_interface, ip_network
from types import SimpleNamespace

import pytest

from cnm.errors import Invalid, Unavailable
from cnm.messages.ipam import AllocatedPool
from cnm.messages.namespace import PortSight
from cnm.messages.sandbox import PortBinding
from cnm.messages.system import ExplainSystem
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody
from cnm_controller.explain import Question, Scene, check_explain, explain_port, walk
from cnm_controller.explain_handlers import explain_system
from cnm_controller.specs import Joined

NOW = datetime(2026, 1, 2, tzinfo=UTC)
NODE = [ip_address("192.0.2.1"), ip_address("172.18.0.1"), ip_address("127.0.0.1")]


def network(name="web", subnet="172.18.0.0/16", **more):
    prefix = ip_network(subnet)
    pool = AllocatedPool(pool_id=name, subnet=prefix, gateway=None if more.get("internal") else prefix[1])
    return NetworkBody(id=name, name=name, driver="bridge", scope="local", created=NOW, pools=[pool], **more)


def sandbox(name, node="n1", **more):
    return SandboxBody(
        id=name, name=name, node=node, created=NOW, key=f"/run/{name}", hosts_path="", resolv_conf_path="", **more
    )


def joined(on, address):
    endpoint = EndpointBody(
        id=f"e{address}",
        name=f"e{address}",
        network_id=on.id,
        created=NOW,
        mac_address="",
        ipv4=ip_interface(address),
    )
    return Joined(endpoint=endpoint, network=on)


def asked(source, ways, address, port=80):
    return Question(source=source, joined=ways, address=ip_address(address), port=port, protocol="tcp")


def last(way):
    return way.hops[-1].hop, way.hops[-1].passes


WEB = network()
A, B = joined(WEB, "172.18.0.2/16"), joined(WEB, "172.18.0.3/16")


def test_a_bridge_network_does_not_span_nodes():
    scene = Scene([(sandbox("a"), [A]), (sandbox("b", "n2"), [B])], {"web": WEB})
    way = walk(asked(sandbox("a"), [A], "172.18.0.3"), scene, NODE)
    assert last(way) == ("node", False)
    assert "'n2'" in way.hops[-1].about
    assert way.arrival is None


def test_who_has_no_namespace_yet_gets_nowhere_and_is_not_got_to():
    scene = Scene([(sandbox("a"), [A]), (sandbox("b", pending=True), [B])], {"web": WEB})
    assert last(walk(asked(sandbox("b", pending=True), [B], "172.18.0.2"), scene, NODE)) == ("sandbox", False)
    assert last(walk(asked(sandbox("a"), [A], "172.18.0.3"), scene, NODE)) == ("sandbox", False)


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, "as the node's own address"),
        ({"com.docker.network.host_ipv4": "198.51.100.7"}, "as 198.51.100.7"),
        ({"com.docker.network.bridge.enable_ip_masquerade": "false"}, "as it is"),
        ({"com.docker.network.bridge.gateway_mode_ipv4": "routed"}, "as it is"),
    ],
)
def test_the_way_out_says_how_it_is_seen(options, seen):
    on = network(options=options)
    one = joined(on, "172.18.0.2/16")
    way = walk(asked(sandbox("a"), [one], "203.0.113.5"), Scene([(sandbox("a"), [one])], {"web": on}), NODE)
    assert [hop.hop for hop in way.hops] == ["route", "outside"]
    assert f"seen {seen}" in way.hops[-1].about
    assert way.arrival.beyond


def test_a_port_published_on_another_node_is_not_this_node_s():
    binding = PortBinding(
        container_port=80, protocol="tcp", host_ip=ip_address("0.0.0.0"), host_port=8080, host_port_end=8089,
        container_port_end=89, container_ip=ip_address("172.18.0.3"),
    )  # fmt: skip
    here, there = sandbox("b", bound=[binding]), sandbox("b", "n2", bound=[binding])
    question = asked(sandbox("a"), [A], "192.0.2.1", 8085)
    assert walk(question, Scene([(there, [B])], {"web": WEB}), NODE).arrival.sandbox is None
    arrival = walk(question, Scene([(here, [B])], {"web": WEB}), NODE).arrival
    assert (arrival.sandbox, arrival.address, arrival.port) == (here, binding.container_ip, 85)
    assert walk(asked(sandbox("a"), [A], "192.0.2.1", 8090), Scene([(here, [B])], {}), NODE).arrival.sandbox is None
    (shown,) = explain_port(Scene([(there, [B])], {"web": WEB}), "tcp", 8085)
    assert (shown.node, shown.host_port, shown.container_port) == ("n2", 8085, 85)


@pytest.mark.parametrize("asked", [{}, {"from_": "a"}, {"to": "b"}, {"from_": "a", "port": 1}])
def test_a_question_without_an_end_is_none(asked):
    with pytest.raises(Invalid):
        check_explain(ExplainSystem(**asked))
    check_explain(ExplainSystem(port=1))
    check_explain(ExplainSystem(from_="a", to="b"))


def test_a_node_that_does_not_answer_is_warned_of():
    class Silent:
        async def every(self):
            return [SimpleNamespace(name="n1"), SimpleNamespace(name="n2")]

        async def snapshot(self, kinds):
            return SimpleNamespace(documents={kind: [] for kind in kinds})

        async def ask(self, command, *, node):
            if node == "n1":
                raise Unavailable("nobody answers")
            return PortSight(addresses=[], listening=[])

    silent = Silent()
    controller = SimpleNamespace(bus=silent, nodes=silent, ledger=SimpleNamespace(store=silent))
    explained = asyncio.run(explain_system(ExplainSystem(port=80), controller=controller))
    assert explained.warnings == ["node 'n1' does not tell: nobody answers"]
    assert (
        explained.about == "port 80/tcp is published by no sandbox, and nobody listens on it where it could be looked"
    )
