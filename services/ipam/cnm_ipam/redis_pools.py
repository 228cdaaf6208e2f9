"""Pools in Redis: every change is one run of the script, atomic, with its events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cnm.errors import Invalid
from cnm.messages.ipam import Lease, NodeRoute, Pool, PoolUsage
from cnm.messages.message import to_builtins
from cnm.prefix import holds, unfit_address
from cnm.types import Address, Prefix
from cnm_ipam import answers, asks
from cnm_ipam.answers import check, no_pool
from cnm_ipam.pool import AddressPool, address_hex, from_address_hex, parse_pool_id
from cnm_ipam.ports import AddressAsk, Holder, Holding, ReservedPool, Terms
from cnm_ipam.redis_script import KEY_PREFIX, Script, awaitable, translated
from cnm_ipam.wish import PoolPlan

INSTALLATION = f"{KEY_PREFIX}installation"
NODE_STALE_MS = 24 * 3600 * 1000


@dataclass(frozen=True, kw_only=True)
class RedisPools:
    """``Pools`` in a Redis or Valkey server, 7.0 or later; any number of processes share it.

    ``proposed_id`` becomes the installation's id when it has none yet.
    """

    script: Script
    proposed_id: str
    _known: list[str] = field(default_factory=list)

    async def installation(self) -> str:
        """See ``Pools``; what was read once is written again where Redis lost it."""
        if not self._known:
            async with self.script.redis.pipeline(transaction=False) as pipe:
                pipe.set(INSTALLATION, self.proposed_id, nx=True)
                pipe.get(INSTALLATION)
                _, found = await translated(pipe.execute(), "SET")
            self._known.append(found.decode())
        return self._known[0]

    async def reserve(
        self,
        plans: Sequence[PoolPlan],
        *,
        holder: Holder,
        terms: Terms,
        exclude: Sequence[Prefix],
        dry_run: bool = False,
    ) -> tuple[ReservedPool, ...]:
        """See ``Pools``."""
        request_id, _ = self.script.call_ids()
        answer = await self.script.change(
            "reserve",
            claim=f"request:{request_id}" if holder.client else f"network:{holder.id}",
            digest=asks.digest([asks.wish_text(plan.wish) for plan in plans]),
            owner=f"r:{request_id}" if holder.client else f"o:{holder.id}",
            label=holder.label,
            installation=await self.installation(),
            exclude=asks.excluded(exclude),
            pools=[asks.pool_want(plan, holder=holder, terms=terms) for plan in plans],
            **asks.given(dry_run=dry_run or None),
        )
        if answer.error is not None:
            raise answers.pool_error(answer, plans, holder)
        return tuple(answers.reserved_pool(plan, found) for plan, found in zip(plans, answer.pools, strict=True))

    async def release_pool(self, pool_id: str) -> None:
        """See ``Pools``."""
        answer = await self.script.change("release_pool", pool_id=pool_id)
        if answer.error is not None:
            raise answers.pool_release_error(answer, pool_id)

    async def show(self, pool_id: str) -> Pool:
        """See ``Pools``."""
        answer = await self.script.read("show", pool_ids=[pool_id])
        if not answer.shown:
            raise no_pool(pool_id)
        return answers.shown_pool(answer.shown[0])

    async def list_pools(self, space: str | None, *, after: str | None, limit: int | None) -> tuple[Pool, ...]:
        """See ``Pools``."""
        answer = check(await self.script.read("list", **asks.given(space=space, after=after, limit=limit)))
        return tuple(map(answers.shown_pool, answer.shown))

    async def usages(self, pool_ids: Sequence[str]) -> tuple[PoolUsage, ...]:
        """See ``Pools``."""
        if not pool_ids:
            return ()
        answer = await self.script.read("show", pool_ids=pool_ids)
        pools = map(answers.shown_pool, answer.shown)
        return tuple(PoolUsage(pool_id=pool.pool_id, in_use=pool.in_use, available=pool.available) for pool in pools)

    async def spaces(self) -> Mapping[str, int]:
        """See ``Pools``."""
        found = await translated(awaitable(self.script.redis.hgetall(f"{KEY_PREFIX}spaces")), "HGETALL")
        return {space.decode(): int(count) for space, count in found.items()}

    async def request_address(
        self, ask: AddressAsk, *, holder: Holder, serial: bool | None
    ) -> tuple[AddressPool, Address]:
        """See ``Pools``."""
        ask = await self._fitting(ask, "address")
        request_id, _ = self.script.call_ids()
        wanted = address_hex(ask.address) if ask.address is not None else None
        answer = await self.script.change(
            "request",
            pool_id=ask.pool_ids[0],
            owner=f"r:{request_id}" if holder.id is None else f"c:{holder.id}",
            label=holder.label,
            **asks.given(wanted=wanted, serial=serial),
        )
        return _known_pool(ask.pool_ids[0]), from_address_hex(check(answer).addresses[0])

    async def release_address(self, pool_id: str, address: Address) -> None:
        """See ``Pools``."""
        answer = await self.script.change("release_address", pool_id=pool_id, address=address_hex(address))
        if answer.error is not None:
            raise answers.address_release_error(answer, pool_id, address)

    async def addresses(
        self, pool_id: str, *, after: Address | None, limit: int
    ) -> tuple[tuple[Lease, ...], Address | None]:
        """See ``Pools``."""
        pool = _known_pool(pool_id)
        if after is not None and not holds(pool.pool, after):
            await self.show(pool_id)
            raise Invalid.at("after", str(after), f"{after} is not in {pool.pool}")
        place = asks.given(after=address_hex(after) if after is not None else None)
        answer = check(await self.script.read("leases", pool_id=pool_id, limit=limit, **place))
        return tuple(map(answers.shown_lease, answer.leases)), answers.next_address(answer)

    async def leases(self, *, after: str | None, limit: int) -> tuple[tuple[Lease, ...], str | None]:
        """See ``Pools``."""
        answer = check(await self.script.read("leases", limit=limit, owned=True, **asks.place(after)))
        return tuple(map(answers.shown_lease, answer.leases)), answers.place(answer)

    async def allocate(
        self, asked: Sequence[AddressAsk], *, holder: Holder, serial: bool | None
    ) -> tuple[tuple[AddressPool, Address], ...]:
        """See ``Pools``."""
        wants = [asks.address_want(await self._fitting(ask, None)) for ask in asked]
        answer = await self.script.change(
            "allocate",
            claim=f"endpoint:{holder.id}",
            digest=asks.digest(wants),
            owner=f"o:{holder.id}",
            label=holder.label,
            wants=wants,
            **asks.given(serial=serial, recall=holder.recall),
        )
        if answer.error is not None:
            raise answers.address_error(answer, holder)
        pairs = zip(answer.pool_ids, answer.addresses, strict=True)
        return tuple((_known_pool(pool_id), from_address_hex(digits)) for pool_id, digits in pairs)

    async def release_owned(self, owner: str, *, unused: bool) -> None:
        """See ``Pools``."""
        check(await self.script.change("release_owned", **_owned(owner), **asks.given(unused=unused or None)))

    async def reconcile(
        self, holding: Holding, *, holder: Holder, terms: Terms
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """See ``Pools``."""
        held = [AddressAsk(pool_ids=(each.pool_id,), address=each.address) for each in holding.addresses]
        answer = await self.script.change(
            "reconcile",
            **_owned(str(holder.id)),
            label=holder.label,
            digest=asks.digest(to_builtins([list(holding.pools), list(holding.addresses)])),
            pools=[
                asks.held_want(_known_pool(pool.pool_id), pool, holder=holder, terms=terms) for pool in holding.pools
            ],
            wants=[asks.address_want(await self._fitting(ask, "addresses")) for ask in held],
            surplus=asks.surplus(holding.surplus_addresses),
            surplus_pools=holding.surplus_pools,
            **asks.given(recall=holder.recall, dry_run=holding.dry_run or None),
        )
        if answer.error is not None:
            raise answers.reconcile_error(answer, holding.pools)
        return answers.text_of(answer.restored), answers.text_of(answer.given)

    async def report_routes(self, node: str, routes: Sequence[NodeRoute]) -> None:
        """See ``Pools``."""
        check(await self.script.change("report", node=node, routes=asks.routes(routes), stale_ms=NODE_STALE_MS))

    async def _fitting(self, ask: AddressAsk, named: str | None) -> AddressAsk:
        """Return an ask that somebody can be granted: a wanted address lies in each of its pools.

        Raises:
            NotFound: there is no such pool.
            Invalid: nobody can have the address.

        """
        pools = [_known_pool(pool_id) for pool_id in ask.pool_ids]
        if ask.address is None:
            return ask
        fitting = [pool for pool in pools if holds(pool.pool, ask.address)] or pools[:1]
        reason = unfit_address(fitting[0].pool, ask.address)
        if reason is not None:
            await self.show(fitting[0].id)
            raise Invalid.at(named or f"ipv{fitting[0].pool.version}_address", str(ask.address), reason)
        return AddressAsk(pool_ids=tuple(pool.id for pool in fitting), address=ask.address)


def _owned(owner: str) -> Mapping[str, str]:
    return {"owner": f"o:{owner}", "endpoint": f"endpoint:{owner}", "network": f"network:{owner}"}


def _known_pool(pool_id: str) -> AddressPool:
    """Return the pool of an id.

    Raises:
        NotFound: there can be none.

    """
    pool = parse_pool_id(pool_id)
    if pool is None:
        raise no_pool(pool_id)
    return pool
