"""No firewall: every port is served by the proxy (``CNM_FIREWALL=off``)."""

# ruff: noqa: ARG002  # where there are no rules, what they would be for says nothing

import errno
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

from cnm.kernel.errors import NftError
from cnm.kernel.nft import Nft
from cnm_port_mapper.binding import Place
from cnm_port_mapper.nftables import TABLE
from cnm_port_mapper.rules import Step, Translation


@asynccontextmanager
async def open_no_firewall() -> AsyncIterator["NoFirewall"]:
    """Remove the table that stands from a time with a firewall, and yield what takes the firewall's place."""
    with Nft() as nft:
        try:
            nft.run(f"delete table inet {TABLE}")
        except NftError as error:
            if error.errno != errno.ENOENT:
                raise
    yield NoFirewall()


class NoFirewall:
    """``Firewall`` of a node that has none: what reaches a host port reaches its socket, which relays."""

    async def apply(self, steps: Sequence[Step], *, forget: Collection[Place] = ()) -> None:
        """Translate nothing."""

    async def observe(self) -> dict[Place, Translation]:
        """Return that nothing is translated."""
        return {}

    async def repair(self, desired: Mapping[Place, Translation], *, leave: Collection[str] = ()) -> tuple[Step, ...]:
        """Mend nothing."""
        return ()

    compare = repair

    def watching(self, heard: Callable[[], None]) -> AbstractContextManager[None]:
        """Hear nothing."""
        return nullcontext()
