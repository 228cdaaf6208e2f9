"""Does the image that the Dockerfile makes do, in containers as the compose file starts them, what it is for?

Images of others cannot be had everywhere: see stand-ins.Dockerfile. ``make image-test`` runs this.
"""

import json
import re
from pathlib import Path

import pytest
import yaml

from cnm_cli.workers import WORKERS

from .machine import BASE, ROOT

SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
NAMES = [worker.name.removeprefix("cnm-") for worker in WORKERS]
BITS = {  # linux/capability.h
    "NET_BIND_SERVICE": 10,
    "NET_BROADCAST": 11,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
}
CLOSE = re.findall(r"^ *(iptables .*)$", (ROOT / "docs/compose.md").read_text(), re.MULTILINE)
LARGEST = 200 << 20  # beyond the base
SERVE = "python3 -m http.server 8000 --directory /opt/cnm/bin"
CONNECT = "import socket; socket.create_connection(('192.0.2.2', 1), 3)"

pytestmark = pytest.mark.timeout(600)


# The image.


def test_the_image_is_nobodys_and_small(host):
    told = json.loads(host.sh("docker image inspect cnm:latest"))[0]
    base = json.loads(host.sh(f"docker image inspect {BASE}"))[0]

    assert told["Config"]["User"] == "65534:65534"
    assert told["Config"]["Labels"]["org.opencontainers.image.title"] == "CNM"
    assert told["Size"] - base["Size"] < LARGEST


@pytest.mark.parametrize("program", ["cnm", "cnm-ready", *(worker.name for worker in WORKERS), "ip", "nft"])
def test_the_image_has(host, program):
    assert host.sh(f"docker run --rm --network none cnm:latest which {program}")


@pytest.mark.parametrize("program", ["uv", "gcc", "make", "git", "nats-server", "valkey-server"])
def test_the_image_does_without(host, program):
    assert host.try_sh(f"docker run --rm --network none cnm:latest which {program}").returncode == 1


def test_the_image_alone_says_what_can_be_done(host):
    assert "usage: cnm" in host.sh("docker run --rm --network none cnm:latest")


# The files, by the tools that read them.


@pytest.mark.parametrize("example", [False, True])
def test_compose_reads_the_files(host, example):
    found = json.loads(host.compose("config --format json", example=example))

    assert set(SERVICES) <= set(found["services"])


def test_prometheus_reads_its_files(host):
    assert "SUCCESS" in host.sh("promtool check config cnm/deploy/prometheus/prometheus.yml")


# The stack.


def test_all_are_healthy(stack):
    found = stack.containers()

    assert set(found) == set(SERVICES)
    for name, container in found.items():
        assert container["State"]["Running"], name
        health = container["State"].get("Health", {}).get("Status")
        assert health == ("healthy" if "healthcheck" in SERVICES[name] else None), name
    assert stack.cnm("status", service="controller").count("ready") == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_worker_has_the_rights_that_the_file_says(stack, name):
    pid = stack.containers()[name]["State"]["Pid"]
    status = dict(line.split(":\t", 1) for line in stack.sh(f"cat /proc/{pid}/status").splitlines())
    allowed = sum(1 << BITS[each] for each in SERVICES[name].get("cap_add", ()))

    assert [int(status[kind], 16) for kind in ("CapPrm", "CapEff", "CapBnd")] == [allowed] * 3
    assert status["Uid"].split()[0] == SERVICES[name]["user"].partition(":")[0]
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_metrics_and_readiness_are_there_on_loopback_alone(stack):
    def ups():
        told = json.loads(stack.sh("curl -sf '127.0.0.1:9090/api/v1/query?query=up'"))
        return {each["metric"]["worker"]: each["value"][1] for each in told["data"]["result"]}

    assert stack.until(lambda: len(found := ups()) == len(WORKERS) and found) == dict.fromkeys(
        (worker.name for worker in WORKERS), "1"
    )
    for port in range(9464, 9470):
        assert stack.sh(f"curl -sf 127.0.0.1:{port}/readyz") == "ready\n"
    listening = {line.split()[3] for line in stack.sh("ss -Hltn").splitlines()}
    assert {each for each in listening if not each.startswith("127.0.0.1:")} == set()


def test_a_worker_that_lost_redis_is_not_healthy(stack):
    stack.compose("pause redis")
    try:
        stack.until(lambda: stack.try_sh("docker exec cnm-ipam-1 cnm-ready").returncode == 1)
    finally:
        stack.compose("unpause redis")
    stack.until(lambda: stack.try_sh("docker exec cnm-ipam-1 cnm-ready").returncode == 0)


