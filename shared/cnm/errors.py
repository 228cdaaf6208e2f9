"""The one tree of errors.

CnmError
├── Invalid       400  malformed or contradictory; ``faults`` lists every fault found
├── Forbidden     403  not allowed on this object
├── NotFound      404  no such object
├── Conflict      409  exists already, or taken; the message names the holder
├── Exhausted     507  nothing left to hand out
├── Unavailable   503  a worker, the store or the node cannot be reached; nothing was changed
│   └── Undelivered    nobody was there to take the command
├── Unsupported   501  this kernel or driver cannot do it
├── Timeout       504  the deadline passed; what had been done was undone
└── Internal      500  our bug

A message holds the offending value and names the holder. The codes and what they mean to a caller stand in
section 1 of the public contract.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

SAID = 20
"""So many faults are in the message of an error; all are in its details."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong with a request: where, what stood there, and why it was refused."""

    field: str
    value: Any = None
    reason: str


class CnmError(Exception):
    """Anything that a caller of CNM is told about."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(self, message: str, /, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details


class Invalid(CnmError):
    """The request is malformed or contradictory; ``details["fields"]`` lists every fault."""

    code = "invalid"
    status = 400

    @classmethod
    def of(cls, faults: Sequence[Fault]) -> "Invalid":
        """Make one error of all faults, its message naming each field and value."""
        text = "; ".join(f"{fault.field or 'body'}: {_naming(fault)}" for fault in faults[:SAID])
        if len(faults) > SAID:
            text += f"; and {len(faults) - SAID} more"
        return cls(text, fields=[msgspec.to_builtins(fault) for fault in faults])

    @classmethod
    def at(cls, field: str, value: Any, reason: str) -> "Invalid":
        """Make the error of a single fault."""
        return cls.of([Fault(field=field, value=value, reason=reason)])


def _naming(fault: Fault) -> str:
    """Return the reason of a fault; it names the value, whoever wrote it."""
    value = fault.value
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or str(value) in fault.reason:
        return fault.reason
    shown = repr(value)
    return f"{fault.reason} (got {shown if len(shown) <= 80 else shown[:77] + '...'})"


class Forbidden(CnmError):
    """The object does not allow it: predefined, or still in use."""

    code = "forbidden"
    status = 403


class NotFound(CnmError):
    """There is no such object; the message names what was looked for."""

    code = "not_found"
    status = 404


class Conflict(CnmError):
    """It exists already, or is taken; the message names the holder."""

    code = "conflict"
    status = 409


class Exhausted(CnmError):
    """No address, pool, port or network identifier is left."""

    code = "exhausted"
    status = 507


class Unavailable(CnmError):
    """Something that is needed cannot be reached; nothing was changed; try again."""

    code = "unavailable"
    status = 503


class Undelivered(Unavailable):
    """Nobody was there to take the command: it surely was not carried out."""


class Unsupported(CnmError):
    """This kernel or driver cannot do it; the message names the missing part."""

    code = "unsupported"
    status = 501


class Timeout(CnmError):
    """The deadline passed; what had been done was undone."""

    code = "timeout"
    status = 504


class Internal(CnmError):
    """Our bug; the message carries the trace id, never a stack trace."""


BY_CODE: Mapping[str, type[CnmError]] = {
    error.code: error
    for error in (
        Invalid,
        Forbidden,
        NotFound,
        Conflict,
        Exhausted,
        Unavailable,
        Unsupported,
        Timeout,
        Internal,
    )
}


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What stands under ``error`` in a refused reply."""

    code: str
    message: str
    details: dict[str, Any] = {}


class ErrorReply(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a refused reply."""

    error: ErrorBody


def to_reply(error: CnmError) -> ErrorReply:
    """Turn an error into the body that tells of it."""
    return ErrorReply(error=ErrorBody(code=error.code, message=error.message, details=error.details))


def from_reply(reply: ErrorReply) -> CnmError:
    """Turn the body of a refused reply into the error it tells of."""
    return BY_CODE.get(reply.error.code, Internal)(reply.error.message, **reply.error.details)
