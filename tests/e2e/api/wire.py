"""Stands on the line between an installation and its servers: sees each step of a saga, and can strike at it.

A step is a command that the controller sends over NATS, or a script that it has Redis run. It can be struck *before*
it arrives, or *after* it was done and before the controller hears of it. Nothing in the installation knows of this.
"""

import asyncio
import contextlib
import hashlib
import json
import re
import socket
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from cnm import redis_replies, redis_store
from cnm_cli.embedded import find_nats_server, find_redis_server

NATS_PORT, NATS_BEHIND = 4222, 4333
PATIENCE_S = 15.0
SCRIPTS = {
    hashlib.sha1(script.encode()).hexdigest().encode(): name
    for name, script in {
        "begin": redis_store._BEGIN,
        "commit": redis_store._COMMIT,
        "finish": redis_store._FINISH,
        "claim reply": redis_replies._CLAIM,
        "keep reply": redis_replies._KEEP,
    }.items()
}
COMMAND = re.compile(rb"cnm\.v1\.(?:on\.[^.]+\.)?((?:ipam|bridge|sandbox|ports|names)\.(?!lease\.list).+)")
"""What keeps IPAM's books asks for leases whenever it likes, and is no step."""
SERVES = {"bridge": "driver-bridge", "ports": "port-mapper", "names": "resolver"}


def serving(step):
    """Return the worker, or the server, that carries a step out."""
    noun = step.partition(".")[0]
    return "redis" if step.startswith("redis ") else f"cnm-{SERVES.get(noun, noun)}"


@dataclass
class Strike:
    """What is to happen at a step, once: ``act`` is called, and says whether what was under way goes on.

    It returns None to let it pass, False to have it lost, or the seconds that it takes longer.
    """

    step: str
    when: str
    act: object
    struck: bool = False


class Server:
    """A server that can be killed; it is back at once."""

    def __init__(self, command, log):
        self._command, self._log = command, log
        self.process = None
        self.start()

    def start(self):
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def pid(self):
        """Return its process; nsenter becomes it."""
        return self.process.pid

    def again(self):
        """Start it when it has ended."""
        if self.process.poll() is not None:
            self.start()

    def end(self):
        self.process.kill()
        self.process.wait()


