"""The same short program in four languages does the same, says the same, and leaves nothing behind."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
HERE = Path(__file__).parent
BIN = Path(sys.executable).parent

PROGRAMS = {
    "cnm": [sys.executable, EXAMPLES / "python/with_cnm.py"],
    "nats-py": [sys.executable, EXAMPLES / "python/with_nats.py"],
    "nats.js": ["node", EXAMPLES / "javascript/first_network.js"],
    "nats": ["bash", EXAMPLES / "shell/first_network.sh"],
}
TOLD = [
    "network.created example",
    "sandbox.created server",
    "endpoint.created server",
    "endpoint.joined server",
    "sandbox.created client",
    "endpoint.created client",
    "endpoint.joined client",
    "port.published server",
    "port.unpublished server",
    "endpoint.left server",
    "endpoint.deleted server",
    "sandbox.deleted server",
    "endpoint.left client",
    "endpoint.deleted client",
    "sandbox.deleted client",
    "network.deleted example",
]


def need(what, *, found):
    """Skip on a laptop what is missing there; fail in CI."""
    if found:
        return
    message = f"this example needs {what}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def path(tmp_path):
    """Where the examples find their commands; `nats` is ours where there is none."""
    if shutil.which("nats") is None:
        (tmp_path / "nats").symlink_to(HERE / "nats")
    return f"{BIN}:{os.environ['PATH']}:{tmp_path}"


def check_needs(name):
    if name == "nats.js":
        need("node: apt-get install nodejs npm", found=shutil.which("node"))
        installed = EXAMPLES / "javascript/node_modules/@nats-io/transport-node"
        need("its packages: deploy/setup-examples", found=installed.exists())
    if name == "nats":
        for tool in ("jq", "curl"):
            need(f"{tool}: apt-get install {tool}", found=shutil.which(tool))


def whats_there(installation):
    networks = {network["name"] for network in installation.ask("network.list")[0]["networks"]}
    links = {line.split()[1] for line in installation.sh("ip -o link").splitlines()}
    return networks, installation.sandboxes(), links


@pytest.mark.parametrize("name", PROGRAMS)
def test_example_does_what_it_says_and_leaves_nothing(installation, path, name):
    check_needs(name)
    before = whats_there(installation)
    words = installation.entering(*map(str, PROGRAMS[name]))
    done = subprocess.run(
        words, env=installation.env | {"PATH": path}, capture_output=True, text=True, timeout=50, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    *said, refused = [line for line in done.stdout.splitlines() if not line.startswith("event ")]
    subnet = said[0].split()[2]
    part, length = subnet.rpartition(".")[0], subnet.rpartition("/")[2]
    assert said == [
        f"network example {subnet}",
        f"attached server {part}.2/{length}",
        f"attached client {part}.3/{length}",
        f"client finds server at {part}.2",
        "published http://127.0.0.1:8080/ answers 200",
    ]
    assert refused.startswith("refused: conflict: ")
    assert "example" in refused
    told = [line.removeprefix("event ") for line in done.stdout.splitlines() if line.startswith("event ")]
    assert [line for line in told if line in TOLD] == TOLD
    assert whats_there(installation) == before
