"""Enters a sandbox: its network namespace, its host name, and its hosts and resolv.conf over the node's own.

The files are mounted in a mount namespace made for one command. It gets the node's later mounts, so that nothing
that the node unmounts stays busy, and the node gets none of its.
"""

import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

from cnm.errors import CnmError, Internal, NotFound
from cnm.kernel import libc, netns
from cnm_cli.child import read_identity
from cnm_cli.settings import from_environment

FAILED = 125
"""Exit status when CNM failed, not the command; this and the next two are Docker's."""
NOT_EXECUTABLE = 126
NOT_FOUND = 127

HOST = "host"
"""The key of a sandbox in the node's own namespace."""
HOSTS = Path("/etc/hosts")
RESOLV_CONF = Path("/etc/resolv.conf")

# linux/sched.h, linux/mount.h
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
MS_REC = 0x4000
MS_SLAVE = 0x80000
MS_BIND_ALL = libc.MS_BIND | MS_REC

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


class Entrance(NamedTuple):
    """What is needed to enter a sandbox."""

    name: str
    key: str
    hosts_path: str
    resolv_conf_path: str
    hostname: str

    @classmethod
    def of(cls, sandbox: Mapping[str, Any]) -> Self:
        """Take it from a sandbox's body."""
        return cls(
            name=sandbox["name"],
            key=sandbox["key"],
            hosts_path=sandbox["hosts_path"],
            resolv_conf_path=sandbox["resolv_conf_path"],
            hostname=sandbox["hostname"],
        )


def enter(entrance: Entrance) -> None:
    """Move this process into a sandbox; there is no way back.

    Raises:
        NotFound: the sandbox's namespace or files are not on this node.
        Internal: the kernel refused; the message says what.
    """
    try:
        if entrance.key != HOST:
            _enter_network(entrance.key)
            libc.unshare(CLONE_NEWUTS)
            if entrance.hostname:
                socket.sethostname(entrance.hostname)
        keep_mounts_to_ourselves()
        if entrance.key != HOST:
            _show_own_links()
        for source, target in ((entrance.hosts_path, HOSTS), (entrance.resolv_conf_path, RESOLV_CONF)):
            _cover(source, target)
    except FileNotFoundError as error:
        raise NotFound(f"sandbox {entrance.name!r} cannot be entered here: no {error.filename}") from None
    except OSError as error:
        what = f" of {error.filename}" if error.filename else ""
        raise Internal(f"sandbox {entrance.name!r} cannot be entered: {error.strerror}{what}") from None


def keep_mounts_to_ourselves() -> None:
    """Move this process into a mount namespace of its own; the node's later mounts appear in it, not the reverse."""
    libc.unshare(CLONE_NEWNS)
    _mount("none", "/", MS_REC | MS_SLAVE)


def _enter_network(key: str) -> None:
    fd = os.open(_find_namespace(Path(key)), os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.setns(fd, libc.CLONE_NEWNET)
    finally:
        os.close(fd)


def _find_namespace(key: Path) -> Path:
    """Find a namespace where it is mounted: here, or only where the sandbox worker sees it, as a service may be run.

    Raises:
        NotFound: it is neither here nor there.
    """
    if netns.is_namespace(key):
        return key
    worker = read_identity(from_environment(os.environ).pid_dir / "cnm-sandbox.pid")
    there = Path(f"/proc/{worker.pid}/root{key}") if worker else key
    if not netns.is_namespace(there):
        raise NotFound(f"there is no network namespace at {key}")
    return there


def _show_own_links() -> None:
    """Mount a sysfs that shows this namespace's interfaces, the control groups still in it.

    Where that is not allowed, /sys shows the node's: only who looks there notices.
    """
    groups = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError):
        kept = os.open(groups, os.O_PATH | os.O_CLOEXEC)
        try:
            _mount("sysfs", "/sys", 0, kind="sysfs")
            _mount(f"/proc/self/fd/{kept}", str(groups), MS_BIND_ALL)
        finally:
            os.close(kept)


def _cover(source: str, target: Path) -> None:
    """Mount a file over another, or over what that one points to.

    Where there is none, an empty one is left for it: to the resolver of the C library both are the same.
    """
    place = target.resolve()
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    _mount(source, str(place), libc.MS_BIND)


def _mount(source: str, target: str, flags: int, *, kind: str = "none") -> None:
    if _libc.mount(os.fsencode(source), os.fsencode(target), os.fsencode(kind), flags, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), source if flags & libc.MS_BIND else target)


def execute(command: Sequence[str], *, defaults: Sequence[int] = (), mask: Sequence[int] | None = None) -> NoReturn:
    """Become a command; the signals in ``defaults`` do again what they do by default, then ``mask`` is set.

    Raises:
        OSError: there is no such command, or it cannot be executed; see `status_of`.
    """
    for number in {*defaults, signal.SIGPIPE, signal.SIGXFSZ}:  # Python ignores these two, a command should not
        signal.signal(number, signal.SIG_DFL)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.execvp(command[0], list(command))  # noqa: S606  # no shell on purpose


def status_of(error: Exception) -> int:
    """Return what to exit with when a command could not be started: 127 not found, 126 not executable, 125 ours."""
    if isinstance(error, CnmError):
        return FAILED
    return NOT_FOUND if isinstance(error, (FileNotFoundError, NotADirectoryError)) else NOT_EXECUTABLE


def explain(error: Exception, command: Sequence[str]) -> str:
    """Say in one line why a command could not be started."""
    if isinstance(error, CnmError):
        return " ".join(error.message.split())
    return f"{command[0]}: {error.strerror if isinstance(error, OSError) else error}"
