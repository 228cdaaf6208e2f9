"""How the command talks to an installation: requests with JSON bodies, and the discovery of services.

Bodies are plain dictionaries, since what a verb prints with ``-o json`` is the very body that came.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client as NatsConnection

from cnm.errors import CnmError, ErrorReply, Internal, Timeout, Unavailable, Undelivered, from_reply
from cnm.nats_access import access, without_secrets

Body = dict[str, Any]
Ask = Callable[[str, Mapping[str, Any]], Awaitable[Body]]
"""Sends a body to a subject and returns the reply's; raises `CnmError` when refused."""

CONNECT_TIMEOUT_S = 2
GRACE_S = 1.0
"""How much longer than the deadline we wait for the worker to say that it passed."""


class Service(msgspec.Struct, frozen=True):
    """One running worker, as its answer to ``$SRV.PING`` tells (ADR-32)."""

    name: str
    id: str
    version: str
    metadata: dict[str, str] | None = None

    def serves(self, node: str) -> bool:
        """Tell whether it serves a node; one that belongs to none serves all."""
        return (self.metadata or {}).get("node", node) == node


class Lost(Unavailable):
    """The line to NATS broke: whether the request was carried out is not known."""


class Client:
    """An open connection. Make one with `connect`."""

    def __init__(self, connection: NatsConnection) -> None:
        self.connection = connection

    async def ask(
        self,
        subject: str,
        body: Mapping[str, Any] | None = None,
        *,
        deadline_s: float = 10.0,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Body:
        """Send a request and return the reply's body; with a request id it may be said again.

        Raises:
            CnmError: the owner refused; ``Undelivered`` when nobody answers the subject; ``Lost`` or ``Timeout``
                when it is not known whether the request was carried out.
        """
        try:
            reply = await self.connection.request(
                subject,
                msgspec.json.encode(body or {}),
                timeout=deadline_s + GRACE_S,
                headers={
                    "Cnm-Deadline-Ms": str(round(deadline_s * 1000)),
                    **({"Cnm-Request-Id": request_id} if request_id else {}),
                    **(headers or {}),
                },
            )
        except nats.errors.NoRespondersError:
            raise Undelivered(f"nobody answers {subject}: is its worker running?") from None
        except nats.errors.TimeoutError:
            raise Timeout(f"no answer to {subject} within {deadline_s:g} s") from None
        except nats.errors.Error as error:
            raise Lost(f"the connection to NATS failed: {error}") from error
        if (reply.headers or {}).get("Nats-Service-Error-Code"):
            raise _refusal(subject, reply.data)
        return msgspec.json.decode(reply.data or b"{}", type=Body)

    async def close(self) -> None:
        """Close the connection; closing a lost one is harmless."""
        with suppress(OSError, nats.errors.Error):
            await self.connection.close()

    async def discover(
        self, name: str | None = None, *, node: str | None = None, wait_s: float = 0.5
    ) -> list[Service]:
        """List the workers that answer within ``wait_s``, those of one name or all.

        With a node it returns the first one that serves it, as soon as that has answered.
        """
        found: list[Service] = []
        try:
            inbox = self.connection.new_inbox()
            answers = await self.connection.subscribe(inbox)
        except nats.errors.Error as error:
            raise Unavailable(f"the connection to NATS failed: {error}") from error
        try:
            await self.connection.publish(f"$SRV.PING.{name}" if name else "$SRV.PING", reply=inbox)
            async with asyncio.timeout(wait_s):
                while True:
                    answer = await answers.next_msg(timeout=None)
                    if answer.headers and answer.headers.get("Status") == "503":  # nobody is there
                        return []
                    service = msgspec.json.decode(answer.data, type=Service)
                    if node is None:
                        found.append(service)
                    elif service.serves(node):
                        return [service]
        except TimeoutError:
            return found
        except nats.errors.Error as error:
            raise Unavailable(f"the connection to NATS failed: {error}") from error
        finally:
            with suppress(nats.errors.Error):
                await answers.unsubscribe()


async def open_client(nats_url: str) -> Client:
    """Connect; a connection that is lost later is an error, not a reason to wait.

    Raises:
        Unavailable: no NATS server answers there, or it and we do not trust each other.
        Invalid: what the environment says of credentials is at fault.
    """
    reasons: list[str] = []
    servers = [server.strip() for server in nats_url.split(",")]
    options = access(os.environ, servers)

    async def remember(error: Exception) -> None:
        """Keep why it failed: what `connect` raises does not say, and nats-py would log it otherwise."""
        reasons.append(str(error).removeprefix("nats: "))

    connection = NatsConnection()
    try:
        await connection.connect(
            servers=servers,
            name="cnm",
            allow_reconnect=False,
            max_reconnect_attempts=1,  # counts for the first connection too, which would be tried for two minutes
            reconnect_time_wait=0,
            connect_timeout=CONNECT_TIMEOUT_S,
            error_cb=remember,
            **options,
        )
    except (OSError, TimeoutError, nats.errors.Error) as error:
        reason = reasons[-1] if reasons else str(error)
        raise Unavailable(f"cannot reach NATS at {without_secrets(nats_url)}: {reason or 'no answer'}") from None
    return Client(connection)


@asynccontextmanager
async def connect(nats_url: str) -> AsyncIterator[Client]:
    """Hold a connection for the length of one command.

    Raises:
        Unavailable: no NATS server answers there.
    """
    client = await open_client(nats_url)
    try:
        yield client
    finally:
        await client.close()


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


def _refusal(subject: str, body: bytes) -> CnmError:
    try:
        return from_reply(msgspec.json.decode(body, type=ErrorReply))
    except msgspec.DecodeError:
        return Internal(f"{subject} was refused without a reason")
