"""The ground that a demonstration stands on: namespaces of its own, and the proof that nothing is left on it."""

import ctypes
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import NamedTuple

from cnm.kernel import libc, netns
from cnm.kernel.address import AddAddress
from cnm.kernel.link import CreateVeth, SetLink
from cnm.kernel.nft import Nft
from cnm.kernel.route import AddRoute
from cnm.kernel.rtnl import Rtnl
from cnm_cli.entering import keep_mounts_to_ourselves

NODE_ADDRESS = "192.0.2.1"  # RFC 5737: for documentation
NEIGHBOUR_ADDRESS = "192.0.2.2"
PREFIX_LENGTH = 24
PR_SET_PDEATHSIG = 1  # prctl(2)
PR_SET_CHILD_SUBREAPER = 36


class Evidence(NamedTuple):
    """All that an installation could leave behind."""

    links: frozenset[str]
    namespaces: frozenset[str]
    tables: frozenset[str]
    files: frozenset[str]
    processes: frozenset[str]

    def beyond(self, other: "Evidence") -> list[str]:
        """Name what is here and not there."""
        return [
            f"{kind[:-1]} {thing}"
            for kind, ours, theirs in zip(self._fields, self, other, strict=True)
            for thing in sorted(ours - theirs)
        ]


def leave_the_machine() -> None:
    """Move this process into a network and a mount namespace of its own, loopback up.

    Whatever its descendants leave running becomes its child, so that it can be found.
    """
    libc.unshare(libc.CLONE_NEWNET)
    keep_mounts_to_ourselves()
    with Rtnl.open() as rtnl:
        rtnl.send(SetLink("lo", up=True))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def make_lan(path: Path) -> None:
    """Make a second namespace, another machine on a LAN: it gives this one an address and a way out."""
    netns.create(path)
    node, neighbour = (ip_interface(f"{each}/{PREFIX_LENGTH}") for each in (NODE_ADDRESS, NEIGHBOUR_ADDRESS))
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with Rtnl.open() as here, Rtnl.open(path) as there:
            made = here.send(CreateVeth("uplink0", peer_name="lan0", peer_namespace_fd=descriptor))[0]
            peer = there.link("lan0")
            assert made is not None
            assert peer is not None
            there.send(SetLink("lo", up=True), SetLink(peer.index, up=True), AddAddress(peer.index, neighbour))
            here.send(
                AddAddress(made.index, node),
                AddRoute(gateway=ip_address(NEIGHBOUR_ADDRESS), index=made.index),
            )
    finally:
        os.close(descriptor)


def inside(path: Path) -> Callable[[], None]:
    """Return what a child must call before it executes, to be in a namespace; see `tied` for the rest."""

    def enter() -> None:
        tied()
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        libc.setns(descriptor, libc.CLONE_NEWNET)

    return enter


def tied() -> None:
    """Let this child die with its parent; called in the child."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def look(run_dir: Path) -> Evidence:
    """Find what there is now in this namespace, in an installation's run directory, and below this process."""
    with Rtnl.open() as rtnl:
        links = frozenset(link.name for link in rtnl.links())
    with Nft() as nft:
        tables = frozenset(
            f"{entry['table']['family']} {entry['table']['name']}"
            for entry in nft.dump("list tables")["nftables"]
            if "table" in entry
        )
    mounts = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return Evidence(
        links=links,
        namespaces=frozenset(mount[4] for mount in mounts if " - nsfs " in f" {' '.join(mount)} "),
        tables=tables,
        files=frozenset(
            str(path) for folder in ("netns", "sandboxes", "pids") for path in (run_dir / folder).glob("*")
        ),
        processes=frozenset(_children()),
    )


def _children() -> list[str]:
    """Name the living children of this process, and forget the dead ones that nobody waited for."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command, _, rest = (process / "stat").read_text().partition("(")[2].rpartition(")")  # proc_pid_stat(5)
            if int(rest.split()[1]) == os.getpid():
                found.append(f"{process.name} ({command})")
    return found


def remove_lan(path: Path) -> None:
    """Take the other machine away again."""
    netns.remove(path)
