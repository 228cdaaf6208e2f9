"""Runs every benchmark in a network namespace of its own and writes the table."""

import argparse
import asyncio
import os
import subprocess
import sys
from pathlib import Path

from bench import attach, dns, floor, ipam, ports, recording, report, restart, throughput
from bench.client import Client
from bench.installation import installation

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
INSIDE = "CNM_BENCH_INSIDE"
NETWORKS, SPREAD = [0, 100, 500], 50
PUBLISHED = [10, 1000, 10000]


async def measure(pairs: int, levels: list[int], networks: int) -> list[report.Section]:
    with installation() as own:
        client = await Client.connect(own.nats_url)
        try:
            sections = [
                floor.section(pairs),
                await attach.pairs_section(client, pairs, levels),
                await attach.spread_section(client, pairs, max(levels), SPREAD),
                await attach.networks_section(client, max(10, pairs // 10), NETWORKS, networks),
                await attach.sandboxes_section(client, max(10, pairs // 10)),
                await throughput.section(client),
                await ports.publish_section(client, max(10, pairs // 6), PUBLISHED),
                await ports.range_section(client, own),
                await ports.path_section(client),
                await ipam.addresses_section(own),
                await ipam.pools_section(own),
            ]
        finally:
            await client.close()
    sections += await dns.sections()
    sections.append(await restart.section(max(levels)))
    sections.append(await recording.section(pairs))
    with installation(traced=True) as own:
        client = await Client.connect(own.nats_url)
        try:
            sections.append(await attach.breakdown_section(client, 30))
        finally:
            await client.close()
    return sections


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--pairs", type=int, default=300, help="attach and detach so often at each level")
    parser.add_argument("--levels", default="10,100,500", help="endpoints present, comma-separated")
    parser.add_argument("--networks", type=int, default=4000, help="make so many networks at the end")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the table goes")
    asked = parser.parse_args()
    if os.environ.get(INSIDE) is None:
        command = ["unshare", "--net", "--mount", sys.executable, "-m", "bench", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode)
    dns.need_dnsperf()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    sections = asyncio.run(measure(asked.pairs, [int(level) for level in asked.levels.split(",")], asked.networks))
    page = report.page(sections)
    asked.page.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
