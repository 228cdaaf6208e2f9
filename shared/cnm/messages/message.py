"""What a message is: a frozen struct that knows its subject, its reply and how to be read from a stranger's JSON.

msgspec stops at the first fault; a client of CNM is told *every* fault, so a body that does not decode is walked
once more, field by field, and what is sound of it is checked further.
"""

import functools
import inspect
import itertools
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import msgspec

from cnm.errors import CnmError, Fault, Invalid
from cnm.types import END, SCHEMA_FORMATS, dec_hook, enc_hook, node_token, without_host_bits

MAX_BODY_BYTES = 1024 * 1024
LONG_BODY_BYTES = 64 * 1024
"""Of a longer body with faults in its form, what contradicts itself is not told as well."""
MOST_FAULTS = 200
"""Of more faults the first ones are told."""
ECHOED = 2000
"""A faulty value longer than that is not sent back whole."""
UNKNOWN = "unknown field"

Reply_co = TypeVar("Reply_co", covariant=True)


class Empty(msgspec.Struct, frozen=True, kw_only=True):
    """A reply that says only that it worked."""


class Command(msgspec.Struct, Generic[Reply_co], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An imperative with one owner and exactly one reply type.

    ``subject`` may hold ``{node}``: then the command goes to that node's worker, and to nobody else.
    """

    subject: ClassVar[str] = ""

    @classmethod
    def reply_type(cls) -> type[Any]:
        """Return the class of the reply."""
        return _reply_type(cls)

    @classmethod
    def subject_on(cls, node: str | None = None) -> str:
        """Return the subject, on a node when the command is one for a node's worker."""
        return cls.subject.format(node=node_token(node)) if node is not None else cls.subject


@cache
def _reply_type(kind: type[Command[Any]]) -> type[Any]:
    for base in types.get_original_bases(kind) if hasattr(types, "get_original_bases") else _bases(kind):
        if typing.get_origin(base) is Command:
            found: type[Any] = typing.get_args(base)[0]
            return found
    raise TypeError(f"{kind.__name__} does not say what it replies")


def _bases(kind: type) -> tuple[Any, ...]:
    bases: tuple[Any, ...] = kind.__dict__.get("__orig_bases__", ())
    return bases


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that has become true; its subject is ``cnm.v1.event.<noun>.<participle>.<id>``."""

    id: str
    time: datetime
    node: str | None
    trace_id: str
    request_id: str
    object: dict[str, Any]


def event_subject(noun: str, participle: str, about: str) -> str:
    """Return the subject of an event about the object with this id."""
    return f"cnm.v1.event.{noun}.{participle}.{node_token(about)}"


_encoder = msgspec.json.Encoder(enc_hook=enc_hook)


def encode(message: Any) -> bytes:
    """Write a message as JSON."""
    return _encoder.encode(message)


def to_builtins(message: Any) -> Any:
    """Write a message as dicts, lists and text, as JSON would show it."""
    return msgspec.to_builtins(message, enc_hook=enc_hook, str_keys=True)


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind, dec_hook=dec_hook)


def decode_trusted(kind: type[Reply_co], body: bytes) -> Reply_co:
    """Read what a worker of ours wrote.

    Raises:
        msgspec.ValidationError: it is not what it should be.

    """
    found: Reply_co = _decoder(typing.cast("Any", kind)).decode(body)
    return found


_fields_of = functools.cache(msgspec.structs.fields)


def check_size(body: bytes) -> None:
    """Refuse a body that is too large.

    Raises:
        Invalid: it is.

    """
    if len(body) > MAX_BODY_BYTES:
        raise Invalid.at("", len(body), f"the body has {len(body)} bytes, the limit is {MAX_BODY_BYTES}")


def decode(kind: type[Reply_co], body: bytes, *, check: Callable[[Reply_co], None] | None = None) -> Reply_co:
    """Read what a stranger wrote; an empty body is ``{}``. ``check`` finds further faults when there are some.

    Raises:
        Invalid: no JSON object, too large, or wrong fields; ``details["fields"]`` lists all of them.

    """
    check_size(body)
    try:
        try:
            found: Reply_co = _decoder(typing.cast("Any", kind)).decode(body or b"{}")
        except msgspec.ValidationError as error:  # it may stand before a place where the body is no JSON at all
            value = msgspec.json.decode(body or b"{}")
            faults = list(itertools.islice(_walk(kind, value, ""), MOST_FAULTS)) or [_fault_of("", None, error)]
            further = _further(kind, value, faults, check) if check and len(body) <= LONG_BODY_BYTES else ()
            raise Invalid.of([*faults, *further]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid.at("", None, f"the body is not JSON: {error}") from None
    except RecursionError:
        raise Invalid.at("", None, "the body is nested too deeply") from None
    return found


def _further(kind: Any, value: Any, faults: Sequence[Fault], check: Callable[[Any], None]) -> list[Fault]:
    """Return what ``check`` finds wrong with the sound parts of a value, whatever the faulty ones should have been.

    Those are left out once and guessed once: what is found only one of the times follows from a fault that is told.
    """
    without = _checked(kind, _sound(kind, value, _STAND_INS), check)
    guessed = _checked(kind, _sound(kind, value, _GUESSES, guess=True), check)
    found = [each for each in without or () if guessed is None or each in guessed]
    mended = {fault.field for fault in faults if _mended(fault.value) is not None}
    faulty = [fault.field for fault in faults if not fault.reason.startswith(UNKNOWN) and fault.field not in mended]
    return [
        each for each in found if each.field not in mended and not any(_touch(each.field, field) for field in faulty)
    ]


def _checked(kind: Any, sound: Any, check: Callable[[Any], None]) -> list[Fault] | None:
    """Return what ``check`` finds wrong with a value; None when it gets no further for another reason."""
    try:
        check(msgspec.convert(sound, kind, dec_hook=dec_hook))
    except Invalid as error:
        return [Fault(**each) for each in error.details["fields"]]
    except (CnmError, msgspec.ValidationError):
        return None
    return []


def _touch(field: str, faulty: str) -> bool:
    """Say whether a field lies in a faulty one, or around it."""
    return (
        field == faulty
        or field.startswith((f"{faulty}.", f"{faulty}["))
        or faulty.startswith((f"{field}.", f"{field}["))
    )


_STAND_INS: tuple[Any, ...] = ("0" * 64, 1, "::", "0.0.0.0", {})  # noqa: S104  # fit what is required of messages
_GUESSES: tuple[Any, ...] = ("1" * 64, 65535, "2001:db8::1", "192.0.2.1", "192.0.2.0/24", *_STAND_INS)


def _sound(kind: Any, value: Any, stand_ins: Sequence[Any], *, guess: bool = False) -> Any:
    """Return a value without its faulty parts, or with them mended; what is required has a stand-in.

    With ``guess`` every faulty part has one.
    """
    inner = _inner(kind, value)
    if _is_struct(inner) and isinstance(value, dict):
        sound: dict[str, Any] = {}
        for field in _fields_of(inner):
            given = field.encode_name in value
            part = msgspec.UNSET
            if given:
                part = _sound(field.type, value[field.encode_name], stand_ins, guess=guess)
            if part is msgspec.UNSET and (field.required or (given and guess)):
                part = _stand_in(field.type, stand_ins)
            if part is not msgspec.UNSET:
                sound[field.encode_name] = part
        return sound
    if isinstance(value, list) and typing.get_origin(inner) in (list, tuple):
        part_kind = typing.get_args(inner)[0]
        parts = (_sound(part_kind, item, stand_ins, guess=guess) for item in value)
        return [_stand_in(part_kind, stand_ins) if part is msgspec.UNSET else part for part in parts]
    if isinstance(value, dict) and typing.get_origin(inner) is dict:
        part_kind = typing.get_args(inner)[1]
        sound = {name: _sound(part_kind, item, stand_ins, guess=guess) for name, item in value.items()}
        return {name: part for name, part in sound.items() if part is not msgspec.UNSET}
    if _fits(kind, value):
        return value
    mended = _mended(value)
    return mended if mended is not None and _fits(kind, mended) else msgspec.UNSET


def _mended(value: Any) -> str | None:
    """Return what a faulty value was surely meant to be: what lies beside it is judged by that."""
    return without_host_bits(value) if isinstance(value, str) else None


def _stand_in(kind: Any, stand_ins: Sequence[Any]) -> Any:
    inner = _inner(kind, {})
    if _is_struct(inner):
        return _sound(inner, {}, stand_ins)
    return next((each for each in stand_ins if _fits(kind, each)), msgspec.UNSET)


def _fits(kind: Any, value: Any) -> bool:
    try:
        msgspec.convert(value, kind, dec_hook=dec_hook)
    except msgspec.ValidationError:
        return False
    return True


def _fault_of(path: str, value: Any, error: Exception) -> Fault:
    reason = str(error).split(" - at `$")[0].replace(repr(END)[1:-1], "$")
    shown = "" if value is None else f" (got {_short(value)})"
    if isinstance(value, str) and value and value in reason:
        shown = ""
    return Fault(field=path, value=_cut(value), reason=reason + shown)


def _cut(value: Any) -> Any:
    """Return a value to be shown again, but the beginning of its text where it is too large for that."""
    text = msgspec.json.encode(value).decode()
    return value if len(text) <= ECHOED else text[: ECHOED - 3] + "..."


def _short(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 80 else text[:77] + "..."


def _walk(kind: Any, value: Any, path: str) -> Iterator[Fault]:
    """Yield every fault of a value, deepest first; a container with faulty parts is not itself called faulty."""
    inner = _inner(kind, value)
    if inner is not None and isinstance(value, dict) and _is_struct(inner):
        yield from _walk_struct(inner, value, path)
        return
    if inner is not None and isinstance(value, list) and typing.get_origin(inner) in (list, tuple):
        part = typing.get_args(inner)[0]
        for index, item in enumerate(value):
            if not _fits(part, item):
                yield from _walk(part, item, f"{path}[{index}]")
        return
    if inner is not None and isinstance(value, dict) and typing.get_origin(inner) is dict:
        part = typing.get_args(inner)[1]
        for name, item in value.items():
            if not _fits(part, item):
                yield from _walk(part, item, f"{path}.{name}")
        return
    try:
        msgspec.convert(value, kind, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        yield _fault_of(path, value, error)


def _walk_struct(kind: type[msgspec.Struct], value: Mapping[str, Any], path: str) -> Iterator[Fault]:
    fields = {field.encode_name: field for field in _fields_of(kind)}
    for name, item in value.items():
        where = f"{path}.{name}" if path else name
        if name in fields:
            yield from _walk(fields[name].type, item, where)
        elif kind.__struct_config__.forbid_unknown_fields:
            yield Fault(field=where, value=item, reason=f"{UNKNOWN} {name!r}")
    for name, field in fields.items():
        if field.required and name not in value:
            where = f"{path}.{name}" if path else name
            yield Fault(field=where, value=None, reason=f"required field {name!r} is missing")


def _inner(kind: Any, value: Any) -> Any:
    """Strip what wraps a type, and take from a union the member that a value of this JSON kind can be."""
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if value is None:
            return None
        members = [_inner(member, value) for member in typing.get_args(kind)]
        wanted = (list, tuple) if isinstance(value, list) else dict
        for member in members:
            if isinstance(value, dict) and _is_struct(member):
                return member
            if typing.get_origin(member) in (wanted if isinstance(wanted, tuple) else (wanted,)):
                return member
        return None
    return kind


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def schema(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a message, its parts under ``$defs``."""

    def hook(unknown: type) -> dict[str, Any]:
        return SCHEMA_FORMATS[unknown]

    cleaned: dict[str, Any] = unindented(msgspec.json.schema(kind, schema_hook=hook))
    return cleaned


def unindented(part: Any) -> Any:
    """Take the indentation out of descriptions: docstrings have it, but for those that Python 3.13 compiled."""
    if isinstance(part, list):
        return [unindented(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {
        name: inspect.cleandoc(each) if name == "description" and isinstance(each, str) else unindented(each)
        for name, each in part.items()
    }
