"""What the controller said last, for a process that starts while no controller answers."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from cnm.errors import CnmError
from cnm.messages.message import decode_trusted, encode
from cnm.messages.node import NameSlice

PATIENCE_S = 2.0
"""How long a process that starts waits for a controller."""

Ask = Callable[[int | None], Awaitable[NameSlice]]


class Memory:
    """Asks the controller, and keeps what it says in a file, which is written whole or not at all."""

    def __init__(self, path: Path, ask: Ask, *, patience_s: float = PATIENCE_S) -> None:
        self._path = path
        self._ask = ask
        self._patience_s = patience_s
        self._began = time.monotonic()
        self._said = False
        self._recalled = False

    async def fetch(self, clock: int | None) -> NameSlice:
        """Return what the controller says; what it said to an earlier process where none answers at first.

        What is recalled counts until a controller answers, and is then asked for anew, whatever its clock.

        Raises:
            CnmError, TimeoutError: no controller answers, and nothing is to be recalled.
        """
        try:
            async with asyncio.timeout(None if self._said else self._patience_s):
                found = await self._ask(None if self._recalled else clock)
        except (TimeoutError, CnmError):
            late = time.monotonic() - self._began >= self._patience_s
            recalled = self._recall() if late and not self._said else None
            if recalled is None:
                raise
            self._said = self._recalled = True
            return recalled
        self._said, self._recalled = True, False
        if not found.unchanged:
            self._keep(found)
        return found

    def _keep(self, said: NameSlice) -> None:
        new = self._path.with_suffix(".new")
        with suppress(OSError):  # a disk that is full keeps the one before
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(encode(said))
            new.replace(self._path)

    def _recall(self) -> NameSlice | None:
        try:
            return decode_trusted(NameSlice, self._path.read_bytes())
        except (OSError, msgspec.DecodeError):
            return None
