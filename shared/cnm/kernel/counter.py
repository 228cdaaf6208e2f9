"""nftables' named counters: the steps that add and delete them."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from .element import NFPROTO_INET, nft_message, pack_comment
from .netlink import NLM_F_ACK, NLM_F_CREATE, attribute, be32, nest, text

NFT_MSG_NEWOBJ, NFT_MSG_DELOBJ = 18, 20
NFTA_OBJ_TABLE, NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_OBJ_DATA, NFTA_OBJ_USERDATA = 1, 2, 3, 4, 8
NFT_OBJECT_COUNTER = 1


@dataclass(frozen=True, slots=True)
class AddCounter:
    """Add a named counter; one that is there stays, with what it has counted."""

    table: str
    name: str
    _: KW_ONLY
    comment: str | None = None

    forgiven: ClassVar[frozenset[int]] = frozenset()

    def __str__(self) -> str:
        return f"nft add counter inet {self.table} {self.name}"

    def encode(self, sequence: int) -> bytes:
        body = _named(self.table, self.name) + nest(NFTA_OBJ_DATA)
        if self.comment:
            body += attribute(NFTA_OBJ_USERDATA, pack_comment(self.comment))
        return nft_message(NFT_MSG_NEWOBJ, NLM_F_ACK | NLM_F_CREATE, sequence, NFPROTO_INET, body)


@dataclass(frozen=True, slots=True)
class DeleteCounter:
    """Delete a named counter that no rule and no element uses any more."""

    table: str
    name: str

    forgiven: ClassVar[frozenset[int]] = frozenset()

    def __str__(self) -> str:
        return f"nft delete counter inet {self.table} {self.name}"

    def encode(self, sequence: int) -> bytes:
        body = _named(self.table, self.name)
        return nft_message(NFT_MSG_DELOBJ, NLM_F_ACK, sequence, NFPROTO_INET, body)


def _named(table: str, name: str) -> bytes:
    return text(NFTA_OBJ_TABLE, table) + text(NFTA_OBJ_NAME, name) + be32(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER)
