"""From what should stand to what stands: the difference, and the changes that close it.

An id is left alone when the controller says that it is busy, or when a command touched it after the slice was asked
for; the next pass sees it. What one object refuses does not keep the others from being mended.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass

from cnm.errors import CnmError
from cnm.kernel.rtnl import Link
from cnm.messages.bridge import Attachment, BridgeNetwork
from cnm.messages.node import BridgeSlice
from cnm_driver_bridge.bridge import check, marked, refuse_stranger
from cnm_driver_bridge.plug import GROUP
from cnm_driver_bridge.ports import Observed


@dataclass(frozen=True, slots=True)
class Orphan:
    """A link of ours that should not be; ``identity`` is the network's or endpoint's, "" of what a crash left."""

    link: Link
    identity: str

    def __str__(self) -> str:
        whose = f"of {self.identity}" if self.identity else "that was never finished"
        return f"ip link del dev {self.link.name}: {self.link.kind} {whose}, which should not be here"


@dataclass(frozen=True, slots=True)
class Difference:
    """What is to be looked at and mended, and what is to go.

    ``ruled`` are the networks that get rules: not those whose bridge would be a stranger's device.
    """

    networks: tuple[BridgeNetwork, ...]
    ruled: tuple[BridgeNetwork, ...]
    attachments: tuple[Attachment, ...]
    orphans: tuple[Orphan, ...]
    keep: frozenset[str]


def difference(wanted: BridgeSlice, links: Sequence[Link], touched: Collection[str]) -> Difference:
    """Compare a slice with the links that stand; what is in both still has to be looked at in detail."""
    alone = frozenset((*wanted.busy, *touched))
    by_name = {link.name: link for link in links}
    expected = {network.network_id for network in wanted.networks}
    expected.update(attachment.endpoint_id for attachment in wanted.attachments)
    # The bridge of an attachment whose own network is not told of is wanted, too.
    expected.update(attachment.network.network_id for attachment in wanted.attachments)
    networks = {attachment.network.network_id: attachment.network for attachment in wanted.attachments}
    networks |= {network.network_id: network for network in wanted.networks}
    mendable = tuple(network for identity, network in networks.items() if identity not in alone)
    return Difference(
        networks=mendable,
        ruled=tuple(network for network in mendable if _is_acceptable(network, by_name.get(network.bridge))),
        attachments=tuple(
            attachment
            for attachment in wanted.attachments
            if attachment.endpoint_id not in alone and attachment.sandbox_id not in alone
        ),
        orphans=tuple(
            Orphan(link, identity)
            for link in links
            if (identity := _identity(link)) is not None and identity not in expected and identity not in alone
        ),
        keep=alone,
    )


def _is_acceptable(network: BridgeNetwork, link: Link | None) -> bool:
    try:
        check(network)
        refuse_stranger(network, link)
    except CnmError:
        return False
    return True


def _identity(link: Link) -> str | None:
    """Return whose a link of ours is, "" of one that was never finished, None of a stranger's."""
    return "" if link.group == GROUP and not link.alias else marked(link)


async def mend(found: Difference, *, node: Observed, is_touched: Callable[[str], bool]) -> list[str]:
    """Close a difference; return what was changed and what could not be, in words."""
    told: list[str] = []

    async def attempt(about: str, change: Awaitable[Sequence[str]]) -> None:
        try:
            told.extend(f"{about}: {line}" for line in await change)
        except CnmError as error:
            told.append(f"{about}: {error.code}: {error.message}")

    await attempt("rules", node.mend_rules(found.ruled, found.keep))
    for network in found.networks:
        if not is_touched(network.network_id):
            await attempt(f"network {network.name}", node.mend_bridge(network))
    for attachment in found.attachments:
        about = f"endpoint {attachment.endpoint_id[:12]}"
        if not is_touched(attachment.endpoint_id):
            await attempt(about, node.mend_endpoint(attachment))
    for orphan in found.orphans:
        if not is_touched(orphan.identity):
            await attempt("orphan", _delete(orphan, node))
    return told


async def _delete(orphan: Orphan, node: Observed) -> Sequence[str]:
    await node.delete_link(orphan.identity, orphan.link.index)
    return (str(orphan),)
