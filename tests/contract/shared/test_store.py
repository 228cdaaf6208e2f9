"""What the store promises, of the fake and of Redis alike."""

import asyncio
import time

import msgspec
import pytest

from cnm.store import (
    Busy,
    Changes,
    Claims,
    Compensation,
    Document,
    Entry,
    LeaseLost,
    Lookup,
    NameTaken,
    OutgoingEvent,
    Stale,
)

LONG_MS = 60_000


def identity(head, fill="0"):
    return head + fill * (64 - len(head))


def document(id="a1", name="web", *, kind="network", scope="", created_ms=1000, indexes=(), body='{"x": 1}'):
    return Document(
        kind=kind, id=identity(id), name=name, scope=scope, created_ms=created_ms, indexes=indexes, body=body
    )


def entry(id="s1", *, owner="me", rounds=()):
    return Entry(id=id, kind="test", owner=owner, rounds=rounds, trace_id="t", request_id='r "quoted" é')


def event(id, subject="cnm.v1.event.network.created.x"):
    return OutgoingEvent(id=id, subject=subject, body='{"é": 1}')


async def put(store, *documents, saga="setup", **changes):
    started = entry(saga)
    await store.begin(started, Claims(), lease_ms=LONG_MS)
    return await store.commit(started, Changes(puts=documents, **changes))


async def one(store, key, **more):
    (found,) = await store.find(Lookup(kind="network", key=key, **more))
    return found


async def test_empty_store_finds_nothing(store):
    found = await one(store, "web")
    assert found.document is None
    assert not found.ambiguous
    assert found.children == ()
    assert await store.every("network") == []
    assert await store.find() == []


async def test_document_comes_back_as_it_was_put(store):
    given = document(name="ünï", indexes=("a:1", "b:2"), created_ms=1_763_900_000_123, body='{"text": "é\\n\\u0000"}')
    (put_back,) = await put(store, given)
    assert put_back == msgspec.structs.replace(given, revision=1)
    assert (await one(store, given.id)).document == put_back
    assert await store.every("network") == [put_back]


async def test_full_id_goes_before_name_and_name_before_prefix(store):
    first = document("a1", name="web")
    named_like_id = document("b2", name=first.id[:60])
    named_like_prefix = document("c3", name="b2")
    await put(store, first, named_like_id, named_like_prefix)
    assert (await one(store, first.id)).document.id == first.id
    assert (await one(store, first.id[:60])).document.id == named_like_id.id
    assert (await one(store, "b2")).document.id == named_like_prefix.id
    assert (await one(store, "b20")).document.id == named_like_id.id


async def test_prefix_of_two_ids_is_ambiguous(store):
    await put(store, document("abc1", "one"), document("abc2", "two"))
    found = await one(store, "abc")
    assert found.ambiguous
    assert found.document is None
    assert (await one(store, "abc1")).document.name == "one"
    assert not (await one(store, "abd")).ambiguous


@pytest.mark.parametrize("key", ["~", "a~", "[", "(", "-", "+", "é", "a1" + "0" * 62 + "0", "*", "a1 "])
async def test_odd_keys_find_nothing(store, key):
    await put(store, document("a1", "web"))
    found = await one(store, key)
    assert found.document is None
    assert not found.ambiguous


async def test_names_and_prefixes_count_within_a_scope_and_ids_everywhere(store):
    one_net, other_net = identity("1"), identity("2")
    here = document("a1", "db", kind="endpoint", scope=one_net)
    there = document("a2", "db", kind="endpoint", scope=other_net)
    await put(store, here, there)

    async def found(key, scope):
        (answer,) = await store.find(Lookup(kind="endpoint", key=key, scope=scope))
        return answer.document and answer.document.id

    assert await found("db", one_net) == here.id
    assert await found("db", other_net) == there.id
    assert await found("a", one_net) == here.id
    assert await found("db", "") is None
    assert await found("a1", "") is None
    assert await found(here.id, "") == here.id
    assert await found(here.id, other_net) is None


async def test_several_lookups_are_answered_in_order(store):
    await put(store, document("a1", "web"), document("b2", "c1", kind="sandbox"))
    found = await store.find(
        Lookup(kind="sandbox", key="c1"), Lookup(kind="network", key="none"), Lookup(kind="network", key="web")
    )
    assert [each.document and each.document.name for each in found] == ["c1", None, "web"]


