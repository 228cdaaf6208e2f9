"""What events told and the store has lost is told, once, and nothing else is."""

import asyncio
from datetime import UTC, datetime

import pytest

from cnm.store import Changes, Claims, RecalledEvent
from cnm.testing import MemoryBus, MemoryStore
from cnm_controller.documents import EndpointBody, NetworkBody, SandboxBody
from cnm_controller.events import event
from cnm_controller.losses import Losses
from cnm_controller.sagas import Sagas
from cnm_controller.views import endpoint_view, network_view, sandbox_view

NOW = datetime(2026, 1, 2, tzinfo=UTC)
NET = NetworkBody(id="a" * 64, name="net", driver="bridge", scope="local", created=NOW)
BOX = SandboxBody(id="b" * 64, name="box", node="n1", created=NOW, key="/k", hosts_path="/h", resolv_conf_path="/r")
END = EndpointBody(id="c" * 64, name="end", network_id=NET.id, created=NOW, mac_address="02:00:00:00:00:01")
JOINED = EndpointBody(**{name: getattr(END, name) for name in ("id", "name", "network_id", "created", "mac_address")},
                      sandbox_id=BOX.id, sandbox_name="box")  # fmt: skip


class Stage:
    """A store, and a stream that the test moves events to."""

    def __init__(self):
        self.store = MemoryStore()
        self.sagas = Sagas(self.store, MemoryBus())
        self.stream = []
        self.losses = Losses(self.store, self.store.outbox, self.recall, self.sagas, again_s=0)

    async def recall(self, limit):
        return self.stream[-limit:]

    async def commit(self, *events, puts=(), deletes=()):
        async with self.sagas.begin("test", Claims(), ((),)) as saga:
            await saga.commit(Changes(puts=puts, deletes=deletes, events=events))

    def relay(self):
        for _, row in self.store.outbox.rows:
            recalled = RecalledEvent(sequence=len(self.stream) + 1, subject=row.subject, body=row.body.encode())
            self.stream.append(recalled)
        self.store.outbox.rows.clear()

    def forget(self, kind, id):
        """Lose a document, as a server that starts with an older file."""
        self.store._forget(kind, id)

    async def told(self):
        """Return what a look publishes, and have it in the stream."""
        await self.losses.look()
        rows = [row for _, row in self.store.outbox.rows]
        self.relay()
        return rows


@pytest.fixture
async def stage():
    made = Stage()
    await made.commit(
        event("network", "created", NET.id, network_view(NET, 1, [])),
        event("sandbox", "created", BOX.id, sandbox_view(BOX, 1, (), {})),
        puts=(NET.document(), BOX.document()),
    )
    made.relay()
    return made


async def join(stage):
    await stage.commit(
        event("endpoint", "created", END.id, endpoint_view(END, NET, 1)),
        event("endpoint", "joined", END.id, endpoint_view(JOINED, NET, 1)),
        puts=(JOINED.document(),),
    )
    stage.relay()


async def test_nothing_is_told_while_nothing_is_lost(stage):
    assert await stage.told() == []
    await join(stage)
    await stage.commit(
        event("endpoint", "left", END.id, endpoint_view(END, NET, 2)),
        event("endpoint", "deleted", END.id, endpoint_view(END, NET, 2)),
        deletes=(JOINED.document(),),
    )
    stage.relay()
    assert await stage.told() == []


async def test_object_that_was_told_and_is_lost_is_told_once(stage):
    stage.forget("sandbox", BOX.id)
    (row,) = await stage.told()
    assert row.subject == f"cnm.v1.event.drift.found.{BOX.id}"
    assert '"about":"sandbox box"' in row.body
    assert '"value":"sandbox.created"' in row.body
    assert "it is not there" in row.body
    assert await stage.told() == []


async def test_object_that_was_told_to_be_deleted_and_is_back_is_told(stage):
    stage.stream.append(
        RecalledEvent(
            sequence=9,
            subject=f"cnm.v1.event.sandbox.deleted.{BOX.id}",
            body=event("sandbox", "deleted", BOX.id, sandbox_view(BOX, 1, (), {})).body.encode(),
        )
    )
    (row,) = await stage.told()
    assert '"value":"sandbox.deleted"' in row.body
    assert "it is there" in row.body


async def test_endpoint_that_joined_and_is_outside_again_is_told(stage):
    await join(stage)
    stage.store._put(END.document())
    (row,) = await stage.told()
    assert '"value":"endpoint.joined"' in row.body
    assert "it is in no sandbox" in row.body


async def test_change_of_an_object_that_is_lost_is_told(stage):
    later = event("network", "updated", NET.id, network_view(NET, 2, []))
    stage.stream.append(RecalledEvent(sequence=9, subject=later.subject, body=later.body.encode()))
    (row,) = await stage.told()
    assert "it is at revision 1, and was at 2" in row.body


async def test_what_is_on_its_way_to_the_stream_is_no_loss(stage):
    await stage.commit(event("sandbox", "deleted", BOX.id, sandbox_view(BOX, 1, (), {})), deletes=(BOX.document(),))
    await stage.losses.look()
    assert [row.subject.split(".")[3] for _, row in stage.store.outbox.rows] == ["sandbox"]


async def test_what_strangers_put_into_the_stream_is_passed_over(stage):
    for subject, body in (
        ("sandbox", b"{}"),
        ("sandbox.created.x", b"\xff"),
        ("drift.found.x", b'{"object": 1}'),
        ("", b""),
    ):
        stage.stream.append(RecalledEvent(sequence=9, subject=f"cnm.v1.event.{subject}", body=body))
    assert await stage.told() == []


async def test_what_changes_between_two_looks_is_no_loss(stage):
    stage.forget("sandbox", BOX.id)
    looks = 0

    async def recall(limit):
        nonlocal looks
        looks += 1
        if looks == 2:
            await stage.commit(event("sandbox", "deleted", BOX.id, sandbox_view(BOX, 1, (), {})))
            stage.relay()
        return await stage.recall(limit)

    await Losses(stage.store, stage.store.outbox, recall, stage.sagas, again_s=0).look()
    assert (looks, stage.store.outbox.rows) == (2, [])


async def test_each_server_is_looked_at_once_and_the_books_are_checked(stage):
    looked = []

    async def recall(_):
        looked.append(stage.store.name)
        return []

    losses = Losses(stage.store, stage.store.outbox, recall, stage.sagas, period_s=0)
    watching = asyncio.ensure_future(losses.watch())
    for name in ("first", "second"):
        stage.store.name = name
        async with asyncio.timeout(10):
            await stage.sagas.doubtful.wait()
        stage.sagas.doubtful.clear()
        for _ in range(50):
            await asyncio.sleep(0)
    watching.cancel()
    assert looked == ["first", "second"]
    assert not stage.sagas.doubtful.is_set()
