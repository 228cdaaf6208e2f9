import asyncio
import contextlib

from hypothesis import given
from hypothesis import strategies as st

from cnm_cli.child import explain_exit
from cnm_cli.supervisor import FIRST_DELAY_S, LONGEST_DELAY_S, STABLE_AFTER_S, Keeper, Program, next_delay


def test_delay_doubles_up_to_five_seconds() -> None:
    delays = [0.0]
    for _ in range(8):
        delays.append(next_delay(delays[-1], lived_s=1))
    assert delays[1:] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_who_lived_long_is_started_at_once() -> None:
    assert next_delay(LONGEST_DELAY_S, lived_s=STABLE_AFTER_S) == FIRST_DELAY_S


@given(st.floats(0, LONGEST_DELAY_S), st.floats(0, 1e6))
def test_delay_is_always_within_its_bounds(previous_s: float, lived_s: float) -> None:
    assert FIRST_DELAY_S <= next_delay(max(previous_s, FIRST_DELAY_S), lived_s) <= LONGEST_DELAY_S


def test_exit_is_told_in_words() -> None:
    assert [explain_exit(status) for status in (0, 3, -9, -63)] == [
        "exit status 0",
        "exit status 3",
        "signal SIGKILL",
        "signal 63",
    ]


async def test_who_waits_for_a_program_is_stopped_though_its_question_lost_the_cancellation(tmp_path) -> None:
    asked = asyncio.Event()

    async def swallow() -> bool:
        asked.set()
        with contextlib.suppress(asyncio.CancelledError):  # as asyncio.wait_for on Python 3.11
            await asyncio.sleep(60)
        return False

    program = Program(name="p", command=("true",), ready=swallow)
    waiting = asyncio.create_task(Keeper(program, pid_dir=tmp_path, say=lambda *_: None).until_ready())
    await asked.wait()
    waiting.cancel()
    await asyncio.wait((waiting,))
    assert waiting.cancelled()
