"""What kept replies promise, of the fake and of Redis alike."""

import asyncio

from cnm.store import Changes, Claims, Entry, Reply

LEASE_MS = 60_000


async def claim(replies, key="k", digest="d", by="me", lease_ms=LEASE_MS):
    return await replies.claim(key, digest, by, lease_ms=lease_ms)


async def test_first_claim_is_new_and_others_wait(replies):
    assert await claim(replies) == ("new", b"")
    assert await claim(replies, by="other") == ("pending", b"")
    assert await claim(replies, key="another") == ("new", b"")


async def test_claim_whose_answer_was_lost_is_still_new(replies):
    await claim(replies)
    assert await claim(replies) == ("new", b"")


async def test_kept_reply_comes_back(replies):
    await claim(replies)
    await replies.keep("k", "d", "me", b"\x00reply\xff", for_s=60)
    assert await claim(replies) == ("done", b"\x00reply\xff")
    assert await claim(replies, by="other") == ("done", b"\x00reply\xff")


async def test_other_body_is_told_before_and_after_the_reply(replies):
    await claim(replies)
    assert await claim(replies, digest="e", by="other") == ("other", b"")
    await replies.keep("k", "d", "me", b"reply", for_s=60)
    assert await claim(replies, digest="e", by="other") == ("other", b"")


async def test_dropped_request_may_be_tried_again(replies):
    await claim(replies)
    await replies.drop("k", "me")
    await replies.drop("k", "me")
    assert await claim(replies, digest="e", by="other") == ("new", b"")


async def test_claim_of_a_dead_worker_runs_out(side, replies):
    await claim(replies, lease_ms=20)
    await side.later(30)
    assert await claim(replies, by="heir") == ("new", b"")


async def test_renewed_claim_does_not_run_out(side, replies):
    await claim(replies, lease_ms=20)
    await replies.renew("k", "me", lease_ms=LEASE_MS)
    await replies.renew("k", "other", lease_ms=1)
    await replies.renew("unknown", "me", lease_ms=1)
    await side.later(30)
    assert await claim(replies, by="heir") == ("pending", b"")


async def test_try_that_lost_its_claim_keeps_and_drops_nothing(side, replies):
    await claim(replies, by="slow", lease_ms=20)
    await side.later(30)
    await claim(replies, by="heir")
    await replies.drop("k", "slow")
    await replies.keep("k", "d", "slow", b"late", for_s=60)
    assert await claim(replies, by="third") == ("pending", b"")
    await replies.keep("k", "d", "heir", b"reply", for_s=60)
    await replies.keep("k", "d", "slow", b"late", for_s=60)
    await replies.drop("k", "heir")
    assert await claim(replies, by="third") == ("done", b"reply")


async def test_reply_of_a_claim_that_ran_out_unnoticed_is_kept(side, replies):
    await claim(replies, lease_ms=20)
    await side.later(30)
    await replies.keep("k", "d", "me", b"reply", for_s=60)
    assert await claim(replies, by="other") == ("done", b"reply")


async def test_kept_reply_is_forgotten_in_time(side, replies):
    await claim(replies)
    await replies.keep("k", "d", "me", b"reply", for_s=1)
    await side.later(1050)
    assert await claim(replies, by="other") == ("new", b"")


async def test_of_many_claims_side_by_side_one_is_new(replies):
    found = await asyncio.gather(*(claim(replies, by=f"c{number}") for number in range(30)))
    assert sorted(state for state, _ in found) == ["new"] + ["pending"] * 29


async def commit(store, **fields):
    """Commit a saga that keeps the reply of its request."""
    entry = Entry(id="s", kind="test", owner="me", rounds=())
    await store.begin(entry, Claims(), lease_ms=LEASE_MS)
    reply = Reply(**{"key": "k", "digest": "d", "claim": "me", "body": b"\x00reply\xff", "for_s": 60} | fields)
    await store.commit(entry, Changes(reply=reply))


async def test_reply_is_kept_with_what_the_request_did(replies, store):
    await claim(replies)
    await commit(store)
    assert await claim(replies) == ("done", b"\x00reply\xff")
    assert await claim(replies, digest="e", by="other") == ("other", b"")


async def test_who_commits_with_a_lost_claim_keeps_no_reply(replies, store):
    await claim(replies, by="other")
    await commit(store)
    assert await claim(replies, by="third") == ("pending", b"")


async def test_reply_kept_with_a_commit_is_not_dropped_by_who_did_not_hear_of_it(replies, store):
    await claim(replies)
    await commit(store)
    await replies.drop("k", "me")
    assert await claim(replies) == ("done", b"\x00reply\xff")


async def test_reply_kept_with_a_commit_is_forgotten_in_time(replies, store, side):
    await claim(replies)
    await commit(store, for_s=1)
    await side.later(1100)
    assert await claim(replies) == ("new", b"")


async def test_no_more_requests_are_kept_than_there_is_room_for(side):
    replies = side.few_replies(3)
    for number in range(3):
        assert await claim(replies, key=f"k{number}") == ("new", b"")
        await replies.keep(f"k{number}", "d", "me", b"reply", for_s=1)
    assert await claim(replies, key="one more") == ("full", b"")
    assert await claim(replies, key="k0", by="again") == ("done", b"reply")
    await side.later(1100)
    for number in range(3):
        assert await claim(replies, key=f"later {number}", lease_ms=60_000) == ("new", b"")
    assert await claim(replies, key="one more") == ("full", b"")
    await replies.drop("later 0", "me")
    assert await claim(replies, key="one more") == ("new", b"")
