"""Attach and detach through NATS, networks and sandboxes likewise, and where the time of an attach goes."""

import asyncio
import json
import secrets
import statistics
import time
from collections import defaultdict
from typing import Any

from bench.client import Client
from bench.report import Section, percentile

CLIENTS = (1, 8)
PAIRS_HEAD = ["present", "clients", "attach p50", "attach p99", "detach p50", "detach p99", "pairs/s"]


async def pairs_section(client: Client, pairs: int, levels: list[int]) -> Section:
    """Measure attach and detach with so many endpoints present, at one client and at eight."""
    rows = []
    await client.timed("network.create", {"name": "bench", "ipam": {"pools": [{"subnet": "10.210.0.0/16"}]}})
    present = 0
    for level in levels:
        for number in range(present, level):
            await client.timed("sandbox.create", {"name": f"there{number}"})
            await client.timed("sandbox.connect", {"sandbox": f"there{number}", "network": "bench"})
        present = max(present, level)
        rows += [await _pairs(client, pairs, clients, level) for clients in CLIENTS]
    for number in range(present):
        await client.timed("sandbox.delete", {"sandbox": f"there{number}"})
    await client.timed("network.delete", {"network": "bench"})
    return Section(
        title="Attach and detach",
        note="`sandbox.connect` and `sandbox.disconnect` of a sandbox that exists, through NATS; milliseconds.",
        head=PAIRS_HEAD,
        rows=rows,
    )


async def _pairs(client: Client, pairs: int, clients: int, level: int, network: str = "bench") -> list[str]:
    attached: list[float] = []
    detached: list[float] = []
    names = [f"bench{level}-{clients}-{number}" for number in range(clients)]
    for name in names:
        await client.timed("sandbox.create", {"name": name})
    await _once(client, names[0], network, [], [])

    async def loop(name: str) -> None:
        for _ in range(pairs // clients):
            await _once(client, name, network, attached, detached)

    began = time.perf_counter()
    await asyncio.gather(*map(loop, names))
    rate = len(attached) / (time.perf_counter() - began)
    for name in names:
        await client.timed("sandbox.delete", {"sandbox": name})
    shown = [f"{percentile(times, part):.1f}" for times in (attached, detached) for part in (0.5, 0.99)]
    return [str(level), str(clients), *shown, f"{rate:.0f}"]


async def _once(client: Client, name: str, network: str, attached: list[float], detached: list[float]) -> None:
    body = {"sandbox": name, "network": network}
    attached.append(await client.timed("sandbox.connect", body))
    detached.append(await client.timed("sandbox.disconnect", body))


async def spread_section(client: Client, pairs: int, present: int, bridges: int) -> Section:
    """Measure attach and detach with as many endpoints present, on many bridges."""
    await fill_networks(client, bridges, "spread")
    for number in range(present):
        await client.timed("sandbox.create", {"name": f"spread{number}"})
        await client.timed("sandbox.connect", {"sandbox": f"spread{number}", "network": f"spread{number % bridges}"})
    row = await _pairs(client, pairs, 1, present, network="spread0")
    for number in range(present):
        await client.timed("sandbox.delete", {"sandbox": f"spread{number}"})
    await empty_networks(client, bridges, "spread")
    return Section(
        title="Attach and detach on many bridges",
        note=f"As above, with {present} endpoints on {bridges} bridges; milliseconds.",
        head=PAIRS_HEAD,
        rows=[row],
    )


async def fill_networks(client: Client, count: int, name: str, *, first: int = 0, clients: int = 4) -> float:
    """Make networks of a /24 each, and return how many seconds it took."""
    numbers = iter(range(first, count))

    async def loop() -> None:
        for number in numbers:
            subnet = f"10.{128 + number // 256}.{number % 256}.0/24"
            body = {"name": f"{name}{number}", "ipam": {"pools": [{"subnet": subnet}]}}
            await client.timed("network.create", body)

    began = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(clients)))
    return time.perf_counter() - began


async def empty_networks(client: Client, count: int, name: str, *, clients: int = 4) -> None:
    """Delete the networks that ``fill_networks`` made."""
    numbers = iter(range(count))

    async def loop() -> None:
        for number in numbers:
            await client.timed("network.delete", {"network": f"{name}{number}"})

    await asyncio.gather(*(loop() for _ in range(clients)))


