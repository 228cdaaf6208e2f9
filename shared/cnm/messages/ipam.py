"""IPAM: pools and addresses, for clients of IPAM alone and for the controller.

The controller asks for whatever one saga needs in one command (``AllocatePools``, ``AllocateAddresses``) and gives
everything back by its owner (``ReleaseOwned``), which may be said twice.
"""

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from cnm.messages.message import Command, Empty
from cnm.messages.network import PoolRequest
from cnm.types import Address, Interface, Name, Prefix

PoolId = Annotated[str, Meta(min_length=1, max_length=256, description="opaque; as pool.request gave it")]
Owner = Annotated[str, Meta(min_length=1, max_length=256)]
Options = dict[str, str | int | bool]


class AddressSpace(msgspec.Struct, frozen=True, kw_only=True):
    """An address space and how many pools it holds."""

    name: str
    pools: int


class AddressSpaces(msgspec.Struct, frozen=True, kw_only=True):
    """Every address space that exists."""

    spaces: list[AddressSpace]


class ListSpaces(Command[AddressSpaces], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show the address spaces."""

    subject: ClassVar[str] = "cnm.v1.ipam.space.list"


class RequestedPool(msgspec.Struct, frozen=True, kw_only=True):
    """A pool that was handed out."""

    pool_id: str
    pool: Prefix
    options: dict[str, str] = {}


class RequestPool(Command[RequestedPool], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reserve a pool: the one asked for, else the next predefined one that overlaps nothing in ``exclude``."""

    subject: ClassVar[str] = "cnm.v1.ipam.pool.request"

    space: Name
    pool: Prefix | None = None
    sub_pool: Prefix | None = None
    options: Options = {}
    exclude: list[Prefix] = []
    ipv6: bool = False


class ReleasePool(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give a pool back; one that a network owns is refused."""

    subject: ClassVar[str] = "cnm.v1.ipam.pool.release"

    pool_id: PoolId


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """A pool as shown; counts are text above 2^53; ``owner`` is null for one that a client requested itself."""

    pool_id: str
    space: str
    pool: Prefix
    sub_pool: Prefix | None
    options: dict[str, str]
    owner: str | None
    in_use: int | str
    available: int | str


class Pools(msgspec.Struct, frozen=True, kw_only=True):
    """Pools, in the order of their request."""

    pools: list[Pool]


class GetPool(Command[Pool], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show one pool."""

    subject: ClassVar[str] = "cnm.v1.ipam.pool.get"

    pool_id: PoolId


class ListPools(Command[Pools], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show the pools of a space, or of all."""

    subject: ClassVar[str] = "cnm.v1.ipam.pool.list"

    space: Name | None = None


class AddressLease(msgspec.Struct, frozen=True, kw_only=True):
    """An address that was handed out, with the prefix length of its pool."""

    address: Interface
    options: dict[str, str] = {}


class RequestAddress(Command[AddressLease], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reserve one address of a pool; an owner that asks again gets the same one."""

    subject: ClassVar[str] = "cnm.v1.ipam.address.request"

    pool_id: PoolId
    address: Address | None = None
    owner: Owner | None = None
    options: Options = {}


class ReleaseAddress(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give an address back; it rests before somebody else gets it."""

    subject: ClassVar[str] = "cnm.v1.ipam.address.release"

    pool_id: PoolId
    address: Address


class AllocatedPool(msgspec.Struct, frozen=True, kw_only=True):
    """A network's pool with its gateway and auxiliary addresses reserved."""

    pool_id: str
    subnet: Prefix
    range: Prefix | None = None
    gateway: Address | None = None
    aux_addresses: dict[str, Address] = {}


class AllocatedPools(msgspec.Struct, frozen=True, kw_only=True):
    """A network's pools, in the order asked for."""

    pools: list[AllocatedPool]


class PoolWanted(msgspec.Struct, frozen=True, kw_only=True):
    """A pool that a network wants: ``request`` as the client said it, ``ipv6`` when it names no subnet."""

    request: PoolRequest = PoolRequest()
    ipv6: bool = False


class AllocatePools(Command[AllocatedPools], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reserve all pools of a network, with gateways and auxiliary addresses: all or none.

    ``owner`` is the network's id and ``owner_label`` how messages call it; asked again, it replies the same pools.
    """

    subject: ClassVar[str] = "cnm.v1.ipam.network.allocate"

    owner: Owner
    owner_label: str
    space: Name
    pools: list[PoolWanted]
    exclude: list[Prefix] = []
    gateways: bool = True
    options: dict[str, str] = {}


class AddressWanted(msgspec.Struct, frozen=True, kw_only=True):
    """An address that an endpoint wants: of this pool, ``address`` when it must be that one."""

    pool_id: PoolId
    address: Address | None = None


class AllocatedAddresses(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint's addresses, in the order asked for."""

    addresses: list[Interface]


class AllocateAddresses(Command[AllocatedAddresses], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reserve all addresses of an endpoint: all or none; asked again, it replies the same addresses."""

    subject: ClassVar[str] = "cnm.v1.ipam.endpoint.allocate"

    owner: Owner
    owner_label: str
    addresses: list[AddressWanted]
    options: dict[str, str] = {}


class ReleaseOwned(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give back whatever an owner holds, pools and addresses; releasing nothing succeeds."""

    subject: ClassVar[str] = "cnm.v1.ipam.owner.release"

    owner: Owner


class PoolUsage(msgspec.Struct, frozen=True, kw_only=True):
    """How full a pool is; counts are text above 2^53."""

    pool_id: str
    in_use: int | str
    available: int | str


class PoolUsages(msgspec.Struct, frozen=True, kw_only=True):
    """The usage of each pool asked about that exists."""

    usages: list[PoolUsage]


class CountPools(Command[PoolUsages], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Count the addresses of many pools at once."""

    subject: ClassVar[str] = "cnm.v1.ipam.pool.count"

    pool_ids: list[PoolId]


IPAM_COMMANDS: tuple[type[Command[Any]], ...] = (
    ListSpaces,
    RequestPool,
    ReleasePool,
    GetPool,
    ListPools,
    RequestAddress,
    ReleaseAddress,
    AllocatePools,
    AllocateAddresses,
    ReleaseOwned,
    CountPools,
)
