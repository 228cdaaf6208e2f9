"""What is not as it should be: how workers tell of it, and how they are asked."""

from typing import Any, ClassVar

import msgspec

from cnm.messages.message import Command, Empty


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Something that is not as it should be.

    ``about`` is how messages call the object, ``id`` its id, or the node's name where it is the node's. ``value`` is
    the pool or address, or the step that mends it, written as ``ip`` and ``nft`` read it; ``node`` is null where
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

    def __str__(self) -> str:
        return f"{self.about}: {self.value}" + (f": {self.reason}" if self.reason else "")


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker of a node found to differ, or mended."""

    differences: list[Difference]


class CompareSandboxes(Command[Comparison], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compare a node's namespaces, their files and their default routes; ``repair`` mends what differs."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.sandbox.compare"

    repair: bool = False


class CompareBridges(Command[Comparison], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compare a node's bridges, the links of its endpoints, and the rules of both; ``repair`` mends what differs."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.bridge.compare"

    repair: bool = False


class ComparePorts(Command[Comparison], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compare a node's published ports: sockets and translations; ``repair`` mends what differs."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.ports.compare"

    repair: bool = False


class CompareNames(Command[Comparison], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compare a node's embedded DNS: whom it serves, and what leads to it; ``repair`` mends what differs."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.names.compare"

    repair: bool = False


Compare = CompareSandboxes | CompareBridges | ComparePorts | CompareNames


class ReportDrift(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell what a worker found to differ unasked; said again with the same ``id``, it is published once."""

    subject: ClassVar[str] = "cnm.v1.node.drift"

    id: str
    node: str
    differences: list[Difference]


COMPARISONS: dict[str, type[Compare]] = {
    "cnm-sandbox": CompareSandboxes,
    "cnm-driver-bridge": CompareBridges,
    "cnm-port-mapper": ComparePorts,
    "cnm-resolver": CompareNames,
}
"""Who is asked what: first those whose work the others need."""

DRIFT_KINDS: dict[str, tuple[str, ...]] = {
    "cnm-sandbox": ("sandbox", "stray sandbox"),
    "cnm-driver-bridge": ("rules", "bridge", "link", "stray link"),
    "cnm-port-mapper": ("ports",),
    "cnm-resolver": ("redirect",),
    "cnm-ipam": (
        "pool without an owner", "lease without an owner", "owner without its pool", "owner without its lease",
    ),
}  # fmt: skip
"""What differs, as each worker calls it; what IPAM's books hold is found by the controller."""

DRIFT_COMMANDS: tuple[type[Command[Any]], ...] = (ReportDrift,)
