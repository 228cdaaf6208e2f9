"""Who owns what is left under the run directory, and what a slice may change."""

import asyncio
from ipaddress import ip_address

from cnm.bus import KeyedOrder
from cnm.errors import Invalid, NotFound
from cnm.kernel.watch import Changes
from cnm.messages.namespace import EnsureSandbox, Gateway, RemoveSandbox, RouteSandbox, SandboxSpec
from cnm.messages.node import SandboxSlice
from cnm.patrol import Patrol
from cnm.touched import Touched
from cnm_sandbox import handlers
from cnm_sandbox.ports import Found
from cnm_sandbox.reconcile import converge, strays
from cnm_sandbox.rounds import Rounds

IDS = ["a" * 64, "b" * 64, "c" * 64]


def rounds():
    """Return rounds that look only at what is suspect."""
    return Rounds(Patrol(budget_s=0.0))


def spec(sandbox_id, **changes):
    told = {
        "sandbox_id": sandbox_id, "name": "c1", "namespace": f"/run/cnm/netns/{sandbox_id[:12]}",
        "hosts_path": "/h", "resolv_conf_path": "/r",
    }  # fmt: skip
    return SandboxSpec(**(told | changes))


class FakeNode:
    """Remembers what stands, and what it was told to do."""

    def __init__(self, *ids):
        self.standing = {f"/run/cnm/netns/{each[:12]}": each for each in ids}
        self.routed = []
        self.glances = {}

    async def ensure(self, wanted):
        if "gone" in wanted.namespace:
            raise Invalid(f"{wanted.namespace} does not exist")
        if wanted.namespace in self.standing:
            return ()
        self.standing[wanted.namespace] = wanted.sandbox_id
        return ("made",)

    async def route(self, namespace, gateways, *, patient=False):
        if namespace not in self.standing and namespace != "host":
            raise NotFound(namespace)
        self.routed.append((namespace, len(gateways), patient))
        return ()

    async def remove(self, wanted):
        self.standing.pop(wanted.namespace, None)

    async def glance(self, specs):
        return {spec.sandbox_id: self.glances.get(spec.sandbox_id, 0) for spec in specs}

    async def namespace_id(self, namespace):
        return None if namespace == "host" else IDS.index(self.standing[namespace])

    async def list_ours(self):
        return Found(frozenset(self.standing), frozenset(self.standing.values()))

    async def sweep(self, namespaces, directories):
        self.standing = {path: each for path, each in self.standing.items() if path not in namespaces}


def test_strays_are_what_no_sandbox_owns():
    found = Found(frozenset(f"/run/cnm/netns/{each[:12]}" for each in IDS), frozenset(IDS))
    wanted = SandboxSlice(clock=1, sandboxes=[spec(IDS[0])], busy=[IDS[1], "no-sandbox"])
    assert strays(found, wanted).namespaces == [f"/run/cnm/netns/{IDS[2][:12]}"]
    assert strays(found, wanted).directories == [IDS[2]]


async def test_slice_is_made_to_stand():
    node = FakeNode(IDS[2])
    gateway = Gateway(ifname="eth0", address=ip_address("10.0.0.1"))
    sandboxes = [spec(IDS[0], gateways=[gateway]), spec(IDS[1], namespace="host"), spec("d" * 64, namespace="/gone")]
    done = await converge(
        SandboxSlice(clock=1, sandboxes=sandboxes), node=node, touched=Touched(), asked=0, rounds=rounds()
    )
    assert [repair.id for repair in done.repaired] == [IDS[0], IDS[1], IDS[2][:12], IDS[2]]
    assert done.failed == [("d" * 64, "/gone does not exist")]
    assert node.routed == [(f"/run/cnm/netns/{IDS[0][:12]}", 1, True)]


async def test_stray_that_stays_is_reported():
    class Stubborn(FakeNode):
        async def sweep(self, namespaces, directories):
            raise OSError(16, "Device or resource busy")

    done = await converge(SandboxSlice(clock=1), node=Stubborn(IDS[0]), touched=Touched(), asked=0, rounds=rounds())
    assert done.failed == [("strays", "[Errno 16] Device or resource busy")]


async def test_command_that_comes_in_between_wins():
    node, touched = FakeNode(), Touched()
    asked = touched.now()
    await handlers.ensure_sandbox(EnsureSandbox(sandbox=spec(IDS[0])), node=node, touched=touched)
    await handlers.remove_sandbox(RemoveSandbox(sandbox=spec(IDS[1])), node=node, touched=touched)
    older = SandboxSlice(clock=1, sandboxes=[spec(IDS[1])])
    done = await converge(older, node=node, touched=touched, asked=asked, rounds=rounds())
    assert done.lines() == ()
    assert list(node.standing.values()) == [IDS[0]]
    await handlers.route_sandbox(
        RouteSandbox(namespace=f"/run/cnm/netns/{IDS[0][:12]}", gateways=[]), node=node, touched=touched
    )
    assert touched.since(touched.now() - 1, f"/run/cnm/netns/{IDS[0][:12]}")


async def test_commands_about_one_namespace_share_a_key():
    found = {route.command: route.order_by for route in handlers.routes(node=FakeNode(), touched=Touched())}
    namespace = spec(IDS[0]).namespace
    assert found[EnsureSandbox](EnsureSandbox(sandbox=spec(IDS[0]))) == namespace
    assert found[RemoveSandbox](RemoveSandbox(sandbox=spec(IDS[0]))) == namespace
    assert found[RouteSandbox](RouteSandbox(namespace=namespace, gateways=[])) == namespace
    order = KeyedOrder()
    async with order.turn(namespace):
        await asyncio.sleep(0)


async def test_only_what_something_tells_of_is_looked_at_again():
    node, going = FakeNode(), rounds()
    gateway = [Gateway(ifname="eth0", address=ip_address("10.0.0.1"))]
    sandboxes = [spec(each, gateways=gateway) for each in IDS]

    async def routed(changes=None):
        node.routed.clear()
        going.note(changes or Changes())
        wanted = SandboxSlice(clock=1, sandboxes=sandboxes)
        await converge(wanted, node=node, touched=Touched(), asked=0, rounds=going)
        return [namespace[-1] for namespace, _, _ in node.routed]

    assert await routed() == ["a", "b", "c"]
    assert await routed() == []
    assert await routed(Changes(namespaces=frozenset({1, 7}))) == ["b"]
    node.glances[IDS[2]] = 1
    assert await routed() == ["c"]
    assert await routed(Changes(lost=True)) == ["a", "b", "c"]
    sandboxes[0] = spec(IDS[0], gateways=[])
    assert await routed() == ["a"]


async def test_a_sandbox_that_could_not_be_put_right_is_looked_at_again():
    node, going = FakeNode(), rounds()
    wanted = SandboxSlice(clock=1, sandboxes=[spec(IDS[0], namespace="/gone")])
    for _ in range(2):
        done = await converge(wanted, node=node, touched=Touched(), asked=0, rounds=going)
        assert [sandbox_id for sandbox_id, _ in done.failed] == [IDS[0]]
