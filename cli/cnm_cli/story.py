"""What `cnm demo` does, step by step; each step is printed with its time as it ends."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cnm.errors import CnmError
from cnm.spans import SpanRecord
from cnm.trace import Trace
from cnm_cli import stage
from cnm_cli.client import Body, Client
from cnm_cli.request import address, ask, with_client
from cnm_cli.spans import listening
from cnm_cli.waterfall import waterfall

WEB_PORT = 8000
PUBLISHED_PORT = 8080
PATIENCE_S = 3.0
"""So long a fetch waits before it counts as refused in silence."""
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 30
SPANS_TIMEOUT_S = 3.0

CNM = (sys.executable, "-P", "-m", "cnm_cli")
FETCH = """
import json, socket, sys, time, urllib.request
url, patience_s = sys.argv[1], float(sys.argv[2])
began = time.perf_counter()
found = {}
try:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=patience_s) as reply:
        found = {"status": reply.status, "text": reply.read().decode().strip()}
except OSError as error:
    found = {"error": str(getattr(error, "reason", error))}
print(json.dumps(found | {"ms": (time.perf_counter() - began) * 1000}))
"""
RESOLVE = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"


class Wrong(Exception):
    """A step did not do what it should."""


class Narrator:
    """Prints each step with the time that passed and the time that it took."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = clock()

    @contextmanager
    def step(self, text: str) -> Iterator[list[str]]:
        """Print a step when it ends, with what its body put on the list; a failure says so and goes on."""
        began = self._clock()
        remarks: list[str] = []
        try:
            yield remarks
        except BaseException as error:
            self._print("FAILED", text, [str(error) or type(error).__name__], began)
            raise
        self._print("ok", text, remarks, began)

    def head(self, text: str) -> None:
        """Print what the steps after it are about."""
        print(f"\n{text}", flush=True)

    def text(self, text: str) -> None:
        """Print lines as they are, set in."""
        print("\n".join(f"  {line}" for line in text.splitlines()), flush=True)

    def _print(self, outcome: str, text: str, remarks: Sequence[str], began: float) -> None:
        now = self._clock()
        print(f"{now - self._began:7.2f} s  {outcome:6}  {text}  ({(now - began) * 1000:.0f} ms)")
        for remark in remarks:
            print(f"{'':19}{remark}")
        sys.stdout.flush()


def tell() -> int:
    """Do it all; returns 0 when every step did what it should."""
    narrator = Narrator()
    folder = Path(tempfile.mkdtemp(prefix="cnm-demo-"))
    failed = False
    try:
        with narrator.step("a network namespace of its own, and another machine on its LAN") as remarks:
            stage.leave_the_machine()
            stage.make_lan(folder / "lan")
            remarks.append(f"this node is {stage.NODE_ADDRESS}, the other machine {stage.NEIGHBOUR_ADDRESS}")
        _settle_environment(folder)
        before = stage.look(folder / "run")
        play = Play(folder, narrator)
        try:
            play.perform()
        except (Wrong, CnmError, OSError, subprocess.SubprocessError):
            failed = True  # the step has said why
        finally:
            failed = not play.tear_down(before) or failed
    except (Wrong, CnmError, OSError, subprocess.SubprocessError):
        failed = True
    finally:
        with suppress(OSError):
            stage.remove_lan(folder / "lan")
        shutil.rmtree(folder, ignore_errors=True)
    narrator.head("FAILED" if failed else "Every step did what it should, and nothing is left.")
    return 1 if failed else 0


def _settle_environment(folder: Path) -> None:
    """Make this process and its children mean the demonstration's installation, and no other."""
    for name in [name for name in os.environ if name.startswith(("CNM_", "OTEL_"))]:
        del os.environ[name]
    os.environ |= {
        "CNM_RUN_DIR": str(folder / "run"),
        "CNM_STATE_DIR": str(folder / "state"),
        "CNM_NODE": "demo",
        "CNM_NODE_ADDRESS": stage.NODE_ADDRESS,
        "OTEL_TRACES_EXPORTER": "nats",
    }


