"""No firewall: for nodes whose rules are somebody else's affair (``CNM_FIREWALL=off``)."""

# ruff: noqa: ARG002  # where there are no rules, what they would be for says nothing

import errno
from collections.abc import Collection, Iterable, Mapping, Sequence

from cnm.kernel.errors import NftError
from cnm.kernel.nft import Nft
from cnm.messages.bridge import Attachment, BridgeNetwork
from cnm_driver_bridge.frame import FILTER, TABLES, USER_CHAIN

WITHOUT = "CNM_FIREWALL is off: nothing keeps others out of this network, and nothing translates its addresses"


def remove_tables(nft: Nft) -> None:
    """Remove our tables that stand from a time with a firewall; one in which a user has rules stays as it is."""
    for table in TABLES:
        try:
            listed = nft.dump(f"list table inet {table}")["nftables"]
        except NftError as error:
            if error.errno != errno.ENOENT:
                raise
            continue
        rules = [entry["rule"] for entry in listed if "rule" in entry]
        if table != FILTER or not any(rule["chain"] == USER_CHAIN for rule in rules):
            nft.run(f"delete table inet {table}")


class NoRules:
    """``Rules`` of a node that has none."""

    def ensure(self, network: BridgeNetwork) -> Sequence[str]:
        """Make nothing."""
        return ()

    def remove(self, network_id: str) -> Sequence[str]:
        """Remove nothing."""
        return ()

    def open_ports(self, attachment: Attachment) -> Sequence[str]:
        """Open nothing: nothing is closed."""
        return ()

    def close_ports(self, endpoint_id: str) -> Sequence[str]:
        """Close nothing."""
        return ()

    def close_forwarding(self, versions: Collection[int]) -> Sequence[str]:
        """Keep nobody from forwarding."""
        return ()

    def reopen_forwarding(self, versions: Collection[int]) -> Sequence[str]:
        """Reopen nothing: nothing is closed."""
        return ()

    def converge(
        self, networks: Iterable[BridgeNetwork], attachments: Iterable[Attachment], keep: Collection[str]
    ) -> Sequence[str]:
        """Make nothing."""
        return ()

    compare = converge

    def drops(self) -> Mapping[str, Mapping[str, tuple[int, int]]]:
        """Return that nothing was dropped."""
        return {}
