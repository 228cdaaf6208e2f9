"""The benchmarks run; what they measure says nothing in a test."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from bench.peers import aims, packages
from bench.peers.packages import Unavailable
from bench.peers.room import Refused
from bench.peers.turns import in_turn

ROOT = Path(__file__).parent.parent.parent
WITHIN_S = 170
COMMAND = (sys.executable, "-m", "bench.peers", "--trial", "--offline")


@pytest.fixture
def folder():
    """Have a folder whose name is short, for sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="cnm-t-") as made:
        yield Path(made)


def environment(folder):
    """Have its files where nobody else's are."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CNM_") or name == "CNM_PEERS"}
    return {**kept, "TMPDIR": str(folder)}


@pytest.mark.timeout(WITHIN_S + 10)
def test_cnm_is_measured_beside_the_peers_that_are_there_and_nothing_is_left(folder):
    there = {name for name in packages.PACKAGES if (packages.home() / name / packages.VERSIONS).exists()}
    page = folder / "peers.md"
    command = [*COMMAND, f"--page={page}"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(folder), stderr=subprocess.PIPE, text=True) as running:
        try:
            _, said = running.communicate(timeout=WITHIN_S)
        finally:
            running.terminate()
    assert running.returncode == 0, said
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.read_text().splitlines() if "|" in line]
    told = {row[0] for row in rows}
    assert {"attach, one client, p50", "start of `cnm up` to ready, s", "8 clients", "CNM"} <= told
    assert told >= set(packages.PACKAGES), "each is there with its version or left out with a reason"
    for name in set(packages.PACKAGES) - there:
        assert any(row[0] == name and "nothing is to be fetched" in row[1] for row in rows)
    if "dockerd" in there:
        assert ["attach, one client, p50", "dockerd"] in [row[:2] for row in rows]
    assert not left_behind(folder, running.pid)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["terminated", "killed"])
def test_what_it_started_ends_with_it(folder, wait_until, how):
    page = folder / "peers.md"
    command = [*COMMAND, "--only=", f"--page={page}"]
    with subprocess.Popen(command, cwd=ROOT, env=environment(folder), stderr=subprocess.DEVNULL) as running:
        try:
            # The first program of the installation has started.
            wait_until(lambda: [*folder.glob("cnm-peers-*/cnm/run/pids/*.pid")], patience_s=40)
            assert of_folder(folder), "there is somebody to end"
        finally:
            running.send_signal(how)
        running.wait(20)
    wait_until(lambda: not of_folder(folder), patience_s=20)
    if how == signal.SIGTERM:  # who is killed cannot tidy up
        assert not left_behind(folder, running.pid)
    assert not page.exists()


def of_folder(folder):
    """Return the processes whose files are there."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{folder}/cnm-peers-".encode() in (process / "environ").read_bytes():
                found.append(process.name)
        except OSError:
            continue
    return found


def left_behind(folder, pid):
    """Return the control groups and folders of a run."""
    return {*Path("/sys/fs/cgroup").glob(f"**/cnm-peers-{pid}"), *folder.glob("cnm-peers-*")}


class Side:
    def __init__(self, name):
        self.name = name


def test_who_fails_a_turn_is_left_out_and_the_others_go_on():
    order, failures = [], []

    async def turn(side):
        order.append(side.name)
        if order.count("broken") == 2 and side.name == "broken":
            raise Refused("no more")
        return len(order)

    came = asyncio.run(in_turn([Side("sound"), Side("broken")], 3, turn, failures))
    assert order == ["sound", "broken", "broken", "sound", "sound"]
    assert came == {"sound": [1, 4, 5]}
    assert failures == [["broken", "no more"]]


def test_a_ratio_is_of_one_round_whatever_the_machine_did_in_the_others():
    row = aims.row("attach", "dockerd", [1.0, 20.0, 3.0], [10.0, 100.0, 30.0], "ms", aims.at_most(0.15))
    assert row[2:] == ["3.0 ms", "30.0 ms", "0.10 (0.10 - 0.20)", "at most 0.15", "yes"]
    assert aims.judged(3.9, aims.at_least(4)) == ["at least 4", "**no**"]


def test_a_peer_that_cannot_run_here_says_what_it_lacks(tmp_path, monkeypatch):
    monkeypatch.setenv("CNM_PEERS", str(tmp_path))
    with pytest.raises(Unavailable, match=r"dnsmasq: not in .*, and nothing is to be fetched"):
        packages.have("dnsmasq", fetch=False)
    (tmp_path / "dnsmasq").mkdir()
    (tmp_path / "dnsmasq/versions").write_text("dnsmasq-base 2.90\n")
    with pytest.raises(Unavailable, match=r"dnsmasq: .* has no program dnsmasq"):
        packages.have("dnsmasq", fetch=False)
