"""Many clients at once while processes are killed and stopped at random: nothing acknowledged is lost, nothing left.

Each client has sandboxes of its own and shares networks with the others. It knows what must be true of its own: of a
request that got no answer, or one that leaves it open, it asks what came of it. `make chaos` runs it for longer.
"""

import asyncio
import collections
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field

import nats
import pytest

from .conftest import Event
from .test_crashes import agree

SECONDS = float(os.environ.get("CNM_CHAOS_SECONDS", "12"))
CLIENTS = int(os.environ.get("CNM_CHAOS_CLIENTS", "12"))
SEED = int(os.environ.get("CNM_CHAOS_SEED", "7"))

VICTIMS = (
    *("cnm-controller", "cnm-ipam", "cnm-sandbox", "cnm-driver-bridge", "cnm-port-mapper", "cnm-resolver"),
    *("nats", "redis"),
)
OPEN = ("unavailable", "timeout", "internal")
"""Codes after which a request may have been carried out or not."""
DOUBT_S = 20.0
"""So long after an open request may a sandbox still turn out otherwise: who finds a dead saga undoes it then."""


@dataclass
class Tally:
    """What was done, and what was wrong."""

    operations: collections.Counter = field(default_factory=collections.Counter)
    refusals: collections.Counter = field(default_factory=collections.Counter)
    faults: collections.Counter = field(default_factory=collections.Counter)
    wrong: list = field(default_factory=list)

    def table(self):
        lines = [f"seed {SEED}, {CLIENTS} clients, {SECONDS:g} s"]
        for title, counted in (("operations", self.operations), ("refused", self.refusals), ("faults", self.faults)):
            lines.append(f"{title:<12}{sum(counted.values()):>6}")
            lines += [f"  {what:<24}{count:>6}" for what, count in sorted(counted.items())]
        lines += [f"violations  {len(self.wrong):>6}", *(f"  {each}" for each in self.wrong[:40])]
        return "\n".join(lines)


