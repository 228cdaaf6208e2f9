"""Do events, folded over what lists told, lead to what lists tell later?"""

from datetime import UTC, datetime
from ipaddress import ip_address

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnm.messages.endpoint import DriverInfo, Endpoint, Endpoints, PortBinding
from cnm.messages.message import Event, event_subject, to_builtins
from cnm.messages.network import Network, NetworkDns, NetworkIpam, NetworkPool, Networks
from cnm.messages.node import Node, Nodes, NodeWorker
from cnm.messages.sandbox import Sandbox, SandboxDns, Sandboxes
from cnm_gateway.topology import Topology, changes, is_doubtful, listed

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WORKER = {"worker": "cnm-driver-bridge", "what": "link", "about": "endpoint web", "id": "e", "repaired": False}


def identifier(number):
    return f"{number:064x}"


def event(noun, participle, id, shown):
    body = Event(id="x", time=NOW, node="n1", trace_id="t", request_id="r", object=to_builtins(shown))
    return event_subject(noun, participle, id), body


class World:
    """A little installation: what its lists tell, and the events of each change."""

    def __init__(self):
        self.networks, self.sandboxes, self.endpoints, self.number = {}, {}, {}, 0

    def new_id(self):
        self.number += 1
        return identifier(self.number)

    def lists(self):
        return (
            Nodes(nodes=[]),
            Networks(networks=list(self.networks.values())),
            Sandboxes(sandboxes=list(self.sandboxes.values())),
            Endpoints(endpoints=list(self.endpoints.values())),
        )

    def do(self, what, a, b):
        """Do something with the objects at two places, if there are such; return the events of it."""
        return list(getattr(self, what)(a, b))

    def pick(self, rows, place):
        return list(rows.values())[place % len(rows)] if rows else None

    def make_network(self, a, b):
        id = self.new_id()
        pool = NetworkPool(subnet=f"10.{a}.0.0/16", gateway=ip_address(f"10.{a}.0.1"))
        self.networks[id] = Network(
            id=id, name=f"net{a}", driver="bridge", scope="local", created=NOW, internal=bool(b % 2),
            attachable=False, ingress=False, config_only=False, config_from=None,
            enable_ipv4=True, enable_ipv6=False,
            ipam=NetworkIpam(driver="default", pools=[pool]), dns=NetworkDns(), options={}, labels={}, revision=1,
            endpoints=[],
        )  # fmt: skip
        yield event("network", "created", id, self.networks[id])

    def change_network(self, a, b):
        if found := self.pick(self.networks, a):
            pools = [*found.ipam.pools, NetworkPool(subnet=f"10.{b}.0.0/16")]
            changed = msgspec.structs.replace(
                found, ipam=NetworkIpam(driver="default", pools=pools), revision=found.revision + 1
            )
            self.networks[found.id] = changed
            yield event("network", "updated", found.id, changed)

    def delete_network(self, a, b):
        found = self.pick(self.networks, a)
        if found and not any(each.network == found.id for each in self.endpoints.values()):
            yield event("network", "deleted", found.id, self.networks.pop(found.id))

    def make_sandbox(self, a, b):
        id = self.new_id()
        self.sandboxes[id] = Sandbox(
            id=id, name=f"box{a}", node="n1", created=NOW, netns=None, hostname="h", domainname="", extra_hosts=[],
            dns=SandboxDns(), ports=[], exposed_ports=[], use_default_sandbox=False, sysctls={}, labels={}, key="/k",
            hosts_path="/h", resolv_conf_path="/r", endpoints=[], gateway_ipv4=None, gateway_ipv6=None, revision=1,
        )  # fmt: skip
        yield event("sandbox", "created", id, self.sandboxes[id])

    def delete_sandbox(self, a, b):
        if found := self.pick(self.sandboxes, a):
            yield from self.ports_become(found, [])
            for endpoint in [each for each in self.endpoints.values() if each.sandbox == found.id]:
                yield from self.leave(endpoint)
                yield event("endpoint", "deleted", endpoint.id, self.endpoints.pop(endpoint.id))
            yield event("sandbox", "deleted", found.id, self.sandboxes.pop(found.id))

    def connect(self, a, b):
        network, sandbox = self.pick(self.networks, a), self.pick(self.sandboxes, b)
        if network and sandbox:
            id = self.new_id()
            self.endpoints[id] = Endpoint(
                id=id, name=sandbox.name, network=network.id, sandbox=sandbox.id, node="n1",
                ipv4_address="10.0.0.2/16", ipv6_address=None, mac_address="02:00:00:00:00:01", ifname="eth0",
                ready=True, gateway_ipv4=None, gateway_ipv6=None, aliases=[], dns_names=[sandbox.name],
                state="joined", driver_info=DriverInfo(),
                labels={},
                revision=1,
            )  # fmt: skip
            self.sandboxes[sandbox.id] = msgspec.structs.replace(
                sandbox, revision=sandbox.revision + 1
            )  # no event tells it
            yield event("endpoint", "created", id, self.endpoints[id])
            yield event("endpoint", "joined", id, self.endpoints[id])

    def leave(self, endpoint):
        left = msgspec.structs.replace(
            endpoint, sandbox=None, node=None, ifname=None, state="created", revision=endpoint.revision + 1
        )
        self.endpoints[endpoint.id] = left
        yield event("endpoint", "left", endpoint.id, left)

    def disconnect(self, a, b):
        if found := self.pick(self.endpoints, a):
            yield from self.leave(found)
            if b % 2:
                yield event("endpoint", "deleted", found.id, self.endpoints.pop(found.id))

    def unready(self, a, b):
        if found := self.pick(self.endpoints, a):
            changed = msgspec.structs.replace(found, ready=not found.ready, revision=found.revision + 1)
            self.endpoints[found.id] = changed
            yield event("endpoint", "ready" if changed.ready else "unready", found.id, changed)

    def ports_become(self, sandbox, ports):
        self.sandboxes[sandbox.id] = msgspec.structs.replace(sandbox, ports=ports)
        for participle, told in (("unpublished", sandbox.ports), ("published", ports)):
            if told and ports != sandbox.ports:
                shown = {"id": sandbox.id, "sandbox": sandbox.id, "name": sandbox.name, "ports": to_builtins(told)}
                yield event("port", participle, sandbox.id, shown)

    def publish(self, a, b):
        if found := self.pick(self.sandboxes, a):
            bound = [
                PortBinding(
                    container_port=80, protocol="tcp", host_ip=ip_address(host), host_port=8000 + b,
                    container_ip=ip_address("10.0.0.2"),
                )
                for host in ("0.0.0.0", "::")
            ]  # fmt: skip
            yield from self.ports_become(found, [*found.ports, *(each for each in bound if each not in found.ports)])

    def unpublish(self, a, b):
        if found := self.pick(self.sandboxes, a):
            yield from self.ports_become(found, found.ports[2:])


