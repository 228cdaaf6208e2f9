"""A machine of the tests' own with Docker on it, from Debian's packages: its files, its life, and its images."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from cnm_cli.embedded import find_nats_server

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SUITE = "trixie"  # Docker Engine 26 and Python 3.13
DOCKER = "docker.io docker-cli docker-compose docker-buildx iptables iproute2 procps curl prometheus"
PYTHON = "python3 python3-pip python3-venv"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
PROXY_PORT = 3128
BASE = "stand-in:base"
TARGETS = {  # of stand-ins.Dockerfile, and the service whose image each stands in for
    "nats": "nats",
    "valkey": "redis",
    "prometheus": "prometheus",
    "jaeger": "jaeger",
    "grafana": "grafana",
    "collector": "otel-collector",
}
PATIENCE_S = 60


def call(*words, **more):
    """Run a program; what it said is in the error."""
    done = subprocess.run(tuple(map(str, words)), capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def make_roots(place):
    """Make two file systems, once: the machine's, and the image's base."""
    if (place / "complete").exists():
        return
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    place.chmod(0o755)
    base, machine = place / "base", place / "machine"
    call("debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, base)
    policy = base / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")  # starts nothing
    policy.chmod(0o755)
    call("cp", "-a", base, machine)
    for root, packages in ((base, PYTHON), (machine, DOCKER)):
        call(
            "chroot", root, "apt-get", "install", "-qy", "--no-install-recommends", *packages.split(),
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
        )  # fmt: skip
        call("chroot", root, "apt-get", "clean")
    policy.unlink()
    if AUTHORITIES.exists():  # whom this machine trusts, its builds trust
        shutil.copy(AUTHORITIES, base / str(AUTHORITIES).lstrip("/"))
    (place / "complete").touch()


class Machine:
    """Runs Docker in namespaces of its own; all that runs in it ends with it."""

    def __init__(self, place, share):
        for name in ("docker", "containerd"):  # what a run before this one left: containers would start again
            shutil.rmtree(place / "machine/var/lib" / name, ignore_errors=True)
        self._share = share
        self._processes = []
        self._socket = share / "proxy"
        self._start(sys.executable, HERE / "relay.py", "unix", self._socket)
        first = self._start(
            "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--",
            "sh", HERE / "start.sh", place / "machine", share,
        )  # fmt: skip
        (self.pid,) = map(int, Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split())
        inside = ("nsenter", f"--net=/proc/{self.pid}/ns/net")
        self._start(*inside, sys.executable, HERE / "relay.py", "tcp", PROXY_PORT, self._socket)
        with (share / "dockerd.log").open("w") as log:
            daemon = subprocess.Popen(self.words("dockerd"), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._processes.append(daemon)
        self.until(lambda: self.try_sh("docker version").returncode == 0)

    def _start(self, *words):
        """Start a program and wait until it says that it is ready."""
        process = subprocess.Popen(
            tuple(map(str, words)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self._processes.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    def end(self):
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)  # the first of its process namespace takes all with it
        for process in reversed(self._processes):
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()

    def words(self, *words):
        """Return the words that run something in it."""
        return (
            "nsenter",
            f"--target={self.pid}",
            "--mount",
            "--net",
            "--pid",
            "--wdns=/share",
            "--",
            *map(str, words),
        )

    def try_sh(self, line, *, timeout=300):
        """Run a shell line, whatever comes of it."""
        return subprocess.run(
            self.words("sh", "-c", line), capture_output=True, text=True, check=False, timeout=timeout,
            env={"PATH": os.environ["PATH"], "HOME": "/root"},
        )  # fmt: skip

    def sh(self, line, **more):
        """Run a shell line that must succeed, and return what it says."""
        done = self.try_sh(line, **more)
        assert done.returncode == 0, f"{line}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    def until(self, condition):
        """Return the first true value of a condition."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := condition()):
            assert time.monotonic() < deadline, (self._share / "dockerd.log").read_text()[-2000:]
            time.sleep(0.1)
        return found

    # Images.

    def import_base(self, base):
        """Have a base image that looks like the official one of Python."""
        told = {"PIP_BREAK_SYSTEM_PACKAGES": "1", "PIP_CERT": AUTHORITIES, "SSL_CERT_FILE": AUTHORITIES}
        changes = [word for name, value in told.items() for word in ("-c", f"ENV {name}={value}")]
        packed = subprocess.Popen(("tar", "-C", str(base), "-c", "."), stdout=subprocess.PIPE)
        with packed:
            call(*self.words("docker", "import", *changes, "-", BASE), stdin=packed.stdout)
        assert packed.returncode == 0

    def build(self, folder, dockerfile, tag, *more):
        """Build an image from a folder under /share, with the way out that builds are given."""
        proxy = f"http://127.0.0.1:{PROXY_PORT}"
        proxies = " ".join(f"--build-arg {each}={proxy}" for each in ("http_proxy", "https_proxy"))
        self.sh(f"cd {folder} && docker build --network host {proxies} -f {dockerfile} -t {tag} {' '.join(more)} .")

    def build_all(self):
        """Build the image, by its own Dockerfile, and what stands in for those of others."""
        project = self._share / "cnm"
        project.mkdir()
        files = call("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
        call("cp", "--parents", "-t", project, *(each for each in files if (ROOT / each).exists()), cwd=ROOT)
        others = self._share / "others"
        others.mkdir()
        for each in (HERE / "collector.py", HERE / "stand-ins.Dockerfile", find_nats_server()):
            shutil.copy(each, others)
        self.build("cnm", "deploy/Dockerfile", "cnm:latest", f"--build-arg BASE={BASE}")
        services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        for target, service in TARGETS.items():
            self.build("others", "stand-ins.Dockerfile", services[service]["image"], f"--target {target}")

    # The stack.

    def compose(self, words, *, example=False):
        files = "-f docker-compose.yml" + (" -f docker-compose.example.yml" if example else "")
        return self.sh(f"cd cnm && docker compose {files} {words}")

    def cnm(self, words, *, service="sandbox"):
        """Run the command in a container of the stack."""
        return self.compose(f"exec -T {service} cnm {words}")

    def up(self, **more):
        self.compose("up --detach --wait", **more)

    def down(self, words="", **more):
        self.compose(f"down --timeout 2 {words}", **more)

    def containers(self):
        """Return what Docker tells of each container of the stack, by service."""
        ids = self.sh("docker ps -aq --filter label=com.docker.compose.project=cnm").split()
        told = json.loads(self.sh(f"docker inspect {' '.join(ids)}")) if ids else []
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in told}


@contextmanager
def machine(place, share):
    """Have a machine with all images."""
    make_roots(place)
    made = Machine(place, share)
    try:
        made.import_base(place / "base")
        made.build_all()
        yield made
    finally:
        made.end()
