"""How the command talks to an installation: over a line that, once lost, is an error and no reason to wait.

Bodies are plain dictionaries, since what a verb prints with ``-o json`` is the very body that came.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from cnm import client as shared
from cnm.client import Body, Client, Lost, Service
from cnm.errors import Unavailable

__all__ = ["Ask", "Body", "Client", "Lost", "Readiness", "Service", "connect", "open_client"]

Ask = Callable[[str, Mapping[str, Any]], Awaitable[Body]]
"""Sends a body to a subject and returns the reply's; raises `CnmError` when refused."""


async def open_client(nats_url: str) -> Client:
    """Connect.

    Raises:
        Unavailable: no NATS server answers there, or it and we do not trust each other.
        Invalid: what the environment says of credentials is at fault.
    """
    return await shared.open_client(nats_url, name="cnm", reconnect=False)


def connect(nats_url: str) -> AbstractAsyncContextManager[Client]:
    """Hold a connection for the length of one command.

    Raises:
        Unavailable: no NATS server answers there.
    """
    return shared.connect(nats_url, name="cnm", reconnect=False)


class Readiness:
    """Asks workers whether they are there, over one connection that is made again when it is lost."""

    def __init__(self, nats_url: str) -> None:
        self._nats_url = nats_url
        self._client: Client | None = None
        self._connecting = asyncio.Lock()

    async def answers(self, name: str, node: str) -> bool:
        """Tell whether a worker of that name serves the node; False also when NATS is away."""
        try:
            async with self._connecting:
                self._client = self._client or await open_client(self._nats_url)
            return bool(await self._client.discover(name, node=node, wait_s=0.25))
        except Unavailable:
            await self.close()
            return False

    async def close(self) -> None:
        """Close the connection; the next question opens another."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
