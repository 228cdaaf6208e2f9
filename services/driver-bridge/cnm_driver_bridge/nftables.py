"""Our two tables in the kernel, by libnftables: the adapter that carries out what `firewall` plans."""

import errno
from collections.abc import Collection, Iterable

from cnm.errors import Conflict, Unavailable, Unsupported
from cnm.kernel.errors import NftError
from cnm.kernel.nfnl import NfSocket
from cnm.kernel.nft import Nft
from cnm.messages.bridge import BridgeNetwork
from cnm_driver_bridge import firewall
from cnm_driver_bridge.firewall import TABLES, Block, Owners, Ruleset, nobody


class Nftables:
    """The tables as we know them; for one thread.

    What stands is remembered, so that a change costs the same however many networks there are. A transaction that
    the kernel refuses means that somebody else changed our tables: they are read and planned for once more.
    """

    def __init__(self, nft: Nft, generations: NfSocket) -> None:
        self._nft = nft
        self._generations = generations
        self._found: Ruleset | None = None
        self._generation = -1

    def ensure(self, network: BridgeNetwork) -> tuple[str, ...]:
        """Make a network's rules stand, and the frame around them; return the steps that it took.

        Raises:
            Conflict: the bridge is another network's.

        """
        other = firewall.holder(self._look(), network)
        if other is not None:
            message = f"bridge {network.bridge} belongs to network {other}"
            raise Conflict(message, ifname=network.bridge, holder=other)
        return self._apply((firewall.frame(), firewall.block(network)))

    def remove(self, network_id: str) -> tuple[str, ...]:
        """Remove a network's rules; return the steps that it took."""
        key = firewall.short(network_id)
        return self._apply((firewall.frame(),), lambda owner: owner == key)

    def converge(self, networks: Iterable[BridgeNetwork], keep: Collection[str]) -> tuple[str, ...]:
        """Make the rules of these networks stand and those of all others go, but for the ids to keep.

        Nothing is read unless the ruleset's generation tells of a change that was not ours.
        """
        if self._generations.generation() != self._generation:
            self._found = None
        # A stray element might be one of a network that is to be kept.
        kept = {"", *map(firewall.short, keep)} if keep else set()
        blocks = (firewall.frame(), *(firewall.block(network) for network in networks))
        return self._apply(blocks, lambda owner: owner not in kept)

    def _apply(self, blocks: tuple[Block, ...], stale: Owners = nobody) -> tuple[str, ...]:
        fresh = self._found is None
        try:
            return self._attempt(blocks, stale)
        except NftError as error:
            if fresh:
                raise _translated(error) from error
        self._found = None
        try:
            return self._attempt(blocks, stale)
        except NftError as error:
            raise _translated(error) from error

    def _attempt(self, blocks: tuple[Block, ...], stale: Owners) -> tuple[str, ...]:
        found = self._look()
        gone = firewall.owned(found, stale)
        lines = firewall.plan(blocks, found, gone)
        if not lines:
            return ()
        before = self._generations.generation()
        try:
            self._nft.run("\n".join(lines))
        except NftError:
            self._found = None
            raise
        self._found = firewall.with_blocks(firewall.without(found, gone), blocks)
        # Somebody else's change in between shows at the next pass: the generation is then not the one we expect.
        self._generation = before + 1 if before == self._generation else self._generation
        return lines

    def _look(self) -> Ruleset:
        if self._found is None:
            self._generation = self._generations.generation()
            self._found = firewall.parse(self._tables())
        return self._found

    def _tables(self) -> Iterable[dict[str, object]]:
        for table in TABLES:
            try:
                yield self._nft.dump(f"list table inet {table}")
            except NftError as error:
                if error.errno != errno.ENOENT:
                    raise


def _translated(error: NftError) -> Exception:
    """Say what a refused transaction means to who asked for it."""
    sentence = " ".join(str(error).split())[:300]
    match error.errno:
        case errno.EOPNOTSUPP | errno.ENOENT | errno.EAFNOSUPPORT:
            return Unsupported(f"nftables in this kernel lacks something: {sentence}")
        case errno.EEXIST | errno.EBUSY:
            return Conflict(f"nftables: {sentence}")
        case _:
            return Unavailable(f"nftables refused a change: {sentence}")
