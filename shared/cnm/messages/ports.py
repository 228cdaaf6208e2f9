"""What the controller tells a node's port mapper."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any, ClassVar

import msgspec

from cnm.messages.message import Command, Empty
from cnm.messages.sandbox import PortBinding, PortRequest
from cnm.types import Id


class PublishedPorts(msgspec.Struct, frozen=True, kw_only=True):
    """The ports as bound, in the order of the requests, one entry a binding and family.

    ``warnings`` tell of what is new and open to more than the node's own neighbourhood.
    """

    ports: list[PortBinding]
    warnings: list[str] = []


class PublishPorts(Command[PublishedPorts], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a sandbox's published ports exactly these, leading to these addresses.

    ``bound`` are bindings that stood before, which keep their host ports; ``requests`` are new ones. Nothing is
    changed when one of them cannot be had. ``label`` is how messages call the sandbox.
    """

    subject: ClassVar[str] = "cnm.v1.on.{node}.ports.publish"

    sandbox_id: Id
    label: str
    ipv4_address: IPv4Address | None = None
    ipv6_address: IPv6Address | None = None
    bound: list[PortBinding] = []
    requests: list[PortRequest] = []


class UnpublishPorts(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Close all published ports of a sandbox."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.ports.unpublish"

    sandbox_id: Id


class CheckPorts(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Refuse fixed ports that are taken now, naming the holder; reserve nothing."""

    subject: ClassVar[str] = "cnm.v1.on.{node}.ports.check"

    sandbox_id: Id
    label: str
    requests: list[PortRequest]


PORT_COMMANDS: tuple[type[Command[Any]], ...] = (PublishPorts, UnpublishPorts, CheckPorts)
