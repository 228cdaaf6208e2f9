"""One `cnm run` from its first request to its last.

The command stays in our process group, so that the terminal's signals and job control reach it by themselves; what
another process sends to us is handed on. From the fork on we wait for signals instead of handling them: only so it
can be told who sent one.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

from cnm.errors import CnmError
from cnm_cli import reaper
from cnm_cli.client import connect
from cnm_cli.entering import FAILED, Entrance, enter, execute, explain, status_of
from cnm_cli.lease import Lease
from cnm_cli.request import complain, warn
from cnm_cli.runtime import find_nats_url
from cnm_cli.settings import from_environment

DELETE_PATIENCE_S = 15.0
"""So long we try to delete the sandbox ourselves before we leave it to the reaper."""
PR_SET_PDEATHSIG = 1  # prctl(2)
ENTERED = "entered"
"""What the child reports, with its mount namespace, before it becomes the command."""

LEFT_ALONE = {
    *(signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGPIPE),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT),  # job control stops us with the command
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS, signal.SIGTRAP),  # our own faults
    *(signal.SIGXCPU, signal.SIGXFSZ),
}
ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
"""What ends us while there is no command yet."""


class Interrupted(Exception):
    """A signal asked to end before there was a command."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Running:
    """A command in a sandbox of its own."""

    def __init__(self, lease: Lease, *, networks: Sequence[str], command: Sequence[str]) -> None:
        self._lease = lease
        self._networks = networks
        self._command = command
        # What was ignored when we began stays ignored, for us and the command: `nohup cnm run ...`.
        self._signals = {
            number for number in signal.valid_signals() - LEFT_ALONE if signal.getsignal(number) is not signal.SIG_IGN
        }
        self._mask: set[int] = set()
        self._early: list[int] = []
        self._preparing: asyncio.Task[Entrance] | None = None

    def run(self) -> int:
        """Make the sandbox, run the command in it, and delete it; returns the exit status."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        watcher = reaper.start(self._lease)
        for number in self._signals:
            signal.signal(number, self._note)
        try:
            status = self._run(watcher)
        except Interrupted as interrupted:
            status = 128 + interrupted.number
        except (CnmError, OSError) as error:
            print(f"cnm: {explain(error, ('cnm',))}", file=sys.stderr)
            status = FAILED
        try:
            asyncio.run(self._lease.delete(patience_s=DELETE_PATIENCE_S))
        except CnmError as error:
            complain(error)
            name = self._lease.body["name"]
            print(f"cnm: sandbox {name} is still there; deleting it is tried on", file=sys.stderr)
            watcher.leave()
        else:
            watcher.dismiss()
        return status

    def _run(self, watcher: reaper.Reaper) -> int:
        entrance = asyncio.run(self._prepare(watcher))
        self._mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, {*self._signals, signal.SIGCHLD}))
        self._check_early()
        return self._run_command(entrance, watcher)

    async def _prepare(self, watcher: reaper.Reaper) -> Entrance:
        self._preparing = asyncio.create_task(self._make(watcher))
        self._check_early()
        try:
            return await self._preparing
        except asyncio.CancelledError:
            self._check_early()
            raise

    async def _make(self, watcher: reaper.Reaper) -> Entrance:
        async with connect(find_nats_url(from_environment(os.environ))) as client:
            watcher.tell("asking")
            made = await self._lease.create(client)
            watcher.tell("sandbox", made["id"])
            warn(made)
            for network in self._networks:
                warn(await client.ask("cnm.v1.sandbox.connect", {"sandbox": made["id"], "network": network}))
        return Entrance.of(made)

    def _note(self, number: int, _frame: object) -> None:
        self._early.append(number)
        if number in ENDING and self._preparing is not None:
            # The handler runs in the loop's thread, perhaps while the loop sleeps: this wakes it.
            with contextlib.suppress(RuntimeError):  # the loop is closed: there is nothing to stop any more
                self._preparing.get_loop().call_soon_threadsafe(self._preparing.cancel)

    def _check_early(self) -> None:
        for number in self._early:
            if number in ENDING:
                raise Interrupted(number)

    def _run_command(self, entrance: Entrance, watcher: reaper.Reaper) -> int:
        ours, its = reaper.make_line()
        parent = os.getpid()
        child = os.fork()
        if child == 0:
            ours.close()
            self._become(entrance, parent, its)
        its.close()
        mounts, failure = _read_report(ours)
        if mounts is not None:
            watcher.tell("mounts", descriptor=mounts)
        status = self._wait(child)
        if mounts is not None:
            reaper.kill_all_in(mounts)
            os.close(mounts)
        if failure is not None:
            status, message = failure
            print(f"cnm: {message}", file=sys.stderr)
        return status

    def _become(self, entrance: Entrance, parent: int, report: socket.socket) -> NoReturn:
        try:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before we asked to die with it
                os._exit(FAILED)
            enter(entrance)
            reaper.send(report, ENTERED, descriptor=os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
            execute(self._command, defaults=sorted(self._signals), mask=sorted(self._mask))
        except (CnmError, OSError) as error:
            reaper.send(report, f"{status_of(error)} {explain(error, self._command)}")
        finally:
            os._exit(FAILED)

    def _wait(self, child: int) -> int:
        """Wait for the command, handing signals on; returns its exit status as a shell tells it."""
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            arrived = signal.sigwaitinfo({*self._signals, signal.SIGCHLD})
            # A positive code is the kernel's own: the terminal has sent it to the whole group.
            if arrived.si_signo != signal.SIGCHLD and arrived.si_code <= 0:
                os.kill(child, arrived.si_signo)


def _read_report(line: socket.socket) -> tuple[int | None, tuple[int, str] | None]:
    """Wait until the command has begun, or could not; returns its mount namespace and why it did not begin."""
    mounts: int | None = None
    failure: tuple[int, str] | None = None
    with line:
        while True:
            text, descriptor = reaper.receive(line)
            if not text:  # it closed when the command began
                return mounts, failure
            if text == ENTERED:
                mounts = descriptor
            else:
                status, _, message = text.partition(" ")
                failure = int(status), message
