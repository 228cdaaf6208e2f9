"""The few calls of the C library that Python 3.11 lacks, each raising OSError with its errno."""

import ctypes
import os

CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.inotify_init1.argtypes = (ctypes.c_int,)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


def _check(result: int, path: str | None = None) -> None:
    if result >= 0:
        return
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces."""
    _check(_libc.unshare(flags))


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace behind ``fd``, which must be of that kind."""
    _check(_libc.setns(fd, kind))


def bind_mount(source: str, target: str) -> None:
    """Mount one file over another."""
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), b"none", MS_BIND, None), target)


def unmount(target: str) -> None:
    """Take the topmost mount off a path at once, whoever still uses it."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW), target)


def inotify_init(flags: int) -> int:
    """Return a descriptor that tells of what changes in the folders that are added."""
    made: int = _libc.inotify_init1(flags)
    _check(made)
    return made


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Add a folder; return its number."""
    watch: int = _libc.inotify_add_watch(fd, os.fsencode(path), mask)
    _check(watch, path)
    return watch