async def test_children_come_by_creation_then_id(store):
    network = document("a1", "web")
    index = f"endpoint:network:{network.id}"
    children = [
        document("c3", "late", kind="endpoint", created_ms=3000, indexes=(index,)),
        document("b2", "same-b", kind="endpoint", created_ms=2000, indexes=(index,)),
        document("a9", "same-a", kind="endpoint", created_ms=2000, indexes=(index,)),
        document("d4", "other", kind="endpoint", created_ms=1, indexes=("endpoint:network:else",)),
    ]
    await put(store, network, *children)
    found = await one(store, "web", children_kind="endpoint", children="endpoint:network")
    assert [child.name for child in found.children] == ["same-a", "same-b", "late"]
    assert (await one(store, "web")).children == ()
    assert [each.name for each in await store.every("endpoint", index=index)] == ["same-a", "same-b", "late"]


async def test_every_comes_by_creation_then_id(store):
    await put(
        store,
        document("ff", "last", created_ms=10_000),
        document("bb", "second", created_ms=9_999),
        document("aa", "first", created_ms=9_999),
        document("00", "zeroth", created_ms=5),
    )
    assert [each.name for each in await store.every("network")] == ["zeroth", "first", "second", "last"]
    assert await store.every("network", index="nobody:here") == []


async def test_revision_grows_by_one_with_each_put_and_begins_anew_after_delete(store):
    given = document()
    revisions = [(await put(store, given, saga=f"s{turn}"))[0].revision for turn in range(3)]
    assert revisions == [1, 2, 3]
    await put(store, saga="deleting", deletes=(given,))
    assert (await put(store, given, saga="again"))[0].revision == 1


async def test_rename_frees_the_old_name(store):
    await put(store, document("a1", "old"))
    await put(store, document("a1", "new"), saga="rename")
    assert (await one(store, "old")).document is None
    assert (await one(store, "new")).document.id == identity("a1")
    await put(store, document("b2", "old"), saga="reuse")
    assert (await one(store, "old")).document.id == identity("b2")


async def test_two_documents_swap_names_in_one_commit(store):
    await put(store, document("a1", "left"), document("b2", "right"))
    await put(store, document("a1", "right"), document("b2", "left"), saga="swap")
    assert (await one(store, "left")).document.id == identity("b2")
    assert (await one(store, "right")).document.id == identity("a1")


async def test_name_passes_on_in_one_commit(store):
    old = document("a1", "web")
    await put(store, old)
    await put(store, document("b2", "web"), saga="replace", deletes=(old,))
    assert (await one(store, "web")).document.id == identity("b2")
    assert [each.id for each in await store.every("network")] == [identity("b2")]


async def test_put_moves_a_document_between_indexes(store):
    await put(store, document(indexes=("at:1", "in:x")))
    await put(store, document(indexes=("at:2", "in:x")), saga="move")
    assert await store.every("network", index="at:1") == []
    assert len(await store.every("network", index="at:2")) == 1
    assert len(await store.every("network", index="in:x")) == 1


async def test_put_moves_a_document_between_scopes(store):
    await put(store, document(scope="here"))
    await put(store, document(scope="there"), saga="move")
    assert (await one(store, "web", scope="here")).document is None
    assert (await one(store, "a1", scope="here")).document is None
    assert (await one(store, "web", scope="there")).document is not None


async def test_delete_leaves_nothing_and_deleting_what_is_gone_succeeds(store):
    given = document(indexes=("at:1",))
    await put(store, given)
    await put(store, saga="delete", deletes=(given,))
    await put(store, saga="again", deletes=(given,))
    assert await store.every("network") == []
    assert await store.every("network", index="at:1") == []
    for key in (given.id, given.name, "a1"):
        assert (await one(store, key)).document is None


async def test_exclusive_claim_bars_exclusive_and_shared(store):
    await store.begin(entry("s1"), Claims(exclusive=("k",)), lease_ms=LONG_MS)
    for claims in (Claims(exclusive=("free", "k")), Claims(shared=("k",))):
        with pytest.raises(Busy) as busy:
            await store.begin(entry("s2"), claims, lease_ms=LONG_MS)
        assert busy.value.key == "k"
    await store.begin(entry("s3"), Claims(exclusive=("free",)), lease_ms=LONG_MS)


async def test_shared_claims_bar_only_exclusive_ones(store):
    sharers = [entry("s1"), entry("s2")]
    for sharer in sharers:
        await store.begin(sharer, Claims(shared=("k",)), lease_ms=LONG_MS)
    with pytest.raises(Busy):
        await store.begin(entry("s3"), Claims(exclusive=("k",)), lease_ms=LONG_MS)
    await store.finish(sharers[0])
    with pytest.raises(Busy):
        await store.begin(entry("s3"), Claims(exclusive=("k",)), lease_ms=LONG_MS)
    await store.finish(sharers[1])
    await store.begin(entry("s3"), Claims(exclusive=("k",)), lease_ms=LONG_MS)


