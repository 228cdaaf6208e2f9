"""How long workers take to be ready and converged again, with many endpoints on the node."""

import asyncio
import json
import os
import signal
import statistics
import time
from collections.abc import Callable, Collection

import nats

from bench.client import Client
from bench.installation import Installation, installation
from bench.report import Section

WORKERS = ("cnm-controller", "cnm-ipam", "cnm-sandbox", "cnm-driver-bridge", "cnm-port-mapper", "cnm-resolver")
NETWORKS = 10
PUBLISHED = 20
ROUNDS = 3
PATIENCE_S = 60.0
LOOK_S = 0.02


async def section(endpoints: int) -> Section:
    """Measure each worker by itself, all of them at once, and the installation as a whole."""
    with installation() as own:
        client = await Client.connect(own.nats_url)
        await _fill(client, endpoints)
        await client.close()
        rows = []
        for killed in (*((worker,) for worker in WORKERS), WORKERS):
            what = "all workers" if len(killed) > 1 else killed[0]
            rows.append([f"{what} killed", *[await _killed(own, killed) for _ in range(ROUNDS)]])
        rows.append(["`cnm down`, `cnm up`", *[await _started_again(own) for _ in range(ROUNDS)]])
    return Section(
        title="Restarts",
        note=f"With {endpoints} endpoints on {NETWORKS} networks, {PUBLISHED} of them with a published port: seconds "
        "until every worker answers again and a check of everything, itself included, finds no difference; "
        f"medians of {ROUNDS}. A worker answers when it has compared all that it keeps.",
        head=["what", "ready", "and checked"],
        rows=[
            [what, *(f"{statistics.median(each):.2f}" for each in zip(*times, strict=True))] for what, *times in rows
        ],
    )


async def _fill(client: Client, endpoints: int) -> None:
    for number in range(NETWORKS):
        pools = {"pools": [{"subnet": f"10.2{number:02}.0.0/16"}]}
        await client.ask("network.create", {"name": f"restart{number}", "ipam": pools})

    async def make(lane: int, lanes: int) -> None:
        for number in range(lane, endpoints, lanes):
            ports = [{"container_port": 80, "host_port": 20000 + number}] if number < PUBLISHED else []
            await client.ask("sandbox.create", {"name": f"restart{number}", "ports": ports})
            body = {"sandbox": f"restart{number}", "network": f"restart{number % NETWORKS}"}
            await client.ask("sandbox.connect", body)

    await asyncio.gather(*(make(lane, 4) for lane in range(4)))


async def _killed(own: Installation, workers: Collection[str]) -> tuple[float, float]:
    pids = [own.worker(worker.removeprefix("cnm-").replace("-", "_")) for worker in workers]
    connection = await nats.connect(own.nats_url)
    try:
        before = await _instances(connection)
        began = time.perf_counter()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        gone = {before[worker] for worker in workers}
        return await _until_whole(connection, began, lambda found: not gone & set(found.values()))
    finally:
        await connection.close()


async def _started_again(own: Installation) -> tuple[float, float]:
    own.down()
    began = time.perf_counter()
    await asyncio.to_thread(own.up)
    connection = await nats.connect(own.nats_url)
    try:
        return await _until_whole(connection, began, lambda _: True)
    finally:
        await connection.close()


async def _until_whole(
    connection: nats.NATS, began: float, anew: Callable[[dict[str, str]], bool]
) -> tuple[float, float]:
    """Return the seconds until all workers answer, and until a check finds nothing."""
    until = time.perf_counter() + PATIENCE_S
    while not (found := await _instances(connection)).keys() >= set(WORKERS) or not anew(found):
        if time.perf_counter() > until:
            raise RuntimeError(f"only {sorted(found)} answer")
    ready = time.perf_counter() - began
    while (found := await _check(connection)) is None or found["differences"] or len(found["compared"]) < 5:
        if time.perf_counter() > until:
            raise RuntimeError(f"a check finds {found}")
        await asyncio.sleep(LOOK_S)
    return ready, time.perf_counter() - began


async def _instances(connection: nats.NATS) -> dict[str, str]:
    """Return the id of each worker that answers within a moment."""
    found: dict[str, str] = {}
    answers = await connection.subscribe(inbox := connection.new_inbox())
    await connection.publish("$SRV.PING", reply=inbox)
    try:
        async with asyncio.timeout(LOOK_S):
            while True:
                said = json.loads((await answers.next_msg(timeout=None)).data or b"{}")
                if "name" in said:
                    found[said["name"]] = said["id"]
    except TimeoutError:
        return found
    finally:
        await answers.unsubscribe()


async def _check(connection: nats.NATS) -> dict[str, list[object]] | None:
    """Return what a check finds that mends nothing; None when it could not be made."""
    try:
        reply = await connection.request("cnm.v1.system.check", b'{"repair": false}', timeout=30)
    except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
        return None
    found: dict[str, list[object]] = json.loads(reply.data)
    return None if "error" in found or found.get("warnings") else found