WHAT = (
    "make_network", "change_network", "delete_network", "make_sandbox", "delete_sandbox", "connect", "connect",
    "disconnect", "unready", "publish", "unpublish",
)  # fmt: skip
DEEDS = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 7), st.integers(0, 7)), max_size=40)


def folded(topology, events):
    for subject, body in events:
        topology = topology.after(changes(topology, subject, body))
    return topology


@given(DEEDS, st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=200)
def test_lists_and_later_events_are_what_later_lists_tell(deeds, listed_after, again):
    world, events, known, lists = World(), [], [], [World().lists()]
    for deed in deeds:
        events += world.do(*deed)
        known.append(len(events))
        lists.append(world.lists())
    listed_after = min(listed_after, len(deeds))
    told = known[listed_after - 1] if listed_after else 0
    begin = listed(*lists[listed_after], {})
    # The list may tell more than the number of the stream's last event did when it was asked for.
    found = folded(begin, events[max(0, told - again) :])
    assert found.shows(listed(*world.lists(), {}))
    assert found.networks == listed(*world.lists(), {}).networks


def test_what_a_change_does_not_alter_is_told_to_nobody():
    world = World()
    (told,) = world.do("make_network", 1, 0)
    topology = folded(Topology(), [told])
    assert changes(topology, *told) == ()
    ((kind, id, row),) = changes(Topology(), *told)
    assert (kind, id, row.name, row.pools[0].subnet) == ("network", identifier(1), "net1", "10.1.0.0/16")


