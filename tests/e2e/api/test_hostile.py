"""Clients that flood, send nonsense or never read: they are refused, and others are served meanwhile."""

import asyncio
import contextlib
import json
import socket
import time
from pathlib import Path

import nats
import pytest
from redis import Redis

from .conftest import Within

MEMORY_MIB = 64
"""A worker may hold so much more after an attack than before, a part of which Python gives back late."""
OUTSTANDING = 2_000
"""More of one client's requests than are ever taken."""
WORKERS = ("controller", "ipam", "sandbox", "driver-bridge", "port-mapper", "resolver")


@pytest.fixture(scope="module")
def api(hostile_place):
    return hostile_place[0]


@pytest.fixture(scope="module")
def hostile_place(tmp_path_factory, prepared):
    """An installation that is attacked, and a client of it that is not the attacker's."""
    from .conftest import api_of

    installation = prepared(tmp_path_factory.mktemp("hostile"))
    try:
        installation.up()
        with api_of(installation) as made:
            yield made, installation
    finally:
        installation.close()


def resident_mib(installation):
    def of(worker):
        status = Path(f"/proc/{installation.pid(f'cnm-{worker}')}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024

    return {worker: of(worker) for worker in WORKERS}


@contextlib.contextmanager
def attacked_by(api, attack):
    """Run an attack on a connection of its own, and end it with the block."""
    place = Within(int(api.namespace.split("/")[2]))
    stop = asyncio.Event()

    async def live():
        client = await nats.connect(api.url)
        try:
            return await attack(client, stop)
        finally:
            await client.close()

    running = asyncio.run_coroutine_threadsafe(live(), place._loop)
    try:
        yield running
    finally:
        place._loop.call_soon_threadsafe(stop.set)
        try:
            running.result(60)
        finally:
            place.close()


def is_served(api):
    """Have another client's work done, from the creation to the end; refused for lack of room, it asks again."""
    name = api.name()

    def ask(verb, body):
        request, until = api.name("request"), time.monotonic() + 40
        while True:
            reply, _ = api.call(verb, body, {"Cnm-Request-Id": request, "Cnm-Deadline-Ms": "20000"}, timeout=25)
            code = reply.get("error", {}).get("code")
            if code not in ("unavailable", "timeout") or time.monotonic() > until:
                assert code is None, reply
                return reply
            time.sleep(0.05)

    ask("network.create", {"name": name})
    ask("sandbox.create", {"name": name, "ports": [{"container_port": 80}]})
    assert ask("sandbox.connect", {"sandbox": name, "network": name})["state"] == "joined"
    ask("sandbox.delete", {"sandbox": name})
    ask("network.delete", {"network": name})


def flood(subject, body, *, distinct=False):
    """Return an attack: requests without a pause and without waiting, answers thrown away."""

    async def attack(client, stop):
        answers = {}
        inbox = client.new_inbox()

        async def count(message):
            code = json.loads(message.data).get("error", {}).get("code", "done")
            answers[code] = answers.get(code, 0) + 1

        await client.subscribe(f"{inbox}.*", cb=count)
        number = 0
        while not stop.is_set():
            if number - sum(answers.values()) > OUTSTANDING:
                await asyncio.sleep(0.001)
                continue
            for _ in range(200):
                number += 1
                headers = {"Cnm-Request-Id": f"id-{number}"} if distinct else None
                await client.publish(subject, body, reply=f"{inbox}.{number}", headers=headers)
            await client.flush(timeout=30)
        return answers

    return attack


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("subject", "body"),
    [
        ("cnm.v1.network.list", b"{}"),
        ("cnm.v1.network.create", b'{"name": "x", "labels": ' + b"[" * 200 + b"]" * 200 + b"}"),
    ],
)
def test_a_flood_keeps_nobody_out_and_fills_nothing(api, hostile_place, subject, body):
    before = resident_mib(hostile_place[1])
    with attacked_by(api, flood(subject, body)) as running:
        is_served(api)
    after = resident_mib(hostile_place[1])
    answers = running.result()
    assert set(answers) <= {"done", "not_found", "invalid", "unavailable", "timeout"}
    assert sum(answers.values()) > 1000
    assert {each: (before[each], after[each]) for each in after if after[each] > before[each] + MEMORY_MIB} == {}


