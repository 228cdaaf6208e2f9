"""Sagas are counted by how they ended, and by the step at which they failed."""

import asyncio
import sys
import time
from pathlib import Path

import pytest

from cnm.bus import Call, set_current_call
from cnm.errors import CnmError, Internal, Unavailable
from cnm.messages.bridge import UnplugEndpoint
from cnm.store import Changes, Claims
from cnm.testing import ManualClock, MemoryBus, MemoryStore
from cnm_controller.founding import found
from cnm_controller.sagas import Step

sys.path.insert(0, str(Path(__file__).parent))
from world import controller_of  # beside this file


class Stage:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store, self.bus = MemoryStore(self.clock), MemoryBus()
        self.sagas = controller_of(self.store, self.bus).sagas
        self.counted = self.sagas.counted

    async def run(self, *, fail: Exception | None = None, claims: Claims | None = None) -> None:
        """Run a saga of one step, whose command nobody answers."""
        step = Step(command=UnplugEndpoint(endpoint_id="0" * 64), node="n1")
        async with self.sagas.begin("x", claims or Claims(), ((step,),)) as saga:
            if fail is not None:
                raise fail
            await saga.run(step)
            await saga.commit(Changes())


@pytest.fixture
def stage():
    return Stage()


async def test_committed_ones_are_counted_and_timed(stage: Stage):
    await found(stage.sagas)
    assert stage.counted.ended == {("network.found", "committed"): 3}
    assert sum(stage.counted.times.distributions()["network.found",].counts) == 3
    assert stage.counted.failures == {}


async def test_step_that_fails_is_named_without_the_node(stage: Stage):
    with pytest.raises(Unavailable):
        await stage.run()
    assert stage.counted.failures == {("x", "cnm.v1.on.bridge.unplug", "unavailable"): 1}
    assert stage.counted.ended == {("x", "undone"): 1}


async def test_refusal_of_the_controller_itself_is_told_apart(stage: Stage):
    with pytest.raises(Internal):
        await stage.run(fail=Internal("no"))
    assert stage.counted.failures == {("x", "controller", "internal"): 1}
    assert stage.counted.ended == {("x", "undone"): 1}


async def test_what_never_began_is_refused(stage: Stage):
    claims = Claims(exclusive=("sandbox:a",))
    set_current_call(Call(request_id="r", trace_id="t", deadline=time.monotonic() + 0.05))
    async with stage.sagas.begin("x", claims) as saga:
        with pytest.raises(CnmError):
            await stage.run(claims=claims)
        await saga.commit(Changes())
    assert stage.counted.ended == {("x", "refused"): 1, ("x", "committed"): 1}
    assert stage.counted.failures == {("x", "begin", "timeout"): 1}


async def test_deadline_in_the_middle_is_a_step_of_its_own(stage: Stage):
    began = asyncio.Event()

    async def slow():
        async with stage.sagas.begin("x", Claims(), ((),)):
            began.set()
            await asyncio.sleep(3600)

    task = asyncio.create_task(slow())
    await began.wait()
    task.cancel()
    await asyncio.wait([task])
    assert stage.counted.failures == {("x", "deadline", "timeout"): 1}
    assert stage.counted.ended == {("x", "undone"): 1}


async def test_sagas_of_the_dead_are_counted_as_recovered(stage: Stage):
    began = asyncio.Event()

    async def die():
        async with stage.sagas.begin("x", Claims(), ((),)):
            began.set()
            await asyncio.sleep(3600)

    task = asyncio.create_task(die())
    await began.wait()
    stage.clock.move(60_000)
    heir = controller_of(stage.store, stage.bus).sagas
    await heir.recover_once()
    assert heir.counted.recovered == {("finished",): 1, ("unfinished",): 0}
    task.cancel()
    await asyncio.wait([task])


async def test_samples_tell_what_was_counted(stage: Stage):
    await found(stage.sagas)
    told = {(each.metric.name, *each.labels) for each in stage.counted.samples()}
    assert told == {
        ("cnm_sagas_total", "network.found", "committed"),
        ("cnm_saga_duration_seconds", "network.found"),
        ("cnm_sagas_recovered_total", "finished"),
        ("cnm_sagas_recovered_total", "unfinished"),
    }
