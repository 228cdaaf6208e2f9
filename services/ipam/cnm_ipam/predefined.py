"""Predefined pools: what a request without a pool gets, and in which order.

Docker's lists stand in ``reference/inventory.md`` section 14, the search for the next one in section 11.3. IPv6
has no list of Docker's: a network gets a /64 of a unique local /48 (RFC 4193) that follows from the installation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv6Network, ip_network

from cnm.errors import Fault, Invalid
from cnm.prefix import contains, is_size_hint, unfit_pool
from cnm.types import Prefix, parse_prefix

ADDRESS_POOLS_VARIABLE = "CNM_DEFAULT_ADDRESS_POOLS"


@dataclass(frozen=True)
class Base:
    """A prefix that pools of one size are cut from."""

    prefix: Prefix
    size: int


def _base(prefix: str, size: int) -> Base:
    return Base(ip_network(prefix), size)


DOCKER_LOCAL = (
    _base("172.17.0.0/16", 16),
    _base("172.18.0.0/16", 16),
    _base("172.19.0.0/16", 16),
    _base("172.20.0.0/14", 16),
    _base("172.24.0.0/14", 16),
    _base("172.28.0.0/14", 16),
    _base("192.168.0.0/16", 20),
)
DOCKER_GLOBAL = (_base("10.0.0.0/8", 24),)


@dataclass(frozen=True, kw_only=True)
class Predefined:
    """The bases of both default spaces; a family without one in ``local`` keeps the default of its family."""

    local: tuple[Base, ...] = DOCKER_LOCAL
    global_: tuple[Base, ...] = DOCKER_GLOBAL

    def bases(self, space: str, *, ipv6: bool, installation: str) -> tuple[Base, ...]:
        """Return what pools of a space and family are cut from; nothing in a space without predefined pools.

        A base inside another one is left out, as Docker does.
        """
        version = 6 if ipv6 else 4
        match space:
            case "LocalDefault":
                fallback = (unique_local_base(installation),) if ipv6 else DOCKER_LOCAL
                listed = self.local
            case "GlobalDefault":
                # Another /48 than the local one: networks of both spaces meet on a node.
                fallback = (unique_local_base(f"{installation} {space}"),) if ipv6 else DOCKER_GLOBAL
                listed = self.global_
            case _:
                return ()
        of_family = tuple(base for base in listed if base.prefix.version == version) or fallback
        return tuple(
            base
            for index, base in enumerate(of_family)
            if not any(
                contains(other.prefix, base.prefix) and (other.prefix != base.prefix or position < index)
                for position, other in enumerate(of_family)
                if position != index
            )
        )


def unique_local_base(installation: str) -> Base:
    """Return the /48 of an installation: ``fd`` and the low 40 bits of the first 8 bytes of the id's SHA-256."""
    digest = int.from_bytes(sha256(installation.encode()).digest()[:8], "big")
    return Base(IPv6Network((0xFD << 120 | (digest & (1 << 40) - 1) << 80, 48)), 64)


def parse_bases(text: str) -> tuple[Base, ...]:
    """Read ``base=10.10.0.0/16,size=24;base=...``.

    Raises:
        Invalid: the text is not so; every fault of every entry is listed.

    """
    faults: list[Fault] = []
    bases: list[Base] = []
    for index, entry in enumerate(text.strip().strip(";").split(";")):
        base = _parse_base(entry.strip(), f"{ADDRESS_POOLS_VARIABLE}[{index}]", faults)
        if base is not None:
            bases.append(base)
    if faults:
        raise Invalid.of(faults)
    return tuple(bases)


def _parse_base(entry: str, field: str, faults: list[Fault]) -> Base | None:
    before = len(faults)
    values: dict[str, str] = {}
    for part in entry.split(","):
        key, _, value = part.strip().partition("=")
        if key not in ("base", "size") or not value:
            reason = f"expected base=SUBNET,size=LENGTH, got {part.strip()!r}"
            faults.append(Fault(field=field, value=entry, reason=reason))
        elif key in values:
            faults.append(Fault(field=f"{field}.{key}", value=value, reason=f"{key} is given twice"))
        else:
            values[key] = value
    if len(faults) == before:
        missing = (key for key in ("base", "size") if key not in values)
        faults.extend(Fault(field=f"{field}.{key}", reason=f"{key} is missing in {entry!r}") for key in missing)
    prefix = _parse_base_prefix(values["base"], f"{field}.base", faults) if "base" in values else None
    size = _parse_size(values["size"], prefix, f"{field}.size", faults) if "size" in values else None
    return Base(prefix, size) if prefix is not None and size is not None and len(faults) == before else None


def _parse_base_prefix(text: str, field: str, faults: list[Fault]) -> Prefix | None:
    try:
        prefix = parse_prefix(text)
    except ValueError as error:
        faults.append(Fault(field=field, value=text, reason=str(error)))
        return None
    reason = unfit_pool(prefix)
    if reason is None and is_size_hint(prefix):
        reason = f"{prefix} names no network"
    if reason is not None:
        faults.append(Fault(field=field, value=text, reason=reason))
        return None
    return prefix


def _parse_size(text: str, prefix: Prefix | None, field: str, faults: list[Fault]) -> int | None:
    if not text.isascii() or not text.isdigit():
        faults.append(Fault(field=field, value=text, reason=f"{text!r} is no prefix length"))
        return None
    size = int(text)
    lowest, highest = (prefix.prefixlen, prefix.max_prefixlen) if prefix is not None else (1, 128)
    if not lowest <= size <= highest:
        of = f" of {prefix}" if prefix is not None else ""
        reason = f"a pool{of} has a prefix length from {lowest} to {highest}, not {size}"
        faults.append(Fault(field=field, value=text, reason=reason))
        return None
    return size


def sized(bases: Sequence[Base], size: int) -> tuple[Base, ...]:
    """Return the bases that a pool of this prefix length can be cut from, cutting that."""
    return tuple(Base(base.prefix, size) for base in bases if base.prefix.prefixlen <= size)
