"""A whole installation in namespaces of its own, for every test that asks CNM from outside."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import nats
import pytest

from cnm.kernel import libc
from cnm_cli import stage
from cnm_cli.child import read_identity

TOOLS = ("ip", "nft", "nsenter")
PATIENCE_S = 15.0
URL = "nats://127.0.0.1:4222"

HOLDER = """
import os, signal, sys
from pathlib import Path
from cnm_cli import stage

stage.leave_the_machine()
print("ready", flush=True)
sys.stdin.read()  # until the tests end, in whatever way
ours = os.readlink("/proc/self/ns/mnt")
for process in Path("/proc").glob("[0-9]*"):
    try:
        if int(process.name) != os.getpid() and os.readlink(process / "ns/mnt") == ours:
            os.kill(int(process.name), signal.SIGKILL)
    except OSError:
        pass
"""
CONTROLLING = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


def wait_until(condition, *, patience_s=PATIENCE_S):
    """Return the first true value of a condition."""
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition never became true"
        time.sleep(0.01)
    return found


class Installation:
    """`cnm up` in a network and a mount namespace of its own.

    ``namespace`` is the path of that network namespace; ``inside`` is where this process finds the installation's
    files, its namespaces among them; ``env`` is what every command of it is given; ``url`` is where its NATS listens,
    in its namespace.
    """

    url = URL
    node_address = stage.NODE_ADDRESS
    lan_address = stage.NEIGHBOUR_ADDRESS

    def __init__(self, folder, **settings):
        self.folder = folder
        self.run_dir = folder / "run"
        self.env = {
            name: value for name, value in os.environ.items() if not name.startswith(("CNM_", "OTEL_", "PYTEST_"))
        } | {
            "CNM_RUN_DIR": str(self.run_dir),
            "CNM_STATE_DIR": str(folder / "state"),
            "CNM_NODE": "n1",
            "CNM_NODE_ADDRESS": self.node_address,  # it has it while there is a LAN
            **settings,
        }
        self._holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._holder.stdout.readline() == "ready\n"
        self.holder = self._holder.pid
        self.inside = f"/proc/{self._holder.pid}/root"
        self.namespace = f"/proc/{self._holder.pid}/ns/net"
        self._up = None
        self._asking = None

    # Its life.

    def up(self):
        """Start it in the foreground and wait until it is ready."""
        log = (self.folder / "up.log").open("a")
        self._up = subprocess.Popen(
            self.command("up"), env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True
        )
        log.close()
        line = self._up.stdout.readline()
        assert line.startswith("ready"), f"{line}{self.log()}"

    def down(self):
        """Stop it, as a signal does; sandboxes stay."""
        self._up.terminate()
        status = self._up.wait(PATIENCE_S)
        self._up.stdout.close()
        self._up = None
        assert status == 0, self.log()

    def end(self):
        """Stop it if it runs."""
        if self._up is not None:
            self.down()

    def forget_connection(self):
        """Ask over a connection of its own from now on."""
        if self._asking is not None:
            self._asking.close()
        self._asking = None

    def close(self):
        """End everything, and let the namespaces go."""
        if self._asking is not None:
            self._asking.close()
        try:
            self.end()
        finally:
            self._holder.stdin.close()
            self._holder.wait(PATIENCE_S)
            self._holder.stdout.close()

    def log(self):
        """Return what `cnm up` said on stderr."""
        return (self.folder / "up.log").read_text()

    def pid(self, program):
        """Return the process of a worker or server (``cnm-ipam``, ``nats``), once it runs."""
        return wait_until(lambda: read_identity(self.run_dir / "pids" / f"{program}.pid")).pid

    # What a test does with it.

    def command(self, *words):
        """Return the words that run a `cnm` of it."""
        return self.entering(sys.executable, "-P", "-m", "cnm_cli", *words)

    def entering(self, *words):
        """Return the words that run something where it runs."""
        return ("nsenter", f"--target={self._holder.pid}", "--net", "--mount", "--", *words)

    def cnm(self, *words, stdin="", timeout=50, check=False, **environment):
        """Run `cnm` to its end; with ``check`` it must succeed."""
        done = subprocess.run(
            self.command(*words), env=self.env | environment, input=stdin, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"cnm {' '.join(words)}: {done.stderr or done.stdout}"
        return done

    @contextmanager
    def running(self, *words, **environment):
        """Run `cnm` beside the body, which talks to it through pipes; it is killed when it did not end."""
        process = subprocess.Popen(
            self.command(*words), env=self.env | environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    @contextmanager
    def on_terminal(self, *words):
        """Run `cnm` on a terminal of its own; gives the process and the terminal's other side, unbuffered."""
        ours, theirs = os.openpty()
        process = subprocess.Popen(
            (sys.executable, "-c", CONTROLLING, *self.command(*words)),
            env=self.env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        with process, open(ours, "r+b", buffering=0) as terminal:  # noqa: PTH123
            try:
                yield process, terminal
            finally:
                if process.poll() is None:
                    process.kill()

    def ask(self, subject, body=None, headers=None, *, timeout=20):
        """Send a request to a subject, ``network.list`` or in full, and return the reply's body and headers."""
        if self._asking is None:
            self._asking = Asking(self.url, self.namespace)
        full = subject if subject.startswith(("cnm.", "$")) else f"cnm.v1.{subject}"
        return self._asking.ask(full, {} if body is None else body, headers, timeout)

    def sh(self, command, *, at=None, check=True):
        """Run a shell line in its network, or in the network namespace at a path as the installation has it."""
        path = self.namespace if at is None else at if str(at).startswith("/proc/") else f"{self.inside}{at}"
        done = subprocess.run(
            ("nsenter", f"--net={path}", "sh", "-c", command), capture_output=True, text=True, timeout=30, check=False
        )
        assert not check or done.returncode == 0, f"{command}: {done.stderr or done.stdout}"
        return done.stdout if check else done

    @contextmanager
    def lan(self):
        """Have another machine beside the node, at ``lan_address``; gives the path of its network namespace."""
        place = self.folder / "lan"
        self._stage(f"stage.make_lan(Path({str(place)!r}))")
        try:
            yield f"{self.inside}{place}"
        finally:
            self._stage(f"stage.remove_lan(Path({str(place)!r}))")
            wait_until(lambda: "uplink0" not in self.sh("ip link"))

    def _stage(self, line):
        script = f"from pathlib import Path\nfrom cnm_cli import stage\n{line}"
        subprocess.run(self.entering(sys.executable, "-c", script), check=True, timeout=30)

    def sandboxes(self):
        """Return the names of all sandboxes."""
        return {sandbox["name"] for sandbox in self.ask("sandbox.list")[0]["sandboxes"]}


class Asking:
    """A NATS connection, in a thread that lives in the installation's network."""

    def __init__(self, url, namespace):
        self._loop = asyncio.new_event_loop()
        began = threading.Event()
        self._thread = threading.Thread(target=self._live, args=(namespace, began), daemon=True)
        self._thread.start()
        began.wait()
        self._client = self._run(nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.05))

    def _live(self, namespace, began):
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        libc.setns(descriptor, libc.CLONE_NEWNET)
        os.close(descriptor)
        asyncio.set_event_loop(self._loop)
        began.set()
        self._loop.run_forever()
        self._loop.close()

    def _run(self, work, timeout=PATIENCE_S):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def ask(self, subject, body, headers, timeout):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        reply = self._run(self._client.request(subject, data, timeout=timeout, headers=headers), timeout + 1)
        return json.loads(reply.data), dict(reply.headers or {})

    def close(self):
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@pytest.fixture(scope="session", autouse=True)
def whole_machine():
    """Skip on a laptop without root or tools, fail in CI."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if os.geteuid() != 0:
        missing.insert(0, "root")
    if not missing:
        return
    message = f"tests of a whole installation need {', '.join(missing)}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def installed(folder, **settings):
    """Have an installation that is up, as long as the body runs."""
    made = Installation(folder, **settings)
    try:
        made.up()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def installation(tmp_path_factory, whole_machine):
    """The installation that the tests share: leave nothing behind in it, and do not stop it."""
    with installed(tmp_path_factory.mktemp("cnm")) as made:
        yield made


@pytest.fixture
def lan(installation):
    """Another machine beside the shared installation's node: the path of its network namespace."""
    with installation.lan() as path:
        yield path


