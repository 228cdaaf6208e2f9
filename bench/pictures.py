"""Takes the pictures of the README in a real browser over a real installation: ``python -m bench.pictures``.

They go to docs/pictures: the live page in light and in dark, and the waterfall of one attach.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from bench.client import Client
from bench.installation import Installation

INSIDE = "CNM_BENCH_INSIDE"
PAGE = "127.0.0.1:8780"
CHROMIUM = "/usr/bin/chromium"
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
LARGEST = 200_000
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PORTS = {"web": [(80, 8080), (443, 8443)], "prometheus": [(9090, 9090)]}
NETWORKS = {
    "frontend": ("web", "api"),
    "backend": ("api", "db", "cache", "worker"),
    "monitoring": ("prometheus", "db", "web"),
}


async def furnish(url: str) -> None:
    """Make what the pictures show."""
    client = await Client.connect(url)
    for sandbox in dict.fromkeys(each for members in NETWORKS.values() for each in members):
        ports = [{"container_port": inside, "host_port": outside} for inside, outside in PORTS.get(sandbox, ())]
        await client.ask("sandbox.create", {"name": sandbox, "ports": ports})
    for network, members in NETWORKS.items():
        await client.ask("network.create", {"name": network, "internal": network == "backend"})
        for sandbox in members:
            await client.ask("sandbox.connect", {"network": network, "sandbox": sandbox})
    await client.close()


def take(browser: Browser) -> None:
    """Take the pictures."""
    for scheme in ("light", "dark"):
        context = browser.new_context(
            viewport={"width": 1280, "height": 760},
            color_scheme=scheme,
            reduced_motion="reduce",
            timezone_id="UTC",
            locale="en-GB",
        )
        page = context.new_page()
        page.goto(f"http://{PAGE}/")
        page.locator(".attach").nth(8).wait_for()
        page.get_by_role("status").get_by_text("live").wait_for()
        if scheme == "dark":
            page.locator(".chip", has_text="api").first.click()
            page.locator(".facts").wait_for()
        page.screenshot(path=PICTURES / f"page-{scheme}.png")
        if scheme == "light":
            page.set_viewport_size({"width": 1120, "height": 2000})  # the header stays above it
            page.locator(".attaches").evaluate("all => all.replaceChildren(all.firstElementChild)")
            page.locator("#attaches").screenshot(path=PICTURES / "attach.png")
        context.close()


def main() -> None:
    """Start an installation in a network of its own, furnish it, and look at it."""
    if os.environ.get(INSIDE) is None:
        command = ["unshare", "--net", "--mount", sys.executable, "-m", "bench.pictures"]
        sys.exit(subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    PICTURES.mkdir(exist_ok=True)
    settings = {
        "CNM_GATEWAY_ADDRESS": PAGE, "OTEL_TRACES_EXPORTER": "nats", "CNM_NODE": "node1",
        "CNM_NODE_ADDRESS": "192.0.2.1",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="cnm-pictures-") as folder:
        own = Installation(Path(folder), **settings)
        try:
            own.up()
            asyncio.run(furnish(own.nats_url))
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
                take(browser)
                browser.close()
        finally:
            own.down()
            for namespace in (own.run_dir / "netns").glob("*"):
                subprocess.run(["umount", str(namespace)], check=False, stderr=subprocess.DEVNULL)
    for picture in sorted(PICTURES.glob("*.png")):
        size = picture.stat().st_size
        print(f"{picture.name}: {size} bytes")
        assert size < LARGEST, f"{picture} has {size} bytes"


if __name__ == "__main__":
    main()
