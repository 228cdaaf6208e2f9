"""The reply to a request that is carried out once is kept in the step that commits what it did."""

import sys
import time
from pathlib import Path

import msgspec
import pytest

from cnm.bus import Call, set_current_call
from cnm.messages.endpoint import (
    CreateEndpoint,
    DeleteEndpoint,
    JoinEndpoint,
    LeaveEndpoint,
    ServiceBackend,
    UpdateEndpoint,
)
from cnm.messages.message import encode
from cnm.messages.network import CreateNetwork, DeleteNetwork, PruneNetworks, UpdateNetwork
from cnm.messages.sandbox import (
    AdoptNamespace,
    ConnectSandbox,
    CreateSandbox,
    DeleteSandbox,
    DisconnectSandbox,
    PortRequest,
    PortSelection,
    PublishOnSandbox,
    UnpublishFromSandbox,
    UpdateSandbox,
)
from cnm.replies import Claimed, KeptReply
from cnm.testing import ManualClock, MemoryBus, MemoryStore
from cnm_controller.founding import found
from cnm_controller.handlers import routes

sys.path.insert(0, str(Path(__file__).parent))
from world import World, controller_of, serve  # beside this file

WEB = CreateNetwork(name="web")
BOX = CreateSandbox(name="c1", ports=[PortRequest(container_port=80, host_port=8080)])
ON_WEB = ConnectSandbox(sandbox="c1", network="web")
SPARE = CreateEndpoint(network="web", name="spare")
PORT = PortRequest(container_port=81, host_port=8081)

CASES = {
    "network.create": ((), WEB),
    "network.create of a configuration": ((), CreateNetwork(name="config", config_only=True)),
    "network.update": ((WEB,), UpdateNetwork(network="web", labels={"a": "b"})),
    "network.delete": ((WEB,), DeleteNetwork(network="web")),
    "network.delete of a configuration": (
        (CreateNetwork(name="config", config_only=True),),
        DeleteNetwork(network="config"),
    ),
    "network.delete with endpoints": ((WEB, BOX, ON_WEB, SPARE), DeleteNetwork(network="web", force=True)),
    "sandbox.create": ((), BOX),
    "sandbox.create on the node": ((), CreateSandbox(name="node", use_default_sandbox=True, ports=[PORT])),
    "sandbox.update": ((BOX,), UpdateSandbox(sandbox="c1", labels={"a": "b"})),
    "sandbox.delete": ((WEB, BOX, ON_WEB), DeleteSandbox(sandbox="c1")),
    "sandbox.connect": ((WEB, BOX), ON_WEB),
    "sandbox.disconnect": ((WEB, BOX, ON_WEB), DisconnectSandbox(sandbox="c1", network="web")),
    "sandbox.adopt": (
        (CreateSandbox(name="c1", netns_later=True), WEB, ON_WEB),
        AdoptNamespace(sandbox="c1", netns="/run/netns/x"),
    ),
    "sandbox.publish": ((WEB, BOX, ON_WEB), PublishOnSandbox(sandbox="c1", ports=[PORT])),
    "sandbox.unpublish": (
        (WEB, BOX, ON_WEB),
        UnpublishFromSandbox(sandbox="c1", ports=[PortSelection(container_port=80)]),
    ),
    "endpoint.create": ((WEB,), SPARE),
    "endpoint.create of a service": (
        (WEB,),
        CreateEndpoint(network="web", name="s", service=ServiceBackend(name="svc")),
    ),
    "endpoint.update": ((WEB, SPARE), UpdateEndpoint(network="web", endpoint="spare", labels={"a": "b"})),
    "endpoint.join": ((WEB, BOX, SPARE), JoinEndpoint(network="web", endpoint="spare", sandbox="c1")),
    "endpoint.leave": ((WEB, BOX, ON_WEB), LeaveEndpoint(network="web", endpoint="c1", sandbox="c1")),
    "endpoint.delete": ((WEB, SPARE), DeleteEndpoint(network="web", endpoint="spare")),
    "endpoint.delete from its sandbox": (
        (WEB, BOX, ON_WEB),
        DeleteEndpoint(network="web", endpoint="c1", force=True),
    ),
}


@pytest.fixture
async def store():
    return MemoryStore(ManualClock())


@pytest.fixture
async def ask(store):
    """Have the controller carry out a command, and return its reply."""
    bus = MemoryBus()
    serve(bus, World())
    controller = controller_of(store, bus)
    await found(controller.sagas)
    handlers = {route.command: route.handler for route in routes(controller)}
    return lambda command: handlers[type(command)](command)


@pytest.mark.parametrize("case", CASES)
async def test_reply_is_kept_with_what_it_tells_of(case, ask, store):
    before, command = CASES[case]
    for each in before:
        await ask(each)
    replies = store.replies
    assert await replies.claim("k", "d", "me", lease_ms=60_000) == ("new", b"")
    claimed = Claimed(key="k", digest="d", claim="me")
    set_current_call(Call(request_id="r", trace_id="t", deadline=time.monotonic() + 30, claimed=claimed))
    reply = await ask(command)
    assert claimed.answered
    state, kept = await replies.claim("k", "d", "again", lease_ms=60_000)
    assert state == "done"
    assert msgspec.msgpack.decode(kept, type=KeptReply) == KeptReply(encode(reply), {})


async def test_part_of_a_request_keeps_no_reply(ask, store):
    """One network of those that are pruned is no reply to the request."""
    for each in (WEB, CreateNetwork(name="other")):
        await ask(each)
    claimed = Claimed(key="k", digest="d", claim="me")
    set_current_call(Call(request_id="r", trace_id="t", deadline=time.monotonic() + 30, claimed=claimed))
    assert len((await ask(PruneNetworks())).deleted) == 2
    assert not claimed.answered
    assert await store.replies.claim("k", "d", "again", lease_ms=60_000) == ("new", b"")