@pytest.fixture
def own_installation(tmp_path):
    """An installation that a test may break."""
    with installed(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def module_installation(tmp_path_factory, whole_machine):
    """An installation of a file's own: its tests kill and stop what comes back, and leave nothing behind."""
    with installed(tmp_path_factory.mktemp("cnm")) as made:
        yield made


@pytest.fixture
def installed_with(tmp_path):
    """Make an installation with settings of its own."""
    return lambda **settings: installed(tmp_path, **settings)


@pytest.fixture(scope="session")
def prepared():
    """Make an installation that the test starts and closes itself, after it made what the settings name."""
    return Installation


@pytest.fixture
def traced_installation(tmp_path):
    """An installation whose workers tell of their spans."""
    with installed(tmp_path, OTEL_TRACES_EXPORTER="nats") as made:
        yield made


@pytest.fixture
def stopped_installation(tmp_path):
    """An installation that nobody has started; whatever a test made of it goes."""
    made = Installation(tmp_path)
    try:
        yield made
    finally:
        made.cnm("down", "--all")
        made.close()


@pytest.fixture(scope="session", name="wait_until")
def wait_until_fixture():
    """Return the first true value of a condition."""
    return wait_until


@pytest.fixture
def gone():
    """Tell whether a process is gone; one that nobody waited for counts as gone."""

    def is_gone(pid):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            return True
        return state in "ZX"

    return is_gone


@pytest.fixture
def frozen():
    """Stop processes for the length of a block: they are there and do not answer."""

    @contextmanager
    def freeze(*pids):
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    return freeze
