"""A room: a network namespace, and a thread with an event loop that lives in it, as does whatever it starts."""

import asyncio
import os
import subprocess
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from cnm.kernel import libc, netns

Result = TypeVar("Result")


class Room:
    """Runs coroutines where a contender is, so that its processes and sockets are there, too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        netns.create(path)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name=path.name, daemon=True)
        self._thread.start()

    def _live(self) -> None:
        with self.path.open("rb") as namespace:
            libc.setns(namespace.fileno(), libc.CLONE_NEWNET)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run it there, and return what it returns."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        netns.remove(self.path)


def command(environment: dict[str, str], *words: str, stdin: bytes = b"") -> bytes:
    """Run a program of a peer, and return what it printed; raise ``Refused`` with what it said when it fails."""
    done = subprocess.run(words, env={**environment}, input=stdin, capture_output=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise Refused(f"{os.path.basename(words[0])}: {said[-300:]}")  # noqa: PTH119 - a word, no path of ours
    return done.stdout


class Refused(Exception):
    """A contender could not do what it was asked."""
