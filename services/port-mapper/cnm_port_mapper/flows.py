"""UDP and SCTP flows to ports of the host, forgotten by the kernel itself.

ctnetlink deletes by a filter since Linux 5.8: 0.1 ms. A dump, to choose from here, visits every bucket of the
table that all namespaces share: 10 ms on a machine of 262,144 buckets, though nothing is tracked.
"""

import errno
import struct
from collections.abc import Collection, Mapping

from cnm.kernel.conntrack import Conntrack
from cnm.kernel.element import nf_message
from cnm.kernel.errors import KernelError
from cnm.kernel.netlink import NETLINK_NETFILTER, NLM_F_ACK, NLMSG_ERROR, Channel, attribute, failure, nest, u32
from cnm.types import Address, Protocol
from cnm_port_mapper.binding import Place

# linux/netfilter/nfnetlink_conntrack.h; the flags are of net/netfilter/nf_conntrack_netlink.c.
CT_DELETE = 1 << 8 | 2
CTA_TUPLE_ORIG, CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 1, 2
CTA_IP_DST = {4: 2, 6: 4}
CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 1, 3
CTA_FILTER, CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 25, 1, 2
BY_DESTINATION, BY_PROTOCOL, BY_PORT = 1 << 1, 1 << 3, 1 << 5
AF = {4: 2, 6: 10}
FEW = 128
"""Of more ports than that the flows are chosen from one dump, which is then the cheaper."""
NUMBERS: Mapping[Protocol, int] = {"udp": 17, "sctp": 132}


class Flows:
    """One ctnetlink socket; for one thread."""

    def __init__(self) -> None:
        self._channel = Channel(NETLINK_NETFILTER)
        self._fallback = Conntrack()
        self._can_filter = True

    def close(self) -> None:
        """Close the sockets."""
        self._fallback.close()
        self._channel.close()

    def forget(self, places: Collection[Place]) -> None:
        """Forget the flows that were sent to places; those of TCP are passed over.

        The original destination counts, which is the host's port, and not where translation led it.
        """
        chosen = [place for place in places if place.protocol in NUMBERS]
        if self._can_filter and 0 < sum(place.count for place in chosen) <= FEW:
            self._filter([single for place in chosen for single in place.singles()])
            if self._can_filter:
                return
        for protocol, number in NUMBERS.items():
            sent_to = [
                (port, _where(place), place.address.version)
                for place in chosen
                if place.protocol == protocol
                for port in place.ports
            ]
            if sent_to:
                self._fallback.delete_sent_to(number, sent_to)

    def _filter(self, places: Collection[Place]) -> None:
        first = self._channel.reserve(len(places))
        self._channel.write(b"".join(_delete(first + index, place) for index, place in enumerate(places)))
        answers: dict[int, tuple[int, str]] = {}
        while len(answers) < len(places):
            for reply in self._channel.read():
                if reply.kind == NLMSG_ERROR and first <= reply.sequence < first + len(places):
                    answers[reply.sequence] = failure(reply)
        for number, reason in answers.values():
            if number in (errno.EINVAL, errno.EOPNOTSUPP):
                self._can_filter = False
            elif number not in (0, errno.ENOENT):
                raise KernelError(number, step="conntrack -D", reason=reason)


def _where(place: Place) -> Address | None:
    """Return the address of a place, None for every one."""
    return None if place.address.is_unspecified else place.address


def _delete(sequence: int, place: Place) -> bytes:
    flags = BY_PROTOCOL | BY_PORT
    ends = []
    if not place.address.is_unspecified:
        flags |= BY_DESTINATION
        ends.append(nest(CTA_TUPLE_IP, attribute(CTA_IP_DST[place.address.version], place.address.packed)))
    number = attribute(CTA_PROTO_NUM, bytes((NUMBERS[place.protocol],)))
    port = attribute(CTA_PROTO_DST_PORT, struct.pack(">H", place.port))
    tuple_ = nest(CTA_TUPLE_ORIG, *ends, nest(CTA_TUPLE_PROTO, number, port))
    chosen = nest(CTA_FILTER, u32(CTA_FILTER_ORIG_FLAGS, flags), u32(CTA_FILTER_REPLY_FLAGS, 0))
    return _versioned(nf_message(CT_DELETE, NLM_F_ACK, sequence, AF[place.address.version], tuple_ + chosen))


def _versioned(message: bytes) -> bytes:
    """Set the version in nfgenmsg to 1: with 0 the kernel takes every family for meant."""
    return message[:17] + b"\1" + message[18:]
