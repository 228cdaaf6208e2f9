"""The kernel's own floor: the same link, address and route with nothing around them."""

import tempfile
import time
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from bench.report import Section, percentile
from cnm.kernel import netns
from cnm.kernel.rtnl import AddAddress, AddRoute, CreateBridge, CreateVeth, DeleteLink, Rtnl, SetLink


def section(rounds: int) -> Section:
    """Measure attach and detach by two netlink sends, one thread."""
    attached, detached = [], []
    with tempfile.TemporaryDirectory(prefix="cnm-floor-") as folder, Rtnl.open() as host:
        path = Path(folder) / "ns"
        netns.create(path)
        (bridge,) = host.send(CreateBridge("cnmfloor0"))
        assert bridge is not None
        try:
            with path.open("rb") as namespace:
                for number in range(rounds):
                    began = time.perf_counter()
                    _attach(host, path, namespace.fileno(), bridge.index, number)
                    middle = time.perf_counter()
                    host.send(DeleteLink(f"vethfl{number}"))
                    attached.append((middle - began) * 1000)
                    detached.append((time.perf_counter() - middle) * 1000)
        finally:
            host.send(DeleteLink("cnmfloor0"))
            netns.remove(path)
    row = [f"{percentile(times, part):.1f}" for times in (attached, detached) for part in (0.5, 0.99)]
    return Section(
        title="The kernel's floor",
        note="A veth with its peer in the namespace, bridge port, address and default route, by netlink alone.",
        head=["attach p50", "attach p99", "detach p50", "detach p99"],
        rows=[row],
    )


def _attach(host: Rtnl, path: Path, namespace: int, bridge: int, number: int) -> None:
    (link,) = host.send(CreateVeth(f"vethfl{number}", peer_name="eth0", peer_namespace_fd=namespace, master=bridge))
    assert link is not None
    assert link.peer is not None
    with Rtnl.open(path) as inside:
        inside.send(
            SetLink(link.peer, up=True),
            AddAddress(link.peer, ip_interface("10.213.0.2/16")),
            AddRoute(ip_network("0.0.0.0/0"), gateway=ip_address("10.213.0.1"), index=link.peer),
        )
