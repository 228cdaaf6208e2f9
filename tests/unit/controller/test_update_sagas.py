"""A change of a network reaches all of its endpoints or none; configurations are there as long as they are used."""

import asyncio
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest

from cnm.bus import set_current_call
from cnm.errors import CnmError, Conflict, Forbidden, Internal, Invalid
from cnm.messages.bridge import EnsureBridge, PlugEndpoint, RemoveBridge
from cnm.messages.endpoint import CreateEndpoint, JoinEndpoint
from cnm.messages.ipam import AllocatePools, ReconcileOwner
from cnm.messages.names import UpdateNames
from cnm.messages.namespace import EnsureSandbox
from cnm.messages.network import (
    CreateNetwork,
    DeleteNetwork,
    GetNetwork,
    ListNetworks,
    NetworkDns,
    PoolRequest,
    PruneNetworks,
    UpdateNetwork,
)
from cnm.messages.sandbox import CreateSandbox, DeleteSandbox
from cnm_controller.join import create, join
from cnm_controller.network_handlers import (
    create_network,
    delete_network,
    get_network,
    list_networks,
    prune_networks,
)
from cnm_controller.network_update import update_network
from cnm_controller.sandbox_handlers import create_sandbox, delete_sandbox

sys.path.insert(0, str(Path(__file__).parent))
from test_sagas import TROUBLES, Stage, begin_call, events_of  # beside this file
from world import controller_of  # beside this file

MTU, ICC = "com.docker.network.driver.mtu", "com.docker.network.bridge.enable_icc"
EVERYTHING = {
    "labels": {"a": "1"},
    "options": {MTU: 1400, ICC: False},
    "dns": NetworkDns(search=["corp"], ttl=5),
    "add_pools": [PoolRequest(subnet=ip_network("10.9.0.0/24")), PoolRequest(subnet=ip_network("fd00::/64"))],
}
TOLD = (AllocatePools, ReconcileOwner, EnsureBridge, PlugEndpoint, EnsureSandbox, UpdateNames)


@pytest.fixture
async def stage():
    made = Stage()
    await made.set_up()
    await made.connect()
    yield made
    set_current_call(None)


async def update(stage: Stage, **changes):
    return await update_network(UpdateNetwork(network="web", **changes), controller=stage.controller)


async def test_a_change_reaches_everything(stage: Stage):
    shown = await update(stage, **EVERYTHING)

    assert (shown.revision, shown.labels, shown.enable_ipv6) == (2, {"a": "1"}, True)
    assert [str(pool.subnet) for pool in shown.ipam.pools] == ["172.17.0.0/16", "10.9.0.0/24", "fd00::/64"]
    (bridge,) = stage.world.bridges.values()
    assert (bridge[:2], {str(each) for each in bridge[2]}) == (
        (1400, True),
        {"172.17.0.1/16", "10.9.0.1/24", "fd00::1/64"},
    )
    assert list(stage.world.shapes.values()) == [(1400, False)]
    assert [zone.ttl for zone in stage.world.zones.values()] == [5]
    assert [files[1:] for files in stage.world.sandboxes.values()] == [(True, ("corp",), False, None)]
    assert stage.world.pools[shown.id] == ("L/172.17.0.0/16", "L/10.9.0.0/24", "L/fd00::/64")


@pytest.mark.parametrize("kind", TROUBLES)
@pytest.mark.parametrize("command", TOLD)
async def test_a_change_that_fails_anywhere_changes_nothing(stage: Stage, command: type, kind: str):
    before = await stage.state()
    begin_call(kind)
    stage.trouble(kind, command)

    with pytest.raises(CnmError):
        await update(stage, **EVERYTHING)

    await stage.bus.settled()
    await stage.recover()
    assert await stage.state() == before
    set_current_call(None)
    await update(stage, **EVERYTHING)


async def test_a_change_is_told_once_and_one_that_changes_nothing_never(stage: Stage):
    known = len(await events_of(stage))
    first = await update(stage, labels={"a": "1"})
    again = await update(stage, labels={"a": "1"}, options={MTU: None})

    assert (first.revision, again.revision) == (2, 2)
    assert (await events_of(stage))[known:] == ["network.updated"]


async def test_who_decided_on_an_older_revision_is_told(stage: Stage):
    await update(stage, revision=1, labels={"a": "1"})
    with pytest.raises(Conflict, match="revision 2"):
        await update(stage, revision=1, labels={"b": "1"})


async def test_of_two_changes_of_one_revision_one_wins(stage: Stage):
    rival = controller_of(stage.store, stage.bus)
    outcomes = await asyncio.gather(
        *(
            update_network(UpdateNetwork(network="web", revision=1, labels={name: ""}), controller=each)
            for name, each in (("a", stage.controller), ("b", rival))
        ),
        return_exceptions=True,
    )

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict", "Network"]


