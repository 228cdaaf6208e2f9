"""Several ipam workers at once, and workers that are killed: no address is given twice, none is lost (I23, I24)."""

import asyncio
import contextlib
import ipaddress
import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import nats
import pytest
from nats.errors import NoRespondersError

CLIENTS, WORKERS = 64, 3


class Workers:
    """Ipam workers beside the installation's own one; each that is killed is started again."""

    def __init__(self, installation, count):
        self._installation = installation
        self._environment = installation.env | {"CNM_REDIS_URL": f"unix://{installation.run_dir}/redis.sock"}
        self._extra = [self._start() for _ in range(count)]
        self._turn = itertools.count()
        self.killed = 0

    def _start(self):
        program = str(Path(sys.executable).parent / "cnm-ipam")
        return subprocess.Popen(
            self._installation.entering(program), env=self._environment, stderr=subprocess.DEVNULL
        )

    def kill_next(self):
        """Kill one, the installation's own in its turn; ``nsenter`` has become the worker itself."""
        place = next(self._turn) % (len(self._extra) + 1)
        if place == len(self._extra):
            with contextlib.suppress(ProcessLookupError):  # it is just being started again
                os.kill(self._installation.pid("cnm-ipam"), signal.SIGKILL)
        else:
            self._extra[place].kill()
            self._extra[place].wait()
            self._extra[place] = self._start()
        self.killed += 1

    def stop(self):
        for worker in self._extra:
            worker.kill()
            worker.wait()


@pytest.fixture
def workers(own_installation, own_api, patiently):
    made = Workers(own_installation, WORKERS - 1)
    try:
        patiently(lambda: len(ids(own_api)) == WORKERS)
        yield made
    finally:
        made.stop()


def ids(api):
    """Return the ids of all ipam workers that answer a ping."""

    async def ping():
        found = set()
        inbox = api.client.new_inbox()

        async def note(message):
            found.add(json.loads(message.data)["id"])

        subscription = await api.client.subscribe(inbox, cb=note)
        await api.client.publish("$SRV.PING.cnm-ipam", b"", reply=inbox)
        await asyncio.sleep(0.3)
        await subscription.unsubscribe()
        return found

    return api.run(ping())


async def careful(api, verb, body):
    """Ask until there is an answer that is none of "come again", under one request id."""
    headers = {"Cnm-Request-Id": secrets.token_hex(8), "Cnm-Deadline-Ms": "1500"}
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            message = await api.client.request(
                f"cnm.v1.{verb}", json.dumps(body).encode(), timeout=2, headers=headers
            )
        except (NoRespondersError, nats.errors.TimeoutError):
            await asyncio.sleep(0.02)
            continue
        reply = json.loads(message.data)
        if reply.get("error", {}).get("code") not in ("unavailable", "timeout"):
            return reply
        await asyncio.sleep(0.02)
    raise AssertionError(f"no answer to {verb} {body}")


def test_a_20_is_handed_out_to_its_last_address_while_workers_are_killed(own_api, workers, patiently):
    api = own_api
    pool_id = api.ask("ipam.pool.request", {"space": "storm", "pool": "10.50.0.0/20"})["pool_id"]
    given, refused = {}, []
    numbers = itertools.count()

    async def client():
        while not refused:
            owner = f"owner {next(numbers)}"
            reply = await careful(api, "ipam.address.request", {"pool_id": pool_id, "owner": owner})
            if "error" in reply:
                assert reply["error"]["code"] == "exhausted", reply
                refused.append(owner)
            else:
                given[owner] = reply["address"]

    async def killer():
        await asyncio.sleep(0.3)
        while not refused:
            await asyncio.to_thread(workers.kill_next)
            await asyncio.sleep(1)

    async def storm():
        await asyncio.gather(killer(), *(client() for _ in range(CLIENTS)))

    api.run(storm(), patience_s=55)
    assert workers.killed >= 2
    expected = {f"{host}/20" for host in ipaddress.ip_network("10.50.0.0/20").hosts()}
    assert set(given.values()) == expected
    assert len(given) == len(expected) == 4094, "no two owners have one address"
    held = {}
    while page := api.ask(
        "ipam.address.list", {"pool_id": pool_id, **({"after": list(held)[-1].split("/")[0]} if held else {})}
    )["leases"]:
        held |= {lease["address"]: lease["owner"] for lease in page}
    assert {owner: address for address, owner in held.items()} == given
    shown = api.ask("ipam.pool.get", {"pool_id": pool_id})
    assert (shown["in_use"], shown["available"]) == (4094, 0)
    told = patiently(lambda: len(events(api, pool_id)) >= 4094 and events(api, pool_id))
    assert len(told) == len(set(told)) == 4094, "each is told of once"


def events(api, pool_id):
    """Return the addresses that events in the stream say were requested of a pool."""
    subject = f"cnm.v1.event.address.requested.{pool_id.replace('.', '_').replace('/', '_')}"

    async def read():
        stream = api.client.jetstream()
        consumer = await stream.subscribe(subject, ordered_consumer=True, stream="CNM_EVENTS")
        found = []
        with contextlib.suppress(nats.errors.TimeoutError):
            while True:
                message = await consumer.next_msg(timeout=0.5)
                found.append(json.loads(message.data)["object"]["address"])
        await consumer.unsubscribe()
        return found

    return api.run(read())


def test_pools_networks_and_endpoints_are_whole_while_workers_are_killed(own_api, workers):
    """Requests through the controller: afterwards IPAM and the controller agree to the last lease."""
    api = own_api

    async def client(number):
        network = await careful(api, "network.create", {"name": f"n{number}"})
        names = [f"e{number}-{index}" for index in range(6)]
        made = await asyncio.gather(
            *(careful(api, "endpoint.create", {"network": network["id"], "name": name}) for name in names)
        )
        for endpoint in made[::2]:
            await careful(api, "endpoint.delete", {"network": network["id"], "endpoint": endpoint["id"]})
        if number % 2:
            await careful(api, "network.delete", {"network": network["id"], "force": True})

    async def killer():
        for _ in range(4):
            await asyncio.sleep(0.7)
            await asyncio.to_thread(workers.kill_next)

    async def storm():
        await asyncio.gather(killer(), *(client(number) for number in range(8)))

    api.run(storm(), patience_s=90)
    left = api.ask("endpoint.list")["endpoints"]
    assert len(left) == 4 * 3
    assert api.ask("system.check", {"repair": False})["differences"] == []
    addresses = [endpoint["ipv4_address"] for endpoint in left]
    assert len(set(addresses)) == len(addresses)
    networks = [each for each in api.ask("network.list")["networks"] if each["name"].startswith("n")]
    pools = [pool for pool in api.ask("ipam.pool.list")["pools"] if pool["owner"] is not None]
    assert sorted(pool["pool"] for pool in pools) == sorted(
        each["ipam"]["pools"][0]["subnet"] for each in networks if each["ipam"]["pools"]
    )
