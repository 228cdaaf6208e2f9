"""What is wrong with the pools that a network, or a client of IPAM, asks for: every fault, with what would be right.

The controller looks before it asks IPAM, so that a client hears of all its faults at once; IPAM looks because
others ask it, too. Fields are called as the client called them.
"""

from collections.abc import Iterator, Mapping, Sequence

from cnm.errors import Fault
from cnm.messages.network import PoolRequest
from cnm.prefix import is_size_hint, prefix_bits, unfit_address, unfit_part, unfit_pool
from cnm.types import Address, Prefix

LOCAL_DEFAULT = "LocalDefault"
GLOBAL_DEFAULT = "GlobalDefault"
SERIAL = "com.docker.network.ipam.serial"

# Options that Docker sends to every IPAM driver; the built-in one has no use for them.
IGNORED_OPTIONS = (
    "RequestAddressType",
    "com.docker.network.endpoint.macaddress",
    "com.docker.network.endpoint.name",
)
TRUE = ("1", "t", "T", "true", "TRUE", "True")
FALSE = ("0", "f", "F", "false", "FALSE", "False")


def has_predefined(space: str) -> bool:
    """Tell whether a request in this space may leave the pool open."""
    return space in (LOCAL_DEFAULT, GLOBAL_DEFAULT)


def leaves_open(pool: Prefix | None) -> bool:
    """Tell whether IPAM is to choose the pool."""
    return pool is None or is_size_hint(pool)


def option_faults(options: Mapping[str, str], field: str) -> Iterator[Fault]:
    """Yield what the built-in IPAM cannot make of its options."""
    for name, value in options.items():
        if name == SERIAL:
            if value not in (*TRUE, *FALSE):
                reason = f"expected true or false, got {value!r}"
                yield Fault(field=f"{field}.{name}", value=value, reason=reason)
        elif name not in IGNORED_OPTIONS:
            reason = f"unknown option {name}, the one there is is {SERIAL}"
            yield Fault(field=f"{field}.{name}", value=value, reason=reason)


def space_faults(space: str, pool: Prefix | None, field: str) -> Iterator[Fault]:
    """Yield the fault of a space where no pool can be chosen."""
    if leaves_open(pool) and not has_predefined(space):
        reason = f"{space} has no predefined pools, name the pool; LocalDefault and GlobalDefault have"
        yield Fault(field=field, value=space, reason=reason)


def pool_faults(pool: Prefix | None, field: str) -> Iterator[Fault]:
    """Yield the fault of a prefix that cannot be a pool."""
    reason = unfit_pool(pool) if pool is not None and not is_size_hint(pool) else None
    if reason is not None:
        yield Fault(field=field, value=str(pool), reason=reason)


def part_faults(part: Prefix | None, whole: Prefix | None, field: str, of: str) -> Iterator[Fault]:
    """Yield the fault of a sub-pool; ``of`` is how the client called the pool."""
    if part is None:
        return
    if whole is None or is_size_hint(whole):
        reason: str | None = f"{part} needs the {of} that it is a part of"
    else:
        reason = unfit_part(part, whole)
    if reason is not None:
        yield Fault(field=field, value=str(part), reason=reason)


def request_faults(request: PoolRequest, field: str) -> Iterator[Fault]:
    """Yield the faults of one pool of a network."""
    yield from pool_faults(request.subnet, f"{field}.subnet")
    yield from part_faults(request.range, request.subnet, f"{field}.range", "subnet")
    named = {f"aux_addresses.{name}": address for name, address in request.aux_addresses.items()}
    if request.gateway is not None:
        named = {"gateway": request.gateway, **named}
    seen: dict[Address, str] = {}
    for name, address in named.items():
        reason = None
        if request.subnet is None or is_size_hint(request.subnet):
            reason = f"{address} needs the subnet that it lies in"
        elif request.subnet.prefixlen > 0:
            reason = unfit_address(request.subnet, address)
        if address in seen:
            reason = f"{address} is the address of {seen[address]} too"
        seen.setdefault(address, name)
        if reason is not None:
            yield Fault(field=f"{field}.{name}", value=str(address), reason=reason)


def network_faults(
    space: str, requests: Sequence[PoolRequest], options: Mapping[str, str], field: str = "ipam"
) -> Iterator[Fault]:
    """Yield the faults of all that a network asks of the built-in IPAM.

    Subnets of one network may not overlap, but several ranges may share one.
    """
    yield from option_faults(options, f"{field}.options")
    for index, request in enumerate(requests):
        yield from request_faults(request, f"{field}.pools[{index}]")
    if any(leaves_open(request.subnet) for request in requests):
        yield from space_faults(space, None, f"{field}.address_space")
    for index, subnet, earlier, other in _clashes(requests):
        reason = f"{subnet} overlaps {other} of {field}.pools[{earlier}]"
        yield Fault(field=f"{field}.pools[{index}].subnet", value=str(subnet), reason=reason)


def _clashes(requests: Sequence[PoolRequest]) -> Iterator[tuple[int, Prefix, int, Prefix]]:
    """Yield each subnet that overlaps an earlier one, and the first such."""
    same: dict[str, dict[Prefix | None, int]] = {}  # the subnets met, each with its ranges
    inside: dict[str, int] = {}  # whatever lies round the subnets met
    for index, request in enumerate(requests):
        subnet = request.subnet
        if subnet is None or leaves_open(subnet):
            continue
        bits = prefix_bits(subnet)
        above = [bits[:digits] for digits in range(1, len(bits))]
        ranges = same.setdefault(bits, {})
        found = {min(same[each].values()) for each in above if each in same} | {inside.get(bits, index)}
        if request.range is None:
            found |= set(ranges.values())
        else:
            found |= {ranges.get(None, index), ranges.get(request.range, index)}
        earlier = min(found)
        other = requests[earlier].subnet
        if earlier < index and other is not None:
            yield index, subnet, earlier, other
        ranges.setdefault(request.range, index)
        for each in above:
            inside.setdefault(each, index)
