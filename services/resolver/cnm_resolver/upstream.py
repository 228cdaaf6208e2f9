"""One external server, asked from the namespace where it belongs."""

import socket
from collections.abc import Callable
from pathlib import Path

from cnm_resolver import tcp, udp, wire
from cnm_resolver.ports import Namespaces
from cnm_resolver.wire import Query
from cnm_resolver.zone import Server


class SocketUpstream:
    """Asks through a socket of its own each time, so that port and id are both random (RFC 5452)."""

    def __init__(self, namespaces: Namespaces, identifiers: Callable[[int], bytes]) -> None:
        self._namespaces = namespaces
        self._identifiers = identifiers

    async def exchange(self, server: Server, query: Query, namespace: Path, *, stream: bool) -> bytes:
        """Send the client's packet under an id of ours; return the reply under the client's.

        Raises:
            OSError: the server cannot be reached, or closed the connection.
        """
        kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
        where = namespace if server.inside else None
        packet = wire.with_id(query.packet, self._identifiers(2))
        ask = tcp.exchange if stream else udp.exchange
        with await self._namespaces.open_socket(where, wire.family_of(server.address), kind) as sock:
            reply = await ask(sock, server, packet, query.end)
        return wire.with_id(reply, query.packet[:2])
