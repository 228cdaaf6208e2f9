"""Do the workers do with what their systemd units leave them, and do they need it?"""

import configparser
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnm_cli.embedded import find_nats_server, find_redis_server

from .test_ports import listening

ROOT = Path(__file__).parents[3]
UNITS = ROOT / "deploy/systemd"
CLUSTER = ("controller", "ipam", "gateway")
NODE = ("sandbox", "driver-bridge", "port-mapper", "resolver")
BITS = {  # linux/capability.h
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_BROADCAST": 11,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
}
NOBODY = 65534
RUN_DIR = "/run/cnm"
READY = '"worker.ready"'
PATIENCE_S = 60


class Deployed:
    """Workers of an installation, each run as its unit says."""

    def __init__(self, installation):
        self._installation = installation
        self._processes = {}
        self._began = {}

    def start(self, worker, *, without=(), name=None):
        """Start a worker, with some of its capabilities taken away."""
        unit = service(worker)
        allowed = sorted(set(unit["CapabilityBoundingSet"].split()) - set(without))
        some = "-all" + "".join(f",+{each.removeprefix('CAP_').lower()}" for each in allowed)
        words = ["setpriv", "--no-new-privs", f"--bounding-set={some}"]
        if unit["User"] == "root":
            words.append("--inh-caps=-all")
        else:
            assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"]
            words += [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            words += [f"--inh-caps={some}", f"--ambient-caps={some}"]
        words += [sys.executable, "-P", "-m", f"cnm_{worker.replace('-', '_')}"]
        return self.run(name or worker, *words)

    def run(self, name, *words):
        with self.log(name).open("ab") as log:
            self._began[name] = log.tell()
            process = subprocess.Popen(
                self._installation.entering(*map(str, words)), env=self._installation.env,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        self._processes[name] = process
        return process

    def restart(self, worker, *, without=()):
        self._processes[worker].terminate()
        self._processes[worker].wait(PATIENCE_S)
        self.start(worker, without=without)
        self.until_ready(worker)

    def until_ready(self, *workers):
        """Wait until each has said so."""
        until = time.monotonic() + PATIENCE_S
        while any(READY not in self.log(worker).read_text()[self._began[worker] :] for worker in workers):
            assert time.monotonic() < until, "".join(self.log(worker).read_text() for worker in workers)
            time.sleep(0.02)

    def until_listening(self, *ports):
        """Wait for servers, for a worker that finds none tries it again seconds later."""
        until = time.monotonic() + PATIENCE_S
        while not all(f":{port} " in self._installation.sh("ss -Hltn") for port in ports):
            assert time.monotonic() < until
            time.sleep(0.02)

    def log(self, name):
        return self._installation.folder / f"{name}.log"

    def pid(self, worker):
        return self._processes[worker].pid

    def end(self):
        for process in self._processes.values():
            process.kill()
            process.wait()


def service(worker):
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string((UNITS / f"cnm-{worker}.service").read_text())
    return unit["Service"]


def let_nobody_in(installation, *folders):
    """Have folders be where anybody may go, in the installation's own view of the file system."""
    doors = {
        folder: next((each for each in reversed(folder.parents) if not each.stat().st_mode & 1), None)
        for folder in folders
    }
    shut = {folder: door for folder, door in doors.items() if door is not None}
    aside = {folder: installation.folder / f"aside-{number}" for number, folder in enumerate(shut)}
    lines = [f"mkdir {place}; mount --rbind {folder} {place}" for folder, place in aside.items()]
    lines += [f"mount -t tmpfs -o mode=755 none {door}" for door in sorted(set(shut.values()))]
    lines += [f"mkdir -p {folder}; mount --move {place} {folder}" for folder, place in aside.items()]
    lines += [f"mount -t tmpfs -o mode=755 none /run; mkdir {RUN_DIR}"]  # as RuntimeDirectory= does
    subprocess.run(installation.entering("sh", "-ec", "\n".join(lines)), check=True)


@pytest.fixture(scope="module")
def installation(prepared, tmp_path_factory):
    """An installation without `cnm up`: somebody's own servers, and workers that are started one by one."""
    made = prepared(
        tmp_path_factory.mktemp("units"),
        CNM_RUN_DIR=RUN_DIR,
        CNM_NATS_URL="nats://127.0.0.1:4222",
        CNM_REDIS_URL="redis://127.0.0.1:6379/0",
    )
    yield made
    made.close()


@pytest.fixture(scope="module", autouse=True)
def deployed(installation):
    let_nobody_in(
        installation, *(ROOT / each for each in (".venv", "shared", "services", "cli")), Path(sys.base_prefix)
    )
    made = Deployed(installation)
    try:
        config = installation.folder / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:4222"\nmax_payload: 16MB\njetstream {{ store_dir: "{installation.folder}/nats" }}\n'
        )
        made.run("nats", find_nats_server(), "-c", config)
        made.run("redis", find_redis_server(), "--port", 6379, "--bind", "127.0.0.1", "--save", "")
        made.until_listening(4222, 6379)
        for worker in (*CLUSTER, *NODE):
            made.start(worker)
        made.until_ready(*CLUSTER, *NODE)
        told = {"nats_url": "nats://127.0.0.1:4222", "pid": installation.holder, "node": "n1"}
        Path(f"{installation.inside}{RUN_DIR}/cnm.json").write_text(json.dumps(told))  # as `cnm up` leaves it
        yield made
    finally:
        made.end()


@pytest.fixture
def stranger(installation, patiently):
    """A process of another user, in a network namespace of its own."""
    words = ("unshare", "--net", "setpriv", "--reuid=1234", "--clear-groups", "--inh-caps=-all", "sleep", "1000")
    process = subprocess.Popen(installation.entering(*words))
    patiently(lambda: "\nUid:\t1234\t" in Path(f"/proc/{process.pid}/status").read_text())
    yield process.pid
    process.kill()
    process.wait()


@pytest.mark.parametrize("worker", [*CLUSTER, *NODE])
def test_a_worker_has_what_its_unit_leaves_it(deployed, worker):
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{deployed.pid(worker)}/status").read_text().splitlines()
    )
    allowed = sum(1 << BITS[each] for each in service(worker)["CapabilityBoundingSet"].split())
    assert [int(status[kind], 16) for kind in ("CapPrm", "CapEff", "CapBnd")] == [allowed] * 3
    assert status["Uid"].split()[1] == ("0" if service(worker)["User"] == "root" else str(NOBODY))
    assert status["NoNewPrivs"] == "1"
    assert worker not in CLUSTER or allowed == 0


