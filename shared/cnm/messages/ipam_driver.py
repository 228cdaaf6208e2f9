"""Drivers of IPAM besides the built-in one: how they announce themselves, and where they are asked."""

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from cnm.messages.ipam import AllocateAddresses, AllocatePools, CountPools, ReconcileOwner, ReleaseOwned
from cnm.messages.message import Command, Empty
from cnm.types import Name, node_token


class AnnounceDriver(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A driver of IPAM is there: said when it starts and every two seconds; ``leaving`` when it stops in order.

    It answers ``DRIVER_COMMANDS`` on the subjects that ``driver_subject`` gives. ``instance`` is another one after
    each start: a driver that ``requires_request_replay`` is then told again what its networks and endpoints hold,
    with ``owner.reconcile``. One that ``requires_mac_address`` gets it as an option of each address request
    (inventory 12).
    """

    subject: ClassVar[str] = "cnm.v1.driver.announce"

    name: Name
    kind: Literal["ipam"] = "ipam"
    instance: Annotated[str, Meta(min_length=1, max_length=64)]
    requires_mac_address: bool = False
    requires_request_replay: bool = False
    leaving: bool = False


DRIVER_COMMANDS: tuple[type[Command[Any]], ...] = (
    AllocatePools,
    AllocateAddresses,
    ReleaseOwned,
    ReconcileOwner,
    CountPools,
)
"""What the controller asks of a network's IPAM driver; the built-in one answers on the commands' own subjects."""


def driver_subject(command: type[Command[Any]], driver: str) -> str:
    """Return the subject on which a driver other than the built-in one answers a command."""
    return command.subject.replace("cnm.v1.ipam.", f"cnm.v1.ipam.driver.{node_token(driver)}.", 1)


ANNOUNCEMENTS: tuple[type[Command[Any]], ...] = (AnnounceDriver,)
