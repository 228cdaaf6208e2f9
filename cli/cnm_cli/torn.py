"""Cuts the torn end off an append-only file of Redis, so that the server takes what is whole before it.

A machine that dies may leave a file longer than what reached the disk: its end is zeros, or holds a page of them.
Redis loads a file that stops too early, and refuses one that goes on with something else. The format is a list of
commands, each ``*<parts>``, then ``$<length>`` and so many bytes a part, each line ending with CR LF; a line that
begins with ``#`` is a comment.
"""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

HOLE = bytes(512)
"""So many zeros in a row, a sector's, are in no command of ours."""

_COUNT = re.compile(rb"\*(\d{1,10})\r\n")
_LENGTH = re.compile(rb"\$(\d{1,10})\r\n")
_COMMENT = re.compile(rb"#[^\r\n]*\r\n")


def cut_torn_ends(data_dir: Path) -> Iterator[tuple[Path, int]]:
    """Cut the append-only files below a server's data directory that end in what is no command.

    Yields each file that was cut, and how many bytes of it. A second time there is nothing to cut. The server must
    not run.
    """
    for file in sorted(data_dir.glob("appendonlydir/*.incr.aof")):
        size = file.stat().st_size
        whole = _whole(file) if size else 0
        if whole < size:
            with file.open("r+b") as writing:
                writing.truncate(whole)
            yield file, size - whole


def _whole(file: Path) -> int:
    """Return how many bytes at the beginning of a file are whole commands; all of them where nothing looks torn."""
    with file.open("rb") as reading, mmap.mmap(reading.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[-2:] == b"\r\n" and data.find(HOLE) < 0:
            return len(data)  # what just ends early Redis cuts itself, and to read 64 MB takes a second
        position = 0
        while (end := _after(data, position)) is not None:
            position = end
        return position


def _after(data: mmap.mmap, position: int) -> int | None:
    """Return where the command or comment at a position ends, None where there is no whole one."""
    if comment := _COMMENT.match(data, position):
        return comment.end()
    count = _COUNT.match(data, position)
    if count is None:
        return None
    end = count.end()
    for _ in range(int(count[1])):
        length = _LENGTH.match(data, end)
        if length is None:
            return None
        end = length.end() + int(length[1]) + 2
        if data[end - 2 : end] != b"\r\n":
            return None
    return end
