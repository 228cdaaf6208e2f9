"""What the handlers need of the node."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cnm import types
from cnm.messages.namespace import Gateway, NamespaceCounters, PortSight, SandboxSpec


@dataclass(frozen=True)
class Found:
    """What stands under the run directory: namespaces by path, directories of files by sandbox id."""

    namespaces: frozenset[str] = frozenset()
    directories: frozenset[str] = frozenset()


class Node(Protocol):
    """The node's namespaces and the sandboxes' files.

    Each method is one piece of work: what is asked later is done later, and sees all of what went before. One that
    does not ``repairs`` only looks on: it tells what it would do.
    """

    repairs: bool

    async def ensure(self, spec: SandboxSpec) -> Sequence[str]:
        """Make a sandbox's namespace and files stand; return what had to be done, as text.

        Raises:
            Invalid: what it should adopt is not a namespace, or is the node's own.
            Conflict: something else is in the way; nothing was changed.
            Unsupported: the kernel lacks a setting; a namespace made for it is gone again.

        """
        ...

    async def route(self, namespace: str, gateways: Sequence[Gateway], *, patient: bool = False) -> Sequence[str]:
        """Make the default routes exactly these; return what had to be done, as text.

        ``patient`` leaves a family alone whose interface is not there yet.

        Raises:
            NotFound: no such namespace, or no such interface in it.
            Invalid: a gateway cannot be reached over its interface.

        """
        ...

    async def remove(self, spec: SandboxSpec) -> None:
        """Remove a sandbox's files, and its namespace if we made it; what is gone is fine."""
        ...

    async def glance(self, specs: Iterable[SandboxSpec]) -> Mapping[str, Hashable]:
        """Return, by sandbox, what can be seen of it without entering its namespace or reading its files.

        It is another when the namespace, a file of the sandbox, or the node's file that it follows is another.
        """
        ...

    async def namespace_id(self, namespace: str) -> int | None:
        """Return the id by which notifications tell of a sandbox's namespace; None of the node's own."""
        ...

    async def look(self, namespace: str, protocol: types.Protocol, port: int) -> PortSight:
        """Look who listens on a port of a namespace.

        Raises:
            NotFound: no such namespace.

        """
        ...

    async def count(self, namespace: str) -> NamespaceCounters:
        """Read the counters of a namespace's interfaces but the loopback, by name.

        Raises:
            NotFound: no such namespace.

        """
        ...

    async def list_ours(self) -> Found:
        """Find what we left under the run directory."""
        ...

    async def sweep(self, namespaces: Collection[str], directories: Collection[str]) -> None:
        """Remove namespaces by path and directories by sandbox id; all are tried, then errors are raised together."""
        ...
