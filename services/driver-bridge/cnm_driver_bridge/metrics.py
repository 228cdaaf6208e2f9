"""What the driver tells of its links, and of what was dropped. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from cnm.kernel.rtnl import Link, Statistics
from cnm.messages.bridge import Attachment
from cnm.messages.node import BridgeSlice
from cnm.metrics import (
    DROPPED_BYTES,
    DROPPED_PACKETS,
    LINKS,
    RECEIVED_BYTES,
    RECEIVED_DROPS,
    RECEIVED_PACKETS,
    SENT_BYTES,
    SENT_DROPS,
    SENT_PACKETS,
    Sample,
    first,
)
from cnm_driver_bridge.blocks import short
from cnm_driver_bridge.bridge import marked

Drops = Mapping[str, Mapping[str, tuple[int, int]]]


def samples(wanted: BridgeSlice | None, links: Sequence[Link], drops: Drops, *, most: int) -> list[Sample]:
    """Return what is told of a node, given the slice that was applied last: names are from there.

    What a command plugged since then is told of after the next comparison.
    """
    owners = {owner: link for link in links if (owner := marked(link)) is not None}
    networks, attachments = (wanted.networks, wanted.attachments) if wanted is not None else ((), ())
    counted = [
        (attachment, link.statistics)
        for attachment in attachments
        if (link := owners.get(attachment.endpoint_id)) is not None and link.statistics is not None
    ]
    shown, more_endpoints = first(counted, most, "endpoint")
    dropping, more_networks = first([each for each in networks if short(each.network_id) in drops], most, "network")
    found = [LINKS(sum(link.kind == kind for link in owners.values()), of) for kind, of in KINDS.items()]
    for attachment, statistics in shown:
        found += _traffic(attachment, statistics)
    for network in dropping:
        for reason, (packets, size) in sorted(drops[short(network.network_id)].items()):
            found += (DROPPED_PACKETS(packets, network.name, reason), DROPPED_BYTES(size, network.name, reason))
    return [*found, more_endpoints, more_networks]


KINDS = {"bridge": "network", "veth": "endpoint"}


def _traffic(attachment: Attachment, seen: Statistics) -> Iterator[Sample]:
    """Return an endpoint's counters; its host end receives what the endpoint sends."""
    labels = attachment.network.name, attachment.name or short(attachment.endpoint_id)
    yield RECEIVED_BYTES(seen.tx_bytes, *labels)
    yield SENT_BYTES(seen.rx_bytes, *labels)
    yield RECEIVED_PACKETS(seen.tx_packets, *labels)
    yield SENT_PACKETS(seen.rx_packets, *labels)
    yield RECEIVED_DROPS(seen.tx_dropped, *labels)
    yield SENT_DROPS(seen.rx_dropped, *labels)
