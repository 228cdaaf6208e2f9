"""Strikes at each step of each saga: a process dies, stalls or is cut off, before the step or after it.

Whatever is struck, the client gets an answer that is true or none; soon after everything is back the kernel, IPAM and
the lists agree, the request repeated under its id is carried out once, all of it can be deleted, and the events tell
each change once and in order. `make chaos` runs every case, the suite a sample that is another part of them for each
seed.
"""

import asyncio
import collections
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field

import nats
import pytest

from .conftest import Api, Within
from .test_chaos import check_events, events_since
from .test_crashes import consistent
from .wire import Wire, serving

WANTED = os.environ.get("CNM_FAULTS", "12")
"""How many cases, ``all``, or words that a case's name holds."""
SEED = int(os.environ.get("CNM_FAULTS_SEED", "1"))
DEADLINE_MS = 2500
STALL_S = 2.5
"""Longer than the lease of a saga."""
FRONT, BEHIND = "nats://127.0.0.1:4222", "nats://127.0.0.1:4333"
IN_DOUBT = ("redis commit",)
"""Where Redis dies here, nobody knows at once whether the change stands."""
OPEN = ("unavailable", "timeout")
"""The errors after which a client asks again."""

NET = ("network.create", {"name": "net", "ipam": {"pools": [{"subnet": "10.61.0.0/24"}]}})
PORT = {"container_port": 80, "host_port": 8061}
BOX = ("sandbox.create", {"name": "box", "ports": [PORT], "extra_hosts": [{"name": "x", "ip": "192.0.2.1"}]})
JOIN = ("sandbox.connect", {"sandbox": "box", "network": "net"})
SPARE = ("endpoint.create", {"network": "net", "name": "spare"})


@dataclass(frozen=True)
class Operation:
    """A request, what has to be there for it, and how to see that it was carried out."""

    before: tuple
    request: tuple
    done: object


def names(found, noun):
    return [each["name"] for each in found[noun]]


def box(found):
    (only,) = found["sandboxes"]
    return only


def ports(found):
    return {each["container_port"] for each in box(found)["ports"]}


OPERATIONS = {
    each.request[0]: each
    for each in (
        Operation((), NET, lambda found: "net" in names(found, "networks")),
        Operation((), BOX, lambda found: names(found, "sandboxes") == ["box"]),
        Operation((NET, BOX), JOIN, lambda found: len(box(found)["endpoints"]) == 1),
        Operation((NET,), SPARE, lambda found: names(found, "endpoints") == ["spare"]),
        Operation(
            (NET, BOX, SPARE),
            ("endpoint.join", {"network": "net", "endpoint": "spare", "sandbox": "box"}),
            lambda found: len(box(found)["endpoints"]) == 1,
        ),
        Operation(
            (NET, BOX, JOIN),
            ("sandbox.publish", {"sandbox": "box", "ports": [{"container_port": 81, "host_port": 8062}]}),
            lambda found: 81 in ports(found),
        ),
        Operation(
            (NET, BOX, JOIN),
            ("sandbox.unpublish", {"sandbox": "box", "ports": [{"container_port": 80}]}),
            lambda found: not ports(found),
        ),
        Operation(
            (NET, BOX, JOIN),
            ("endpoint.update", {"network": "net", "endpoint": "box", "aliases": ["other"]}),
            lambda found: found["endpoints"][0]["aliases"] == ["other"],
        ),
        Operation(
            (NET, BOX, JOIN),
            ("sandbox.update", {"sandbox": "box", "hostname": "other"}),
            lambda found: box(found)["hostname"] == "other",
        ),
        Operation(
            (NET, BOX, JOIN),
            (
                "network.update",
                {
                    "network": "net",
                    "add_pools": [{"subnet": "10.62.0.0/24"}],
                    "options": {"com.docker.network.driver.mtu": 1400},
                },
            ),
            lambda found: any(len(each["ipam"]["pools"]) == 2 for each in found["networks"]),
        ),
        Operation(
            (NET, BOX, JOIN),
            ("endpoint.leave", {"network": "net", "endpoint": "box", "sandbox": "box"}),
            lambda found: not box(found)["endpoints"],
        ),
        Operation(
            (NET, BOX, JOIN),
            ("sandbox.disconnect", {"sandbox": "box", "network": "net"}),
            lambda found: not found["endpoints"],
        ),
        Operation((NET, BOX, JOIN), ("sandbox.delete", {"sandbox": "box"}), lambda found: not found["sandboxes"]),
        Operation(
            (NET, BOX, JOIN),
            ("network.delete", {"network": "net", "force": True}),
            lambda found: "net" not in names(found, "networks"),
        ),
    )
}

FAULTS = {
    "before": ("worker killed", "worker stalled", "controller killed", "nats killed", "lost", "late"),
    "after": ("worker killed", "controller killed", "controller stalled", "nats killed", "lost", "late"),
}
REDIS_FAULTS = {
    "before": ("controller killed", "redis killed", "redis stalled"),
    "after": ("controller killed", "redis killed", "controller stalled"),
}


