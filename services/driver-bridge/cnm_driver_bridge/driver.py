"""The bridge driver of one node: its kernel as the handlers see it, and the pass that compares all of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

import structlog

from cnm.bus import KeyedOrder, Route
from cnm.kernel.nfnl import NfSocket
from cnm.kernel.nft import Nft
from cnm.kernel.rtnl import Link, Rtnl
from cnm.kernel.thread import NetlinkThread
from cnm.kernel.watch import NamespaceWatch, watching_namespaces, watching_tables
from cnm.messages.bridge import Attachment, BridgeNetwork
from cnm.messages.drift import Difference
from cnm.messages.node import BridgeSlice
from cnm.metrics import Sample, Source
from cnm.touched import Touched
from cnm.types import Interface
from cnm_driver_bridge import handlers, metrics
from cnm_driver_bridge.alarm import Alarm
from cnm_driver_bridge.announce import Announcer
from cnm_driver_bridge.config import Config
from cnm_driver_bridge.frame import TABLES
from cnm_driver_bridge.netlink import Host
from cnm_driver_bridge.nftables import Nftables
from cnm_driver_bridge.no_rules import WITHOUT, NoRules, remove_tables
from cnm_driver_bridge.reconcile import Patrols, gap, mend
from cnm_driver_bridge.removal import Removals

log = structlog.get_logger()


class KernelNode:
    """The node's kernel: commands go to the netlink thread, deletions to threads of their own.

    Commands and reconciliation take turns by id, since both change the same links.
    """

    repairs = True

    def __init__(self, thread: NetlinkThread, host: Host, removals: Removals) -> None:
        self._thread = thread
        self._host = host
        self._removals = removals
        self._order = KeyedOrder()
        self._announcing: dict[str, asyncio.TimerHandle] = {}

    async def ensure(self, network: BridgeNetwork, gone: Sequence[Interface] = ()) -> Sequence[str]:
        async with self._order.turn(network.network_id):
            taken = await self._thread.run(self._host.ensure, network, gone)
        if taken:
            log.info("bridge.ensured", network=network.network_id, bridge=network.bridge, steps=taken)
        return taken

    async def remove(self, network: BridgeNetwork) -> None:
        async with self._order.turn(network.network_id):
            index = await self._thread.run(self._host.remove, network)
            if index is not None:
                await self._removals.delete(index)
        log.info("bridge.removed", network=network.network_id, bridge=network.bridge, deleted=index is not None)

    async def plug(self, attachment: Attachment) -> str:
        async with self._order.turn(attachment.endpoint_id):
            name, taken = await self._thread.run(self._host.plug, attachment)
            self._announce_again(attachment, (attachment.network.announcements or 0) - 1)
        log.debug("endpoint.plugged", endpoint=attachment.endpoint_id, steps=taken)
        return name

    def _announce_again(self, attachment: Attachment, times: int) -> None:
        """Announce an endpoint's addresses so many times more, as long as it is plugged (modern 10)."""
        self._cease(attachment.endpoint_id)
        if times <= 0:
            return

        def announce() -> None:
            self._host.announce(attachment)
            self._announce_again(attachment, times - 1)

        delay_s = attachment.network.announcement_ms / 1000
        self._announcing[attachment.endpoint_id] = asyncio.get_running_loop().call_later(delay_s, announce)

    def _cease(self, endpoint_id: str) -> None:
        timer = self._announcing.pop(endpoint_id, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Announce nothing any more."""
        for endpoint_id in list(self._announcing):
            self._cease(endpoint_id)

    async def unplug(self, endpoint_id: str) -> None:
        async with self._order.turn(endpoint_id):
            self._cease(endpoint_id)
            index = await self._thread.run(self._host.unplug, endpoint_id)
            if index is not None:
                await self._removals.delete(index)

    async def links(self) -> Sequence[Link]:
        return await self._thread.run(self._host.links)

    async def mend_rules(
        self, networks: Sequence[BridgeNetwork], attachments: Sequence[Attachment], keep: Collection[str]
    ) -> Sequence[str]:
        return await self._thread.run(self._host.mend_rules, networks, attachments, keep)

    async def drops(self) -> Mapping[str, Mapping[str, tuple[int, int]]]:
        return await self._thread.run(self._host.drops)

    async def traffic(self) -> tuple[Sequence[Link], Mapping[str, Mapping[str, tuple[int, int]]]]:
        """Return every link of the host with its counters, and what was dropped."""
        return await self._thread.run(self._host.count_links), await self._thread.run(self._host.drops)

    async def mend_bridge(self, network: BridgeNetwork) -> Sequence[str]:
        async with self._order.turn(network.network_id):
            return await self._thread.run(self._host.ensure_link, network)

    async def mend_endpoint(self, attachment: Attachment) -> Sequence[str]:
        async with self._order.turn(attachment.endpoint_id):
            return await self._thread.run(self._host.mend_endpoint, attachment)

    async def delete_link(self, identity: str, index: int) -> None:
        async with self._order.turn(identity):
            await self._removals.delete(index)


class Onlooker:
    """The same kernel for a comparison that changes nothing: what would be done is told."""

    repairs = False

    def __init__(self, thread: NetlinkThread, host: Host) -> None:
        self._thread = thread
        self._host = host

    async def links(self) -> Sequence[Link]:
        return await self._thread.run(self._host.links)

    async def mend_rules(
        self, networks: Sequence[BridgeNetwork], attachments: Sequence[Attachment], keep: Collection[str]
    ) -> Sequence[str]:
        return await self._thread.run(self._host.compare_rules, networks, attachments, keep)

    async def mend_bridge(self, network: BridgeNetwork) -> Sequence[str]:
        return await self._thread.run(self._host.compare_bridge, network)

    async def mend_endpoint(self, attachment: Attachment) -> Sequence[str]:
        return await self._thread.run(self._host.compare_endpoint, attachment)

    async def delete_link(self, identity: str, index: int) -> None:
        """Leave it."""


class Driver:
    """The driver of this node: what it answers, and how it makes a whole slice stand."""

    def __init__(
        self,
        node: KernelNode,
        onlooker: Onlooker,
        touched: Touched,
        watch: NamespaceWatch,
        patrols: Patrols,
        alarm: Alarm,
        warnings: Sequence[str],
    ) -> None:
        self._node = node
        self._onlooker = onlooker
        self._touched = touched
        self._watch = watch
        self._patrols = patrols
        self._alarm = alarm
        self._warnings = warnings
        self._asked = 0
        self._asking = False
        self._wanted: BridgeSlice | None = None

    def routes(self) -> Sequence[Route]:
        """Return the commands that this driver answers."""
        return handlers.routes(node=self._node, touched=self._touched, warnings=self._warnings)

    def asking(self) -> None:
        """Note that a slice is asked for now: what commands touch from here on is newer than it."""
        self._asked = self._touched.now()
        self._asking = True

    def listen(self, ring: Callable[[], None]) -> None:
        """Have it told from now on when others change what this driver keeps."""
        self._alarm.ring = ring

    def suspect_all(self) -> None:
        """Have everything looked at in the next `converge`."""
        self._patrols.networks.suspect_all()
        self._patrols.endpoints.suspect_all()

    def _since(self) -> int:
        asked = self._asked if self._asking else self._touched.now()
        self._asking = False
        return asked

    async def compare(self, wanted: BridgeSlice) -> list[Difference]:
        """Return what `converge` would do if it looked at everything; nothing is changed."""
        asked = self._since()
        found = gap(wanted, await self._onlooker.links(), self._touched.ids_since(asked))
        return await mend(
            found,
            node=self._onlooker,
            is_touched=lambda identity: self._touched.since(asked, identity),
            patrols=Patrols.of(0.0),  # to which everything is new
        )

    async def converge(self, wanted: BridgeSlice) -> list[Difference]:
        """Make a slice stand and remove what of ours is not in it; return what was mended, or could not be.

        It counts from the last `asking`; without one, from now.
        """
        self._wanted = wanted
        asked = self._since()
        self._touched.forget(asked)
        changes = self._watch.take()  # before the links are read: what changes from here on is for the next pass
        links = await self._node.links()
        found = gap(wanted, links, self._touched.ids_since(asked))
        self._alarm.know(found.networks, links)
        self._patrols.note(found, links, changes)
        return await mend(
            found,
            node=self._node,
            is_touched=lambda identity: self._touched.since(asked, identity),
            patrols=self._patrols,
        )

    def source(self, most: int) -> Source:
        """Return what is told of links and of what was dropped: of at most so many endpoints and networks."""

        async def read() -> list[Sample]:
            links, drops = await self._node.traffic()
            return metrics.samples(self._wanted, links, drops, most=most)

        return Source("traffic", read)


@asynccontextmanager
async def open_driver(config: Config | None = None) -> AsyncIterator[Driver]:
    """Open the kernel of the calling thread's namespace and yield the driver; first thing in the process."""
    config = config or Config()
    with ExitStack() as blocking:
        # The context of libnftables comes before every other descriptor: see cnm.kernel.nft.
        nft = blocking.enter_context(Nft())
        generations = blocking.enter_context(NfSocket())
        rtnl = blocking.enter_context(Rtnl.open())
        announcer = blocking.enter_context(Announcer())
        touched = Touched()
        alarm = Alarm(touched.lately)
        watch = blocking.enter_context(watching_namespaces(alarm.note))
        if config.firewall:
            blocking.enter_context(watching_tables(alarm.rules_changed, TABLES, lambda: generations.port))
        graves = [blocking.enter_context(Rtnl.open()) for _ in range(config.removal_threads)]
        async with AsyncExitStack() as stack:
            thread = await stack.enter_async_context(NetlinkThread())
            if not config.firewall:
                remove_tables(nft)
            host = Host(rtnl, Nftables(nft, generations) if config.firewall else NoRules(), announcer)

            removals = Removals(graves, look_s=config.removal_look_s)
            stack.push_async_callback(removals.stop)
            patrols = Patrols.of(config.patrol_budget_s)
            node = KernelNode(thread, host, removals)
            stack.callback(node.close)
            warnings = () if config.firewall else (WITHOUT,)
            yield Driver(node, Onlooker(thread, host), touched, watch, patrols, alarm, warnings)