def test_an_older_event_does_not_undo_a_newer_list():
    world = World()
    (made,) = world.do("make_network", 1, 0)
    world.do("change_network", 0, 9)
    assert changes(listed(*world.lists(), {}), *made) == ()


@pytest.mark.parametrize(
    ("subject", "shown"),
    [
        ("cnm.v1.event.network.created.x", {}),
        ("cnm.v1.event.network.created.x", {"id": 5, "ipam": 3}),
        ("cnm.v1.event.port.published.x", {"sandbox": "nonesuch", "ports": [{}]}),
        ("cnm.v1.event.drift.found.x", {"id": "x", "differences": "many"}),
        ("cnm.v1.event.pool.requested.x", {"pool_id": "x"}),
        ("cnm.v1.event.comet.seen.x", {}),
        ("cnm.v1.event.", {}),
    ],
)
def test_what_is_none_of_ours_changes_nothing(subject, shown):
    body = Event(id="x", time=NOW, node=None, trace_id="t", request_id="r", object=shown)
    assert changes(Topology(), subject, body) == ()


def test_drift_is_marked_until_it_is_repaired_or_its_object_goes():
    found = {"id": "e", "about": "endpoint web", "differences": [WORKER | {"value": "ip link set eth0 up"}]}
    other = found | {"differences": [WORKER | {"value": "ip link set eth0 mtu 1400"}]}
    topology = folded(Topology(), [event("drift", "found", "e", found), event("drift", "found", "e", other)])
    assert [each.value for each in topology.drift["e"].differences] == [
        "ip link set eth0 up",
        "ip link set eth0 mtu 1400",
    ]
    topology = folded(topology, [event("drift", "repaired", "e", found)])
    assert [each.value for each in topology.drift["e"].differences] == ["ip link set eth0 mtu 1400"]
    assert folded(topology, [event("drift", "repaired", "e", other)]).drift == {}
    assert folded(topology, [event("endpoint", "deleted", "e", {"id": "e"})]).drift == {}
    assert listed(*World().lists(), topology.drift).drift == {}


def test_a_node_is_down_when_its_last_worker_left():
    workers = [
        NodeWorker(name=name, state="ready", version="1", pid=1, last_seen=NOW)
        for name in ("cnm-driver-bridge", "cnm-sandbox")
    ]
    node = Node(name="n1", address="192.0.2.1", workers=workers, state="ready", kernel={}, sandboxes=0, endpoints=0)
    topology = listed(Nodes(nodes=[node]), *World().lists()[1:], {})
    assert topology.nodes["n1"].state == "ready"
    shown = {"name": "n1", "worker": "cnm-sandbox", "address": None}
    topology = folded(topology, [event("node", "left", "n1", shown)])
    assert (topology.nodes["n1"].state, topology.nodes["n1"].address) == ("down", "192.0.2.1")
    assert {each.state for each in topology.nodes["n1"].workers} == {"down"}
    topology = folded(topology, [event("node", "joined", "n1", shown)])
    assert [each.state for each in topology.nodes["n1"].workers] == ["down", "ready"]


def test_lost_changes_make_the_lists_be_asked_again():
    lost = {
        "id": "e",
        "differences": [{"what": "lost change", "value": "it is not there", "worker": "cnm-controller"}],
    }
    assert is_doubtful(Topology(), *event("drift", "found", "e", lost))
    assert not is_doubtful(
        Topology(), *event("drift", "found", "e", {"id": "e", "differences": [WORKER | {"value": "x"}]})
    )


def test_a_network_that_gets_its_pools_with_its_first_endpoint_is_asked_for_again():
    world = World()
    world.do("make_network", 1, 0)
    world.do("make_sandbox", 1, 0)
    created, joined = world.do("connect", 0, 0)
    topology = listed(*world.lists(), {})
    (network,) = topology.networks.values()
    bare = topology.after([("network", network.id, msgspec.structs.replace(network, pools=()))])
    assert is_doubtful(bare, *created)
    assert not is_doubtful(bare, *joined)
    assert not is_doubtful(topology, *created)