class Wire:
    """The two servers of an installation, and the line to each."""

    def __init__(self, installation):
        folder = installation.folder
        self.redis_behind, self.redis_path = folder / "behind.sock", folder / "front.sock"
        (folder / "redis").mkdir()
        self.nats = Server(
            installation.entering(
                str(find_nats_server()), "-a", "127.0.0.1", "-p", str(NATS_BEHIND), "-js", "-sd", str(folder / "nats")
            ),
            folder / "nats.log",
        )
        self.redis = Server(
            installation.entering(
                *(str(find_redis_server()), "--port", "0", "--unixsocket", str(self.redis_behind), "--save", ""),
                *("--dir", str(folder / "redis"), "--appendonly", "yes", "--appendfsync", "always"),
            ),
            folder / "redis.log",
        )
        self.seen = None  # steps, while they are noted
        self._strike = None
        self._inboxes = {}
        self._servers = []
        self._tasks = set()

    async def open(self):
        """Listen where the installation looks for its servers."""
        self._servers = [
            await asyncio.start_server(self._serve_nats, "127.0.0.1", NATS_PORT, limit=1 << 20),
            await asyncio.start_unix_server(self._serve_redis, self.redis_path, limit=1 << 20),
        ]
        until = time.monotonic() + PATIENCE_S
        while not (await self._answers(self._to_nats) and await self._answers(self._to_redis)):
            assert time.monotonic() < until, "the servers do not come up"
            await asyncio.sleep(0.02)

    async def _answers(self, connect):
        try:
            _, writer = await connect()
        except OSError:
            return False
        writer.close()
        return True

    async def close(self):
        for server in self._servers:
            server.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def end(self):
        for server in (self.nats, self.redis):
            server.end()

    # What a test does.

    def strike(self, step, when, act):
        """Have something happen at the next such step."""
        self._strike = Strike(step, when, act)
        return self._strike

    def note(self):
        """Begin to note steps."""
        self.seen = []

    def noted(self):
        """Return the steps since ``note``, each once, by name."""
        found, self.seen = self.seen, None
        return sorted(set(found), key=found.index)

    # The lines.

    def _reach(self, step, when):
        """Call the strike that is meant, and return what it says."""
        if self.seen is not None and when == "before":
            self.seen.append(step)
        meant = self._strike
        if meant is None or (meant.step, meant.when) != (step, when):
            return None
        self._strike = None
        meant.struck = True
        return meant.act()

    async def _to_nats(self):
        return await asyncio.open_connection("127.0.0.1", NATS_BEHIND, limit=1 << 20)

    async def _to_redis(self):
        return await asyncio.open_unix_connection(self.redis_behind, limit=1 << 20)

    async def _serve_nats(self, reader, writer):
        name = ""

        async def forward(to):
            nonlocal name
            while line := await reader.readline():
                verb, *words = line.split()
                frame = line
                if verb in (b"PUB", b"HPUB"):
                    frame += await reader.readexactly(int(words[-1]) + 2)
                    reply_to = words[1] if len(words) == (4 if verb == b"HPUB" else 3) else None
                    await self._pass(name, words[0], reply_to, frame, to)
                    continue
                if verb == b"CONNECT":
                    name = json.loads(line[len("CONNECT") :])["name"]
                to.write(frame)
                await to.drain()

        await self._join(reader, writer, self._to_nats, forward)

    async def _pass(self, name, subject, reply_to, frame, to):
        said = None
        if name == "cnm-controller" and reply_to and (found := COMMAND.fullmatch(subject)):
            step = found[1].decode()
            self._inboxes[reply_to] = step
            said = self._reach(step, "before")
        elif (step := self._inboxes.pop(subject, None)) is not None:
            said = self._reach(step, "after")
        await self._deliver(said, frame, to)

    async def _deliver(self, said, frame, to):
        if said is False:
            return

        async def late():
            await asyncio.sleep(said)
            with contextlib.suppress(ConnectionError):
                to.write(frame)

        if said:
            task = asyncio.ensure_future(late())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        to.write(frame)
        await to.drain()

    async def _serve_redis(self, reader, writer):
        line = writer.get_extra_info("socket")
        peer = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        controller = is_controller(struct.unpack("3i", peer)[0])
        waiting = []  # the step whose answer comes next

        async def forward(to):
            while line := await reader.readline():
                frame, words = [line], []
                for _ in range(int(line[1:])):
                    frame.append(await reader.readline())
                    words.append(await reader.readexactly(int(frame[-1][1:]) + 2))
                    frame.append(words[-1])
                step = None
                if controller and words[0].upper() == b"EVALSHA\r\n":
                    step = SCRIPTS.get(words[1][:-2])
                said = None
                if step is not None:
                    waiting[:] = [f"redis {step}"]
                    said = self._reach(waiting[0], "before")
                if said:
                    await asyncio.sleep(said)  # a connection carries one command at a time
                if said is not False:
                    to.write(b"".join(frame))
                    await to.drain()

        async def back(chunk):
            said = self._reach(waiting.pop(), "after") if waiting else None
            if said:
                await asyncio.sleep(said)
            return said is not False

        await self._join(reader, writer, self._to_redis, forward, back)

    async def _join(self, reader, writer, connect, forward, back=None):
        """Carry bytes both ways until one side ends."""
        task = asyncio.current_task()
        self._tasks.add(task)
        behind = None
        try:
            behind_reader, behind = await connect()

            async def backward():
                while chunk := await behind_reader.read(1 << 16):
                    if back is None or await back(chunk):
                        writer.write(chunk)
                        await writer.drain()

            both = [asyncio.ensure_future(forward(behind)), asyncio.ensure_future(backward())]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in both:
                    each.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in filter(None, (writer, behind)):
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()
            self._tasks.discard(task)


def is_controller(pid):
    """Tell whether a process is the controller."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word.endswith((b"cnm-controller", b"cnm_controller")) for word in words[:5])
