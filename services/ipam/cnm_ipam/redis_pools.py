"""Pools in Redis: the adapter around redis-py. Every change is one run of the script, atomic, with its events."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha1, sha256
from typing import Any, cast

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from cnm.bus import current_call
from cnm.errors import CnmError, Conflict, Exhausted, Forbidden, Internal, Invalid, NotFound, Unavailable
from cnm.messages.ipam import Pool, PoolUsage
from cnm.messages.message import decode_trusted
from cnm.types import Address
from cnm_ipam.pool import (
    AddressPool,
    address_hex,
    from_address_hex,
    from_prefix_bits,
    number_hex,
    parse_pool_id,
    prefix_bits,
    shown_count,
)
from cnm_ipam.ports import AddressAsk, Holder, ReservedPool
from cnm_ipam.script import SCRIPT
from cnm_ipam.wish import PoolPlan, PoolWish, Survey

KEY_PREFIX = "cnm:{ipam}:"
OUTBOX = f"{KEY_PREFIX}outbox"

_SCRIPT_SHA = sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()
_UNAVAILABLE = (
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
    OSError,
)


class _Shown(msgspec.Struct, frozen=True, kw_only=True):
    shown: str
    usable: str
    number: int
    in_use: int


class _Reserved(msgspec.Struct, frozen=True, kw_only=True):
    pool_id: str
    addresses: list[str] | dict[str, str]  # cjson writes an empty list as an object


class _Clash(msgspec.Struct, frozen=True, kw_only=True):
    pool_id: str
    label: str


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the script replies: ``error`` with what it tells of, or what was granted."""

    error: str | None = None
    pool_id: str = ""
    address: str = ""
    label: str = ""
    index: int = 0
    holder: tuple[str, str, str] = ("", "", "")
    clash: _Clash | None = None
    pools: list[_Reserved] = []
    addresses: list[str] = []
    pool_ids: list[str] = []
    shown: list[_Shown] = []


