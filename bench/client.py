"""A client as a stranger would write it: NATS request and reply, JSON bodies, a clock."""

import json
import time
from typing import Any

import nats
from nats.aio.client import Client as Nats


class Client:
    """Asks, and says how long the answer took in milliseconds."""

    def __init__(self, connection: Nats) -> None:
        self.connection = connection

    @classmethod
    async def connect(cls, url: str) -> "Client":
        return cls(await nats.connect(url))

    async def close(self) -> None:
        await self.connection.close()

    async def ask(self, verb: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
        """Ask, and return the reply's body; a refusal ends the benchmark."""
        return json.loads(await self._ask(verb, body, headers))

    async def timed(self, verb: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> float:
        """Ask, and return the milliseconds until the reply; a refusal ends the benchmark."""
        began = time.perf_counter()
        await self._ask(verb, body, headers)
        return (time.perf_counter() - began) * 1000

    async def _ask(self, verb: str, body: dict[str, Any], headers: dict[str, str] | None) -> bytes:
        reply = await self.connection.request(
            f"cnm.v1.{verb}", json.dumps(body).encode(), timeout=30, headers=headers or None
        )
        if reply.headers and "Nats-Service-Error" in reply.headers:
            raise RuntimeError(f"{verb}: {reply.headers['Nats-Service-Error']}")
        return reply.data
