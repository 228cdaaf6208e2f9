"""The system as a whole: what it is, and whether it is as it should be."""

from typing import Any, ClassVar

import msgspec

from cnm.messages.message import Command


class SystemInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What this installation is and can do."""

    version: str
    nodes: int
    networks: int
    sandboxes: int
    endpoints: int
    drivers: dict[str, list[str]]
    workers: dict[str, str]


class GetSystemInfo(Command[SystemInfo], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show what this installation is and can do."""

    subject: ClassVar[str] = "cnm.v1.system.info"


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it should be.

    ``about`` is how messages call the object, ``id`` its id; ``value`` is the pool or address, ``node`` null where
    no node is concerned. ``reason`` says why it is not ``repaired``.
    """

    worker: str
    what: str
    about: str
    id: str
    value: str
    node: str | None = None
    repaired: bool = False
    reason: str | None = None


class SystemCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found, and whose state it compared with the controller's."""

    differences: list[Difference]
    compared: list[str]


class CheckSystem(Command[SystemCheck], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compare what should be with what is and list each difference; ``repair`` mends what can be mended."""

    subject: ClassVar[str] = "cnm.v1.system.check"

    repair: bool = True


SYSTEM_COMMANDS: tuple[type[Command[Any]], ...] = (GetSystemInfo, CheckSystem)
