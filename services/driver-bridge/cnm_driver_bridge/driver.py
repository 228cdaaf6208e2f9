"""The bridge driver of one node: its kernel as the handlers see it, and the pass that compares all of it."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

import structlog

from cnm.bus import KeyedOrder, Route
from cnm.kernel.nfnl import NfSocket
from cnm.kernel.nft import Nft
from cnm.kernel.rtnl import Link, Rtnl
from cnm.kernel.thread import NetlinkThread
from cnm.messages.bridge import Attachment, BridgeNetwork
from cnm.messages.node import BridgeSlice
from cnm.touched import Touched
from cnm_driver_bridge import handlers
from cnm_driver_bridge.announce import Announcer
from cnm_driver_bridge.config import Config
from cnm_driver_bridge.netlink import Host
from cnm_driver_bridge.nftables import Nftables
from cnm_driver_bridge.reconcile import difference, mend
from cnm_driver_bridge.removal import Removals

log = structlog.get_logger()


class KernelNode:
    """The node's kernel: commands go to the netlink thread, deletions to threads of their own.

    Commands and reconciliation take turns by id, since both change the same links.
    """

    def __init__(self, thread: NetlinkThread, host: Host, removals: Removals) -> None:
        self._thread = thread
        self._host = host
        self._removals = removals
        self._order = KeyedOrder()

    async def ensure(self, network: BridgeNetwork) -> None:
        async with self._order.turn(network.network_id):
            taken = await self._thread.run(self._host.ensure, network)
        if taken:
            log.info("bridge.ensured", network=network.network_id, bridge=network.bridge, steps=taken)

    async def remove(self, network: BridgeNetwork) -> None:
        async with self._order.turn(network.network_id):
            index = await self._thread.run(self._host.remove, network)
            if index is not None:
                await self._removals.delete(index)
        log.info("bridge.removed", network=network.network_id, bridge=network.bridge, deleted=index is not None)

    async def plug(self, attachment: Attachment) -> str:
        async with self._order.turn(attachment.endpoint_id):
            name, taken = await self._thread.run(self._host.plug, attachment)
        log.debug("endpoint.plugged", endpoint=attachment.endpoint_id, steps=taken)
        return name

    async def unplug(self, endpoint_id: str) -> None:
        async with self._order.turn(endpoint_id):
            index = await self._thread.run(self._host.find, endpoint_id)
            if index is not None:
                await self._removals.delete(index)

    async def links(self) -> Sequence[Link]:
        return await self._thread.run(self._host.links)

    async def mend_rules(self, networks: Sequence[BridgeNetwork], keep: Collection[str]) -> Sequence[str]:
        return await self._thread.run(self._host.mend_rules, networks, keep)

    async def mend_bridge(self, network: BridgeNetwork) -> Sequence[str]:
        async with self._order.turn(network.network_id):
            return await self._thread.run(self._host.ensure_link, network)

    async def mend_endpoint(self, attachment: Attachment) -> Sequence[str]:
        async with self._order.turn(attachment.endpoint_id):
            return await self._thread.run(self._host.mend_endpoint, attachment)

    async def delete_link(self, identity: str, index: int) -> None:
        async with self._order.turn(identity):
            await self._removals.delete(index)


class Driver:
    """The driver of this node: what it answers, and how it makes a whole slice stand."""

    def __init__(self, node: KernelNode, touched: Touched) -> None:
        self._node = node
        self._touched = touched
        self._asked = 0
        self._asking = False

    def routes(self) -> Sequence[Route]:
        """Return the commands that this driver answers."""
        return handlers.routes(node=self._node, touched=self._touched)

    def asking(self) -> None:
        """Note that a slice is asked for now: what commands touch from here on is newer than it."""
        self._asked = self._touched.now()
        self._asking = True

    async def converge(self, wanted: BridgeSlice) -> list[str]:
        """Make a slice stand and remove what of ours is not in it; return what was changed, in words.

        It counts from the last `asking`; without one, from now.
        """
        asked = self._asked if self._asking else self._touched.now()
        self._asking = False
        self._touched.forget(asked)
        links = await self._node.links()
        found = difference(wanted, links, self._touched.ids_since(asked))
        return await mend(found, node=self._node, is_touched=lambda identity: self._touched.since(asked, identity))


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
        graves = [blocking.enter_context(Rtnl.open()) for _ in range(config.removal_threads)]
        async with AsyncExitStack() as stack:
            thread = await stack.enter_async_context(NetlinkThread())
            host = Host(rtnl, Nftables(nft, generations), announcer)

            async def is_gone(index: int) -> bool:
                return await thread.run(host.is_gone, index)

            removals = Removals(graves, is_gone, look_s=config.removal_look_s)
            stack.push_async_callback(removals.stop)
            yield Driver(KernelNode(thread, host, removals), Touched())
