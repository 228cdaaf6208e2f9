"""nftables by libnftables: whole transactions as text, for base rulesets and what is rare.

libnftables is not thread-safe. It waits for the kernel with ``select()``, so a context whose socket is number
1024 or above *aborts the process*: make it first thing in the process and keep it.
"""

import contextlib
import ctypes
import ctypes.util
import errno
import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cnm import telemetry
from cnm.errors import Unsupported

from . import netns
from .errors import NftError

FD_SETSIZE = 1024
OUTPUT_JSON = 1 << 4
# The kernel's answers that libnftables tells of in words.
_TOLD = (
    errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.EPERM, errno.EOPNOTSUPP, errno.ENOMEM, errno.ENOSPC,
    errno.EMFILE, errno.ENOTEMPTY, errno.ELOOP, errno.ERANGE,
)  # fmt: skip


@cache
def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("nftables") or "libnftables.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        raise Unsupported("libnftables.so.1 is missing: install the package libnftables1") from None
    context = ctypes.c_void_p
    library.nft_ctx_new.argtypes, library.nft_ctx_new.restype = (ctypes.c_uint32,), context
    library.nft_ctx_free.argtypes, library.nft_ctx_free.restype = (context,), None
    library.nft_ctx_output_set_flags.argtypes = (context, ctypes.c_uint)
    library.nft_ctx_output_set_flags.restype = None
    library.nft_run_cmd_from_buffer.argtypes = (context, ctypes.c_char_p)
    for call in (library.nft_ctx_buffer_output, library.nft_ctx_buffer_error):
        call.argtypes = (context,)
    for call in (library.nft_ctx_get_output_buffer, library.nft_ctx_get_error_buffer):
        call.argtypes, call.restype = (context,), ctypes.c_char_p
    return library


class Nft:
    """A libnftables context in one namespace; for one thread."""

    def __init__(self, namespace: Path | None = None) -> None:
        self._library = _library()
        _demand_low_descriptor()
        self._context: int | None = None
        self._namespace = -1 if namespace is None else os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with self._inside():
                self._context = self._library.nft_ctx_new(0)
            if self._context is None:
                raise NftError(errno.ENOMEM, step="nft_ctx_new")
        except OSError:
            self.close()
            raise
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        """Free the context; closing twice is fine."""
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None
        if self._namespace >= 0:
            os.close(self._namespace)
            self._namespace = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, commands: str) -> None:
        """Carry out commands as one transaction, all or nothing.

        Raises:
            NftError: with libnftables' text and the errno it tells of, EINVAL for a fault of syntax.
        """
        with telemetry.steps_span("nftables", commands.splitlines()):
            self._run(commands, 0)

    def dump(self, commands: str) -> dict[str, Any]:
        """Return what commands print, such as ``list table inet cnm_filter``, as nft's JSON.

        Raises:
            NftError: ENOENT where what they name is not there.
        """
        found: dict[str, Any] = json.loads(self._run(commands, OUTPUT_JSON) or '{"nftables": []}')
        return found

    def add(self, things: Sequence[Mapping[str, Any]]) -> None:
        """Add things as `dump` returned them, in one transaction.

        Raises:
            NftError: as `run`.
        """
        self._run(json.dumps({"nftables": [{"add": thing} for thing in things]}), OUTPUT_JSON)

    def _run(self, commands: str, flags: int) -> bytes:
        self._library.nft_ctx_output_set_flags(self._context, flags)
        with self._inside():
            result = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
        # Reading a buffer empties it.
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        reason = (self._library.nft_ctx_get_error_buffer(self._context) or b"").decode(errors="replace")
        if result:
            raise NftError(_told(reason), step="nft", reason=reason.strip())
        return bytes(output)

    def _inside(self) -> contextlib.AbstractContextManager[None]:
        # Also while running: libnftables opens its socket anew where another change disturbed a dump.
        return contextlib.nullcontext() if self._namespace < 0 else netns.inside(self._namespace)


def _demand_low_descriptor() -> None:
    """Refuse where the next descriptors are beyond what ``select()`` can take."""
    lowest = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.close(lowest)
    if lowest + 4 >= FD_SETSIZE:
        raise NftError(
            errno.EMFILE,
            reason=f"the next descriptor is {lowest}, and libnftables aborts from {FD_SETSIZE} on: "
            "open nftables before other files",
        )


def _told(reason: str) -> int:
    """Find the errno whose words stand in an error text."""
    return next((number for number in _TOLD if os.strerror(number) in reason), errno.EINVAL)
