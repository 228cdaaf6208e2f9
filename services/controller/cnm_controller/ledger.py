"""Reads what is stored, typed, and says in a person's words what was not found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from cnm.errors import Invalid, NotFound
from cnm.store import Document, Found, Lookup, Store
from cnm_controller.documents import Body, EndpointBody, NetworkBody, SandboxBody, read
from cnm_controller.specs import Joined, joined_of


@dataclass(frozen=True, kw_only=True)
class Read(Generic[Body]):
    """A body with the document it was read from."""

    body: Body
    document: Document
    endpoints: tuple[EndpointBody, ...] = ()
    endpoint_documents: tuple[Document, ...] = ()


NETWORK_CHILDREN = ("endpoint", "endpoint:network")
SANDBOX_CHILDREN = ("endpoint", "endpoint:sandbox")


class Ledger:
    """Typed reading of the store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def network(self, key: str, *, endpoints: bool = False) -> Read[NetworkBody]:
        """Find a network, with its endpoints when asked.

        Raises:
            NotFound: there is none.
            Invalid: the key is a prefix of several ids.
        """
        (found,) = await self.store.find(_network_lookup(key, endpoints=endpoints))
        return _one(NetworkBody, found, "network", key)

    async def sandbox(self, key: str) -> Read[SandboxBody]:
        """Find a sandbox with its endpoints.

        Raises:
            NotFound: there is none.
            Invalid: the key is a prefix of several ids.
        """
        (found,) = await self.store.find(_sandbox_lookup(key))
        return _one(SandboxBody, found, "sandbox", key)

    async def sandbox_and_network(self, sandbox: str, network: str) -> tuple[Read[SandboxBody], Read[NetworkBody]]:
        """Find a sandbox with its endpoints, and a network, in one go.

        Raises:
            NotFound: one of them is not there.
            Invalid: a key is a prefix of several ids.
        """
        found = await self.store.find(_sandbox_lookup(sandbox), _network_lookup(network, endpoints=False))
        return _one(SandboxBody, found[0], "sandbox", sandbox), _one(NetworkBody, found[1], "network", network)

    async def endpoint(self, key: str, network: str | None) -> tuple[Read[EndpointBody], Read[NetworkBody]]:
        """Find an endpoint and its network; without a network only the full id of the endpoint will do.

        Raises:
            NotFound: there is none.
            Invalid: a key is a prefix of several ids.
        """
        on = await self.network(network) if network is not None else None
        (found,) = await self.store.find(Lookup(kind="endpoint", key=key, scope=on.body.id if on else ""))
        where = f" on network {on.body.name!r}" if on else ""
        endpoint = _one(EndpointBody, found, "endpoint", key, where)
        return endpoint, on or await self.network(endpoint.body.network_id)

    async def home_and(self, sandbox_id: str, key: str) -> tuple[Read[SandboxBody], Read[SandboxBody]]:
        """Find the sandbox of an id, and the one that a key names, in one go.

        Raises:
            NotFound: one of them is not there.
            Invalid: the key is a prefix of several ids.
        """
        home, named = await self.store.find(_sandbox_lookup(sandbox_id), _sandbox_lookup(key))
        return _one(SandboxBody, home, "sandbox", sandbox_id), _one(SandboxBody, named, "sandbox", key)

    async def home(self, endpoint: EndpointBody) -> SandboxBody | None:
        """Return the sandbox that an endpoint is in, if it is in one."""
        if endpoint.sandbox_id is None:
            return None
        (found,) = await self.store.find(Lookup(kind="sandbox", key=endpoint.sandbox_id))
        return None if found.document is None else read(SandboxBody, found.document)

    async def networks_of(self, endpoints: Sequence[EndpointBody]) -> dict[str, NetworkBody]:
        """Return the networks of endpoints, by id."""
        ids = list(dict.fromkeys(endpoint.network_id for endpoint in endpoints))
        if not ids:
            return {}
        found = await self.store.find(*(_network_lookup(each, endpoints=False) for each in ids))
        return {each.document.id: read(NetworkBody, each.document) for each in found if each.document is not None}

    async def joined(
        self, sandbox: Read[SandboxBody], known: Mapping[str, NetworkBody] = {}
    ) -> list[Joined]:  # never written
        """Pair the endpoints of a sandbox with their networks."""
        missing = [endpoint for endpoint in sandbox.endpoints if endpoint.network_id not in known]
        return joined_of(sandbox.endpoints, {**known, **await self.networks_of(missing)})


def _network_lookup(key: str, *, endpoints: bool) -> Lookup:
    kind, index = NETWORK_CHILDREN if endpoints else ("", "")
    return Lookup(kind="network", key=key, children_kind=kind, children=index)


def _sandbox_lookup(key: str) -> Lookup:
    return Lookup(kind="sandbox", key=key, children_kind=SANDBOX_CHILDREN[0], children=SANDBOX_CHILDREN[1])


def _one(kind: type[Body], found: Found, noun: str, key: str, where: str = "") -> Read[Body]:
    if found.ambiguous:
        raise Invalid.at(noun, key, f"{key!r} is the beginning of several {noun} ids{where}")
    if found.document is None:
        raise NotFound(f"no {noun} {key!r}{where}")
    return Read(
        body=read(kind, found.document),
        document=found.document,
        endpoints=tuple(read(EndpointBody, child) for child in found.children),
        endpoint_documents=found.children,
    )