async def test_refused_begin_claims_nothing(store):
    await put(store, document())
    await store.begin(entry("s1"), Claims(exclusive=("k",)), lease_ms=LONG_MS)
    with pytest.raises(Busy):
        await store.begin(entry("s2"), Claims(exclusive=("mine", "k"), shared=("ours",)), lease_ms=1)
    with pytest.raises(Stale):
        await store.begin(entry("s2"), Claims(exclusive=("mine",), unchanged=(document(),)), lease_ms=1)
    with pytest.raises(NameTaken):
        await store.begin(entry("s2"), Claims(exclusive=("mine",), unique=(("network", "", "web"),)), lease_ms=1)
    await store.begin(entry("s3"), Claims(exclusive=("mine", "ours")), lease_ms=LONG_MS)


async def test_commit_and_finish_release_claims(store):
    for turn, end in enumerate((lambda each: store.commit(each, Changes()), store.finish)):
        saga = entry(f"s{turn}")
        await store.begin(saga, Claims(exclusive=("x",), shared=("y",)), lease_ms=LONG_MS)
        await end(saga)
    await store.begin(entry("last"), Claims(exclusive=("x", "y")), lease_ms=LONG_MS)


async def test_beginning_what_has_begun_succeeds(store):
    claims = Claims(exclusive=("k",), shared=("l",))
    await store.begin(entry("s1"), claims, lease_ms=LONG_MS)
    await store.begin(entry("s1"), claims, lease_ms=LONG_MS)
    await store.finish(entry("s1"))
    await store.begin(entry("s2"), Claims(exclusive=("k", "l")), lease_ms=LONG_MS)


async def test_document_that_changed_since_it_was_read_is_stale(store):
    (read,) = await put(store, document())
    await store.begin(entry("s1"), Claims(unchanged=(read,)), lease_ms=LONG_MS)
    (newer,) = await put(store, document(), saga="change")
    with pytest.raises(Stale):
        await store.begin(entry("s2"), Claims(unchanged=(read,)), lease_ms=LONG_MS)
    await put(store, saga="delete", deletes=(read,))
    with pytest.raises(Stale):
        await store.begin(entry("s3"), Claims(unchanged=(newer,)), lease_ms=LONG_MS)


async def test_taken_name_names_its_holder(store):
    await put(store, document("a1", "web", scope="s"))
    with pytest.raises(NameTaken) as taken:
        await store.begin(entry("s1"), Claims(unique=(("network", "s", "web"),)), lease_ms=LONG_MS)
    assert (taken.value.kind, taken.value.name, taken.value.holder) == ("network", "web", identity("a1"))
    free = (("network", "other", "web"), ("sandbox", "s", "web"))
    await store.begin(entry("s1"), Claims(unique=free), lease_ms=LONG_MS)


async def test_of_fifty_begins_side_by_side_exactly_one_holds_an_exclusive_claim(store):
    async def attempt(number):
        try:
            await store.begin(entry(f"s{number}", owner=f"o{number}"), Claims(exclusive=("k",)), lease_ms=LONG_MS)
        except Busy:
            return None
        return number

    holders = [each for each in await asyncio.gather(*map(attempt, range(50))) if each is not None]
    assert len(holders) == 1
    assert (await store.snapshot([])).claimed == ("k",)


async def test_events_of_a_commit_stand_in_the_outbox_in_order(store, outbox):
    await put(store, document(), events=(event("1"), event("2")))
    await put(store, saga="second", events=(event("3"),))
    rows = await outbox.read(10)
    assert [each for _, each in rows] == [event("1"), event("2"), event("3")]
    assert await outbox.read(2) == rows[:2]
    await outbox.drop([rows[0][0]])
    await outbox.drop([])
    assert await outbox.read(10) == rows[1:]
    await outbox.drop([position for position, _ in rows])
    assert await outbox.read(10) == []


async def test_one_leads_the_relaying_until_it_resigns_or_its_lease_is_over(side, outbox):
    async def leads(name, *, lease_ms=LONG_MS):
        return await outbox.take(name, lease_ms=lease_ms, limit=1) is not None

    assert await leads("a")
    assert await leads("a")
    assert not await leads("b")
    await outbox.resign("b")
    assert not await leads("b")
    await outbox.resign("a")
    assert await leads("b", lease_ms=50)
    await side.later(60)
    assert await leads("a")


