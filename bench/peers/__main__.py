"""Measures CNM and the peers that Debian ships in turn, and writes docs/peers.md.

Everything runs in network, mount and process namespaces of its own, with a /run and an /etc of its own, and ends with
them. The peers are unpacked into ``CNM_PEERS`` first.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import report
from bench.peers import packages
from bench.peers.measure import FULL, QUICK, TRIAL, Measurement, Size
from bench.peers.processes import busy

PAGE = Path(__file__).parent.parent.parent / "docs" / "peers.md"
INSIDE = "CNM_PEERS_INSIDE"
CONTROL_GROUPS = Path("/sys/fs/cgroup")
REMOVE_S = 10
NOTE = """Written by `make bench-peers`. CNM, the peers that Debian ships, and the kernel alone take short turns, for a machine is
noisy: compare by ratio. A newer release of a peer may be quicker than the one that is here.

CNM is asked through NATS, dockerd by `connect` and `disconnect` of a running container through its HTTP API, a kept connection
a client. Netavark and the CNI plugins are a process a call, over a namespace that is there already, without what an
engine adds. A published port is one of both families with CNM and dockerd, of IPv4 with the others. Each has a network namespace of its own. One question at a time is asked by a loop in Python, several at once by
dnsperf. All share the processors, whoever asks included."""  # noqa: E501 - a line of the page


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.peers", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="about five minutes")
    parser.add_argument(
        "--trial", action="store_true", help="a few pairs, to see that it runs; the figures mean nothing"
    )
    parser.add_argument("--offline", action="store_true", help="only peers that are unpacked already")
    parser.add_argument("--only", default=",".join(packages.PACKAGES), help="peers, comma-separated")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page goes")
    asked = parser.parse_args()
    wanted = [name for name in asked.only.split(",") if name]
    if unknown := set(wanted) - set(packages.PACKAGES):
        parser.error(f"{', '.join(sorted(unknown))}: not among {', '.join(packages.PACKAGES)}")
    peers, left_out = [], []
    inside = os.environ.pop(INSIDE, None)
    for name in wanted:
        try:
            peers.append(packages.have(name, fetch=inside is None and not asked.offline))
        except packages.Unavailable as unavailable:
            left_out.append([name, str(unavailable)])
    if inside is None:
        sys.exit(_isolated(peers, left_out))
    folder, groups, left_out = json.loads(inside)
    size = TRIAL if asked.trial else QUICK if asked.quick else FULL
    asked.page.write_text(_measure(Path(folder), groups, size, peers, left_out))


def _isolated(peers: list[packages.Peer], left_out: list[list[str]]) -> int:
    """Run this again where nothing can be left behind: all processes end with the first one."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    groups = f"cnm-peers-{os.getpid()}"
    only = ",".join(peer.name for peer in peers)
    folder = tempfile.mkdtemp(prefix="cnm-peers-")
    command = [
        "setpriv", "--pdeathsig", "KILL",
        "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
        sys.executable, "-m", "bench.peers", *sys.argv[1:], f"--only={only}",
    ]  # fmt: skip
    try:
        process = subprocess.Popen(command, env={**os.environ, INSIDE: json.dumps([folder, groups, left_out])})
        try:
            return process.wait()
        finally:
            process.kill()
            process.wait()
            _remove_groups(groups)
    finally:
        _remove_folder(Path(folder))


def _remove_folder(folder: Path) -> None:
    """Remove the folder of a run, in which those who are just ending may write for a moment yet."""
    until = time.monotonic() + REMOVE_S
    while folder.exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)


def _remove_groups(name: str) -> None:
    """Remove the control groups that dockerd made; they are empty once its processes are gone."""
    for top in (CONTROL_GROUPS / name, *CONTROL_GROUPS.glob(f"*/{name}")):
        for folder, _, _ in os.walk(top, topdown=False):
            until = time.monotonic() + REMOVE_S
            while time.monotonic() < until:
                try:
                    Path(folder).rmdir()
                except FileNotFoundError:
                    break
                except OSError:  # somebody is still dying in it
                    time.sleep(0.05)
                else:
                    break


def _measure(folder: Path, groups: str, size: Size, peers: list[packages.Peer], left_out: list[list[str]]) -> str:
    _shield()
    load, others, began = report.load(), busy(size.settle_s), time.monotonic()
    measurement = Measurement(folder, size, groups, peers)
    sections = asyncio.run(measurement.take())
    sections.append(measurement.left_out(left_out))
    took = f"{(time.monotonic() - began) / 60:.0f} minutes"
    facts = [
        *measurement.versions,
        ["took", took],
        ["processors busy with others before and after", f"{others}, {busy(size.settle_s)}"],
        ["load average at the beginning", load],
    ]
    return report.page(sections, title="Beside the peers", note=NOTE, facts=facts)


def _shield() -> None:
    """Have a /run and an /etc of our own: dockerd keeps a key in the one, and sockets in the other."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    upper, work = Path("/run/etc/upper"), Path("/run/etc/work")
    upper.mkdir(parents=True)
    work.mkdir()
    options = f"lowerdir=/etc,upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, "/etc"], check=True)


if __name__ == "__main__":
    main()