def connect(redis_url: str, *, connections: int = 32, timeout_s: float = 5) -> Redis:
    """Return a client that waits for a free connection and never repeats a command by itself.

    A repeat after a lost connection could do a thing twice; whoever asked repeats under the same request id.
    """
    pool = BlockingConnectionPool.from_url(
        redis_url,
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, kw_only=True)
class RedisPools:
    """``Pools`` in a Redis or Valkey server, 7.0 or later; any number of processes share it."""

    redis: Redis
    rest_s: float = 10
    now: Callable[[], datetime] = _utc_now
    new_id: Callable[[], str] = field(default=_new_id)

    async def survey(self, space: str) -> Survey:
        """Return what is taken in a space; the first survey of all makes the installation's id."""
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.zrange(f"{KEY_PREFIX}prefixes:{space}", 0, -1)
            pipe.hgetall(f"{KEY_PREFIX}turns")
            pipe.set(f"{KEY_PREFIX}installation", self.new_id(), nx=True)
            pipe.get(f"{KEY_PREFIX}installation")
            taken, turns, _, installation = await _translated(pipe.execute())
        return Survey(
            installation=installation.decode(),
            taken=tuple(from_prefix_bits(bits.decode()) for bits in taken),
            turns={turn.decode(): from_prefix_bits(bits.decode()) for turn, bits in turns.items()},
        )

    async def reserve(
        self, plans: Sequence[PoolPlan], *, holder: Holder, options: Mapping[str, str], serial: bool | None
    ) -> tuple[ReservedPool, ...] | None:
        """See ``Pools``."""
        request_id, _ = self._call_ids()
        claim = f"request:{request_id}" if holder.client else f"network:{holder.id}"
        wants = [_want(plan, holder=holder, options=options, serial=serial) for plan in plans]
        answer = await self._run(
            "reserve",
            claim=claim,
            digest=_digest([_wish_text(plan.wish) for plan in plans]),
            owner=f"r:{request_id}" if holder.client else f"o:{holder.id}",
            label=holder.label,
            pools=wants,
        )
        if answer.error == "lost":
            return None
        if answer.error is not None:
            raise _pool_error(answer, plans, holder)
        return tuple(
            _reserved(plan, found, names)
            for plan, found, names in zip(plans, answer.pools, map(_names, plans), strict=True)
        )

    async def release_pool(self, pool_id: str) -> None:
        """See ``Pools``."""
        answer = await self._run("release_pool", pool_id=pool_id)
        if answer.error == "owned":
            raise Forbidden(f"pool {pool_id} belongs to {answer.label}", pool_id=pool_id, holder=answer.label)
        _check(answer)

    async def show(self, pool_id: str) -> Pool:
        """See ``Pools``."""
        answer = await self._run("show", pool_ids=[pool_id])
        if not answer.shown:
            raise _no_pool(pool_id)
        return _pool(answer.shown[0])

    async def list_pools(self, space: str | None) -> tuple[Pool, ...]:
        """See ``Pools``."""
        answer = await self._run("show")
        pools = (_pool(shown) for shown in sorted(answer.shown, key=lambda shown: shown.number))
        return tuple(pool for pool in pools if space in (None, pool.space))

    async def usages(self, pool_ids: Sequence[str]) -> tuple[PoolUsage, ...]:
        """See ``Pools``."""
        if not pool_ids:
            return ()
        answer = await self._run("show", pool_ids=pool_ids)
        pools = (_pool(shown) for shown in answer.shown)
        return tuple(PoolUsage(pool_id=pool.pool_id, in_use=pool.in_use, available=pool.available) for pool in pools)

    async def spaces(self) -> Mapping[str, int]:
        """See ``Pools``."""
        counts: dict[str, int] = {}
        for pool_id in await _translated(_awaitable(self.redis.hkeys(f"{KEY_PREFIX}pools"))):
            space = pool_id.decode().split("/", 1)[0]
            counts[space] = counts.get(space, 0) + 1
        return counts

    async def request_address(
        self, ask: AddressAsk, *, holder: Holder, serial: bool | None
    ) -> tuple[AddressPool, Address]:
        """See ``Pools``."""
        pool = await self._fitting(ask, "address")
        request_id, _ = self._call_ids()
        answer = await self._run(
            "request",
            pool_id=ask.pool_id,
            owner=f"r:{request_id}" if holder.id is None else f"c:{holder.id}",
            label=holder.label,
            **_given(wanted=address_hex(ask.address) if ask.address is not None else None, serial=serial),
        )
        _check(answer)
        return pool, from_address_hex(answer.addresses[0])

    async def release_address(self, pool_id: str, address: Address) -> None:
        """See ``Pools``."""
        answer = await self._run("release_address", pool_id=pool_id, address=address_hex(address))
        if answer.error == "owned":
            raise Forbidden(f"{address} is held by {answer.label}", address=str(address), holder=answer.label)
        if answer.error == "free":
            raise NotFound(f"{address} is not held in pool {pool_id}", address=str(address), pool_id=pool_id)
        _check(answer)

    async def allocate(
        self, asks: Sequence[AddressAsk], *, holder: Holder, serial: bool | None
    ) -> tuple[tuple[AddressPool, Address], ...]:
        """See ``Pools``."""
        pools = [await self._fitting(ask, None) for ask in asks]
        wants = [
            {"pool_id": ask.pool_id, **_given(address=address_hex(ask.address) if ask.address is not None else None)}
            for ask in asks
        ]
        answer = await self._run(
            "allocate",
            claim=f"endpoint:{holder.id}",
            digest=_digest(wants),
            owner=f"o:{holder.id}",
            label=holder.label,
            wants=wants,
            **_given(serial=serial),
        )
        if answer.error == "differs":
            raise Conflict(f"{holder.label} holds other addresses already", holder=holder.label)
        _check(answer)
        return tuple(zip(pools, map(from_address_hex, answer.addresses), strict=True))

    async def release_owned(self, owner: str) -> None:
        """See ``Pools``."""
        _check(
            await self._run(
                "release_owned", owner=f"o:{owner}", endpoint=f"endpoint:{owner}", network=f"network:{owner}"
            )
        )

    async def _fitting(self, ask: AddressAsk, field: str | None) -> AddressPool:
        """Return the pool of an ask that somebody can be granted."""
        pool = parse_pool_id(ask.pool_id)
        if pool is None:
            raise _no_pool(ask.pool_id)
        reason = pool.unfit(ask.address) if ask.address is not None else None
        if reason is not None:
            await self.show(ask.pool_id)
            raise Invalid.at(field or f"ipv{pool.pool.version}_address", str(ask.address), reason)
        return pool

    async def _run(self, verb: str, **ask: Any) -> _Answer:
        request_id, trace_id = self._call_ids()
        envelope = msgspec.json.encode(
            {"time": self.now(), "node": None, "trace_id": trace_id, "request_id": request_id}
        )[1:-1]
        asked = {**ask, "seed": self.new_id(), "rest_ms": round(self.rest_s * 1000)}
        work = asyncio.ensure_future(self._evaluate(1, KEY_PREFIX, verb, msgspec.json.encode(asked), envelope))
        try:
            return decode_trusted(_Answer, await asyncio.shield(work))
        except asyncio.CancelledError:
            await asyncio.wait([work])  # the server may carry it out yet: whoever undoes it must come after
            raise

    async def _evaluate(self, *arguments: Any) -> Any:
        try:
            return await _translated(_awaitable(self.redis.evalsha(_SCRIPT_SHA, *arguments)))
        except NoScriptError:
            return await _translated(_awaitable(self.redis.eval(SCRIPT, *arguments)))

    def _call_ids(self) -> tuple[str, str]:
        call = current_call()
        return (call.request_id, call.trace_id) if call is not None else (self.new_id(), self.new_id())


def _awaitable(value: Any) -> Awaitable[Any]:
    return cast("Awaitable[Any]", value)


async def _translated(work: Awaitable[Any]) -> Any:
    try:
        return await work
    except _UNAVAILABLE as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> CnmError:
    return Unavailable(f"Redis cannot be reached: {error}")