async def test_who_leads_takes_the_oldest_and_drops_what_it_relayed(side, outbox):
    for number in range(1, 5):
        await side.write(event(str(number)))
    first = await outbox.take("a", lease_ms=LONG_MS, limit=2)
    assert [each for _, each in first] == [event("1"), event("2")]
    rest = await outbox.take("a", lease_ms=LONG_MS, limit=9, dropped=[position for position, _ in first])
    assert [each for _, each in rest] == [event("3"), event("4")]
    assert await outbox.take("b", lease_ms=LONG_MS, limit=9, dropped=[rest[0][0]]) is None
    assert await outbox.take("a", lease_ms=LONG_MS, limit=9) == rest[1:]
    assert await outbox.take("a", lease_ms=LONG_MS, limit=9, dropped=[rest[1][0]]) == []


async def test_waiting_ends_with_an_event_or_with_the_time(side, outbox):
    began = time.monotonic()
    await outbox.wait(0.05)
    assert time.monotonic() - began >= 0.04
    await side.write(event("1"))
    await outbox.wait(30)
    assert len(await outbox.read(10)) == 1
    waiting = asyncio.create_task(outbox.wait(30))
    await asyncio.sleep(0)
    assert not waiting.done()
    await side.write(event("2"))
    async with asyncio.timeout(10):
        await waiting


async def test_snapshot_has_the_journal_when_it_is_asked_for(store):
    step = Compensation(subject="undo", body="{}")
    saga = entry(rounds=((step,),))
    await store.begin(saga, Claims(exclusive=("k",)), lease_ms=LONG_MS)
    assert (await store.snapshot(("network",))).journal == ()
    found = await store.snapshot(("network",), journal=True)
    assert (found.journal, found.claimed) == ((saga,), ("k",))
    after = Compensation(subject="after", body="{}")
    await store.commit(saga, Changes(after=(after,)))
    found = await store.snapshot(("network",), journal=True)
    assert [each.rounds for each in found.journal] == [((after,),)]
    assert found.claimed == ()


async def test_refused_commit_writes_nothing(store, outbox):
    with pytest.raises(LeaseLost):
        await store.commit(entry("never-begun"), Changes(puts=(document(),), events=(event("1"),)))
    await store.begin(entry("s1", owner="other"), Claims(), lease_ms=LONG_MS)
    with pytest.raises(LeaseLost):
        await store.commit(entry("s1", owner="me"), Changes(puts=(document(),), events=(event("1"),)))
    assert await store.every("network") == []
    assert await outbox.read(10) == []


async def test_commit_said_twice_writes_once(store, outbox):
    saga = entry()
    await store.begin(saga, Claims(exclusive=("k",)), lease_ms=LONG_MS)
    changes = Changes(puts=(document(),), events=(event("1"),))
    first = await store.commit(saga, changes)
    assert await store.commit(saga, changes) == first
    assert (await store.every("network"))[0].revision == 1
    assert len(await outbox.read(10)) == 1


async def test_after_commands_keep_the_entry_without_its_claims_until_finish(side, store):
    step = Compensation(subject="cnm.v1.x", body='{"a": "b"}')
    saga = entry(rounds=((Compensation(subject="undo", body="{}"),),))
    await store.begin(saga, Claims(exclusive=("k",)), lease_ms=50)
    await store.commit(saga, Changes(puts=(document(),), after=(step,)))
    await store.begin(entry("s2"), Claims(exclusive=("k",)), lease_ms=LONG_MS)
    await side.later(60)
    (found,) = await store.expired("heir", lease_ms=LONG_MS)
    assert found.rounds == ((step,),)
    await store.finish(found)
    assert await store.expired("heir", lease_ms=LONG_MS) == []
    with pytest.raises(Busy):
        await store.begin(entry("s3"), Claims(exclusive=("k",)), lease_ms=LONG_MS)


async def test_finish_twice_or_of_what_is_not_ours_changes_nothing(store):
    saga = entry()
    await store.finish(saga)
    await store.begin(saga, Claims(exclusive=("k",)), lease_ms=LONG_MS)
    await store.finish(msgspec.structs.replace(saga, owner="other"))
    with pytest.raises(Busy):
        await store.begin(entry("s2"), Claims(exclusive=("k",)), lease_ms=LONG_MS)
    await store.finish(saga)
    await store.finish(saga)
    with pytest.raises(LeaseLost):
        await store.commit(saga, Changes(puts=(document(),)))


