"""Cleans up after `cnm run`, also when that was killed.

The reaper is a child forked before the sandbox is asked for. It waits at the end of a line whose other end only its
parent holds, and is told what there is. When the line closes without ``done``, it kills what the command left
running and deletes the sandbox.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from pathlib import Path

from cnm.errors import CnmError
from cnm_cli.lease import Lease

PATIENCE_S = 300.0
"""So long it tries to delete the sandbox when CNM does not answer."""
KILL_ROUNDS = 200
KILL_PAUSE_S = 0.005
DEAF_TO = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
LONGEST_MESSAGE = 65536


class Reaper:
    """The parent's view: a process that is told what it must clean up."""

    def __init__(self, pid: int, line: socket.socket) -> None:
        self._pid = pid
        self._line = line

    def tell(self, *words: str, descriptor: int | None = None) -> None:
        """Tell it something, with an open file perhaps; should it be gone, that is a pity and no more."""
        with contextlib.suppress(OSError):
            send(self._line, " ".join(words), descriptor=descriptor)

    def dismiss(self) -> None:
        """Let it go: everything is cleaned up."""
        self.tell("done")
        self._line.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def leave(self) -> None:
        """Leave the rest to it."""
        self._line.close()


def start(lease: Lease) -> Reaper:
    """Fork a reaper for a sandbox that is not there yet. Call it while there is one thread."""
    ours, its = make_line()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            ours.close()
            _detach(its.fileno())
            _wait_and_clean(its, lease)
            status = 0
        finally:
            os._exit(status)
    its.close()
    return Reaper(pid, ours)


def make_line() -> tuple[socket.socket, socket.socket]:
    """Make the two ends of a line for messages and open files; when one is closed everywhere, the other hears it."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(line: socket.socket, text: str, *, descriptor: int | None = None) -> None:
    """Send a message, with an open file perhaps."""
    message = text.encode(errors="replace")[:LONGEST_MESSAGE]
    socket.send_fds(line, [message], [] if descriptor is None else [descriptor])


def receive(line: socket.socket) -> tuple[str, int | None]:
    """Wait for a message, which may come with an open file; an empty one is the end."""
    message, descriptors, _, _ = socket.recv_fds(line, LONGEST_MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
    return message.decode(), descriptors[0] if descriptors else None


def _detach(line: int) -> None:
    """Leave the terminal, the folder and everything open to the parent."""
    os.setsid()
    os.chdir("/")
    for number in DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        if descriptor <= 2:
            os.dup2(null, descriptor)
        elif descriptor != line:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(descriptor)


def _wait_and_clean(line: socket.socket, lease: Lease) -> None:
    mounts = None
    while True:
        message, descriptor = receive(line)
        match message.split():
            case []:
                break
            case ["asking"]:
                lease.doubtful = True
            case ["sandbox", sandbox_id]:
                lease.sandbox_id = sandbox_id
            case ["mounts"]:
                mounts = descriptor
            case ["done"]:
                return
    if mounts is not None:
        kill_all_in(mounts)
    with contextlib.suppress(CnmError):  # nobody is left to tell
        asyncio.run(lease.delete(patience_s=PATIENCE_S))


def kill_all_in(mounts: int) -> None:
    """Kill every process in a mount namespace, and whatever those start meanwhile; never in our own.

    It is given as an open file: its number alone might be another's by now.
    """
    if _is(mounts, "self"):
        return
    for _ in range(KILL_ROUNDS):
        found = [int(process.name) for process in Path("/proc").glob("[0-9]*") if _is(mounts, process.name)]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(KILL_PAUSE_S)


def _is(mounts: int, pid: str) -> bool:
    """Tell whether a process is in a mount namespace; one that is gone is in none."""
    try:
        return os.path.samestat(Path(f"/proc/{pid}/ns/mnt").stat(), os.fstat(mounts))
    except OSError:
        return False