async def test_a_change_and_an_attach_at_once_leave_no_port_behind(stage: Stage):
    await create_network(CreateNetwork(name="other"), controller=stage.controller)
    rival = controller_of(stage.store, stage.bus)
    await asyncio.gather(
        update(stage, options={MTU: 1400, ICC: False}, dns=NetworkDns(search=["corp"])),
        Stage.connect(stage, "other"),
        update_network(UpdateNetwork(network="other", options={MTU: 1300}), controller=rival),
    )

    assert sorted(stage.world.shapes.values()) == [(1300, True), (1400, False)]
    assert [files[2] for files in stage.world.sandboxes.values()] == [("corp",)]


async def late(stage: Stage, kind: str, change) -> None:
    """Let a change happen between what the next saga of a kind reads and its beginning."""
    begin = stage.store.begin

    async def after_the_change(entry, claims, **more):
        if entry.kind == kind:
            stage.store.begin = begin
            await change()
        await begin(entry, claims, **more)

    stage.store.begin = after_the_change


async def test_who_joins_by_what_was_read_before_a_change_begins_again(stage: Stage):
    made = await create(CreateEndpoint(network="web", name="idle"), controller=stage.controller)
    await create_sandbox(CreateSandbox(name="c2"), controller=stage.controller)
    await late(stage, "endpoint.join", lambda: update(stage, options={MTU: 1400, ICC: False}))

    await join(JoinEndpoint(endpoint=made.id, sandbox="c2"), controller=stage.controller)

    assert list(stage.world.shapes.values()) == [(1400, False)] * 2


async def test_who_connects_a_sandbox_by_what_was_read_before_a_change_begins_again(stage: Stage):
    await create_network(CreateNetwork(name="other"), controller=stage.controller)
    await late(stage, "sandbox.connect", lambda: update(stage, dns=NetworkDns(search=["corp"])))

    await stage.connect("other")

    assert [files[2] for files in stage.world.sandboxes.values()] == [("corp",)]


async def test_a_sandbox_that_goes_while_a_change_begins_is_not_missed(stage: Stage):
    ledger = stage.controller.ledger
    found = ledger.sandbox

    async def gone_meanwhile(key: str):
        ledger.sandbox = found
        await delete_sandbox(DeleteSandbox(sandbox="c1"), controller=stage.controller)
        return await found(key)

    ledger.sandbox = gone_meanwhile

    assert (await update(stage, options={MTU: 1400})).endpoints == []


async def test_who_is_away_is_warned_of(stage: Stage):
    async def nobody() -> list:
        return []

    stage.controller.nodes.every = nobody
    shown = await update(stage, options={MTU: 1400})
    assert [warning.split(":")[0] for warning in shown.warnings] == ["node 'n1' is away"]
    assert list(stage.world.shapes.values()) == [(1500, True)]


async def test_a_sandbox_whose_namespace_is_gone_does_not_keep_its_network_from_changing(stage: Stage):
    for command in (PlugEndpoint, EnsureSandbox, UpdateNames):
        stage.bus.refuse(command, Invalid("no network namespace is at /run/cnm/x"), times=1)

    shown = await update(stage, options={MTU: 1400}, dns=NetworkDns(search=["corp"]))

    assert shown.warnings == ["a sandbox did not follow: no network namespace is at /run/cnm/x"]
    assert [bridge[0] for bridge in stage.world.bridges.values()] == [1400]


async def test_an_mtu_that_is_taken_away_is_the_plain_one_again(stage: Stage):
    await update(stage, options={MTU: 1400})
    await update(stage, options={MTU: None})

    assert [bridge[0] for bridge in stage.world.bridges.values()] == [1500]
    assert list(stage.world.shapes.values()) == [(1500, True)]


async def test_a_pool_that_another_has_is_refused_and_named(stage: Stage):
    pools = [PoolRequest(subnet=ip_network("10.9.0.0/24"))]
    await update(stage, add_pools=pools)
    await create_network(CreateNetwork(name="other"), controller=stage.controller)
    before = await stage.state()

    with pytest.raises(Conflict, match=r"10\.9\.0\.0/24"):
        await update_network(UpdateNetwork(network="other", add_pools=pools), controller=stage.controller)

    assert await stage.state() == before


async def test_added_pools_go_with_their_network(stage: Stage):
    before = {**stage.world.pools}
    made = await create_network(CreateNetwork(name="other"), controller=stage.controller)
    pools = [PoolRequest(subnet=ip_network("10.9.0.0/24"))]
    await update_network(UpdateNetwork(network="other", add_pools=pools), controller=stage.controller)
    assert len(stage.world.pools[made.id]) == 2

    await delete_network(DeleteNetwork(network="other"), controller=stage.controller)

    assert stage.world.pools == before