async def networks_section(client: Client, count: int, levels: list[int], many: int) -> Section:
    """Measure network create and delete with so many present, and how long very many take."""
    rows: list[list[str]] = []
    present, spent = 0, 0.0
    for level in [*levels, many]:
        spent += await fill_networks(client, level, "there", first=present)
        present = level
        made, gone = [], []
        for number in range(count):
            body = {"name": "bench-net", "ipam": {"pools": [{"subnet": f"10.211.{number}.0/24"}]}}
            made.append(await client.timed("network.create", body))
            gone.append(await client.timed("network.delete", {"network": "bench-net"}))
        both = statistics.median([one + other for one, other in zip(made, gone, strict=True)])
        shown = [f"{percentile(times, part):.1f}" for times in (made, gone) for part in (0.5, 0.99)]
        rows.append([str(level), *shown, f"{both:.1f}", f"{spent:.1f}"])
    await empty_networks(client, many, "there")
    return Section(
        title="Networks",
        note="`network.create` and `network.delete` in turn, one client; milliseconds. Deleting a bridge holds the "
        "kernel's lock over all links for some 20 ms, of which the next creation may have to wait for a part. The "
        "last column is how many seconds it took four clients to make those that are present.",
        head=["present", "create p50", "create p99", "delete p50", "delete p99", "together p50", "made in, s"],
        rows=rows,
    )


async def sandboxes_section(client: Client, count: int) -> Section:
    """Measure sandbox create and delete."""
    names = [f"sandbox-bench{number}" for number in range(count)]
    made = [await client.timed("sandbox.create", {"name": name}) for name in names]
    gone = [await client.timed("sandbox.delete", {"sandbox": name}) for name in names]
    row = [f"{percentile(times, part):.1f}" for times in (made, gone) for part in (0.5, 0.99)]
    return Section(
        title="Sandboxes",
        note="`sandbox.create` and `sandbox.delete`, one client; milliseconds.",
        head=["create p50", "create p99", "delete p50", "delete p99"],
        rows=[row],
    )


async def breakdown_section(client: Client, rounds: int) -> Section:
    """Show where the time of an attach goes: the median of each span, all spans kept."""
    spans: dict[str, list[dict[str, Any]]] = defaultdict(list)

    async def collect(message: Any) -> None:
        for span in json.loads(message.data):
            spans[span["trace_id"]].append(span)

    await client.connection.subscribe("cnm.v1.telemetry.spans.>", cb=collect)
    await client.timed("network.create", {"name": "traced", "ipam": {"pools": [{"subnet": "10.212.0.0/16"}]}})
    ports = [{"container_port": 80, "host_port": 18080}]
    await client.timed("sandbox.create", {"name": "traced", "ports": ports})
    traces = []
    body = {"sandbox": "traced", "network": "traced"}
    for _ in range(rounds):
        traces.append(secrets.token_hex(16))
        await client.timed("sandbox.connect", body, {"traceparent": f"00-{traces[-1]}-{'1' * 16}-01"})
        await client.timed("sandbox.disconnect", body)
    await _until_still(spans)
    begins: dict[str, list[float]] = defaultdict(list)
    lasts: dict[str, list[float]] = defaultdict(list)
    for trace in traces:
        whole = min(spans[trace], key=lambda span: span["start_ns"])
        for span in spans[trace]:
            label = f"{span['service']}: {span['name']}"
            begins[label].append((span["start_ns"] - whole["start_ns"]) / 1e6)
            lasts[label].append((span["end_ns"] - span["start_ns"]) / 1e6)
    order = sorted(begins, key=lambda label: statistics.median(begins[label]))
    return Section(
        title="Where an attach spends its time",
        note=f"Medians over {rounds} attaches with a published port, one client, every span recorded; milliseconds.",
        head=["span", "begins at", "lasts"],
        rows=[
            [label, f"{statistics.median(begins[label]):.2f}", f"{statistics.median(lasts[label]):.2f}"]
            for label in order
        ],
    )


async def _until_still(spans: dict[str, list[dict[str, Any]]]) -> None:
    """Wait until no more spans arrive."""
    seen = -1
    while seen != (seen := sum(map(len, spans.values()))):
        await asyncio.sleep(0.3)
