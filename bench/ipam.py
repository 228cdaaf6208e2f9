"""IPAM: addresses a second by how full a pool is, straight and through NATS, and pools by how many there are."""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import ip_network
from pathlib import Path

import nats

from bench.installation import Installation
from bench.report import Section
from cnm.messages.ipam import RequestAddress, RequestPool
from cnm_cli.embedded import find_redis_server, redis_config
from cnm_ipam import handlers
from cnm_ipam.predefined import DOCKER_LOCAL, Base, Predefined
from cnm_ipam.redis_pools import RedisPools
from cnm_ipam.redis_script import OUTBOX, Script, connect

CLIENTS = (1, 8, 64)
WORKERS = (1, 3)
SIZE = 2**16 - 2
FILLS = {"empty": 0, "half full": SIZE // 2, "99 % full": SIZE * 99 // 100}
PRESENT = (10, 1000, 4000)
TIMED = 40
ROUNDS, FEW = 3, 200
"""Each rate is the median of rounds of so many; a pool that is 99 % full has no more than 655 left."""

Ask = Callable[[int], Awaitable[None]]


async def rate(ask: Ask, count: int, clients: int) -> float:
    """Return how many are done in a second by so many clients, each asking when it has its answer."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await ask(number)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return count / (time.perf_counter() - began)


class Straight:
    """IPAM's own handlers over Redis, in this process; what they write is of this space alone."""

    def __init__(self, redis_url: str) -> None:
        self.redis = connect(redis_url, connections=64)
        self.pools = RedisPools(script=Script(redis=self.redis, rest_s=10), proposed_id="bench")
        self.predefined = Predefined(local=tuple(Base(base.prefix, 24) for base in DOCKER_LOCAL))

    async def pool(self, space: str, prefix: str) -> str:
        command = RequestPool(space=space, pool=ip_network(prefix))
        return (await handlers.request_pool(command, pools=self.pools, predefined=self.predefined)).pool_id

    async def predefined_pool(self) -> None:
        command = RequestPool(space="LocalDefault")
        await handlers.request_pool(command, pools=self.pools, predefined=self.predefined)

    async def address(self, pool_id: str, owner: str) -> None:
        await handlers.request_address(RequestAddress(pool_id=pool_id, owner=owner), pools=self.pools)

    async def fill(self, pool_id: str, first: int, last: int) -> None:
        """Hand out so many addresses quickly, and drop what would be told of them."""
        await rate(lambda number: self.address(pool_id, f"filler {first + number}"), max(0, last - first), 64)
        await self.redis.delete(OUTBOX)


async def addresses_section(own: Installation) -> Section:
    """Measure addresses out of a /16."""
    rows = []
    with redis_server() as redis_url:
        straight = Straight(redis_url)
        for clients in CLIENTS:
            rates = await _by_fill(straight, straight.address, clients)
            rows.append(["straight", "", str(clients), *rates])
        await straight.redis.aclose()
    straight = Straight(own.redis_url)
    for workers in WORKERS:
        async with extra_workers(own, workers - 1), requests(own.nats_url) as request:

            async def through(pool_id: str, owner: str, ask: Request = request) -> None:
                await ask("ipam.address.request", {"pool_id": pool_id, "owner": owner})

            for clients in CLIENTS:
                rates = await _by_fill(straight, through, clients)
                rows.append(["through NATS", str(workers), str(clients), *rates])
    await straight.redis.aclose()
    return Section(
        title="Addresses",
        note='`ipam.address.request` out of a /16, addresses a second; "straight" is IPAM in the process of its '
        "clients, over a Redis of its own. Every address is an event too, which through NATS is relayed meanwhile.",
        head=["", "ipam workers", "clients", *FILLS, "99 % full : empty"],
        rows=rows,
    )


async def _by_fill(straight: Straight, ask: Callable[[str, str], Awaitable[None]], clients: int) -> list[str]:
    space = f"bench-{time.monotonic_ns()}"
    pool_id = await straight.pool(space, "10.0.0.0/16")
    rates, present = [], 0
    for level in FILLS.values():
        await straight.fill(pool_id, present, level)
        rounds = [
            await rate(lambda number, at=f"{level} {turn}": ask(pool_id, f"{clients} {at} {number}"), FEW, clients)
            for turn in range(ROUNDS)
        ]
        rates.append(statistics.median(rounds))
        present = level + ROUNDS * FEW
    await straight.pools.release_pool(pool_id)
    return [*(f"{each:.0f}" for each in rates), f"{rates[0] / rates[-1]:.2f} times slower"]


async def pools_section(own: Installation) -> Section:
    """Measure pools of /24 out of the stock pools, and how long 4,000 take."""
    with redis_server() as redis_url:
        straight = Straight(redis_url)
        rows = [["straight", *await _by_present(straight, straight.predefined_pool)]]
        await straight.redis.aclose()
    straight = Straight(own.redis_url)
    async with requests(own.nats_url) as request:

        async def through() -> None:
            await request("ipam.pool.request", {"space": "LocalDefault", "pool": "0.0.0.0/24"})

        rows.append(["through NATS", *await _by_present(straight, through)])
    await straight.redis.aclose()
    return Section(
        title="Pools",
        note=f"`ipam.pool.request` for the next /24 of the stock pools, one client; pools a second over {TIMED}.",
        head=["", *(f"{present} present" for present in PRESENT), f"seconds for {max(PRESENT)}"],
        rows=rows,
    )


async def _by_present(straight: Straight, ask: Callable[[], Awaitable[None]]) -> list[str]:
    cells = []
    began = time.perf_counter()
    spent = 0.0
    for present in range(max(PRESENT) + TIMED):
        if present in PRESENT:
            paused = time.perf_counter()
            cells.append(f"{await rate(lambda _: ask(), TIMED, 1):.0f}")
            await _release_all(straight, keep=present)
            spent += time.perf_counter() - paused
        if present == max(PRESENT):
            break
        await ask()
    took = time.perf_counter() - began - spent
    await _release_all(straight)
    return [*cells, f"{took:.1f}"]


async def _release_all(straight: Straight, keep: int = 0) -> None:
    """Release the pools of clients beyond so many, the latest first."""
    for pool in (await straight.pools.list_pools("LocalDefault", after=None, limit=None))[keep:]:
        await straight.pools.release_pool(pool.pool_id)


@contextmanager
def redis_server() -> Iterator[str]:
    """Run a server like the embedded one, for as long as the body runs."""
    with tempfile.TemporaryDirectory(prefix="cnm-bench-") as folder:
        socket, config = Path(folder) / "s", Path(folder) / "redis.conf"
        config.write_text(redis_config(listen=socket, data_dir=Path(folder), fsync="everysec"))
        with subprocess.Popen([find_redis_server(), config], stdout=subprocess.DEVNULL) as process:
            while not socket.exists():
                time.sleep(0.01)
            yield f"unix://{socket}"
            process.terminate()


Request = Callable[[str, dict[str, object]], Awaitable[None]]


@asynccontextmanager
async def requests(nats_url: str) -> AsyncIterator[Request]:
    """Ask as a stranger would."""
    connection = await nats.connect(nats_url)

    async def request(verb: str, body: dict[str, object]) -> None:
        reply = await connection.request(f"cnm.v1.{verb}", json.dumps(body).encode(), timeout=30)
        if reply.headers and "Nats-Service-Error" in reply.headers:
            raise RuntimeError(f"{verb}: {reply.headers['Nats-Service-Error']}")

    try:
        yield request
    finally:
        await connection.close()


@asynccontextmanager
async def extra_workers(own: Installation, count: int) -> AsyncIterator[None]:
    """Run more ipam workers beside the installation's own."""
    environment = {
        **os.environ,
        "CNM_NATS_URL": own.nats_url,
        "CNM_REDIS_URL": own.redis_url,
        "CNM_LOG_LEVEL": "INFO",
    }
    program = Path(sys.executable).parent / "cnm-ipam"
    workers = [
        subprocess.Popen([program], env=environment, stderr=subprocess.PIPE, text=True, bufsize=1)
        for _ in range(count)
    ]
    try:
        for worker in workers:
            assert worker.stderr is not None
            while "worker.ready" not in (line := worker.stderr.readline()):
                if not line:
                    raise RuntimeError("an ipam worker did not become ready")
        yield
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait(timeout=15)
            assert worker.stderr is not None
            worker.stderr.close()
