"""Namespaces that a test makes for itself, and the tools to look into them."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from cnm.kernel import netns

TOOLS = ("ip", "nft", "nsenter")
PATIENCE_S = 10.0


@pytest.fixture(scope="session", autouse=True)
def kernel_access():
    """Skip on a laptop without root or tools, fail in CI."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        missing.insert(0, "root")
    if not missing:
        return
    message = f"tests of the kernel need {', '.join(missing)}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def namespace(tmp_path):
    """Make a namespace by name; when the test ends, they are gone and the test is back where it began."""
    home = _current()
    made = []

    def make(name):
        path = tmp_path / "netns" / name
        netns.create(path)
        made.append(path)
        return path

    yield make
    for path in reversed(made):
        netns.remove(path)
    assert _current() == home, "a test left its thread in another namespace"
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(), "a namespace is left behind"


@pytest.fixture
def host(namespace):
    """A namespace that stands for the host."""
    return namespace("host")


@pytest.fixture
def container(namespace):
    """A namespace that stands for a sandbox."""
    return namespace("container")


@pytest.fixture
def wait_for():
    """Return the first true value of a condition."""

    def wait(condition, *, patience_s=PATIENCE_S):
        deadline = time.monotonic() + patience_s
        while not (found := condition()):
            assert time.monotonic() < deadline, "the condition never became true"
            time.sleep(0.005)
        return found

    return wait


class Shell:
    """Run commands inside namespaces."""

    def run(self, path, *command, stdin=None):
        """Return what a command prints; a failing one fails the test."""
        done = subprocess.run(
            ["nsenter", f"--net={path}", *command],
            input=stdin, capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr or done.stdout}"
        return done.stdout

    def ip(self, path, *words):
        """Return what ``ip -j -d`` tells."""
        return json.loads(self.run(path, "ip", "-j", "-d", *words) or "[]")

    def link(self, path, name):
        """Return one link, or None."""
        return next((link for link in self.ip(path, "link", "show") if link["ifname"] == name), None)

    def nft(self, path, *words):
        """Return what ``nft -j`` tells, without its first line about itself."""
        return json.loads(self.run(path, "nft", "-j", *words))["nftables"][1:]


@pytest.fixture
def shell():
    return Shell()


def _current():
    return Path(netns.CURRENT).readlink()
