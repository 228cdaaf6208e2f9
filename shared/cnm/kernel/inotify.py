"""Changed files and mounts, told of by the kernel (inotify(7), proc_pid_mounts(5))."""

import os
import select
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from . import libc

CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
IGNORED, LOST = 0x8000, 0x4000
CHANGES = CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE
READ_BYTES = 64 << 10
MOUNTS = "/proc/self/mountinfo"

_EVENT = struct.Struct("=iIII")


class Event(NamedTuple):
    """One change: of which watch, what, and of which name in the folder."""

    watch: int
    mask: int
    name: str


class Inotify:
    """Watches folders; ``watch`` may be called by any thread."""

    def __init__(self) -> None:
        self._descriptor = libc.inotify_init(os.O_NONBLOCK | os.O_CLOEXEC)

    def watch(self, folder: Path) -> int:
        """Watch what is done to files in a folder; a folder that is watched already keeps its number.

        Raises:
            OSError: there is none, or as many are watched as one may (``fs.inotify.max_user_watches``).
        """
        return libc.inotify_add_watch(self._descriptor, str(folder), CHANGES)

    def read(self) -> Iterator[Event]:
        """Yield what changed; a watch that ended with its folder is ``IGNORED``, and some may be ``LOST``."""
        try:
            told = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(told):
            watch, mask, _, length = _EVENT.unpack_from(told, offset)
            name = told[offset + _EVENT.size : offset + _EVENT.size + length].rstrip(b"\0")
            yield Event(watch, mask, os.fsdecode(name))
            offset += _EVENT.size + length

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Watch nothing any more."""
        os.close(self._descriptor)


class Mounts:
    """Counts the mounts below a folder; its descriptor is readable when any mount came or went."""

    def __init__(self, folder: Path) -> None:
        self._folder = f" {folder}/".encode()
        self._table = os.open(MOUNTS, os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.epoll()
        self._poll.register(self._table, select.EPOLLPRI)  # it can always be read; a change is an exception

    def count(self) -> int:
        """Return how many there are, and wait for the next change."""
        self._poll.poll(0)
        os.lseek(self._table, 0, os.SEEK_SET)
        found, rest = 0, b""
        while part := os.read(self._table, READ_BYTES):
            *lines, rest = (rest + part).split(b"\n")
            found += sum(self._folder in line for line in lines)
        return found

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._poll.fileno()

    def close(self) -> None:
        """Watch nothing any more."""
        self._poll.close()
        os.close(self._table)
