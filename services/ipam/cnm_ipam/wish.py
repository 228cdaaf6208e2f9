"""What a request wishes for, after every fault in it has been looked for, and which pools would grant it.

Field names are those of the client's request, so that ``details.fields`` points into what the client sent: a
network's pools are ``ipam.pools[<index>]``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cnm.errors import Fault, Invalid
from cnm.messages.ipam import Options, PoolWanted, RequestPool
from cnm.pool_faults import (
    SERIAL,
    TRUE,
    leaves_open,
    network_faults,
    option_faults,
    part_faults,
    pool_faults,
    space_faults,
)
from cnm.types import Address, Prefix
from cnm_ipam.pool import AddressPool
from cnm_ipam.predefined import Base, Predefined, sized


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
class PoolPlan:
    """A wish and what would grant it: the pool that it names, or the next free one of the bases."""

    wish: PoolWish
    named: AddressPool | None = None
    bases: tuple[Base, ...] = ()


def options_text(options: Options) -> dict[str, str]:
    """Write options as Docker does: everything is text."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}


def serial_option(options: Mapping[str, str], field: str) -> bool | None:
    """Return whether addresses are wanted in turn; None when the options do not say.

    Raises:
        Invalid: an option is unknown, or its value is neither true nor false.

    """
    faults = list(option_faults(options, field))
    if faults:
        raise Invalid.of(faults)
    return options[SERIAL] in TRUE if SERIAL in options else None


def wish_of(command: RequestPool) -> PoolWish:
    """Return what a client wishes for.

    Raises:
        Invalid: with every fault of the request.

    """
    faults = [
        *pool_faults(command.pool, "pool"),
        *part_faults(command.sub_pool, command.pool, "sub_pool", "pool"),
        *space_faults(command.space, command.pool, "space"),
    ]
    if command.pool is not None and command.ipv6 and command.pool.version == 4:
        reason = f"{command.pool} is an IPv4 pool, leave ipv6 out"
        faults.append(Fault(field="ipv6", value=command.ipv6, reason=reason))
    faults += option_faults(options_text(command.options), "options")
    if faults:
        raise Invalid.of(faults)
    return PoolWish(
        space=command.space,
        pool=None if leaves_open(command.pool) else command.pool,
        sub_pool=command.sub_pool,
        size=command.pool.prefixlen if command.pool is not None and leaves_open(command.pool) else None,
        ipv6=command.ipv6 if command.pool is None else command.pool.version == 6,
    )


def wishes_of(
    space: str, wanted: Sequence[PoolWanted], options: Mapping[str, str], *, gateways: bool
) -> tuple[PoolWish, ...]:
    """Return what a network wishes for.

    Raises:
        Invalid: with every fault of every pool.

    """
    faults = list(network_faults(space, [want.request for want in wanted], options))
    if faults:
        raise Invalid.of(faults)
    return tuple(_wish(space, want, gateways=gateways) for want in wanted)


def _wish(space: str, want: PoolWanted, *, gateways: bool) -> PoolWish:
    subnet = want.request.subnet
    return PoolWish(
        space=space,
        pool=None if leaves_open(subnet) else subnet,
        sub_pool=want.request.range,
        size=subnet.prefixlen if subnet is not None and leaves_open(subnet) else None,
        ipv6=want.ipv6 if subnet is None else subnet.version == 6,
        gateway=want.request.gateway,
        wants_gateway=gateways and want.gateway,
        aux_addresses=want.request.aux_addresses,
    )


def plan(wish: PoolWish, *, predefined: Predefined, installation: str, field: str) -> PoolPlan:
    """Return what would grant a wish.

    Raises:
        Invalid: no predefined pool is as large as the size asked for.

    """
    if wish.pool is not None:
        return PoolPlan(wish=wish, named=AddressPool(space=wish.space, pool=wish.pool, sub_pool=wish.sub_pool))
    bases = predefined.bases(wish.space, ipv6=wish.ipv6, installation=installation)
    if wish.size is not None:
        hint = type(bases[0].prefix)((0, wish.size))
        largest = min(base.prefix.prefixlen for base in bases)
        bases = sized(bases, wish.size)
        if not bases:
            reason = f"no predefined pool is as large as /{wish.size}, the largest is /{largest}"
            raise Invalid.at(field, str(hint), reason)
    return PoolPlan(wish=wish, bases=bases)
