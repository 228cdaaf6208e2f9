"""IPAM: pools and addresses, for clients of IPAM alone and for the controller.

The controller asks for whatever one saga needs in one command (``AllocatePools``, ``AllocateAddresses``) and gives
everything back by its owner (``ReleaseOwned``), which may be said twice.
"""

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from cnm.messages.message import Command, Empty
from cnm.messages.network import MAX_POOLS, PoolRequest
from cnm.types import Address, Interface, Name, Prefix

PoolId = Annotated[str, Meta(min_length=1, max_length=256, description="opaque; as pool.request gave it")]
Owner = Annotated[str, Meta(min_length=1, max_length=256)]
Options = dict[str, str | int | bool]
Exclude = Annotated[list[Prefix], Meta(max_length=4096)]
Limit = Annotated[int, Meta(ge=1, le=10_000)]


class AddressSpace(msgspec.Struct, frozen=True, kw_only=True):
    """An address space and how many pools it holds."""

    name: str
    pools: int


class AddressSpaces(msgspec.Struct, frozen=True, kw_only=True):
    """Every address space that exists."""

    spaces: list[AddressSpace]


class ListSpaces(Command[AddressSpaces], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show the address spaces; ``after`` is the name of one, those that follow it are shown."""

    subject: ClassVar[str] = "cnm.v1.ipam.space.list"

    limit: Annotated[int, Meta(ge=1)] | None = None
    after: Name | None = None


class RequestedPool(msgspec.Struct, frozen=True, kw_only=True):
    """A pool that was handed out."""

    pool_id: str
    pool: Prefix
    options: dict[str, str] = {}
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class RequestPool(Command[RequestedPool], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reserve a pool: the one asked for, else the next predefined one.

    One that is chosen overlaps no pool of the space, nothing in ``exclude``, and no route or name server of a node.
    """

    subject: ClassVar[str] = "cnm.v1.ipam.pool.request"

    space: Name
    pool: Prefix | None = None
    sub_pool: Prefix | None = None
    options: Options = {}
    exclude: Exclude = []
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
    """Show the pools of a space, or of all; ``after`` is the id of a pool, those that were requested later follow."""

    subject: ClassVar[str] = "cnm.v1.ipam.pool.list"

    space: Name | None = None
    limit: Annotated[int, Meta(ge=1)] | None = None
    after: PoolId | None = None


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


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """An address that is held.

    ``owner`` is the id of a network or endpoint, or what a client called itself, if it did; ``holder`` is how
    messages call it, and ``use`` says what a network holds it for.
    """

    address: Interface
    pool_id: str
    owner: str | None
    holder: str
    use: str | None = None


class Leases(msgspec.Struct, frozen=True, kw_only=True):
    """Leases by address; ``after`` says where the next reply goes on, null when this was the last."""

    leases: list[Lease]
    after: Address | None = None


class ListAddresses(Command[Leases], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show who holds which address of a pool; ``after`` is an address of it, those above it follow."""

    subject: ClassVar[str] = "cnm.v1.ipam.address.list"

    pool_id: PoolId
    limit: Limit = 1000
    after: Address | None = None


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
    warnings: list[str] = []


class PoolWanted(msgspec.Struct, frozen=True, kw_only=True):
    """A pool that a network wants: ``request`` as the client said it, ``ipv6`` when it names no subnet.

    Without ``gateway`` none is reserved but one that the request names.
    """

    request: PoolRequest = PoolRequest()
    ipv6: bool = False
    gateway: bool = True


class AllocatePools(Command[AllocatedPools], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reserve all pools of a network, with gateways and auxiliary addresses: all or none.

    ``owner`` is the network's id and ``owner_label`` how messages call it; asked again, it replies the same pools.
    ``exclusive`` pools overlap no other one, not even one with a range of its own. ``device`` is the link that
    carries the network on a node: routes on it are the network's own. With ``dry_run`` nothing is reserved: the reply
    is what would be, besides whatever the owner holds.
    """

    subject: ClassVar[str] = "cnm.v1.ipam.network.allocate"

    owner: Owner
    owner_label: str
    space: Name
    pools: Annotated[list[PoolWanted], Meta(max_length=MAX_POOLS)]
    exclude: Exclude = []
    gateways: bool = True
    options: dict[str, str] = {}
    exclusive: bool = False
    device: str | None = None
    dry_run: bool = False


class AddressWanted(msgspec.Struct, frozen=True, kw_only=True):
    """An address that an endpoint wants: of this pool, ``address`` when it must be that one.

    ``others`` are the network's further pools of the family: one of them does when the first is full, or when it is
    the one that ``address`` lies in.
    """

    pool_id: PoolId
    address: Address | None = None
    others: list[PoolId] = []


class AllocatedAddresses(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint's addresses, in the order asked for."""

    addresses: list[Interface]


class AllocateAddresses(Command[AllocatedAddresses], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Reserve all addresses of an endpoint: all or none; asked again, it replies the same addresses.

    ``recall`` names the endpoint beyond its life: whoever asks under the same name gets the addresses that were last
    held under it, for as long as they are free.
    """

    subject: ClassVar[str] = "cnm.v1.ipam.endpoint.allocate"

    owner: Owner
    owner_label: str
    addresses: list[AddressWanted]
    options: dict[str, str] = {}
    recall: Owner | None = None


class ReleaseOwned(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Give back whatever an owner holds, pools and addresses; releasing nothing succeeds.

    Addresses rest first, unless they were never used: what is undone is ``unused``.
    """

    subject: ClassVar[str] = "cnm.v1.ipam.owner.release"

    owner: Owner
    unused: bool = False


class HeldAddress(msgspec.Struct, frozen=True, kw_only=True):
    """An address of a pool."""

    pool_id: PoolId
    address: Address


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """What was done: pools and addresses that were reserved again, and that were given back."""

    restored: list[str] = []
    given_back: list[str] = []


class ReconcileOwner(Command[Reconciled], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make what an owner holds just this: what is lost is reserved again, what is surplus goes back; or nothing.

    A network holds ``pools``, as they were allocated to it, an endpoint ``addresses``. Said twice, it changes nothing
    the second time; with ``dry_run`` it changes nothing at all and tells what it would.
    """

    subject: ClassVar[str] = "cnm.v1.ipam.owner.reconcile"

    owner: Owner
    owner_label: str
    pools: list[AllocatedPool] = []
    addresses: list[HeldAddress] = []
    surplus_pools: list[PoolId] = []
    surplus_addresses: list[HeldAddress] = []
    dry_run: bool = False
    options: dict[str, str] = {}
    exclusive: bool = False
    device: str | None = None
    recall: Owner | None = None


class LeasePage(msgspec.Struct, frozen=True, kw_only=True):
    """Leases by pool and address; ``after`` says where the next reply goes on, null when this was the last."""

    leases: list[Lease]
    after: str | None = None


class ListLeases(Command[LeasePage], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Show what networks and endpoints hold in all pools, page by page."""

    subject: ClassVar[str] = "cnm.v1.ipam.lease.list"

    limit: Limit = 1000
    after: str | None = None


class NodeRoute(msgspec.Struct, frozen=True, kw_only=True):
    """A prefix that a node uses: ``by`` says for what, ``device`` is the link that leads there."""

    prefix: Prefix
    by: str
    device: str | None = None


class ReportRoutes(Command[Empty], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell which prefixes a node uses: all of them, whenever they change, and now and then besides."""

    subject: ClassVar[str] = "cnm.v1.ipam.node.report"

    node: Annotated[str, Meta(min_length=1, max_length=253)]
    routes: list[NodeRoute]


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
    ListAddresses,
    AllocatePools,
    AllocateAddresses,
    ReleaseOwned,
    CountPools,
    ReconcileOwner,
    ListLeases,
    ReportRoutes,
)