class Play:
    """The steps, and the processes they start."""

    def __init__(self, folder: Path, narrator: Narrator) -> None:
        self._folder = folder
        self._narrator = narrator
        self._up: subprocess.Popen[str] | None = None
        self._servers: list[subprocess.Popen[str]] = []

    def perform(self) -> None:
        """Go through all steps.

        Raises:
            Wrong: one did not do what it should.
            CnmError: something was refused.
        """
        step, head = self._narrator.step, self._narrator.head
        with step("NATS, Redis and every worker, each a process of its own") as remarks:
            remarks.append(self._start())

        head("Two sandboxes on one network")
        with step("network demo") as remarks:
            network = ask("network.create", {"name": "demo"})
            remarks.append(f"subnet {network['ipam']['pools'][0]['subnet']}, driver {network['driver']}")
        with step("sandbox web, connected, port 8080 of the node published") as remarks:
            body = {"container_port": WEB_PORT, "host_port": PUBLISHED_PORT}
            ask("sandbox.create", {"name": "web", "ports": [body]})
            endpoint, spans = with_client(_traced_connect)
            web_address = address(endpoint["ipv4_address"])
            remarks.append(f"{endpoint['ifname']} has {endpoint['ipv4_address']}, the node {_host_end(endpoint)}")
        with step("python -m http.server in web"):
            self._serve("web", "hello from web")
        with step("sandbox client, connected") as remarks:
            remarks.append(f"it has {self._make('client', 'demo')}")

        head("They reach each other by name, and the outside reaches what is published")
        with step("client asks 127.0.0.11 for web") as remarks:
            found = self._output(*_inside("client", RESOLVE, "web")).strip()
            _expect(found == web_address, f"web resolves to {found}, it has {web_address}")
            remarks.append(f"web is {found}")
        url = f"http://web:{WEB_PORT}/"
        self._fetch_step(f"client fetches {url}", url, sandbox="client")
        url = f"http://127.0.0.1:{PUBLISHED_PORT}/"
        self._fetch_step(f"the node fetches {url}", url)
        url = f"http://{stage.NODE_ADDRESS}:{PUBLISHED_PORT}/"
        self._fetch_step(f"the node fetches {url}, its own address", url)
        self._fetch_step(f"the other machine fetches {url}", url, enter=stage.inside(self._folder / "lan"))
        with step("cnm run: one command in a sandbox of its own fetches it and is gone") as remarks:
            url = f"http://web:{WEB_PORT}/"
            command = ("run", "--network", "demo", "--", sys.executable, "-c", FETCH, url, str(PATIENCE_S))
            remarks.append(_shown(_required(json.loads(self._output(*CNM, *command)))))

        head("A sandbox on another network does not reach it")
        with step("network other, sandboxes stranger and neighbour, a server in neighbour"):
            ask("network.create", {"name": "other"})
            for name in ("stranger", "neighbour"):
                self._make(name, "other")
            self._serve("neighbour", "hello from neighbour")
        url = f"http://neighbour:{WEB_PORT}/"
        self._fetch_step(f"stranger fetches {url}: it can talk", url, sandbox="stranger", text="hello from neighbour")
        for url in (f"http://{web_address}:{WEB_PORT}/", f"http://web:{WEB_PORT}/"):
            with step(f"stranger does not get {url}") as remarks:
                reply = self._fetch(url, sandbox="stranger")
                _expect("error" in reply, f"it got {_shown(reply)}")
                remarks.append(f"{reply['error']}, after {reply['ms']:.0f} ms")

        head("What the attach of web did")
        with step("the trace of sandbox.connect is complete") as remarks:
            services = sorted({span.service for span in spans})
            _expect(len(services) >= 5 and any(span.events for span in spans), f"only {services}")
            remarks.append(f"{len(spans)} spans of {len(services)} processes")
        self._narrator.text(waterfall(spans))

        head("What stands")
        self._show_topology()

    def tear_down(self, before: stage.Evidence) -> bool:
        """Take everything down, whatever failed; tell whether it worked and nothing is left."""
        self._narrator.head("Everything goes")
        worked = True
        for text, work in (
            ("the servers in the sandboxes end", self._stop_servers),
            ("cnm down --all", self._down),
            ("no link, namespace, table, file or process is left", lambda: self._look_again(before)),
        ):
            try:
                with self._narrator.step(text):
                    work()
            except (Wrong, CnmError, OSError, subprocess.SubprocessError):
                worked = False
        return worked

    def _start(self) -> str:
        with (self._folder / "up.log").open("w") as log:
            self._up = subprocess.Popen(
                (*CNM, "up", "--nats-port=0", f"--timeout={START_TIMEOUT_S}"),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                process_group=0, preexec_fn=stage.tied,  # noqa: PLW1509  # there are no threads
            )  # fmt: skip
        assert self._up.stdout is not None
        line = self._up.stdout.readline().strip()
        if not line.startswith("ready"):
            last = (self._folder / "up.log").read_text().splitlines()[-1:]
            raise Wrong(f"cnm up ended with status {self._up.wait()}: {' '.join(last)}")
        return line

    def _make(self, name: str, network: str) -> str:
        ask("sandbox.create", {"name": name})
        endpoint = ask("sandbox.connect", {"sandbox": name, "network": network})
        return str(endpoint["ipv4_address"])

    def _serve(self, sandbox: str, text: str) -> None:
        """Run a web server in a sandbox and wait until it listens."""
        pages = self._folder / sandbox
        pages.mkdir()
        (pages / "index.html").write_text(f"{text}\n")
        command = (sys.executable, "-u", "-m", "http.server", str(WEB_PORT), "--directory", str(pages))
        server = subprocess.Popen(
            (*CNM, "exec", sandbox, "--", *command),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            process_group=0, preexec_fn=stage.tied,  # noqa: PLW1509  # there are no threads
        )  # fmt: skip
        self._servers.append(server)
        assert server.stdout is not None
        line = server.stdout.readline()
        _expect(line.startswith("Serving HTTP"), f"the server in {sandbox} ended with status {server.poll()}")

    def _fetch_step(
        self,
        title: str,
        url: str,
        *,
        sandbox: str | None = None,
        enter: Callable[[], None] = stage.tied,
        text: str = "hello from web",
    ) -> None:
        with self._narrator.step(title) as remarks:
            reply = _required(self._fetch(url, sandbox=sandbox, enter=enter))
            _expect(reply["text"] == text, f"it got {reply['text']!r}")
            remarks.append(_shown(reply))

    def _fetch(
        self, url: str, *, sandbox: str | None = None, enter: Callable[[], None] = stage.tied
    ) -> Mapping[str, Any]:
        words = (FETCH, url, str(PATIENCE_S))
        command = _inside(sandbox, *words) if sandbox else (sys.executable, "-c", *words)
        found: dict[str, Any] = json.loads(self._output(*command, enter=enter))
        return found

    def _output(self, *command: str, enter: Callable[[], None] = stage.tied) -> str:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=False,
            preexec_fn=enter,
        )  # fmt: skip
        _expect(done.returncode == 0, f"status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _show_topology(self) -> None:
        for words in (("network", "ls"), ("sandbox", "ls"), ("port", "ls")):
            self._narrator.text(f"$ cnm {' '.join(words)}\n{self._output(*CNM, *words)}")

    def _stop_servers(self) -> None:
        for server in self._servers:
            server.terminate()
        for server in self._servers:
            server.wait(STOP_TIMEOUT_S)
            if server.stdout is not None:
                server.stdout.close()

    def _down(self) -> None:
        self._output(*CNM, "down", "--all")
        if self._up is not None:
            self._up.wait(STOP_TIMEOUT_S)
            if self._up.stdout is not None:
                self._up.stdout.close()

    def _look_again(self, before: stage.Evidence) -> None:
        left = stage.look(self._folder / "run").beyond(before)
        deadline = time.monotonic() + PATIENCE_S  # the kernel ends a namespace's links some time after it
        while left and time.monotonic() < deadline:
            time.sleep(0.02)
            left = stage.look(self._folder / "run").beyond(before)
        _expect(not left, f"left behind: {', '.join(left)}")


async def _traced_connect(client: Client) -> tuple[Body, list[SpanRecord]]:
    """Connect web to demo, and collect the spans of that; the first is our own."""
    subject = "cnm.v1.sandbox.connect"
    trace = Trace(trace_id=secrets.token_hex(16), span_id=secrets.token_hex(8))
    async with listening(client) as spans:
        began = time.time_ns()
        endpoint = await client.ask(subject, {"sandbox": "web", "network": "demo"}, headers=trace.headers())
        own = SpanRecord(
            trace_id=trace.trace_id,
            span_id=trace.span_id,
            parent_id=None,
            service="cnm demo",
            name=f"send {subject}",
            start_ns=began,
            end_ns=time.time_ns(),
        )
        found = await spans.complete(trace.trace_id, root=trace.span_id, timeout_s=SPANS_TIMEOUT_S)
        return endpoint, [own, *found]


def _host_end(endpoint: Mapping[str, Any]) -> str:
    return str(endpoint["driver_info"]["host_ifname"])


def _inside(sandbox: str, script: str, *words: str) -> tuple[str, ...]:
    return (*CNM, "exec", sandbox, "--", sys.executable, "-c", script, *words)


def _required(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    _expect(reply.get("status") == 200, str(reply.get("error", reply)))
    return reply


def _shown(reply: Mapping[str, Any]) -> str:
    return f"{reply.get('status')}, {reply.get('text')!r}, {reply['ms']:.1f} ms"


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Wrong(otherwise)