@dataclass
class Tally:
    """What was struck, how long until all was well again, and what was wrong."""

    faults: collections.Counter = field(default_factory=collections.Counter)
    first: collections.Counter = field(default_factory=collections.Counter)
    settled_s: list = field(default_factory=list)
    wrong: list = field(default_factory=list)

    def table(self):
        lines = [f"faults at the steps of {len(OPERATIONS)} operations{sum(self.faults.values()):>6}"]
        lines += [f"  {what:<34}{count:>6}" for what, count in sorted(self.faults.items())]
        lines += [f"first answer: {what:<22}{count:>6}" for what, count in sorted(self.first.items())]
        if self.settled_s:
            ordered = sorted(self.settled_s)
            lines.append(f"well again after (median, most) {ordered[len(ordered) // 2]:.1f}, {ordered[-1]:.1f} s")
        lines += [f"violations {len(self.wrong):>31}", *(f"  {each}" for each in self.wrong)]
        return "\n".join(lines)


class Place:
    """An installation on the wire, and a client that reaches its servers past it."""

    def __init__(self, installation, api, wire):
        self.installation, self.api, self.wire = installation, api, wire
        self._serial = 0

    def ask(self, verb, body):
        """Ask for what has to work, soon: a node that was not heard of for a while is ready again then."""
        until = time.monotonic() + 20
        while True:
            reply, _ = self.api.call(verb, body)
            if reply.get("error", {}).get("code") not in OPEN or time.monotonic() > until:
                assert "error" not in reply, reply
                return reply
            time.sleep(0.05)

    def fresh_id(self):
        self._serial += 1
        return f"request-{os.getpid()}-{self._serial}"

    async def once(self, verb, body, request_id):
        """Ask one time; return the reply, or None when none came."""
        headers = {"Cnm-Request-Id": request_id, "Cnm-Deadline-Ms": str(DEADLINE_MS)}
        try:
            message = await self.api.client.request(
                f"cnm.v1.{verb}", json.dumps(body).encode(), timeout=DEADLINE_MS / 1000 + 1.5, headers=headers
            )
        except (nats.errors.Error, OSError):
            return None
        return json.loads(message.data)

    def lists(self):
        return {**self.ask("network.list", {}), **self.ask("sandbox.list", {}), **self.ask("endpoint.list", {})}

    async def open_sagas(self):
        """Return how many sagas the journal holds."""
        reader, writer = await asyncio.open_unix_connection(self.wire.redis_behind)
        writer.write(b"*2\r\n$4\r\nHLEN\r\n$17\r\ncnm:{cnm}:journal\r\n")
        line = await reader.readline()
        writer.close()
        if not line.startswith(b":"):
            raise ConnectionError(line.decode())  # such as that it is loading its files
        return int(line[1:])

    def clear(self):
        """Delete all that an operation may have left; return what refuses."""
        wrong = []
        for verb, noun, body in (
            ("sandbox.delete", "sandboxes", lambda each: {"sandbox": each["id"]}),
            ("network.delete", "networks", lambda each: {"network": each["id"], "force": True}),
        ):
            for each in self.lists()[noun]:
                if each["name"] in ("box", "net"):
                    reply, _ = self.api.call(verb, body(each))
                    if "error" in reply:
                        wrong.append(f"{verb}: {reply['error']}")
        return wrong

    def clear_after_first(self):
        """Have everything made once: what stays of the first network, such as the rules' frame, is there then."""
        for each in (NET, BOX, JOIN):
            self.ask(*each)
        self.clear()

    def revive(self):
        """Have everything run again."""
        self.wire.nats.again()
        self.wire.redis.again()
        for worker in ("controller", "ipam", "sandbox", "driver-bridge", "port-mapper", "resolver"):
            self.installation.pid(f"cnm-{worker}")

    def act(self, kind, step):
        """Return what strikes at a step in this way."""
        victim, _, how = kind.partition(" ")
        if not how:
            return lambda: {"lost": False, "late": STALL_S}[victim]
        program = serving(step) if victim == "worker" else "cnm-controller" if victim == "controller" else victim
        if victim in ("nats", "redis"):
            server = getattr(self.wire, victim)
            pid = server.pid
        else:
            pid = self.installation.pid(program)

        def kill():
            os.kill(pid, signal.SIGKILL)
            if victim in ("nats", "redis"):
                server.process.wait()
                server.start()
            return False if victim in ("worker", "redis") else None

        def stall():
            os.kill(pid, signal.SIGSTOP)
            asyncio.get_running_loop().call_later(STALL_S, os.kill, pid, signal.SIGCONT)

        return kill if how == "killed" else stall