# Configuration networks.


async def held(stage: Stage, name: str = "held"):
    command = CreateNetwork(name=name, config_only=True, options={MTU: 1400})
    return await create_network(command, controller=stage.controller)


async def made_from(stage: Stage, config: str = "held", name: str = "web2", *, by=None):
    command = CreateNetwork(name=name, config_from=config)
    return await create_network(command, controller=by or stage.controller)


async def test_a_configuration_touches_no_node_and_no_pool(stage: Stage):
    before = stage.world.seen()
    shown = await held(stage)

    assert (shown.config_only, shown.driver, shown.ipam.pools) == (True, "null", [])
    assert stage.world.seen() == before


async def test_a_configuration_stays_as_long_as_a_network_is_made_from_it(stage: Stage):
    config = await held(stage)
    web = await made_from(stage, config.id[:9])
    assert web.config_from == "held"

    for force in (False, True):
        with pytest.raises(Forbidden, match="web2"):
            await delete_network(DeleteNetwork(network="held", force=force), controller=stage.controller)

    await delete_network(DeleteNetwork(network="web2"), controller=stage.controller)
    await delete_network(DeleteNetwork(network="held"), controller=stage.controller)


async def test_a_configuration_that_is_deleted_meanwhile_is_not_used(stage: Stage):
    rival = controller_of(stage.store, stage.bus)
    for _ in range(5):
        await held(stage)
        outcomes = await asyncio.gather(
            delete_network(DeleteNetwork(network="held"), controller=stage.controller),
            made_from(stage, by=rival),
            return_exceptions=True,
        )
        kinds = [type(outcome).__name__ for outcome in outcomes]
        assert kinds in (["Empty", "NotFound"], ["Forbidden", "Network"])
        for name in ("web2", "held"):
            if kinds[1] == "Network":
                await delete_network(DeleteNetwork(network=name), controller=stage.controller)


async def test_a_creation_from_a_configuration_that_fails_leaves_it_free(stage: Stage):
    await held(stage)
    before = await stage.state()
    stage.trouble("refuse", EnsureBridge)

    with pytest.raises(Internal):
        await made_from(stage)

    assert await stage.state() == before
    await delete_network(DeleteNetwork(network="held"), controller=stage.controller)


async def test_a_configuration_that_is_changed_changes_none_made_from_it(stage: Stage):
    await held(stage)
    await made_from(stage)
    before = stage.world.seen()
    shown = await update_network(UpdateNetwork(network="held", options={MTU: 1300}), controller=stage.controller)

    assert shown.options == {MTU: "1300"}
    assert stage.world.seen() == before
    assert (await get_network(GetNetwork(network="web2"), controller=stage.controller)).options == {MTU: "1400"}


async def test_a_configuration_in_use_is_neither_dangling_nor_pruned(stage: Stage):
    config = await held(stage)
    idle = await held(stage, "idle")
    await made_from(stage)
    web2 = (await get_network(GetNetwork(network="web2"), controller=stage.controller)).id
    dangling = ListNetworks(filters={"dangling": [True]})
    shown = (await list_networks(dangling, controller=stage.controller)).networks
    assert {each.id for each in shown} == {idle.id, web2}

    pruned = await prune_networks(PruneNetworks(), controller=stage.controller)

    assert set(pruned.deleted) == {idle.id, web2}
    assert (await get_network(GetNetwork(network=config.id), controller=stage.controller)).config_only


@pytest.mark.parametrize(
    ("filters", "deleted"),
    [
        ({"dangling": [False]}, set()),
        ({"dangling": []}, set()),
        ({"dangling": [False, "1"], "label": ["tier=front"]}, {"front"}),
        ({"label": ["tier"]}, {"front", "back"}),
        ({"name": ["ac"]}, {"back"}),
    ],
)
async def test_prune_deletes_of_what_nothing_uses_what_passes_the_filters(stage: Stage, filters, deleted: set):
    ids = {}
    for name in ("front", "back"):
        made = await create_network(CreateNetwork(name=name, labels={"tier": name}), controller=stage.controller)
        ids[made.id] = name

    pruned = await prune_networks(PruneNetworks(filters=filters), controller=stage.controller)

    assert {ids[each] for each in pruned.deleted} == deleted


async def test_prune_tells_what_it_could_not_delete_beside_what_it_did(stage: Stage):
    for name in ("one", "two"):
        await create_network(CreateNetwork(name=name), controller=stage.controller)
    stage.trouble("refuse", RemoveBridge)

    pruned = await prune_networks(PruneNetworks(), controller=stage.controller)

    assert len(pruned.deleted) == len(pruned.warnings) == 1
    stage.trouble("refuse", RemoveBridge)
    with pytest.raises(Internal):
        await prune_networks(PruneNetworks(), controller=stage.controller)
