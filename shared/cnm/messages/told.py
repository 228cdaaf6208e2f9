"""What events tell of in a form that no ``get`` shows."""

import msgspec

from cnm.messages.drift import Difference
from cnm.messages.endpoint import PortBinding
from cnm.messages.ipam import Pool
from cnm.types import Id, Interface, Prefix


class ToldPorts(msgspec.Struct, frozen=True, kw_only=True):
    """The bindings of a sandbox that came or went; ``id`` is the sandbox's."""

    id: Id
    sandbox: Id
    name: str
    ports: list[PortBinding]


class PoolConflict(msgspec.Struct, frozen=True, kw_only=True):
    """A prefix that a node uses within a pool: ``by`` what, a route or a name server, on which ``device``."""

    node: str
    prefix: Prefix
    by: str
    device: str | None


class ToldPool(Pool, frozen=True, kw_only=True):
    """A pool as it is, or as it was when it was released; of ``pool.conflict`` also what is in its way."""

    conflicts: list[PoolConflict] | msgspec.UnsetType = msgspec.UNSET


class ToldAddress(msgspec.Struct, frozen=True, kw_only=True):
    """An address that was taken or given back."""

    pool_id: str
    address: Interface
    owner: str | None


class ToldNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node of which the first worker came, or the last one left; ``address`` is that of its default route."""

    name: str
    worker: str
    address: str | None


class ToldDrift(msgspec.Struct, frozen=True, kw_only=True):
    """What of an object was not as it should be; ``id`` is the object's, or the node's name."""

    id: str
    about: str
    differences: list[Difference]
