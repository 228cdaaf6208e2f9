"""What a request wishes for, after every fault in it has been looked for, and which pools would grant it.

Field names are those of the client's request, so that ``details.fields`` points into what the client sent: a
network's pools are ``ipam.pools[<index>]``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from cnm.errors import Fault, Invalid
from cnm.messages.ipam import Options, PoolWanted, RequestPool
from cnm.types import Address, Prefix
from cnm_ipam.pool import AddressPool, contains, is_size_hint, overlap, unfit_pool
from cnm_ipam.predefined import Predefined, free_pools, has_predefined, sized

SERIAL = "com.docker.network.ipam.serial"
CANDIDATES = 32

# Options that Docker sends to every IPAM driver; a driver that does not need them ignores them.
_IGNORED_OPTIONS = (
    "RequestAddressType",
    "com.docker.network.endpoint.macaddress",
    "com.docker.network.endpoint.name",
)
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


@dataclass(frozen=True, kw_only=True)
class PoolWish:
    """A pool that is asked for: ``pool`` itself, or the next predefined one, of ``size`` when that is given.

    ``wants_gateway`` asks for the lowest free address when ``gateway`` names none.
    """

    space: str
    pool: Prefix | None = None
    sub_pool: Prefix | None = None
    size: int | None = None
    ipv6: bool = False
    gateway: Address | None = None
    wants_gateway: bool = False
    aux_addresses: Mapping[str, Address] = field(default_factory=dict)

    @property
    def turn(self) -> str:
        """Return the name of the cursor that remembers the last pool handed out to a wish like this."""
        return f"{self.space} {6 if self.ipv6 else 4} {self.size or 'default'}"


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a space holds: its pools, the last pool handed out at each turn, and the id of the installation."""

    installation: str
    taken: Sequence[Prefix]
    turns: Mapping[str, Prefix]


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """A wish and the pools that would grant it, the best first."""

    wish: PoolWish
    candidates: tuple[AddressPool, ...]


