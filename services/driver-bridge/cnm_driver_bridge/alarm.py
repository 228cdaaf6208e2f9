"""Hears of changes to our links and bridges that no command of ours made."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from cnm.kernel.netlink import Reply
from cnm.kernel.rtnl import Link
from cnm.kernel.watch import RTM_DELLINK, address_told, link_told
from cnm.lately import Lately
from cnm.messages.bridge import BridgeNetwork
from cnm_driver_bridge.bridge import marked

State = tuple[str, str, bool, int, int]
"""What of a link a comparison looks at without asking more: name, alias, up, master, MTU."""


class Alarm:
    """Rings when a link of ours, or the addresses of a bridge, changed though no command lately was about them.

    What a link was like is known from the last comparison, and from what was heard since.
    """

    def __init__(self, lately: Lately) -> None:
        self._lately = lately
        self._links: dict[int, tuple[str, State]] = {}
        self._bridges: Mapping[str, str] = {}
        self.ring: Callable[[], None] = lambda: None

    def know(self, networks: Iterable[BridgeNetwork], links: Sequence[Link]) -> None:
        """Take note of what a comparison saw."""
        self._bridges = {network.bridge: network.network_id for network in networks}
        found = ((link, self._owner(link)) for link in links)
        self._links = {link.index: (owner, _state(link)) for link, owner in found if owner is not None}

    def note(self, reply: Reply | None) -> None:
        """Take note of a notification of the host's namespace, None of one that was lost."""
        if reply is None:
            self.ring()
            return
        index, link = address_told(reply), link_told(reply)
        if index is not None and index in self._links:
            self._suspect(self._links[index][0])
        elif link is not None:
            self._note_link(link, gone=reply.kind == RTM_DELLINK)

    def rules_changed(self) -> None:
        """Take note that others changed our tables."""
        self.ring()

    def _note_link(self, link: Link, *, gone: bool) -> None:
        before = self._links.pop(link.index, None)
        owner = self._owner(link) or (before and before[0])
        if owner is None:
            return
        now = owner, _state(link)
        if not gone:
            self._links[link.index] = now
        if gone or now != before:
            self._suspect(owner)

    def _suspect(self, owner: str) -> None:
        if owner not in self._lately:
            self.ring()

    def _owner(self, link: Link) -> str | None:
        """Return whose a link is; a bridge that a user made is known by its name."""
        return marked(link) or self._bridges.get(link.name)


def _state(link: Link) -> State:
    return link.name, link.alias, link.up, link.master, link.mtu
