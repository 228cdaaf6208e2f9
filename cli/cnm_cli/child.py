"""One child process: it dies with its parent, is watched without a thread, and is stopped politely."""

import asyncio
import ctypes
import os
import select
import signal
import subprocess
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, Self

PR_SET_PDEATHSIG = 1  # prctl(2)
STOP_PATIENCE_S = 10.0

_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Identity(NamedTuple):
    """A process that cannot be mistaken for a later one with the same pid: when it started is part of it."""

    pid: int
    started: int
    """Clock ticks since boot, field 22 of proc_pid_stat(5)."""

    def is_alive(self) -> bool:
        """Tell whether this very process still runs; a zombie does not."""
        return identity_of(self.pid) == self

    def __str__(self) -> str:
        """Write it as pid files hold it."""
        return f"{self.pid} {self.started}"


def identity_of(pid: int) -> Identity | None:
    """Find the live process with a pid."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the command may hold blanks and brackets
    return None if fields[0] in "ZX" else Identity(pid, int(fields[19]))


def read_identity(path: Path) -> Identity | None:
    """Read a pid file; None when there is none, or when its process is gone."""
    try:
        pid, started = path.read_text().split()
        found = Identity(int(pid), int(started))
    except (FileNotFoundError, ValueError):
        return None
    return found if found.is_alive() else None


def end(identity: Identity, *, patience_s: float = STOP_PATIENCE_S) -> None:
    """Stop a process that is not our child: SIGTERM, and SIGKILL when it does not obey. Blocks."""
    for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, patience_s)):
        if not identity.is_alive():
            return
        try:
            os.kill(identity.pid, number)
        except ProcessLookupError:
            return
        if wait_gone(identity, timeout_s=wait_s):
            return


def wait_gone(identity: Identity, *, timeout_s: float) -> bool:
    """Block until a process is gone; False when it is still there after the time."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + timeout_s
        while identity.is_alive():
            left_ms = (deadline - time.monotonic()) * 1000
            if left_ms <= 0:
                return False
            poll.poll(left_ms)
    finally:
        os.close(descriptor)
    return True


class Child:
    """A process we started. Make one with `start`, from the thread that lives as long as we do."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen
        self._exited = asyncio.Event()
        self._pidfd = os.pidfd_open(popen.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_exit)

    @classmethod
    def start(cls, command: Sequence[str], *, environment: Mapping[str, str], output: int | IO[bytes]) -> Self:
        """Start a command in a process group of its own, its output going to ``output``.

        The kernel sends it SIGTERM when the *thread* that called this ends (PR_SET_PDEATHSIG): call it from the
        main thread. A group of its own keeps the terminal's Ctrl-C away, so that we decide the order of stopping.

        Raises:
            OSError: there is no such command, or it may not be run.
        """
        parent = os.getpid()

        def tie() -> None:
            _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before we asked to be told
                os._exit(1)

        with warnings.catch_warnings():
            # Python 3.12 warns of forking beside threads; `tie` takes no lock that a thread could hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            popen = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=tie,  # noqa: PLW1509  # see above
            )
        return cls(popen)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._popen.pid

    @property
    def output(self) -> IO[bytes] | None:
        """The reading end of its output, when that was asked to be a pipe."""
        return self._popen.stdout

    async def wait(self) -> int:
        """Wait until it ends; returns its exit status, negative for a signal."""
        await self._exited.wait()
        return self._popen.wait()

    async def stop(self, *, patience_s: float = STOP_PATIENCE_S) -> None:
        """Stop it: SIGTERM, and SIGKILL when it does not obey. Stopping it twice is harmless."""
        if self._exited.is_set():
            return
        self._popen.terminate()
        try:
            async with asyncio.timeout(patience_s):
                await self._exited.wait()
        except TimeoutError:
            self._popen.kill()
            await self._exited.wait()

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._popen.wait()
        self._exited.set()


def explain_exit(status: int) -> str:
    """Say how a process ended: ``exit status 1``, ``signal SIGKILL``."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
