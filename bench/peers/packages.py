"""The peers, as Debian ships them: each unpacked into a folder of its own, and none installed."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

IPTABLES = (
    "iptables", "libip4tc2", "libip6tc2", "libxtables12", "libnftnl11", "libmnl0", "libnetfilter-conntrack3",
    "libnfnetlink0",
)  # fmt: skip
PACKAGES = {
    "dockerd": ("docker.io", "containerd", "runc", "tini", "libdevmapper1.02.1", "busybox-static", *IPTABLES),
    "netavark": ("netavark", "aardvark-dns", *IPTABLES),
    "cni": ("containernetworking-plugins", *IPTABLES),
    "dnsmasq": ("dnsmasq-base", "libnetfilter-conntrack3", "libnfnetlink0", "libnftables1"),
    "dnsperf": ("dnsperf", "libldns3", "libluajit-5.1-2", "libluajit-5.1-common"),
}
PROGRAMS = {
    "dockerd": ("dockerd", "containerd", "runc", "busybox", "iptables"),
    "netavark": ("netavark", "aardvark-dns", "iptables"),
    "cni": ("bridge", "host-local", "portmap", "iptables"),
    "dnsmasq": ("dnsmasq",),
    "dnsperf": ("dnsperf",),
}
"""What of it is run. What it links to but does not find is told by a run, too."""
PLACES = ("usr/sbin", "usr/bin", "sbin", "bin", "usr/lib/podman", "usr/lib/cni")
VERSIONS = "versions"


class Unavailable(Exception):
    """A peer cannot be had, and why."""


@dataclass(frozen=True)
class Peer:
    """One peer, unpacked."""

    name: str
    folder: Path

    def program(self, name: str) -> str:
        """Return where a program of it is; raise ``Unavailable`` when it has none of that name."""
        found = shutil.which(name, path=":".join(str(self.folder / place) for place in PLACES))
        if found is None:
            raise Unavailable(f"{self.name}: {self.folder} has no program {name}")
        return found

    @property
    def environment(self) -> dict[str, str]:
        """What its programs are run with: they find one another, and their libraries."""
        libraries = [str(path) for path in self.folder.glob("usr/lib/*-linux-gnu*")]
        places = [str(self.folder / place) for place in PLACES]
        return {
            "PATH": ":".join([*places, os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]),
            "LD_LIBRARY_PATH": ":".join(libraries),
            "XTABLES_LIBDIR": ":".join(f"{path}/xtables" for path in libraries),
            "LANG": "C.UTF-8",
        }

    @property
    def versions(self) -> dict[str, str]:
        """The version of each Debian package in it, as it was unpacked."""
        return dict(line.split() for line in (self.folder / VERSIONS).read_text().splitlines())


def home() -> Path:
    """Return the folder of all peers: ``CNM_PEERS``, or one in the user's cache."""
    return Path(os.environ.get("CNM_PEERS") or Path.home() / ".cache" / "cnm-peers")


def have(name: str, *, fetch: bool) -> Peer:
    """Return a peer, unpacked now if it is not there yet and may be fetched.

    Raises:
        Unavailable: it is not there, or cannot be fetched, or does not run.
    """
    peer = Peer(name, home() / name)
    if not (peer.folder / VERSIONS).exists():
        if not fetch:
            raise Unavailable(f"{name}: not in {peer.folder}, and nothing is to be fetched")
        _unpack(name, peer.folder)
    for program in PROGRAMS[name]:
        if shutil.which("ldd") is None:
            continue
        told = subprocess.run(
            ["ldd", peer.program(program)], env=peer.environment, capture_output=True, text=True, check=False
        ).stdout
        if lacking := [line.split()[0] for line in told.splitlines() if line.endswith("not found")]:
            raise Unavailable(f"{name}: {program} lacks {', '.join(lacking)}")
    return peer


def _unpack(name: str, folder: Path) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise Unavailable(f"{name}: there is no {tool} here to fetch it with")
    new = folder.with_name(f"{name}.new")
    shutil.rmtree(new, ignore_errors=True)
    archives = new / "archives"
    archives.mkdir(parents=True)
    download = ["apt-get", "download", "-q", *PACKAGES[name]]
    got = subprocess.run(download, cwd=archives, capture_output=True, text=True, check=False)
    if got.returncode:  # the lists of packages may be old, or not there at all
        subprocess.run(["apt-get", "update", "-q"], capture_output=True, check=False)
        got = subprocess.run(download, cwd=archives, capture_output=True, text=True, check=False)
    if got.returncode:
        said = [line for line in got.stderr.splitlines() if line.startswith("E:")] or ["apt-get download failed"]
        raise Unavailable(f"{name}: {said[0]}")
    versions = []
    for archive in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", str(archive), str(new)], check=True)
        fields = ["dpkg-deb", "-W", "--showformat=${Package} ${Version}\n", str(archive)]
        versions.append(subprocess.run(fields, capture_output=True, text=True, check=True).stdout)
    shutil.rmtree(archives)
    _link_iptables(new / "usr/sbin")
    (new / VERSIONS).write_text("".join(versions))
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def _link_iptables(folder: Path) -> None:
    """Make the links that Debian's alternatives would make, to the programs over nftables."""
    if not (folder / "xtables-nft-multi").exists():
        return
    for family in ("iptables", "ip6tables"):
        for name in (family, f"{family}-save", f"{family}-restore"):
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to("xtables-nft-multi")