async def test_lease_that_runs_out_is_lost_once_somebody_takes_over(side, store):
    rounds = ((Compensation(subject="a", body='{"owner":"someone","x":"%1"}'),), ())
    saga = entry(rounds=rounds)
    await store.begin(saga, Claims(exclusive=("k",)), lease_ms=30)
    assert await store.expired("early", lease_ms=LONG_MS) == []
    await side.later(40)
    (taken,) = await store.expired("heir", lease_ms=LONG_MS)
    assert taken == msgspec.structs.replace(saga, owner=taken.owner)
    assert taken.owner.startswith("heir")
    with pytest.raises(LeaseLost):
        await store.commit(saga, Changes(puts=(document(),)))
    await store.finish(saga)
    with pytest.raises(Busy):
        await store.begin(entry("s2"), Claims(exclusive=("k",)), lease_ms=LONG_MS)
    await store.finish(taken)
    await store.begin(entry("s2"), Claims(exclusive=("k",)), lease_ms=LONG_MS)


async def test_own_saga_taken_over_can_no_longer_commit(side, store):
    saga = entry()
    await store.begin(saga, Claims(), lease_ms=10)
    await side.later(20)
    (taken,) = await store.expired(saga.owner, lease_ms=10)
    with pytest.raises(LeaseLost):
        await store.commit(saga, Changes(puts=(document(),)))
    await side.later(20)
    (again,) = await store.expired(saga.owner, lease_ms=LONG_MS)
    assert len({saga.owner, taken.owner, again.owner}) == 3


async def test_expired_entry_is_taken_over_exactly_once_among_several(side, store):
    for number in range(5):
        await store.begin(entry(f"s{number}"), Claims(), lease_ms=10)
    await side.later(20)
    takers = [store.expired(f"heir{number}", lease_ms=LONG_MS) for number in range(20)]
    taken = [each.id for found in await asyncio.gather(*takers) for each in found]
    assert sorted(taken) == [f"s{number}" for number in range(5)]


async def test_take_over_is_limited(side, store):
    for number in range(5):
        await store.begin(entry(f"s{number}"), Claims(), lease_ms=10)
    await side.later(20)
    sizes = [len(await store.expired("heir", lease_ms=LONG_MS, limit=3)) for _ in range(3)]
    assert sizes == [3, 2, 0]


async def test_renewed_lease_does_not_run_out_and_is_never_shortened(side, store):
    await store.begin(entry("short"), Claims(), lease_ms=30)
    await store.begin(entry("long"), Claims(), lease_ms=LONG_MS)
    await store.renew(["short"], lease_ms=LONG_MS)
    await store.renew(["long", "unknown"], lease_ms=1)
    await store.renew([], lease_ms=1)
    await side.later(40)
    assert await store.expired("heir", lease_ms=LONG_MS) == []


async def test_snapshot_holds_all_kinds_and_exclusive_claims(store):
    await put(store, document("b2", "b", created_ms=2), document("a1", "a", created_ms=1))
    await put(store, document("c3", "c", kind="sandbox"), saga="second")
    await store.begin(entry("s"), Claims(exclusive=("x",), shared=("y",)), lease_ms=LONG_MS)
    found = await store.snapshot(["network", "sandbox", "endpoint"])
    assert {kind: [each.name for each in documents] for kind, documents in found.documents.items()} == {
        "network": ["a", "b"],
        "sandbox": ["c"],
        "endpoint": [],
    }
    assert found.claimed == ("x",)


async def test_snapshot_is_left_out_while_the_clock_stands(store):
    clock = (await store.snapshot(["network"])).clock
    assert (await store.snapshot(["network"], known_clock=clock)).documents is None
    saga = entry()
    moves = [
        lambda: store.begin(saga, Claims(exclusive=("k",)), lease_ms=LONG_MS),
        lambda: store.commit(saga, Changes(puts=(document(),))),
        lambda: store.begin(entry("s2"), Claims(), lease_ms=LONG_MS),
        lambda: store.finish(entry("s2")),
    ]
    for move in moves:
        await move()
        found = await store.snapshot(["network"], known_clock=clock)
        assert found.documents is not None
        assert found.clock > clock
        clock = found.clock
    await store.finish(entry("s2"))
    await store.find(Lookup(kind="network", key="web"))
    assert (await store.snapshot(["network"], known_clock=clock)).documents is None