@pytest.fixture(scope="module")
def place(tmp_path_factory, prepared):
    folder = tmp_path_factory.mktemp("faults")
    installation = prepared(folder, CNM_NATS_URL=FRONT, CNM_REDIS_URL=f"unix://{folder / 'front.sock'}")
    wire = Wire(installation)
    line = Within(installation.holder)
    try:
        line.run(wire.open())
        installation.up()
        api = Api(BEHIND, pid=installation.holder, node="n1")
        yield Place(installation, api, wire)
        api.close()
        line.run(wire.close())
    finally:
        line.close()
        wire.end()
        installation.close()


def cases(place):
    """Return every case: an operation, a step of it, when it is struck and how."""
    found = []
    for name, operation in OPERATIONS.items():
        for each in operation.before:
            place.ask(*each)
        place.wire.note()
        reply = place.api.run(place.once(*operation.request, place.fresh_id()))
        assert reply is not None
        assert "error" not in reply, reply
        steps = place.wire.noted()
        place.clear()
        assert {"redis begin", "redis commit"} <= set(steps), steps
        for step in steps:
            for when, kinds in (REDIS_FAULTS if step.startswith("redis") else FAULTS).items():
                found += [(name, step, when, kind) for kind in kinds]
    return found


def wanted(found):
    """Return the cases that are meant by CNM_FAULTS."""
    if WANTED == "all":
        return found
    if not WANTED.isdigit():
        return [case for case in found if all(word in " ".join(case) for word in WANTED.split())]
    return random.Random(SEED).sample(found, int(WANTED))


def well(place):
    """Return what is not as it should be when nothing is under way."""
    sagas = place.api.run(place.open_sagas())
    return [f"{sagas} sagas are open"] if sagas else consistent(place.api)


def settle(place, patience_s=20):
    """Wait until all is well; return what is not after a long time."""
    until = time.monotonic() + patience_s
    while True:
        try:
            wrong = well(place)
        except (AssertionError, nats.errors.Error, OSError, TimeoutError) as error:
            wrong = [f"nobody answers: {error!r}"]
        if not wrong or time.monotonic() > until:
            return wrong
        time.sleep(0.02)


def strike(place, case, tally):
    """Carry out one case and return what was wrong."""
    name, step, when, kind = case
    operation, wrong = OPERATIONS[name], []
    for each in operation.before:
        place.ask(*each)
    struck = place.wire.strike(step, when, place.act(kind, step))
    request_id = place.fresh_id()
    reply = place.api.run(place.once(*operation.request, request_id))
    if not struck.struck:
        wrong.append("the step did not come")
    code = None if reply is None else reply.get("error", {}).get("code", "done")
    tally.faults[f"{kind} {when}"] += 1
    tally.first[code or "none"] += 1
    place.revive()
    began = time.monotonic()
    wrong += settle(place)
    tally.settled_s.append(time.monotonic() - began)
    found = place.lists()
    if code == "done" and not operation.done(found):
        wrong.append("said that it was done, and it is not")
    if code in OPEN and operation.done(found) and step not in IN_DOUBT:
        wrong.append(f"said {code}, and it is done: {reply}")
    if code not in (None, "done", *OPEN):
        wrong.append(f"said {reply}")
    if code is None and kind.split()[0] not in ("controller", "nats"):
        wrong.append("got no answer")
    for _ in range(4):
        again = place.api.run(place.once(*operation.request, request_id))
        if again is not None and again.get("error", {}).get("code") not in OPEN:
            break
        settle(place)
    if again is None or "error" in again or not operation.done(place.lists()):
        wrong.append(f"repeated, it gave {again}")
    wrong += settle(place)
    wrong += place.clear()
    return wrong


def world(place, before):
    """Return the world, when it is as before or has had time to become so."""
    until = time.monotonic() + 10
    while (after := place.api.world()) != before and time.monotonic() < until:
        time.sleep(0.05)
    return after


@pytest.mark.timeout(7200)
# What a killed server leaves of nats-py's connections is nobody's to close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_step_may_be_struck(place, capsys):
    tally = Tally()
    place.clear_after_first()
    assert settle(place) == []
    before = place.api.world()
    chosen = wanted(cases(place))
    assert chosen, f"no case is called {WANTED!r}"
    js = place.api.client.jetstream()
    first = place.api.run(js.stream_info("CNM_EVENTS")).state.last_seq + 1
    for case in chosen:
        found = strike(place, case, tally)
        after = world(place, before)
        changed = [what for what in after if after[what] != before[what]]
        found += [f"{what}: {after[what]} instead of {before[what]}" for what in changed]
        tally.wrong += [f"{' / '.join(case)}: {each}" for each in found]
    with place.api.recording():  # until its marker has come, so has all before it
        pass
    tally.wrong += check_events(place.api.run(events_since(js, first), patience_s=600))
    with capsys.disabled():
        sys.stdout.write(f"\n{tally.table()}\n")
    assert tally.wrong == []
