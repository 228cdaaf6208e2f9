"""A change is committed or undone, whatever fails and whoever dies."""

import asyncio
import sys
import time
from pathlib import Path

import pytest

from cnm.bus import Call, set_current_call
from cnm.errors import CnmError, Conflict, Forbidden, Internal, NotFound, Timeout, Unavailable
from cnm.messages.bridge import EnsureBridge, PlugEndpoint, RemoveBridge, UnplugEndpoint
from cnm.messages.endpoint import DeleteEndpoint
from cnm.messages.ipam import AllocateAddresses, AllocatePools, ReleaseOwned
from cnm.messages.names import ForgetSandbox, UpdateNames
from cnm.messages.namespace import EnsureSandbox, RemoveSandbox, RouteSandbox
from cnm.messages.network import CreateNetwork, DeleteNetwork, GetNetwork
from cnm.messages.ports import PublishPorts, UnpublishPorts
from cnm.messages.sandbox import (
    AdoptNamespace,
    ConnectSandbox,
    CreateSandbox,
    DeleteSandbox,
    DisconnectSandbox,
    GetSandbox,
    PortRequest,
)
from cnm.testing import ManualClock, MemoryBus, MemoryStore
from cnm_controller import sagas
from cnm_controller.change_handlers import adopt_namespace
from cnm_controller.endpoint_handlers import delete_endpoint
from cnm_controller.founding import found
from cnm_controller.join import connect
from cnm_controller.network_handlers import create_network, delete_network, get_network
from cnm_controller.sandbox_handlers import create_sandbox, delete_sandbox, disconnect_sandbox, get_sandbox

sys.path.insert(0, str(Path(__file__).parent))
from world import World, controller_of, serve  # beside this file

TROUBLES = ("refuse", "vanish", "hang", "lose_reply")