def test_every_distinct_request_id_is_remembered_for_ten_minutes_and_no_longer(api, hostile_place, patiently):
    with attacked_by(api, flood("cnm.v1.network.delete", b'{"network": "nobody"}', distinct=True)) as running:
        is_served(api)
    assert running.result()["not_found"] > 100
    redis = Redis(unix_socket_path=f"{hostile_place[1].run_dir}/redis.sock")
    with redis:

        def counted():
            """Return what is kept when all of it is counted: what was given up is dropped meanwhile."""
            found = list(redis.scan_iter("cnm:{cnm}:request:*:id-*", count=5000))
            return found if redis.zcard("cnm:{cnm}:requests") >= len(found) else None

        kept = patiently(counted)
        assert len(kept) >= running.result()["not_found"]
        assert all(0 < redis.ttl(key) <= 600 for key in kept[:500])


BODIES = {
    "ten megabytes": b'{"name": "' + b"a" * 10_000_000 + b'"}',
    "deeply nested": b'{"name": "x", "labels": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "a row of brackets": b"[" * 1_000_000,
    "faults without end": b'{"name": "x", "ports": [' + b",".join([b"{}"] * 300_000) + b"]}",
    "fields without end": b'{"name": "x",' + b",".join(b'"a%d":1' % number for number in range(90_000)) + b"}",
    "no JSON": bytes(range(256)) * 100,
    "no text": b"\xff\xfe" * 1000,
    "a number of a thousand digits": b'{"name": "x", "ports": [{"container_port": ' + b"9" * 1000 + b"}]}",
    "not a number": b'{"name": "x", "ports": [{"container_port": NaN}]}',
    "a long name": b'{"name": "' + b"a" * 500_000 + b'"}',
    "zeros": b'{"name": "a\\u0000b"}',
}


@pytest.mark.parametrize("what", BODIES)
def test_a_monstrous_body_is_invalid_and_the_next_request_is_served(api, hostile_place, what):
    before = resident_mib(hostile_place[1])
    for _ in range(3):
        error = api.refused("sandbox.create", None, "invalid", raw=BODIES[what], timeout=30)
        assert len(json.dumps(error)) < 200_000
    is_served(api)
    after = resident_mib(hostile_place[1])
    assert {each: (before[each], after[each]) for each in after if after[each] > before[each] + MEMORY_MIB} == {}


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": "00-zz-zz-01"},
        {"traceparent": "0" * 60_000},
        {"Cnm-Deadline-At": "soon"},
        {"Cnm-Deadline-At": "9" * 400},
        {f"X-{number}": "y" * 50 for number in range(1000)},
    ],
)
def test_headers_that_make_no_sense_hurt_nobody(api, headers):
    assert "networks" in api.ask("network.list", {}, headers)


@pytest.mark.parametrize("headers", [{"Cnm-Request-Id": "x" * 100_000}, {"Cnm-Deadline-Ms": "9" * 100_000}])
def test_headers_of_ours_that_are_too_long_are_invalid(api, headers):
    api.refused("network.create", {"name": "x"}, "invalid", headers=headers)


def test_who_never_reads_the_events_keeps_nobody_waiting(api):
    """It does not even read what NATS writes to it: the server's buffers fill, and then it is let go."""
    host, port = api.url.removeprefix("nats://").split(":")

    async def connect():
        line = socket.create_connection((host, int(port)))
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.sendall(b'CONNECT {"verbose":false}\r\nSUB _INBOX.> 2\r\nSUB cnm.v1.> 3\r\nPING\r\n')
        return line

    line = api.run(connect())
    try:
        for _ in range(5):
            is_served(api)
    finally:
        line.close()


def test_wildcards_and_strange_subjects_reach_nobody(api):
    async def all_of_them():
        for subject in ("cnm.v1.network.*", "cnm.v1.>", "cnm.v1.network.create.x", "cnm.v2.network.list"):
            with contextlib.suppress(nats.errors.Error):
                await api.client.request(subject, b"{}", timeout=0.3)
                raise AssertionError(f"{subject} was answered")

    api.run(all_of_them())
    is_served(api)


def test_nothing_is_left_of_it_all(api):
    assert [each["name"] for each in api.ask("network.list")["networks"]] == ["bridge", "host", "none"]
    assert api.ask("sandbox.list")["sandboxes"] == []
    assert api.ask("system.check", {"repair": False})["differences"] == []