def test_everything_works_with_it(api, installation, lan, tidy, make, traffic, stranger):
    network = make.network(enable_ipv6=True)
    web = make.sandbox(on=[network], ports=[{"container_port": 8000, "host_port": 80}])
    client = make.sandbox(on=[network])
    traffic.serve(web, 8000, "hello ")
    code, found = traffic.resolve(client, web["name"])
    assert code == 0
    assert traffic.fetch(found[0], 8000, client).startswith("hello ")
    assert traffic.fetch("127.0.0.1", 80).startswith("hello ")
    assert traffic.fetch(installation.node_address, 80, {"key": lan}).startswith("hello ")
    explained = api.ask("system.explain", {"from": client["id"], "to": web["name"], "port": 8000})
    assert explained["reached"], explained
    adopted = make.sandbox(pid=stranger, on=[network])
    assert "eth0" in [each["ifname"] for each in api.ip("link show", f"/proc/{stranger}/ns/net")]
    for words in (("run", "--network", network["id"], "--"), ("exec", client["name"], "--")):
        done = installation.cnm(*words, "getent", "ahostsv4", web["name"], check=True)
        assert found[0] in done.stdout
    assert api.ask("system.check")["differences"] == []
    api.ask("sandbox.disconnect", {"sandbox": client["id"], "network": network["id"]})
    for box in (adopted, client, web):
        api.ask("sandbox.delete", {"sandbox": box["id"]})
    traffic.end()
    make.end()


def test_a_holder_that_it_may_not_look_at_is_named_by_its_user(api, tidy):
    ports = [{"container_port": 1, "host_port": 8181}]
    with listening(api, 8181):
        api.refused("sandbox.create", {"name": api.name(), "ports": ports}, "conflict", "8181", "a process of user 0")


@pytest.mark.parametrize(
    ("worker", "capability"),
    [
        ("sandbox", "CAP_NET_BROADCAST"),
        ("driver-bridge", "CAP_NET_ADMIN"),
        ("driver-bridge", "CAP_NET_BROADCAST"),
        ("driver-bridge", "CAP_NET_RAW"),
        ("port-mapper", "CAP_NET_ADMIN"),
    ],
)
def test_a_worker_does_not_get_ready_without(deployed, patiently, worker, capability):
    log = deployed.log(f"{worker}-{capability}")
    process = deployed.start(worker, without=(capability,), name=log.stem)
    patiently(lambda: "not permitted" in log.read_text())
    process.kill()
    process.wait()
    assert READY not in log.read_text()


@pytest.mark.parametrize(
    ("worker", "capabilities"),
    [
        ("sandbox", ("CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE")),
        ("driver-bridge", ("CAP_SYS_ADMIN",)),
        ("port-mapper", ("CAP_NET_BIND_SERVICE",)),
        ("resolver", ("CAP_NET_ADMIN", "CAP_SYS_ADMIN")),
    ],
)
def test_something_fails_without(api, tidy, deployed, make, stranger, worker, capabilities):
    def attempt():
        box = {"name": api.name(), "pid": stranger, "ports": [{"container_port": 1, "host_port": 80}]}
        reply, _ = api.call("sandbox.create", box)
        if "error" not in reply:
            joined, _ = api.call("sandbox.connect", {"sandbox": reply["id"], "network": network["id"]})
            api.ask("sandbox.delete", {"sandbox": reply["id"]})
            reply = joined
        return "error" not in reply

    network = make.network()
    try:
        for capability in capabilities:
            deployed.restart(worker, without=(capability,))
            assert not attempt(), capability
    finally:
        deployed.restart(worker)
    assert attempt()
    make.end()


def test_each_capability_is_proven():
    """Every one that a unit leaves has a test above that fails without it."""
    proven = set(test_a_worker_does_not_get_ready_without.pytestmark[0].args[1])
    for worker, capabilities in test_something_fails_without.pytestmark[0].args[1]:
        proven |= {(worker, each) for each in capabilities}
    assert proven == {(worker, each) for worker in NODE for each in service(worker)["CapabilityBoundingSet"].split()}
