"""The kernel's own floor: the same link, address and route with nothing around them."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from bench.report import Section, percentile
from cnm.kernel import netns
from cnm.kernel.rtnl import AddAddress, AddRoute, CreateBridge, CreateVeth, DeleteLink, Rtnl, SetLink


class Floor:
    """A bridge, and a namespace that is attached to it and detached."""

    def __init__(self, host: Rtnl, path: Path, namespace: int, bridge: int) -> None:
        self._host, self._path, self._namespace, self._bridge = host, path, namespace, bridge

    def attach(self) -> float:
        """Attach by two netlink sends; return the milliseconds."""
        began = time.perf_counter()
        (link,) = self._host.send(
            CreateVeth("vethfl0", peer_name="eth0", peer_namespace_fd=self._namespace, master=self._bridge)
        )
        assert link is not None
        assert link.peer is not None
        with Rtnl.open(self._path) as inside:
            inside.send(
                SetLink(link.peer, up=True),
                AddAddress(link.peer, ip_interface("10.213.0.2/16")),
                AddRoute(ip_network("0.0.0.0/0"), gateway=ip_address("10.213.0.1"), index=link.peer),
            )
        return (time.perf_counter() - began) * 1000

    def detach(self) -> float:
        """Delete the link; return the milliseconds."""
        began = time.perf_counter()
        self._host.send(DeleteLink("vethfl0"))
        return (time.perf_counter() - began) * 1000


@contextmanager
def floor() -> Iterator[Floor]:
    """Have a bridge and a namespace, in the present network namespace, for as long as a body runs."""
    with tempfile.TemporaryDirectory(prefix="cnm-floor-") as folder, Rtnl.open() as host:
        path = Path(folder) / "ns"
        netns.create(path)
        (bridge,) = host.send(CreateBridge("cnmfloor0"))
        assert bridge is not None
        try:
            with path.open("rb") as namespace:
                yield Floor(host, path, namespace.fileno(), bridge.index)
        finally:
            host.send(DeleteLink("cnmfloor0"))
            netns.remove(path)


def section(rounds: int) -> Section:
    """Measure attach and detach, one thread."""
    attached, detached = [], []
    with floor() as bare:
        for _ in range(rounds):
            attached.append(bare.attach())
            detached.append(bare.detach())
    row = [f"{percentile(times, part):.1f}" for times in (attached, detached) for part in (0.5, 0.99)]
    return Section(
        title="The kernel's floor",
        note="A veth with its peer in the namespace, bridge port, address and default route, by netlink alone.",
        head=["attach p50", "attach p99", "detach p50", "detach p99"],
        rows=[row],
    )
