"""From what should stand to what stands: the difference, and the changes that close it.

An id is left alone when the controller says that it is busy, or when a command touched it after the slice was asked
for; the next pass sees it. What one object refuses does not keep the others from being mended.

Links are compared at every pass. What else a bridge or an endpoint consists of is looked at when something tells that
it may have changed, and in turn otherwise (`cnm.patrol`).
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cnm.drift import shortened
from cnm.errors import CnmError
from cnm.kernel.rtnl import Link
from cnm.kernel.watch import Changes
from cnm.messages.bridge import Attachment, BridgeNetwork
from cnm.messages.drift import Difference
from cnm.messages.node import BridgeSlice
from cnm.patrol import Patrol
from cnm_driver_bridge.bridge import check, marked, refuse_stranger
from cnm_driver_bridge.plug import GROUP, plan_host
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
class Gap:
    """What is to be looked at and mended, and what is to go.

    ``ruled`` are the networks that get rules: not those whose bridge would be a stranger's device.
    """

    networks: tuple[BridgeNetwork, ...]
    ruled: tuple[BridgeNetwork, ...]
    attachments: tuple[Attachment, ...]
    orphans: tuple[Orphan, ...]
    keep: frozenset[str]


def gap(wanted: BridgeSlice, links: Sequence[Link], touched: Collection[str]) -> Gap:
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
    return Gap(
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


@dataclass
class Patrols:
    """Which bridges and endpoints were looked at, and when."""

    networks: Patrol[BridgeNetwork]
    endpoints: Patrol[Attachment]

    @classmethod
    def of(cls, budget_s: float) -> "Patrols":
        """Return patrols that together take no longer than the budget for that of which nothing tells."""
        return cls(Patrol(budget_s=budget_s / 2), Patrol(budget_s=budget_s / 2))

    def note(self, found: Gap, links: Sequence[Link], changes: Changes) -> None:
        """Suspect what the links, or what changed, tell is not as it was."""
        if changes.lost:
            self.networks.suspect_all()
            self.endpoints.suspect_all()
            return
        by_name = {link.name: link for link in links}
        self.networks.suspect(*_suspect_networks(found.networks, by_name, changes))
        by_owner = {owner: link for link in links if (owner := marked(link)) is not None}
        self.endpoints.suspect(*_suspect_endpoints(found.attachments, by_name, by_owner, changes))


def _suspect_networks(
    networks: Sequence[BridgeNetwork], by_name: Mapping[str, Link], changes: Changes
) -> Iterator[str]:
    for network in networks:
        link = by_name.get(network.bridge)
        if link is None or not link.up or network.mtu not in (None, link.mtu) or link.index in changes.links:
            yield network.network_id


def _suspect_endpoints(
    attachments: Sequence[Attachment], by_name: Mapping[str, Link], by_owner: Mapping[str, Link], changes: Changes
) -> Iterator[str]:
    for attachment in attachments:
        network, link = attachment.network, by_owner.get(attachment.endpoint_id)
        bridge = by_name.get(network.bridge)
        if (
            link is None
            or bridge is None
            or link.peer_namespace_id in changes.namespaces
            or plan_host(attachment.endpoint_id, network, link, bridge=bridge.index)
        ):
            yield attachment.endpoint_id


async def mend(
    found: Gap, *, node: Observed, is_touched: Callable[[str], bool], patrols: Patrols
) -> list[Difference]:
    """Close a gap; return what was mended and what could not be.

    With a node that only looks on, what it returns is what would be done.
    """
    told: list[Difference] = []

    async def attempt(what: str, about: str, identity: str, change: Awaitable[Sequence[str]]) -> bool:
        def difference(value: str, reason: str | None = None) -> Difference:
            return Difference(
                worker="", what=what, about=about, id=identity, value=value,
                repaired=reason is None and node.repairs, reason=reason,
            )  # fmt: skip

        try:
            told.extend(map(difference, shortened(await change)))
        except CnmError as error:
            told.append(difference(f"{what} cannot be mended", f"{error.code}: {error.message}"))
            return False
        return True

    rules = node.mend_rules(found.ruled, found.attachments, found.keep)
    await attempt("rules", "the node's firewall", "", rules)
    if not found.networks and not found.attachments:
        told = [each for each in told if not each.repaired]  # the frame of a node that has nothing yet
    networks = {network.network_id: network for network in found.networks}
    for identity in patrols.networks.turn(networks):
        about = f"network {networks[identity].name}"
        if is_touched(identity) or not await attempt("bridge", about, identity, node.mend_bridge(networks[identity])):
            patrols.networks.suspect(identity)
    endpoints = {attachment.endpoint_id: attachment for attachment in found.attachments}
    for identity in patrols.endpoints.turn(endpoints):
        about = f"endpoint {identity[:12]}"
        if is_touched(identity) or not await attempt(
            "link", about, identity, node.mend_endpoint(endpoints[identity])
        ):
            patrols.endpoints.suspect(identity)
    for orphan in found.orphans:
        if not is_touched(orphan.identity):
            about = f"link {orphan.link.name}"
            await attempt("stray link", about, orphan.identity, _delete(orphan, node))
    return told


async def _delete(orphan: Orphan, node: Observed) -> Sequence[str]:
    await node.delete_link(orphan.identity, orphan.link.index)
    return (str(orphan),)