@pytest.fixture
def sandboxes(stack):
    """Two sandboxes on a network, a web server in one; its port is published."""
    stack.cnm("network create demo")
    stack.cnm("sandbox create -p 8080:8000 web")
    stack.cnm("sandbox create client")
    for name in ("web", "client"):
        stack.cnm(f"network connect demo {name}")
    stack.compose(f"exec -d sandbox cnm exec web -- {SERVE}")
    stack.until(lambda: stack.try_sh("curl -sf -m 3 http://127.0.0.1:8080/").returncode == 0)
    yield stack
    stack.cnm("sandbox rm client web")
    stack.cnm("network rm demo")


def address(stack, name):
    return stack.cnm(f"exec client -- getent ahostsv4 {name}").split()[0]


def outside(stack, url):
    return stack.try_sh(f"ip netns exec outside curl -sf -m 3 {url}").returncode == 0


def test_attached_containers_reach_one_another(sandboxes):
    key = json.loads(sandboxes.cnm("sandbox inspect client --output json"))["key"]
    sandboxes.sh(f"nsenter --net={key} curl -sf -m 5 http://{address(sandboxes, 'web')}:8000/ >/dev/null")

    assert "it gets there" in sandboxes.cnm("explain client web --port 8000")
    assert "all is as it should be" in sandboxes.cnm("check")
    assert sandboxes.sh("curl -sf -m 5 http://192.0.2.1:8080/")


def test_spans_of_every_worker_reach_the_collector(sandboxes):
    def senders():
        return set(re.findall(r"spans of (\S+)", sandboxes.compose("logs otel-collector")))

    sandboxes.until(lambda: {worker.name for worker in WORKERS} <= senders())


def test_what_stands_outlives_the_stack(sandboxes):
    before = address(sandboxes, "web")
    sandboxes.down()
    assert sandboxes.sh("ls /run/cnm/netns").split()
    sandboxes.up()

    assert address(sandboxes, "web") == before
    assert "all is as it should be" in sandboxes.cnm("check")


def test_the_rules_of_the_docs_open_and_close_what_they_say(sandboxes):
    """Docker forwards nothing of others, and lets neighbours in to what is published on loopback alone."""
    subnet = str(Path(address(sandboxes, "web")).with_suffix("")) + ".0/24"
    nats = sandboxes.containers()["nats"]["NetworkSettings"]["Networks"]["cnm_default"]["IPAddress"]
    knock = f"ip netns exec outside timeout 3 bash -c 'exec 3<>/dev/tcp/{nats}/4222; head -c 4 <&3'"
    assert not outside(sandboxes, "http://192.0.2.1:8080/")
    assert sandboxes.try_sh(knock).stdout == "INFO"  # which is why the docs say so
    rules = [line.replace("eth0", "uplink0").replace("10.210.0.0/16", subnet) for line in CLOSE]
    assert len(rules) == 3
    try:
        for rule in rules:
            sandboxes.sh(rule)

        assert outside(sandboxes, "http://192.0.2.1:8080/")
        assert (
            "refused"
            in sandboxes.try_sh(
                f'cd cnm && docker compose exec -T sandbox cnm exec client -- python3 -c "{CONNECT}"'
            ).stderr
        )
        assert not outside(sandboxes, f"http://{address(sandboxes, 'web')}:8000/")  # it is published, not open
        assert sandboxes.try_sh(knock).stdout == ""
        assert sandboxes.sh("bash -c 'exec 3<>/dev/tcp/127.0.0.1/4222; head -c 4 <&3'") == "INFO"
    finally:
        for rule in rules:
            sandboxes.try_sh(rule.replace(" -I ", " -D "))


# The example, and the end of it all.


def test_the_example_works_in_containers(stack):
    stack.up(example=True)
    try:
        stack.until(lambda: "says 200" in stack.compose("logs example-client", example=True))
        assert stack.sh("curl -sf -m 5 http://127.0.0.1:8088/").startswith("Hello")
        stack.compose("stop example", example=True)
        assert "example" not in stack.cnm("network ls")
    finally:
        stack.compose("rm --stop --force --volumes example example-web example-client", example=True)


def test_everything_goes_as_the_docs_say(stack):
    stack.cnm("network create left")
    stack.cnm("sandbox create behind")
    stack.cnm("network connect left behind")

    stack.cnm("down --all")
    stack.down("--volumes")
    stack.try_sh("cd cnm && docker compose run --rm --no-deps -T sandbox cnm down --all")
    stack.down("--volumes", example=True)

    assert stack.sh("ls /run/cnm/netns /run/cnm/sandboxes | grep -v :$ | xargs") == "\n"
    assert "cnm" not in stack.sh("ip link; docker volume ls; docker ps -a --format '{{.Names}}'")
