"""Hears of namespaces and files that others than our commands made, wrote or took away."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from cnm.kernel.inotify import IGNORED, LOST, Inotify, Mounts
from cnm.kernel.watch import gathering
from cnm.lately import Lately
from cnm_sandbox.config import Settings

log = structlog.get_logger()


class Alarm:
    """Rings when something of ours under the run directory changed though no command lately was about it.

    A namespace that is unmounted is told of by the table of mounts, without a name; files by their folders.
    """

    def __init__(self, settings: Settings, lately: Lately) -> None:
        self._settings = settings
        self._lately = lately
        self._files = Inotify()
        self._mounts = Mounts(settings.namespaces)
        self._mounted = self._mounts.count()
        self._owners: dict[int, str] = {}
        self._top: dict[int, Path] = {}
        self._full = False
        self.ring: Callable[[], None] = lambda: None

    def know(self, sandbox_id: str, folder: Path) -> None:
        """Watch a sandbox's files from now on, in any thread; where that cannot be, the timer finds what changes."""
        for top in (self._settings.namespaces, self._settings.directories):
            if top not in self._top.values() and (number := self._watch(top)) is not None:
                self._top[number] = top
        number = self._watch(folder)
        if number is not None:
            self._owners[number] = sandbox_id

    def _watch(self, folder: Path) -> int | None:
        try:
            return self._files.watch(folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            if not self._full:
                log.warning("files.unwatched", folder=str(folder), error=str(error))
            self._full = True
            return None

    def read_files(self) -> None:
        """Hear of files."""
        for event in self._files.read():
            if event.mask & IGNORED:
                self._owners.pop(event.watch, None)
                self._top.pop(event.watch, None)
                continue
            top = self._top.get(event.watch)
            about = str(top / event.name) if top == self._settings.namespaces else event.name
            if top is None:
                about = self._owners.get(event.watch, "")
            if event.mask & LOST or about not in self._lately:
                self.ring()

    def read_mounts(self) -> None:
        """Hear of mounts: of any, so that ours are counted."""
        before, self._mounted = self._mounted, self._mounts.count()
        if self._mounted != before and not self._lately:
            self.ring()

    def close(self) -> None:
        """Hear nothing any more."""
        self._files.close()
        self._mounts.close()


@contextmanager
def listening(settings: Settings, lately: Lately) -> Iterator[Alarm]:
    """Have an alarm in the running loop, while the body runs."""
    loop = asyncio.get_running_loop()
    alarm = Alarm(settings, lately)
    loop.add_reader(alarm._mounts.fileno(), alarm.read_mounts)
    try:
        with gathering(alarm._files.fileno(), alarm.read_files):
            yield alarm
    finally:
        loop.remove_reader(alarm._mounts.fileno())
        alarm.close()
