"""A sandbox for the length of one command: made, and deleted whatever happens.

Its ``create`` carries a request id, so that it may be said again: whoever does not know whether it was carried out
asks once more, gets the first reply, and deletes what that names.
"""

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cnm.errors import CnmError, Conflict, NotFound, Timeout, Unavailable
from cnm_cli.client import Body, Client, Lost, connect
from cnm_cli.runtime import find_nats_url, read_instance
from cnm_cli.settings import Settings, from_environment

RETRY_FIRST_S = 0.1
RETRY_LAST_S = 2.0


@dataclass
class Lease:
    """A sandbox as it is asked for; ``sandbox_id`` is known once it was made.

    ``doubtful`` is true while it may exist although its id is not known.
    """

    body: Mapping[str, Any]
    request_id: str = field(default_factory=lambda: secrets.token_hex(16))
    sandbox_id: str | None = None
    doubtful: bool = False

    async def create(self, client: Client) -> Body:
        """Make the sandbox, or get the one that this lease made.

        Raises:
            CnmError: it was refused.
        """
        doubted, self.doubtful = self.doubtful, True
        try:
            made = await client.ask("cnm.v1.sandbox.create", self.body, request_id=self.request_id)
        except (Lost, Timeout):
            raise
        except CnmError as error:  # that nobody is there now tells nothing of what was carried out before
            self.doubtful = doubted and isinstance(error, Unavailable)
            raise
        self.sandbox_id, self.doubtful = made["id"], False
        return made

    async def delete(self, *, patience_s: float) -> None:
        """Delete the sandbox, if it was made; try again while CNM cannot be reached.

        Raises:
            CnmError: it could not be deleted within ``patience_s``.
        """
        give_up = time.monotonic() + patience_s
        pause_s = RETRY_FIRST_S
        while self.sandbox_id is not None or self.doubtful:
            try:
                # The address is looked up each time: it may come back on another port.
                async with connect(find_nats_url(from_environment(os.environ))) as client:
                    await self._delete(client)
            except (Unavailable, Timeout, Conflict):  # a conflict: somebody works on it right now
                if time.monotonic() + pause_s >= give_up:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(RETRY_LAST_S, pause_s * 2)

    async def _delete(self, client: Client) -> None:
        if self.sandbox_id is None:
            try:
                await self.create(client)
            except CnmError:
                if self.doubtful:
                    raise
                return  # it was refused then as now: there is nothing
        with contextlib.suppress(NotFound):
            await client.ask("cnm.v1.sandbox.delete", {"sandbox": self.sandbox_id, "force": True})
        self.sandbox_id = None


def own_node(settings: Settings) -> str:
    """Name the node that this process runs on: as `cnm up` was told, else as we are."""
    instance = read_instance(settings)
    return instance.node if instance else settings.node


def require_here(sandbox: Mapping[str, Any]) -> None:
    """Check that a sandbox is on this node.

    Raises:
        Unavailable: it is on another one.
    """
    here = own_node(from_environment(os.environ))
    if sandbox["node"] != here:
        raise Unavailable(f"sandbox {sandbox['name']!r} is on node {sandbox['node']}, and this is {here}")
