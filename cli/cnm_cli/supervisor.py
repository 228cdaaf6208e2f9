"""Keeps programs running: starts them in stages, restarts what dies, stops them in reverse order.

Servers and workers are programs alike. A stage starts when those before it have started, and when their gates
are ready; the last stage stops first.
"""

import asyncio
import itertools
import os
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import msgspec

from cnm.errors import CnmError, Unavailable
from cnm_cli.child import Child, end, explain_exit, identity_of, read_identity

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
STABLE_AFTER_S = 3.0
POLL_S = 0.02
DEATHS_BEFORE_READY = 3
LARGEST_LOG = 16 * 1024 * 1024

Say = Callable[[str, str], None]
"""Takes a line, and the name of the program that said it."""
OWN_NAME = "cnm"


@dataclass(frozen=True, kw_only=True)
class Program:
    """One process to keep running."""

    name: str
    command: Sequence[str]
    ready: Callable[[], Awaitable[bool]]
    """Asks it, without waiting long; asked again until it says yes."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    log: Path | None = None
    """Where its output goes; None shows each line, after its name."""
    gate: bool = False
    """Later stages start only when it is ready."""
    deaths_allowed: int = DEATHS_BEFORE_READY
    """That many deaths before it was ever ready, and starting has failed."""


def next_delay(previous_s: float, lived_s: float) -> float:
    """Decide how long to wait before starting a dead program again.

    0.1 s, doubled with each death up to 5 s; who lived for 3 s begins again. ``previous_s`` is 0 at first.
    """
    if previous_s == 0 or lived_s >= STABLE_AFTER_S:
        return FIRST_DELAY_S
    return min(previous_s * 2, LONGEST_DELAY_S)


def end_leftovers(pid_dir: Path) -> None:
    """Stop what a killed supervisor left, and make the folder for pid files.

    The kernel told those processes to end when their parent did, so this mostly waits. Blocks.
    """
    pid_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    for path in sorted(pid_dir.glob("*.pid"), reverse=True):
        left = read_identity(path)
        if left is not None:
            end(left)
        path.unlink(missing_ok=True)


class Keeper:
    """Keeps one program running until it is stopped."""

    def __init__(self, program: Program, *, pid_dir: Path, say: Say) -> None:
        self.program = program
        self.was_ready = False
        self._pid_path = pid_dir / f"{program.name}.pid"
        self._say = say
        self._child: Child | None = None
        self._stopping = asyncio.Event()
        self._last_line = ""

    async def keep(self) -> None:
        """Start the program, again and again, until `stop`.

        Raises:
            Unavailable: it cannot be started at all, or died too often before it was ready.
        """
        loop = asyncio.get_running_loop()
        delay_s = 0.0
        for deaths in itertools.count(1):
            if self._stopping.is_set():
                return
            started = loop.time()
            status = await self._run_once()
            if self._stopping.is_set():
                return
            if not self.was_ready and deaths >= self.program.deaths_allowed:
                raise Unavailable(f"{self.program.name} ended with {explain_exit(status)}{self.last_words()}")
            delay_s = next_delay(delay_s, loop.time() - started)
            ended = f"{self.program.name} ended with {explain_exit(status)}, starting it again in {delay_s:g} s"
            self._say(ended, OWN_NAME)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stopping.wait()

    async def until_ready(self) -> None:
        """Wait until the program says that it is ready."""
        me = asyncio.current_task()
        assert me is not None
        while not await self.program.ready():
            if me.cancelling():  # nats-py waits with ``wait_for``, which loses cancellations on Python 3.11
                raise asyncio.CancelledError
            await asyncio.sleep(POLL_S)
        self.was_ready = True

    async def stop(self) -> None:
        """Stop the program, and do not start it again."""
        self._stopping.set()
        if self._child is not None:
            await self._child.stop()
        self._pid_path.unlink(missing_ok=True)

    def last_words(self) -> str:
        """Quote the last line of the program's output, to stand after a message; empty when it said nothing."""
        line = _last_line(self.program.log) if self.program.log else self._last_line
        return f": {_sentence(line)}" if line else ""

    async def _run_once(self) -> int:
        log = self.program.log
        output = _open_log(log) if log else subprocess.PIPE
        try:
            child = Child.start(self.program.command, environment=self.program.environment, output=output)
        except OSError as error:
            raise Unavailable(f"cannot start {self.program.name}: {error}") from error
        finally:
            if not isinstance(output, int):
                output.close()
        self._child = child
        self._pid_path.write_text(f"{identity_of(child.pid) or ''}\n")
        if child.output is None:
            return await child.wait()
        async with asyncio.TaskGroup() as group:
            relay = group.create_task(self._relay(child.output))
            status = await child.wait()
            await asyncio.wait((relay,), timeout=1)  # a grandchild may hold the pipe open
            relay.cancel()
        return status

    async def _relay(self, pipe: IO[bytes]) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        rest = b""
        try:
            while chunk := await reader.read(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._last_line = line.decode(errors="replace").strip() or self._last_line
                    self._say(line.decode(errors="replace"), self.program.name)
        finally:
            transport.close()


async def supervise(
    stages: Sequence[Sequence[Program]],
    *,
    pid_dir: Path,
    stopping: asyncio.Event,
    say: Say,
    on_ready: Callable[[], Awaitable[None]],
    start_timeout_s: float = 60.0,
) -> None:
    """Run all stages until ``stopping`` is set; ``on_ready`` is called once, when every program is ready.

    Returns, or raises, when all programs have ended.

    Raises:
        Unavailable: a program did not become ready; the message names it and quotes its last line.
    """
    keepers = [[Keeper(program, pid_dir=pid_dir, say=say) for program in stage] for stage in stages]
    try:
        async with asyncio.TaskGroup() as group:
            try:
                starting = group.create_task(_start(keepers, group, start_timeout_s, on_ready))
                await stopping.wait()
                starting.cancel()
            finally:
                for stage in reversed(keepers):
                    await asyncio.gather(*(keeper.stop() for keeper in stage))
    except BaseExceptionGroup as errors:  # not `except*`: Python before 3.11.4 wraps what is raised there
        refusals, others = errors.split(CnmError)
        if refusals is None or others is not None:
            raise
        raise _first(refusals) from None


async def _start(
    keepers: Sequence[Sequence[Keeper]],
    group: asyncio.TaskGroup,
    timeout_s: float,
    on_ready: Callable[[], Awaitable[None]],
) -> None:
    started: list[Keeper] = []
    try:
        async with asyncio.timeout(timeout_s):
            for stage in keepers:
                for keeper in stage:
                    group.create_task(keeper.keep(), name=f"keep {keeper.program.name}")
                started.extend(stage)
                await _until_ready([keeper for keeper in stage if keeper.program.gate])
            await _until_ready([keeper for keeper in started if not keeper.was_ready])
    except TimeoutError:
        late = [keeper for keeper in started if not keeper.was_ready]
        text = ", ".join(f"{keeper.program.name}{keeper.last_words()}" for keeper in late)
        raise Unavailable(f"not ready within {timeout_s:g} s: {text}") from None
    await on_ready()


async def _until_ready(keepers: Sequence[Keeper]) -> None:
    async with asyncio.TaskGroup() as group:
        for keeper in keepers:
            group.create_task(keeper.until_ready())


def _first(errors: BaseExceptionGroup[CnmError]) -> CnmError:
    """Pick the error that came first; the others are its consequences."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, CnmError)
    return found


def _open_log(path: Path) -> IO[bytes]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LARGEST_LOG:
        path.rename(path.with_suffix(".old.log"))
    return path.open("ab")


def _sentence(line: str) -> str:
    """Return what a line of a log says to a person."""
    try:
        told = msgspec.json.decode(line, type=dict[str, object])
    except msgspec.DecodeError:
        return line
    return str(told.get("error") or told.get("event") or line)


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
