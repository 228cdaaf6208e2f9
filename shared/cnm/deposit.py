"""Sockets deposited with a process that outlives a worker: nothing sent to them is lost while it is restarted.

What waits in a socket's buffer belongs to the socket, and a socket lives as long as anybody has it open. A worker
deposits duplicates under names of its own; the next one takes them and reads on. The supervisor of a node keeps them
(`cnm up`): a message each way on a unix socket, descriptors beside it (unix(7), SCM_RIGHTS).
"""

import asyncio
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from cnm.kernel.netlink import SO_SNDBUFFORCE

DEPOSIT = "deposit.sock"
"""Under the run directory."""
PATIENCE_S = 1.0
LARGEST = 1 << 20
AT_ONCE = 253
"""At most, under one name: no message carries more (SCM_MAX_FD)."""

Verb = Literal["put", "take", "drop", "retain"]

log = structlog.get_logger()


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a deposit: keep the descriptors beside, give those of a name, or drop some.

    Names are an owner's own; ``count`` descriptors were sent, of which a process without room for more gets fewer.
    """

    verb: Verb
    owner: str
    names: list[str]
    count: int = 0


_encode = msgspec.json.Encoder().encode
_orders = msgspec.json.Decoder(Order)


class Deposit:
    """Keeps duplicates of sockets under names; whoever connects may have them, so the path is root's alone."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self._kept: dict[tuple[str, str], tuple[int, ...]] = {}
        self._clients: set[socket.socket] = set()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(listening, self._accept)

    def __len__(self) -> int:
        """Count the names."""
        return len(self._kept)

    def _accept(self) -> None:
        with suppress(OSError):
            client, _ = self._listening.accept()
            client.setblocking(False)
            self._clients.add(client)
            self._loop.add_reader(client, self._read, client)

    def _read(self, client: socket.socket) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(client, LARGEST, AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            message, descriptors = b"", []
        if not message:
            self._forget(client)
            return
        try:
            order = _orders.decode(message)
            if order.verb == "put" and order.names:
                self._drop(order.owner, order.names[0])
                if len(descriptors) == order.count:  # else rather none than some of them
                    self._kept[order.owner, order.names[0]] = tuple(descriptors)
                    descriptors = []
            socket.send_fds(client, [b"{}"], self._obey(order))
        except (msgspec.DecodeError, OSError):  # none of ours, or one that ended meanwhile
            self._forget(client)
        finally:
            for each in descriptors:
                socket.close(each)

    def _obey(self, order: Order) -> Sequence[int]:
        match order.verb:
            case "take":
                return self._kept.get((order.owner, order.names[0]), ()) if order.names else ()
            case "drop":
                for name in order.names:
                    self._drop(order.owner, name)
            case "retain":
                names = {name for owner, name in self._kept if owner == order.owner}
                for name in names - set(order.names):
                    self._drop(order.owner, name)
        return ()

    def _drop(self, owner: str, name: str) -> None:
        for descriptor in self._kept.pop((owner, name), ()):
            socket.close(descriptor)

    def _forget(self, client: socket.socket) -> None:
        """Let a client go; what it deposited stays."""
        self._loop.remove_reader(client)
        self._clients.discard(client)
        client.close()

    def close(self) -> None:
        """Close everything."""
        self._loop.remove_reader(self._listening)
        for client in tuple(self._clients):
            self._forget(client)
        for owner, name in tuple(self._kept):
            self._drop(owner, name)


@contextmanager
def open_deposit(path: Path) -> Iterator[Deposit]:
    """Keep what is deposited at a path while the block runs; in the loop that runs now."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.setblocking(False)
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen()
        deposit = Deposit(listening)
        try:
            yield deposit
        finally:
            deposit.close()
            path.unlink(missing_ok=True)


class Depositor:
    """Deposits sockets, and takes them; for one thread, which waits for the answers.

    Where nobody keeps anything nothing is kept, and taking gives nothing: whoever takes makes new sockets then.
    """

    def __init__(self, path: Path, owner: str) -> None:
        self._path = path
        self._owner = owner
        self._socket: socket.socket | None = None

    def put(self, name: str, sockets: Sequence[socket.socket]) -> None:
        """Keep duplicates under a name, instead of what is kept under it."""
        self._close(self._ask("put", [name], [each.fileno() for each in sockets]))

    def take(self, name: str) -> tuple[socket.socket, ...]:
        """Return sockets that are one's own from now on, of what is kept under a name, which stays kept."""
        return tuple(socket.socket(fileno=each) for each in self._ask("take", [name]))

    def drop(self, *names: str) -> None:
        """Keep no more what is under some names."""
        self._close(self._ask("drop", list(names)))

    def retain(self, names: Collection[str]) -> None:
        """Drop all but some names."""
        self._close(self._ask("retain", list(names)))

    def close(self) -> None:
        """Let go of who keeps them, not of what is kept."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _ask(self, verb: Verb, names: list[str], descriptors: Sequence[int] = ()) -> list[int]:
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self._socket.settimeout(PATIENCE_S)
                self._socket.connect(str(self._path))
            order = _encode(Order(verb=verb, owner=self._owner, names=names, count=len(descriptors)))
            self._make_room(len(order))
            socket.send_fds(self._socket, [order], descriptors)
            answer, given, _, _ = socket.recv_fds(self._socket, 64, AT_ONCE)
        except (FileNotFoundError, ConnectionRefusedError):
            self.close()  # nobody keeps anything here
            return []
        except OSError as error:
            log.warning("deposit.failed", verb=verb, error=str(error))
            self.close()
            return []
        if not answer:
            self.close()
        return given

    def _make_room(self, size: int) -> None:
        """Let a message be as long as the names of thousands."""
        assert self._socket is not None
        for option in (socket.SO_SNDBUF, SO_SNDBUFFORCE):
            if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < 2 * size:
                with suppress(PermissionError):
                    self._socket.setsockopt(socket.SOL_SOCKET, option, 2 * size)

    @staticmethod
    def _close(descriptors: Sequence[int]) -> None:
        for each in descriptors:
            socket.close(each)