def _given(**values: Any) -> dict[str, Any]:
    """Leave out what is None: null is a value of its own in Lua."""
    return {name: value for name, value in values.items() if value is not None}


def _digest(value: Any) -> str:
    return sha256(msgspec.json.encode(value)).hexdigest()[:16]


def _wish_text(wish: PoolWish) -> list[str]:
    """Write a wish as it is compared with a repeat; the digest of it is stored, so this stays as it is."""
    values = (wish.space, wish.pool, wish.sub_pool, wish.size, wish.ipv6, wish.gateway, wish.wants_gateway)
    aux = (f"{name}={address}" for name, address in sorted(wish.aux_addresses.items()))
    return [*map(str, values), *aux]


def _names(plan: PoolPlan) -> list[tuple[str, str]]:
    """Return (name, address digits or empty for the lowest free) of a pool's own addresses; automatic ones last."""
    wish = plan.wish
    names = [(f"aux {name}", address_hex(address)) for name, address in wish.aux_addresses.items()]
    if wish.gateway is not None:
        names.append(("gateway", address_hex(wish.gateway)))
    elif wish.wants_gateway:
        names.append(("gateway", ""))
    return names


def _want(plan: PoolPlan, *, holder: Holder, options: Mapping[str, str], serial: bool | None) -> dict[str, Any]:
    wish = plan.wish
    named = wish.pool is not None
    return {
        "candidates": [_record(pool, holder=holder, options=options, serial=serial) for pool in plan.candidates],
        "named": named,
        "part": wish.sub_pool is not None,
        "addresses": [digits for _, digits in _names(plan)],
        **_given(turn=None if named else wish.turn),
    }


def _record(pool: AddressPool, *, holder: Holder, options: Mapping[str, str], serial: bool | None) -> dict[str, Any]:
    shown = {
        "pool_id": pool.id,
        "space": pool.space,
        "pool": str(pool.pool),
        "sub_pool": str(pool.sub_pool) if pool.sub_pool is not None else None,
        "options": options,
        "owner": holder.id,
    }
    width = pool.pool.max_prefixlen
    return {
        "id": pool.id,
        "bits": prefix_bits(pool.pool),
        "first": number_hex(pool.first, width),
        "last": number_hex(pool.last, width),
        "usable": str(pool.usable),
        "whole": pool.sub_pool is None,
        "shown": msgspec.json.encode(shown)[:-1].decode(),
        **_given(serial=serial),
    }


def _reserved(plan: PoolPlan, found: _Reserved, names: list[tuple[str, str]]) -> ReservedPool:
    pool = parse_pool_id(found.pool_id)
    if pool is None:
        raise Internal(f"stored pool id {found.pool_id} cannot be read")
    addresses = {
        name: from_address_hex(digits) for (name, _), digits in zip(names, list(found.addresses), strict=True)
    }
    return ReservedPool(
        pool=pool,
        gateway=addresses.get("gateway"),
        aux_addresses={name: addresses[f"aux {name}"] for name in plan.wish.aux_addresses},
    )


def _pool(shown: _Shown) -> Pool:
    counts = {"in_use": shown.in_use, "available": shown_count(int(shown.usable) - shown.in_use)}
    return decode_trusted(Pool, shown.shown.encode() + b"," + msgspec.json.encode(counts)[1:])


def _no_pool(pool_id: str) -> NotFound:
    return NotFound(f"no pool {pool_id}", pool_id=pool_id)


def _pool_error(answer: _Answer, plans: Sequence[PoolPlan], holder: Holder) -> CnmError:
    match answer.error:
        case "overlap" if answer.clash is not None:
            asked = plans[answer.index - 1].candidates[0]
            held = parse_pool_id(answer.clash.pool_id) or asked
            by = answer.clash.label or "a client"
            details = {"pool_id": held.id, "holder": by}
            if held.id == asked.id:
                return Conflict(f"pool {asked.id} is held by {by} already", **details)
            return Conflict(f"{asked.pool} overlaps {held.pool}, which {by} holds in {asked.space}", **details)
        case "no_pool":
            wish = plans[answer.index - 1].wish
            size = f" of size /{wish.size}" if wish.size is not None else ""
            return Exhausted(f"no predefined IPv{6 if wish.ipv6 else 4} pool{size} is left in {wish.space}")
        case "differs":
            return Conflict(f"{holder.label or 'this request'} holds other pools already", holder=holder.label)
        case _:
            return _error(answer)


def _check(answer: _Answer) -> None:
    if answer.error is not None:
        raise _error(answer)


def _error(answer: _Answer) -> CnmError:
    match answer.error:
        case "absent":
            return _no_pool(answer.pool_id)
        case "full":
            pool = parse_pool_id(answer.pool_id)
            return Exhausted(f"no free address in {pool.range if pool else answer.pool_id}", pool_id=answer.pool_id)
        case "taken":
            address, label = from_address_hex(answer.address), answer.holder[2]
            return Conflict(f"{address} is held by {label}", address=str(address), holder=label)
        case _:
            return Internal(f"the script replied {answer.error!r}")