class Stage:
    """A controller, its rivals, and the world they change."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store, self.bus, self.world = MemoryStore(self.clock), MemoryBus(), World()
        serve(self.bus, self.world)
        self.controller = controller_of(self.store, self.bus)

    async def set_up(self) -> None:
        await found(self.controller.sagas)
        await create_network(CreateNetwork(name="web"), controller=self.controller)
        ports = [PortRequest(container_port=80, host_port=8080)]
        await create_sandbox(CreateSandbox(name="c1", ports=ports), controller=self.controller)

    async def connect(self, network: str = "web", **more):
        return await connect(ConnectSandbox(sandbox="c1", network=network, **more), controller=self.controller)

    async def state(self) -> dict:
        """Return all that is stored and all that stands."""
        documents = {
            kind: {document.id: document.body for document in await self.store.every(kind)}
            for kind in ("network", "sandbox", "endpoint")
        }
        return {"stored": documents, "world": self.world.seen()}

    def trouble(self, kind: str, command: type, *, times: int | None = 1) -> None:
        if kind == "refuse":
            self.bus.refuse(command, Internal("broken"), times=times)
        else:
            getattr(self.bus, kind)(command, times=times)

    async def recover(self) -> None:
        """Let another controller find what a dead one left."""
        self.clock.move(60_000)
        await controller_of(self.store, self.bus).sagas.recover_once()


@pytest.fixture
async def stage():
    made = Stage()
    await made.set_up()
    return made


def begin_call(kind: str) -> None:
    """Give what follows 0.15 s where something hangs, so that it ends, and else more time than it needs."""
    left_s = 0.15 if kind in ("hang", "lose_reply") else 30
    set_current_call(Call(request_id="r", trace_id="t", deadline=time.monotonic() + left_s))


@pytest.fixture
def brief(kind: str):
    """Answer a call, whose deadline goes by the trouble."""
    begin_call(kind)
    yield
    set_current_call(None)


async def events_of(stage: Stage) -> list[str]:
    return [".".join(event.subject.split(".")[3:5]) for _, event in await stage.store.outbox.read(1000)]


async def test_connect_makes_everything_stand(stage: Stage):
    endpoint = await stage.connect()

    assert endpoint.ipv4_address == "172.17.0.2/16"
    assert stage.world.links == {endpoint.id: "eth0"}
    assert stage.world.leases == {endpoint.id: "172.17.0.2"}
    assert stage.world.ports == {endpoint.sandbox: ((8080, "172.17.0.2"),)}
    assert set(stage.world.records) == {endpoint.id}


async def test_disconnect_leaves_nothing(stage: Stage):
    before = await stage.state()
    await stage.connect()
    await disconnect_sandbox(DisconnectSandbox(sandbox="c1", network="web"), controller=stage.controller)

    assert await stage.state() == before


ATTACH = (AllocateAddresses, PlugEndpoint, UpdateNames, EnsureSandbox, PublishPorts)


@pytest.mark.parametrize("kind", TROUBLES)
@pytest.mark.parametrize("command", ATTACH)
async def test_an_attach_that_fails_anywhere_changes_nothing(stage: Stage, brief, command: type, kind: str):
    before = await stage.state()
    stage.trouble(kind, command)

    with pytest.raises(CnmError):
        await stage.connect()

    await stage.bus.settled()
    await stage.recover()
    assert await stage.state() == before
    set_current_call(None)
    await stage.connect()


@pytest.mark.parametrize("kind", TROUBLES)
@pytest.mark.parametrize("command", [UnplugEndpoint, UpdateNames, EnsureSandbox, UnpublishPorts])
async def test_a_detach_that_fails_anywhere_changes_nothing(stage: Stage, brief, command: type, kind: str):
    set_current_call(None)
    await stage.connect()
    before = await stage.state()
    begin_call(kind)
    stage.trouble(kind, command)

    with pytest.raises(CnmError):
        await disconnect_sandbox(DisconnectSandbox(sandbox="c1", network="web"), controller=stage.controller)

    await stage.bus.settled()
    await stage.recover()
    assert await stage.state() == before


async def test_a_default_route_that_does_not_move_never_blocks_a_leave(stage: Stage):
    await stage.connect()
    await create_network(CreateNetwork(name="zoo"), controller=stage.controller)
    await stage.connect("zoo")
    stage.trouble("refuse", RouteSandbox)

    await disconnect_sandbox(DisconnectSandbox(sandbox="c1", network="web"), controller=stage.controller)

    shown = await get_sandbox(GetSandbox(sandbox="c1"), controller=stage.controller)
    assert [endpoint.ifname for endpoint in shown.endpoints] == ["eth1"]


async def test_ports_that_cannot_move_never_block_a_leave_and_are_closed(stage: Stage):
    await stage.connect()
    await create_network(CreateNetwork(name="zoo"), controller=stage.controller)
    await stage.connect("zoo")
    stage.trouble("refuse", PublishPorts)

    await disconnect_sandbox(DisconnectSandbox(sandbox="c1", network="web"), controller=stage.controller)

    shown = await get_sandbox(GetSandbox(sandbox="c1"), controller=stage.controller)
    assert [endpoint.ifname for endpoint in shown.endpoints] == ["eth1"]
    assert shown.ports == []
    assert stage.world.ports == {}


@pytest.fixture
async def waiting(stage: Stage):
    """A sandbox on a network, with a port, whose namespace is still to come."""
    ports = [PortRequest(container_port=81, host_port=8181)]
    await create_sandbox(CreateSandbox(name="late", netns_later=True, ports=ports), controller=stage.controller)
    endpoint = await connect(ConnectSandbox(sandbox="late", network="web"), controller=stage.controller)
    assert endpoint.id not in stage.world.links
    return stage


async def test_what_joined_before_its_namespace_moves_in_with_it(waiting: Stage):
    shown = await adopt_namespace(AdoptNamespace(sandbox="late", pid=7), controller=waiting.controller)

    assert shown.netns == "/proc/7/ns/net"
    assert waiting.world.links == {shown.endpoints[0].id: "eth0"}
    assert [port.host_port for port in shown.ports] == [8181]


@pytest.mark.parametrize("kind", TROUBLES)
@pytest.mark.parametrize("command", [EnsureSandbox, PlugEndpoint, UpdateNames, PublishPorts])
async def test_an_adoption_that_fails_anywhere_changes_nothing(waiting: Stage, brief, command: type, kind: str):
    before = await waiting.state()
    waiting.trouble(kind, command)

    with pytest.raises(CnmError):
        await adopt_namespace(AdoptNamespace(sandbox="late", pid=7), controller=waiting.controller)

    await waiting.bus.settled()
    await waiting.recover()
    assert await waiting.state() == before
    set_current_call(None)
    await adopt_namespace(AdoptNamespace(sandbox="late", pid=7), controller=waiting.controller)


@pytest.mark.parametrize("kind", TROUBLES)
@pytest.mark.parametrize("command", [AllocatePools, EnsureBridge])
async def test_a_network_that_fails_anywhere_is_not_made(stage: Stage, brief, command: type, kind: str):
    before = await stage.state()
    stage.trouble(kind, command)

    with pytest.raises(CnmError):
        await create_network(CreateNetwork(name="other"), controller=stage.controller)

    await stage.bus.settled()
    await stage.recover()
    assert await stage.state() == before


@pytest.mark.parametrize("kind", TROUBLES)
async def test_a_network_delete_that_fails_puts_it_back(stage: Stage, brief, kind: str):
    before = await stage.state()
    stage.trouble(kind, RemoveBridge)

    with pytest.raises(CnmError):
        await delete_network(DeleteNetwork(network="web"), controller=stage.controller)

    await stage.bus.settled()
    await stage.recover()
    assert await stage.state() == before


@pytest.mark.parametrize("kind", TROUBLES)
@pytest.mark.parametrize("command", [UnplugEndpoint, UnpublishPorts, ForgetSandbox, RemoveSandbox])
async def test_a_sandbox_delete_that_fails_anywhere_puts_it_back(stage: Stage, brief, command: type, kind: str):
    set_current_call(None)
    await stage.connect()
    before = await stage.state()
    begin_call(kind)
    stage.trouble(kind, command)

    with pytest.raises(CnmError):
        await delete_sandbox(DeleteSandbox(sandbox="c1"), controller=stage.controller)

    await stage.bus.settled()
    await stage.recover()
    assert await stage.state() == before


async def test_what_a_commit_left_to_do_is_done_by_the_recovery(stage: Stage):
    before = await stage.state()
    await stage.connect()
    stage.bus.refuse(ReleaseOwned, Unavailable("away"), times=1)

    await disconnect_sandbox(DisconnectSandbox(sandbox="c1", network="web"), controller=stage.controller)

    assert stage.world.leases != {}
    await stage.recover()
    assert await stage.state() == before


@pytest.mark.parametrize("steps", range(1, 8))
async def test_a_controller_that_dies_after_so_many_commands_leaves_nothing(stage: Stage, steps: int):
    before = await stage.state()
    dying = asyncio.ensure_future(stage.connect())
    already = len(stage.bus.sent)
    while len(stage.bus.sent) < already + steps and not dying.done():
        await asyncio.sleep(0)
    stage.controller.sagas.bus = MemoryBus()  # a dead one can send nothing more, not even what undoes
    dying.cancel()
    await asyncio.wait([dying])
    await stage.bus.settled()

    await stage.recover()

    after = await stage.state()
    committed = bool(after["stored"]["endpoint"])
    assert committed == bool(after["world"]["links"])
    assert committed or after == before


async def test_what_the_recovery_cannot_undo_yet_it_undoes_later(stage: Stage):
    before = await stage.state()
    stage.trouble("refuse", PublishPorts)
    stage.trouble("vanish", UnplugEndpoint, times=None)
    with pytest.raises(Internal):
        await stage.connect()
    assert stage.world.links != {}

    stage.bus.heal(UnplugEndpoint)
    await stage.recover()

    assert await stage.state() == before


async def test_an_undo_that_is_refused_for_ever_holds_nothing_up(stage: Stage):
    stage.trouble("refuse", PublishPorts)
    stage.bus.refuse(EnsureSandbox, NotFound("its namespace is gone"))
    with pytest.raises(CnmError):
        await stage.connect()

    stage.bus.heal(EnsureSandbox)
    await stage.connect()


async def test_a_sandbox_whose_namespace_is_gone_can_leave_and_be_deleted(stage: Stage):
    await stage.connect()
    for command in (EnsureSandbox, UpdateNames):
        stage.bus.refuse(command, NotFound("its namespace is gone"))

    await disconnect_sandbox(DisconnectSandbox(sandbox="c1", network="web"), controller=stage.controller)
    await delete_sandbox(DeleteSandbox(sandbox="c1"), controller=stage.controller)

    assert stage.world.leases == {}
    assert stage.world.links == {}


async def test_a_deadline_during_the_commit_undoes_nothing(stage: Stage):
    commit = stage.store.commit

    async def slow(entry, changes):
        documents = await commit(entry, changes)
        await asyncio.sleep(0.1)
        return documents

    stage.store.commit = slow
    try:
        async with asyncio.timeout(0.05):
            endpoint = await stage.connect()
    finally:
        stage.store.commit = commit

    assert set(stage.world.links) == {endpoint.id}
    assert (await get_sandbox(GetSandbox(sandbox="c1"), controller=stage.controller)).endpoints


async def test_a_commit_whose_answer_is_lost_is_not_undone(stage: Stage):
    commit = stage.store.commit

    async def lost(entry, changes):
        await commit(entry, changes)
        raise Unavailable("Redis went away")

    stage.store.commit = lost
    with pytest.raises(Unavailable):
        await stage.connect()
    stage.store.commit = commit
    await stage.recover()

    shown = await get_sandbox(GetSandbox(sandbox="c1"), controller=stage.controller)
    assert set(stage.world.links) == {endpoint.id for endpoint in shown.endpoints} != set()


async def test_who_lost_its_lease_undoes_nothing_of_who_took_over(stage: Stage):
    commit = stage.store.commit

    async def overtaken(entry, changes):
        stage.store.commit = commit
        await stage.recover()
        rival = controller_of(stage.store, stage.bus)
        await connect(ConnectSandbox(sandbox="c1", network="web", name="winner"), controller=rival)
        return await commit(entry, changes)

    stage.store.commit = overtaken
    with pytest.raises(CnmError):
        await stage.connect()

    shown = await get_sandbox(GetSandbox(sandbox="c1"), controller=stage.controller)
    assert [endpoint.name for endpoint in shown.endpoints] == ["winner"]
    assert set(stage.world.links) == {shown.endpoints[0].id}
    assert [port for port, _ in stage.world.ports[shown.id]] == [8080]


async def test_deleting_without_force_never_takes_an_endpoint_out_of_a_sandbox(stage: Stage):
    endpoint = await stage.connect()

    with pytest.raises(Forbidden, match="c1"):
        await delete_endpoint(DeleteEndpoint(endpoint=endpoint.id), controller=stage.controller)

    await delete_endpoint(DeleteEndpoint(endpoint=endpoint.id, force=True), controller=stage.controller)
    assert stage.world.leases == {}


async def test_a_namespace_is_adopted_once(stage: Stage):
    rival = controller_of(stage.store, stage.bus)
    outcomes = await asyncio.gather(
        *(
            create_sandbox(CreateSandbox(name=name, netns="/run/netns/x"), controller=each)
            for name, each in (("x1", stage.controller), ("x2", rival))
        ),
        return_exceptions=True,
    )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "Sandbox"]


async def test_a_taken_port_leaves_the_sandbox_as_before(stage: Stage):
    before = await stage.state()
    stage.world.taken_ports[8080] = "process 7 (nginx)"

    with pytest.raises(Conflict, match="nginx"):
        await stage.connect()

    assert await stage.state() == before


async def test_changes_of_one_sandbox_wait_for_one_another(stage: Stage):
    for name in ("n1", "n2", "n3"):
        await create_network(CreateNetwork(name=name), controller=stage.controller)
    rival = controller_of(stage.store, stage.bus)
    connects = [
        connect(ConnectSandbox(sandbox="c1", network=name), controller=controller)
        for name, controller in (("n1", stage.controller), ("n2", rival), ("n3", stage.controller))
    ]

    made = await asyncio.gather(*connects)

    assert sorted(endpoint.ifname for endpoint in made) == ["eth0", "eth1", "eth2"]


async def test_two_connects_to_one_network_leave_one(stage: Stage):
    rival = controller_of(stage.store, stage.bus)
    outcomes = await asyncio.gather(
        stage.connect(),
        connect(ConnectSandbox(sandbox="c1", network="web", name="other"), controller=rival),
        return_exceptions=True,
    )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "Endpoint"]
    assert len(stage.world.leases) == 1


async def test_a_name_is_given_once(stage: Stage):
    rival = controller_of(stage.store, stage.bus)
    outcomes = await asyncio.gather(
        *(create_network(CreateNetwork(name="x"), controller=each) for each in (stage.controller, rival)),
        return_exceptions=True,
    )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "Network"]


async def test_a_network_that_is_deleted_meanwhile_is_not_joined(stage: Stage):
    outcomes = await asyncio.gather(
        delete_network(DeleteNetwork(network="web"), controller=stage.controller),
        stage.connect(),
        return_exceptions=True,
    )

    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds in (["Empty", "NotFound"], ["Forbidden", "Endpoint"])


async def test_each_change_writes_its_events(stage: Stage):
    known = len(await events_of(stage))
    await stage.connect()
    await disconnect_sandbox(DisconnectSandbox(sandbox="c1", network="web"), controller=stage.controller)
    await delete_sandbox(DeleteSandbox(sandbox="c1"), controller=stage.controller)
    await delete_network(DeleteNetwork(network="web"), controller=stage.controller)

    assert (await events_of(stage))[known:] == [
        "endpoint.created",
        "endpoint.joined",
        "port.published",
        "endpoint.left",
        "port.unpublished",
        "endpoint.deleted",
        "sandbox.deleted",
        "network.deleted",
    ]


async def test_the_bridge_network_gets_its_pool_with_its_first_endpoint(stage: Stage):
    assert (await get_network(GetNetwork(network="bridge"), controller=stage.controller)).ipam.pools == []

    await stage.connect("bridge")

    assert len((await get_network(GetNetwork(network="bridge"), controller=stage.controller)).ipam.pools) == 1


@pytest.mark.parametrize("command", [AllocatePools, EnsureBridge, AllocateAddresses, PlugEndpoint])
async def test_a_first_endpoint_that_fails_leaves_the_bridge_network_bare(stage: Stage, command: type):
    before = await stage.state()
    stage.trouble("refuse", command)

    with pytest.raises(Internal):
        await stage.connect("bridge")

    assert await stage.state() == before


async def test_two_first_endpoints_of_the_bridge_network_share_its_pool(stage: Stage):
    await create_sandbox(CreateSandbox(name="c2"), controller=stage.controller)
    rival = controller_of(stage.store, stage.bus)
    await asyncio.gather(
        stage.connect("bridge"), connect(ConnectSandbox(sandbox="c2", network="bridge"), controller=rival)
    )

    assert len(stage.world.leases) == 2
    assert len((await get_network(GetNetwork(network="bridge"), controller=stage.controller)).endpoints) == 2


async def test_while_a_change_is_stuck_others_are_told_what_they_wait_for(stage: Stage):
    stage.trouble("refuse", PublishPorts)
    stage.trouble("vanish", UnplugEndpoint, times=None)
    with pytest.raises(Internal):
        await stage.connect()
    set_current_call(Call(request_id="r", trace_id="t", deadline=time.monotonic() + 0.1))

    with pytest.raises(Timeout, match="another change of sandbox:"):
        await stage.connect()


async def test_undo_that_takes_longer_than_the_caller_waits_goes_on_without_it(stage: Stage, monkeypatch):
    """The caller is told that it does, and what comes next waits for it."""
    monkeypatch.setattr(sagas, "UNDO_TIME_S", 0.5)
    before = await stage.state()
    stage.trouble("refuse", PublishPorts)
    stage.trouble("hang", UnplugEndpoint)
    call = Call(request_id="r", trace_id="t", deadline=time.monotonic() + 0.1)
    set_current_call(call)
    with pytest.raises(Internal):
        await stage.connect()

    assert call.progress.undoing
    assert await stage.state() != before
    set_current_call(None)
    await asyncio.gather(*stage.controller.sagas._working)
    await stage.recover()
    assert await stage.state() == before


async def test_what_is_gone_is_not_found(stage: Stage):
    with pytest.raises(NotFound, match="nothing"):
        await stage.connect("nothing")
