"""A resolver that starts while no controller answers goes by what was said before."""

import asyncio

import pytest

from cnm.errors import Unavailable
from cnm.messages.names import ZoneSpec
from cnm.messages.node import NameSlice
from cnm_resolver.memory import Memory

SAID = NameSlice(clock=7, zones=[ZoneSpec(network_id="a" * 64, name="web")])


class Controller:
    """Answers, or does not; notes the clocks that it was asked with."""

    def __init__(self, answer):
        self.answer, self.clocks = answer, []

    async def ask(self, clock):
        self.clocks.append(clock)
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return NameSlice(clock=7, unchanged=True) if clock == self.answer.clock else self.answer


@pytest.mark.parametrize("absence", [None, Unavailable("no responders")])
async def test_what_was_said_is_recalled_when_nobody_answers(tmp_path, absence):
    path = tmp_path / "names.json"
    assert await Memory(path, Controller(SAID).ask).fetch(None) == SAID
    assert path.stat().st_mode & 0o777 == 0o600
    controller = Controller(absence)
    memory = Memory(path, controller.ask, patience_s=0.02)
    if absence is not None:
        with pytest.raises(Unavailable):
            await memory.fetch(None)  # it may still come
        await asyncio.sleep(0.03)
    assert await memory.fetch(None) == SAID
    controller.answer = Unavailable("no responders")
    with pytest.raises(Unavailable):
        await memory.fetch(7)
    controller.answer = SAID
    assert await memory.fetch(7) == SAID
    assert controller.clocks[-1] is None, "it may be another store's clock"
    assert (await memory.fetch(7)).unchanged


@pytest.mark.parametrize("text", [None, "", "{}", '{"clock": "x"}'])
async def test_without_a_memory_there_is_none(tmp_path, text):
    if text is not None:
        (tmp_path / "names.json").write_text(text)
    memory = Memory(tmp_path / "names.json", Controller(Unavailable("no responders")).ask, patience_s=0.0)
    with pytest.raises(Unavailable):
        await memory.fetch(None)


async def test_a_slice_that_cannot_be_kept_is_no_error(tmp_path):
    assert await Memory(tmp_path / "absent" / "names.json", Controller(SAID).ask).fetch(None) == SAID