class Client:
    """One client: what it made, and what it may assume of that."""

    def __init__(self, api, tally, number, networks):
        self._api, self._tally, self._random = api, tally, random.Random(SEED * 1000 + number)
        self._networks, self._number, self._serial = networks, number, 0
        self.sandboxes = {}  # name -> {network: address}, as acknowledged
        self.doubts = {}  # name -> when a request about it was left open

    async def ask(self, verb, body):
        """Return the reply, or None when it is open what came of it."""
        try:
            reply, _ = await self._api.send(verb, body, {"Cnm-Deadline-Ms": "5000"}, timeout=7)
        except (nats.errors.Error, AssertionError, OSError):
            self._tally.refusals["no answer"] += 1
            return None
        code = reply.get("error", {}).get("code")
        if code:
            self._tally.refusals[code] += 1
        else:
            self._tally.operations[verb] += 1
        return None if code in OPEN else reply

    async def get(self, name):
        """Return a sandbox as it is, None where there is none; waits until somebody can tell."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            reply = await self.ask("sandbox.get", {"sandbox": name})
            if reply is not None:
                return None if reply.get("error", {}).get("code") == "not_found" else reply
            await asyncio.sleep(0.2)
        raise AssertionError(f"nobody tells of sandbox {name}")

    async def learn(self, name):
        """See what came of an open request so far; it is in doubt for a while."""
        self.doubts[name] = time.monotonic()
        found = await self.get(name)
        if found is None:
            self.sandboxes.pop(name, None)
        else:
            self.sandboxes[name] = {each["network"]: each["ipv4_address"] for each in found["endpoints"]}

    def blame(self, name, text):
        """Note that something is wrong about a sandbox, unless it is in doubt."""
        if time.monotonic() - self.doubts.get(name, -DOUBT_S) > DOUBT_S:
            self._tally.wrong.append(f"client {self._number}: {name}: {text}")

    async def live(self, until):
        while time.monotonic() < until:
            acts = [self.create] if not self.sandboxes else [
                self.create, self.connect, self.connect, self.disconnect, self.publish, self.look, self.delete,
            ]  # fmt: skip
            await self._random.choice(acts)()

    async def create(self):
        if len(self.sandboxes) > 3:
            return
        self._serial += 1
        name = f"box-{self._number}-{self._serial}"
        reply = await self.ask("sandbox.create", {"name": name, "ports": [{"container_port": 80}]})
        if reply is None:
            await self.learn(name)
        elif "error" in reply:
            self.blame(name, f"create: {reply['error']}")
        else:
            self.sandboxes[name] = {}

    async def connect(self):
        name, network = self._some(), self._random.choice(self._networks)
        joined = network in self.sandboxes[name]
        reply = await self.ask("sandbox.connect", {"sandbox": name, "network": network})
        if reply is None:
            await self.learn(name)
        elif "error" not in reply:
            if joined:
                self.blame(name, f"joined {network} twice")
            self.sandboxes[name][network] = reply["ipv4_address"]
        elif not (joined and reply["error"]["code"] in ("conflict", "forbidden")):
            self.blame(name, f"connect {network}: {reply['error']}")

    async def disconnect(self):
        name = self._some()
        if not self.sandboxes[name]:
            return
        network = self._random.choice(sorted(self.sandboxes[name]))
        reply = await self.ask("sandbox.disconnect", {"sandbox": name, "network": network})
        if reply is None:
            await self.learn(name)
        elif "error" in reply:
            self.blame(name, f"disconnect {network}: {reply['error']}")
        else:
            del self.sandboxes[name][network]

    async def publish(self):
        name, port = self._some(), self._random.randint(1000, 1020)
        body = {"sandbox": name, "ports": [{"container_port": port}]}
        verb = self._random.choice(("sandbox.publish", "sandbox.unpublish"))
        reply = await self.ask(verb, body)
        if reply is None:
            await self.learn(name)
        elif "error" in reply and (verb, reply["error"]["code"]) != ("sandbox.unpublish", "not_found"):
            self.blame(name, f"{verb} {port}: {reply['error']}")

    async def look(self):
        name = self._some()
        found = await self.get(name)
        if found is None:
            self.blame(name, "is lost")
            self.sandboxes.pop(name)
            return
        there = {each["network"]: each["ipv4_address"] for each in found["endpoints"]}
        if there != self.sandboxes[name]:
            self.blame(name, f"is on {there}, not on {self.sandboxes[name]}")
            self.sandboxes[name] = there

    async def delete(self):
        name = self._some()
        reply = await self.ask("sandbox.delete", {"sandbox": name})
        if reply is None:
            await self.learn(name)
        elif "error" in reply:
            self.blame(name, f"delete: {reply['error']}")
        else:
            del self.sandboxes[name]

    def _some(self):
        return self._random.choice(sorted(self.sandboxes))


async def harm(installation, tally, until):
    """Kill or stop something now and then."""
    chance = random.Random(SEED)
    while time.monotonic() < until:
        await asyncio.sleep(chance.uniform(0.5, 1.5))
        victim, how = chance.choice(VICTIMS), chance.choice(("killed", "killed", "stopped"))
        try:
            pid = await asyncio.to_thread(installation.pid, victim)
            os.kill(pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        except (AssertionError, ProcessLookupError):
            continue
        tally.faults[f"{victim} {how}"] += 1
        if how == "stopped":
            await asyncio.sleep(chance.uniform(0.1, 2.0))
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


async def events_since(js, first):
    """Return the events as they stand in the stream, which takes each once."""
    last = (await js.stream_info("CNM_EVENTS")).state.last_seq
    return [Event(await js.get_msg("CNM_EVENTS", seq=number)) for number in range(first, last + 1)]


def check_events(events):
    """Return what is wrong about the events: each change once, and in order."""
    wrong = []
    ids = [each.message_id for each in events]
    if len(set(ids)) != len(ids):
        wrong.append(f"{len(ids) - len(set(ids))} events came twice")
    steps = {"created": 0, "joined": 1, "left": 2, "deleted": 3}
    told = collections.defaultdict(list)
    for each in events:
        noun, participle = each.what.split(".")
        if noun in ("sandbox", "endpoint") and participle in steps:
            told[noun, each.about].append(participle)
    for (noun, about), participles in told.items():
        order = [steps[each] for each in participles]
        if order != sorted(set(order)):
            wrong.append(f"{noun} {about[:12]}: {participles}")
    return wrong


@pytest.mark.timeout(600 + 3 * SECONDS)
def test_nothing_is_lost_and_nothing_left_whatever_dies(own_api, own_installation, patiently, capsys):
    api, tally = own_api, Tally()
    before = api.world()
    networks = [api.ask("network.create", {"name": f"net{number}"}) for number in range(3)]
    js = api.client.jetstream()
    first = api.run(js.stream_info("CNM_EVENTS")).state.last_seq + 1
    with api.recording():  # until its marker has come, so has all before it
        clients = [Client(api, tally, number, [each["id"] for each in networks]) for number in range(CLIENTS)]

        async def everything():
            until = time.monotonic() + SECONDS
            harming = asyncio.ensure_future(harm(own_installation, tally, until))
            await asyncio.gather(*(client.live(until) for client in clients))
            await harming

        api.run(everything(), patience_s=500 + 2 * SECONDS)
        for victim in VICTIMS:
            own_installation.pid(victim)

        async def everyone_looks():
            for client in clients:
                for name in sorted(client.sandboxes):
                    found = await client.get(name)
                    there = None if found is None else {e["network"]: e["ipv4_address"] for e in found["endpoints"]}
                    if there != client.sandboxes[name]:
                        client.blame(name, f"at the end on {there}, not on {client.sandboxes[name]}")

        api.run(everyone_looks(), patience_s=200)
        agree(api, patience_s=30)
        patiently(lambda: api.ask("system.check", {"repair": False})["differences"] == [])
        endpoints = api.ask("endpoint.list")["endpoints"]
        addresses = [each["ipv4_address"] for each in endpoints if each["ipv4_address"]]
        if len(set(addresses)) != len(addresses):
            tally.wrong.append("an address was given twice")
        known = {name for client in clients for name in client.sandboxes}
        made = {each["name"] for each in api.ask("sandbox.list")["sandboxes"]}
        doubted = {name for client in clients for name in client.doubts}
        if (made ^ known) - doubted:
            tally.wrong.append(f"sandboxes that nobody knows of: {made - known}, or that are gone: {known - made}")
        for name in sorted(made):
            api.ask("sandbox.delete", {"sandbox": name})
        for network in networks:
            api.ask("network.delete", {"network": network["id"]})
    tally.wrong += check_events(api.run(events_since(js, first), patience_s=200))
    with capsys.disabled():
        sys.stdout.write(f"\n{tally.table()}\n")
    assert tally.wrong == []
    after = api.world()
    for what, found in after.items():
        assert found == before[what], f"{what} changed"