def options_text(options: Options) -> dict[str, str]:
    """Write options as Docker does: everything is text."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}


def serial_option(options: Mapping[str, str], field: str) -> bool | None:
    """Return whether addresses are wanted in turn; None when the options do not say.

    Raises:
        Invalid: an option is unknown, or its value is neither true nor false.

    """
    faults = _option_faults(options, field)
    if faults:
        raise Invalid.of(faults)
    return options[SERIAL] in _TRUE if SERIAL in options else None


def _option_faults(options: Mapping[str, str], field: str) -> list[Fault]:
    faults = [
        Fault(field=f"{field}.{name}", value=value, reason=f"unknown option {name}, the one there is is {SERIAL}")
        for name, value in options.items()
        if name != SERIAL and name not in _IGNORED_OPTIONS
    ]
    if SERIAL in options and options[SERIAL] not in (*_TRUE, *_FALSE):
        value = options[SERIAL]
        faults.append(Fault(field=f"{field}.{SERIAL}", value=value, reason=f"expected true or false, got {value!r}"))
    return faults


def wish_of(command: RequestPool) -> PoolWish:
    """Return what a client wishes for.

    Raises:
        Invalid: with every fault of the request.

    """
    faults = list(_pool_faults(command.pool, "pool"))
    if command.sub_pool is not None:
        faults += _part_faults(command.sub_pool, command.pool, "sub_pool", "pool")
    faults += _space_faults(command.space, command.pool, "space")
    if command.pool is not None and command.ipv6 and command.pool.version == 4:
        reason = f"{command.pool} is an IPv4 pool, leave ipv6 out"
        faults.append(Fault(field="ipv6", value=command.ipv6, reason=reason))
    faults += _option_faults(options_text(command.options), "options")
    if faults:
        raise Invalid.of(faults)
    hint = command.pool is not None and is_size_hint(command.pool)
    return PoolWish(
        space=command.space,
        pool=None if hint else command.pool,
        sub_pool=command.sub_pool,
        size=command.pool.prefixlen if command.pool is not None and hint else None,
        ipv6=command.ipv6 if command.pool is None else command.pool.version == 6,
    )


def wishes_of(
    space: str, wanted: Sequence[PoolWanted], options: Mapping[str, str], *, gateways: bool
) -> tuple[PoolWish, ...]:
    """Return what a network wishes for.

    Raises:
        Invalid: with every fault of every pool.

    """
    faults = _option_faults(options, "ipam.options")
    for index, want in enumerate(wanted):
        faults += _wanted_faults(want, f"ipam.pools[{index}]")
    if any(want.request.subnet is None or is_size_hint(want.request.subnet) for want in wanted):
        faults += _space_faults(space, None, "ipam.address_space")
    faults += _clashes(wanted)
    if faults:
        raise Invalid.of(faults)
    return tuple(_wish(space, want, gateways=gateways) for want in wanted)


def _wish(space: str, want: PoolWanted, *, gateways: bool) -> PoolWish:
    subnet = want.request.subnet
    hint = subnet is not None and is_size_hint(subnet)
    return PoolWish(
        space=space,
        pool=None if hint else subnet,
        sub_pool=want.request.range,
        size=subnet.prefixlen if subnet is not None and hint else None,
        ipv6=want.ipv6 if subnet is None else subnet.version == 6,
        gateway=want.request.gateway,
        wants_gateway=gateways,
        aux_addresses=want.request.aux_addresses,
    )


def _space_faults(space: str, pool: Prefix | None, field: str) -> Iterable[Fault]:
    if (pool is None or is_size_hint(pool)) and not has_predefined(space):
        reason = f"{space} has no predefined pools, name the pool; LocalDefault and GlobalDefault have"
        yield Fault(field=field, value=space, reason=reason)


def _pool_faults(pool: Prefix | None, field: str) -> Iterable[Fault]:
    reason = unfit_pool(pool) if pool is not None and not is_size_hint(pool) else None
    if reason is not None:
        yield Fault(field=field, value=str(pool), reason=reason)


def _part_faults(part: Prefix, whole: Prefix | None, field: str, of: str) -> Iterable[Fault]:
    reason = None
    if whole is None or is_size_hint(whole):
        reason = f"{part} needs the {of} that it is a part of"
    elif part.version != whole.version:
        reason = f"{part} and {whole} are of different families"
    elif contains(part, whole) and part != whole:
        reason = f"{part} is bigger than {whole}, at most {whole} is possible"
    elif not contains(whole, part):
        right = type(whole)((whole.network_address, max(part.prefixlen, whole.prefixlen)))
        reason = f"{part} is not inside {whole}, which has {right} for example"
    if reason is not None:
        yield Fault(field=field, value=str(part), reason=reason)


def _wanted_faults(want: PoolWanted, field: str) -> Iterable[Fault]:
    request = want.request
    yield from _pool_faults(request.subnet, f"{field}.subnet")
    if request.range is not None:
        yield from _part_faults(request.range, request.subnet, f"{field}.range", "subnet")
    named = {f"aux_addresses.{name}": address for name, address in request.aux_addresses.items()}
    if request.gateway is not None:
        named = {"gateway": request.gateway, **named}
    seen: dict[Address, str] = {}
    for name, address in named.items():
        reason = None
        if request.subnet is None or is_size_hint(request.subnet):
            reason = f"{address} needs the subnet that it lies in"
        elif request.subnet.prefixlen > 0:
            reason = AddressPool(space="", pool=request.subnet).unfit(address)
        if address in seen:
            reason = f"{address} is the address of {seen[address]} too"
        seen.setdefault(address, name)
        if reason is not None:
            yield Fault(field=f"{field}.{name}", value=str(address), reason=reason)


def _clashes(wanted: Sequence[PoolWanted]) -> Iterable[Fault]:
    """Yield the subnets that cannot stand beside an earlier one of the same network; ranges may share a subnet."""
    for index, want in enumerate(wanted):
        for earlier, other in enumerate(wanted[:index]):
            one, two = want.request, other.request
            if one.subnet is None or two.subnet is None or is_size_hint(one.subnet) or is_size_hint(two.subnet):
                continue
            shared = one.range is not None and two.range is not None and one.range != two.range
            if overlap(one.subnet, two.subnet) and not shared:
                reason = f"{one.subnet} overlaps {two.subnet} of ipam.pools[{earlier}]"
                yield Fault(field=f"ipam.pools[{index}].subnet", value=str(one.subnet), reason=reason)
                break


def plan(
    wish: PoolWish, survey: Survey | None, *, predefined: Predefined, exclude: Sequence[Prefix], field: str
) -> PoolPlan:
    """Return the pools that would grant a wish: the one it names, else the next free predefined ones.

    ``survey`` may be None when the wish names its pool.

    Raises:
        Invalid: no predefined pool is as large as the size asked for.

    """
    if wish.pool is not None:
        only = AddressPool(space=wish.space, pool=wish.pool, sub_pool=wish.sub_pool)
        return PoolPlan(wish=wish, candidates=(only,))
    if survey is None:
        raise TypeError("a wish for a predefined pool needs a survey of its space")
    bases = predefined.bases(wish.space, ipv6=wish.ipv6, installation=survey.installation)
    if wish.size is not None:
        largest = min(base.prefix.prefixlen for base in bases)
        bases = sized(bases, wish.size)
        if not bases:
            reason = f"no predefined pool is as large as /{wish.size}, the largest is /{largest}"
            raise Invalid.at(field, f"/{wish.size}", reason)
    found = free_pools(bases, [*survey.taken, *exclude], after=survey.turns.get(wish.turn))
    first = islice(found, CANDIDATES)
    return PoolPlan(wish=wish, candidates=tuple(AddressPool(space=wish.space, pool=pool) for pool in first))
