"""The system as a whole: what it is, and whether it is as it should be."""

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from cnm.messages.drift import Difference
from cnm.messages.message import Command
from cnm.types import Address, Id, Key, Port, Prefix, Protocol


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


class SystemCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found, and whose state it compared with the controller's; ``warnings`` name who did not answer."""

    differences: list[Difference]
    compared: list[str]
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class CheckSystem(Command[SystemCheck], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Compare what should be with what is and list each difference; ``repair`` mends what can be mended."""

    subject: ClassVar[str] = "cnm.v1.system.check"

    repair: bool = True


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """A thing on the way that lets pass or stops; null where nobody here can tell."""

    hop: str
    passes: bool | None
    about: str


class PortReach(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a published port is reached from a place, and by what: ``only`` these sources where not by all."""

    place: str
    reached: bool
    about: str
    only: list[Prefix] | msgspec.UnsetType = msgspec.UNSET


class ExplainedPort(msgspec.Struct, frozen=True, kw_only=True):
    """A binding of a published port, and from where it is reached."""

    sandbox: Id
    name: str
    node: str
    protocol: Protocol
    host_ip: Address
    host_port: int | None
    container_ip: Address
    container_port: int
    reach: list[PortReach]


class PortHolder(msgspec.Struct, frozen=True, kw_only=True):
    """A process, none of CNM's, that has a port of a node."""

    node: str
    holder: str | None
    addresses: list[Address]


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Whether one gets there, null where nobody here can tell; and the hop that stops it, in a word and a sentence.

    ``address`` is the one that the hops are about. Of a port alone, ``ports`` are its bindings and ``holders`` the
    strangers that have it; a node that does not answer is warned of.
    """

    reached: bool | None
    stopped_by: str | None
    about: str
    address: Address | None = None
    hops: list[Hop] = []
    ports: list[ExplainedPort] = []
    holders: list[PortHolder] = []
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class ExplainSystem(Command[Explanation], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Walk the way from a sandbox to a name or an address and say what stops it.

    With ``port`` alone: from where a port of the nodes is reached, and by what rule.
    """

    subject: ClassVar[str] = "cnm.v1.system.explain"

    from_: Key | None = msgspec.field(default=None, name="from")
    to: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    port: Port | None = None
    protocol: Protocol = "tcp"


SYSTEM_COMMANDS: tuple[type[Command[Any]], ...] = (GetSystemInfo, CheckSystem, ExplainSystem)
