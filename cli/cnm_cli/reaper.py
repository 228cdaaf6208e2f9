"""Cleans up after `cnm run`, also when that was killed.

The reaper is a child forked before the sandbox is asked for. It waits at the end of a pipe whose other end only its
parent holds, and is told what there is. When the pipe closes without ``done``, it kills what the command left
running and deletes the sandbox.
"""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

from cnm.errors import CnmError
from cnm_cli.lease import Lease

PATIENCE_S = 300.0
"""So long it tries to delete the sandbox when CNM does not answer."""
KILL_ROUNDS = 200
KILL_PAUSE_S = 0.005
DEAF_TO = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


class Reaper:
    """The parent's view: a process that is told what it must clean up."""

    def __init__(self, pid: int, pipe: int) -> None:
        self._pid = pid
        self._pipe = pipe

    def tell(self, *words: str) -> None:
        """Tell it something; should it be gone, that is a pity and no more."""
        with contextlib.suppress(OSError):
            os.write(self._pipe, f"{' '.join(words)}\n".encode())

    def dismiss(self) -> None:
        """Let it go: everything is cleaned up."""
        self.tell("done")
        os.close(self._pipe)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def leave(self) -> None:
        """Leave the rest to it."""
        os.close(self._pipe)


def start(lease: Lease) -> Reaper:
    """Fork a reaper for a sandbox that is not there yet. Call it while there is one thread."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(writing)
            _detach(reading)
            _wait_and_clean(reading, lease)
            status = 0
        finally:
            os._exit(status)
    os.close(reading)
    return Reaper(pid, writing)


def _detach(reading: int) -> None:
    """Leave the terminal, the folder and everything open to the parent."""
    os.setsid()
    os.chdir("/")
    for number in DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor <= 2:
            os.dup2(null, descriptor)
        elif descriptor != reading:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(descriptor)


def _wait_and_clean(reading: int, lease: Lease) -> None:
    mounts = ""
    with open(reading) as pipe:  # a descriptor
        for line in pipe:
            match line.split():
                case ["asking"]:
                    lease.doubtful = True
                case ["sandbox", sandbox_id]:
                    lease.sandbox_id = sandbox_id
                case ["mounts", mounts]:
                    pass
                case ["done"]:
                    return
    if mounts:
        kill_all_in(mounts)
    with contextlib.suppress(CnmError):  # nobody is left to tell
        asyncio.run(lease.delete(patience_s=PATIENCE_S))


def mounts_of(pid: int | str) -> str:
    """Name the mount namespace of a process: ``mnt:[4026532281]``; empty when it is gone."""
    try:
        return str(Path(f"/proc/{pid}/ns/mnt").readlink())
    except OSError:
        return ""


def kill_all_in(mounts: str) -> None:
    """Kill every process in a mount namespace, and whatever those start meanwhile; never in our own."""
    if mounts == mounts_of("self"):
        return
    for _ in range(KILL_ROUNDS):
        killed = False
        for process in Path("/proc").glob("[0-9]*"):
            if mounts_of(process.name) == mounts:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(process.name), signal.SIGKILL)
                    killed = True
        if not killed:
            return
        time.sleep(KILL_PAUSE_S)
