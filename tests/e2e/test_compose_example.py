"""The application of docker-compose.example.yml, with the commands and variables that stand there."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SERVICES = yaml.safe_load((ROOT / "docker-compose.example.yml").read_text())["services"]
PORT = "8088"
HELLO = (ROOT / "examples/compose/site/index.html").read_text()
# As `network_mode: none` and the mounted resolv.conf do it.
ALONE = """
mount --make-rprivate /
mount --bind {example}/resolv.conf /etc/resolv.conf
exec "$@"
"""


class Container:
    """A service's command, run here; its lines are kept."""

    def __init__(self, installation, name, members, *, alone):
        example = str(ROOT / "examples/compose")
        words = [
            word.replace("$$", "$").replace("/example/", f"{example}/").replace("/members", str(members))
            for word in SERVICES[name]["command"]
        ]
        words = [word.replace("python3 ", f"{sys.executable} ") for word in words]
        words = [sys.executable if word == "python3" else word for word in words]
        if alone:
            script = ALONE.format(example=example)
            words = ["unshare", "--net", "--mount", "--", "sh", "-ec", script, "sh", *words]
        told = {"CNM_NATS_URL": installation.url, "EXAMPLE_PORT": PORT, "MEMBERS_DIR": str(members)}
        self.lines = []
        self.process = subprocess.Popen(
            installation.entering(*words), env=installation.env | told, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self):
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def said(self, text):
        return any(text in line for line in tuple(self.lines))

    def until_ready(self, wait_until):
        """Wait until it says so; it did not end before."""
        wait_until(lambda: self.said("ready ") or self.process.poll() is not None, patience_s=40)
        assert self.said("ready "), self.lines

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(20)
        self._reading.join()
        self.process.stdout.close()
        return status


@pytest.fixture
def started(installation, tmp_path):
    running = []

    def start(name, *, alone):
        running.append(Container(installation, name, tmp_path, alone=alone))
        return running[-1]

    yield start
    for container in running:
        container.end()


def test_the_example_of_compose_does_what_it_says(installation, started, wait_until):
    client = started("example-client", alone=True)
    started("example-web", alone=True)
    application = started("example", alone=False)
    application.until_ready(wait_until)
    wait_until(lambda: client.said(f"says 200: {HELLO.encode()[:60]!r}"), patience_s=40)

    assert installation.sh(f"curl -s --max-time 5 http://127.0.0.1:{PORT}/") == HELLO
    for event in ("network.created example", "sandbox.created example-web", "port.published example-web"):
        assert wait_until(lambda event=event: application.said(f"event    {event}"))

    assert application.end() == 0
    assert not {"example-web", "example-client"} & installation.sandboxes()
    assert "example" not in {each["name"] for each in installation.ask("network.list")[0]["networks"]}


def test_the_example_can_be_started_again_after_it_was_killed(installation, started, wait_until):
    started("example-client", alone=True)
    started("example-web", alone=True)
    for _ in range(2):
        application = started("example", alone=False)
        application.until_ready(wait_until)
        application.process.kill()
    last = started("example", alone=False)
    last.until_ready(wait_until)

    assert last.end() == 0
