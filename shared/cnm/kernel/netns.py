"""Network namespaces by path: made, entered and removed by the calling thread, without a fork.

A namespace lives as long as something is mounted on its path, in the mount namespace where it was made: a
daemon whose mounts are private loses its namespaces when it ends.
"""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import ioctl
from pathlib import Path

from cnm import telemetry

from . import libc

# The thread's, not the process's: /proc/self is the main thread's namespace.
CURRENT = "/proc/thread-self/ns/net"
NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
SIOCGSKNS = 0x894C  # linux/sockios.h


def current_fd() -> int:
    """Open the calling thread's namespace; the caller closes the descriptor."""
    return os.open(CURRENT, os.O_RDONLY | os.O_CLOEXEC)


def create(path: Path) -> None:
    """Make a namespace at ``path``, its loopback down; an empty file that a crash left there is used.

    Raises:
        FileExistsError: there is a namespace at that path, or a file that is not empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _place(path)
    with telemetry.steps_span("namespace", (f"ip netns add {path}",)):
        _make_at(path)


def _make_at(path: Path) -> None:
    home = current_fd()
    try:
        libc.unshare(libc.CLONE_NEWNET)
        try:
            libc.bind_mount(CURRENT, str(path))
        finally:
            libc.setns(home, libc.CLONE_NEWNET)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(home)


def adopt(source: Path, path: Path) -> None:
    """Have the namespace at ``source`` at ``path``, too; it lives as long as it is at one of them.

    Raises:
        FileExistsError: there is a namespace at that path, or a file that is not empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _place(path)
    with telemetry.steps_span("namespace", (f"mount --bind {source} {path}",)):
        try:
            libc.bind_mount(str(source), str(path))
        except OSError:
            path.unlink(missing_ok=True)
            raise


def _place(path: Path) -> None:
    """Leave an empty file at ``path`` to mount on."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    except FileExistsError:
        if is_namespace(path) or not path.is_file() or path.stat().st_size:
            raise


def remove(path: Path) -> None:
    """Take the namespace off its path; it ends with its last process or socket. An absent one is fine.

    The kernel cleans up afterwards: the host's end of a veth stays for some 20 ms.
    """
    with suppress(FileNotFoundError):
        while is_namespace(path):
            libc.unmount(str(path))
        path.unlink()


def is_namespace(path: Path) -> bool:
    """Tell whether a network namespace is mounted at ``path``."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    try:
        return ioctl(fd, NS_GET_NSTYPE) == libc.CLONE_NEWNET
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            return False
        raise
    finally:
        os.close(fd)


@contextmanager
def inside(namespace: Path | int) -> Iterator[None]:
    """Run the block in a namespace, given by its path or an open descriptor; only this thread moves.

    Never await inside: the loop would run other tasks in that namespace.
    """
    opened = -1
    home = current_fd()
    try:
        if isinstance(namespace, int):
            libc.setns(namespace, libc.CLONE_NEWNET)
        else:
            opened = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
            libc.setns(opened, libc.CLONE_NEWNET)
        try:
            yield
        finally:
            libc.setns(home, libc.CLONE_NEWNET)
    finally:
        os.close(home)
        if opened >= 0:
            os.close(opened)


def open_socket(namespace: Path | int, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """Make a socket that belongs to a namespace; it may be used from anywhere afterwards."""
    with inside(namespace):
        return socket.socket(family, kind, protocol)


def is_of(namespace: Path, opened: socket.socket) -> bool:
    """Tell whether a socket belongs to the namespace at a path; not when there is none any more."""
    try:
        fd = ioctl(opened.fileno(), SIOCGSKNS)
    except OSError:
        return False
    try:
        return os.path.samestat(os.fstat(fd), namespace.stat())
    except OSError:
        return False
    finally:
        os.close(fd)
