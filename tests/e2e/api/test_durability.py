"""The machine dies and the servers' files lose their end: what is left is made whole, and told of.

A process that is killed loses nothing that it wrote, so the files are cut here: back to what stood in them at a
moment, or at any byte after it.
"""

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter

import pytest
import redis as redis_py

from cnm_cli import embedded

from .conftest import Making, Refused, Traffic, api_of
from .test_chaos import check_events, events_since
from .test_crashes import agree, persist
from .wire import Server

CUTS = int(os.environ.get("CNM_CUTS", "2"))
SEED = int(os.environ.get("CNM_CUTS_SEED", "11"))
MTU = "com.docker.network.driver.mtu"


class Redis:
    """The embedded server with its own configuration, whose file can be cut while it is dead."""

    def __init__(self, folder):
        self.listen, self._data = folder / "own.sock", folder / "own"
        self._data.mkdir()
        config = folder / "own.conf"
        config.write_text(embedded.redis_config(listen=self.listen, data_dir=self._data, fsync="everysec"))
        self._server = Server((str(embedded.find_redis_server()), str(config)), folder / "redis.log")

    @property
    def _file(self):
        (found,) = self._data.glob("appendonlydir/*.incr.aof")
        return found

    def size(self):
        """Return how much stands in the file that is appended to."""
        return self._file.stat().st_size

    def end(self):
        self._server.end()

    def die(self, *, keeping=None):
        """Die, and start again on as much of the file."""
        self._server.end()
        if keeping is not None:
            os.truncate(self._file, keeping)
        self._server.start()


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    made = Redis(tmp_path_factory.mktemp("r"))
    yield made
    made.end()


@pytest.fixture(scope="module")
def api(tmp_path_factory, redis, prepared):
    """A client of an installation on that Redis."""
    installation = prepared(tmp_path_factory.mktemp("cnm"), CNM_REDIS_URL=f"unix://{redis.listen}")
    try:
        installation.up()
        with api_of(installation) as made:
            making = Making(made)  # what stays of the first network, such as the rules' frame, is there then
            making.sandbox(on=[making.network()])
            making.end()
            yield made
    finally:
        installation.close()


class Place:
    """What stood before the last second, and what was done in it."""

    def __init__(self, api, redis):
        self.api, self.redis = api, redis
        self.net = api.ask("network.create", {"name": "net", "ipam": {"pools": [{"subnet": "10.63.0.0/24"}]}})
        for name in ("kept", "gone", "apart"):
            self._box(name, "net")
        api.ask("endpoint.create", {"network": "net", "name": "spare"})
        with api.recording():  # until its marker has come, so has all before it
            pass
        self.lists, self.size, self.first = api.lists(), redis.size(), self._last_event() + 1

    def _box(self, name, *networks):
        self.api.ask("sandbox.create", {"name": name, "ports": [{"container_port": 80}]})
        for network in networks:
            self.api.ask("sandbox.connect", {"sandbox": name, "network": network})

    def _last_event(self):
        return self.api.run(self.api.client.jetstream().stream_info("CNM_EVENTS")).state.last_seq

    def events(self):
        """Return what was told since the last second began."""
        return self.api.run(events_since(self.api.client.jetstream(), self.first))

    def last_second(self):
        """Change this and that; all of it is acknowledged and told."""
        api = self.api
        with api.recording():
            api.ask("network.create", {"name": "new-net", "ipam": {"pools": [{"subnet": "10.64.0.0/24"}]}})
            self._box("new", "net", "new-net")
            api.ask("sandbox.delete", {"sandbox": "gone"})
            api.ask("network.update", {"network": "net", "options": {MTU: "1400"}})
            api.ask("sandbox.publish", {"sandbox": "kept", "ports": [{"container_port": 81, "host_port": 8063}]})
            api.ask("sandbox.disconnect", {"sandbox": "apart", "network": "net"})
            api.ask("endpoint.delete", {"network": "net", "endpoint": "spare"})

    def settled(self):
        """Wait until the lists, IPAM and the kernel agree, and a check has nothing to mend."""
        until = time.monotonic() + 30
        while True:
            try:
                agree(self.api)
                found = self.api.ask("system.check", {"repair": False})
            except Refused:  # not everybody has found the server again
                found = {"differences": ["nobody tells"]}
            if found["differences"] == [] and "warnings" not in found:
                return
            assert time.monotonic() < until, found
            time.sleep(0.1)

    def clear(self):
        """Delete everything, also what a recording left that was cut short; nothing may refuse that."""
        for each in self.api.lists()["sandboxes"]:
            self.api.ask("sandbox.delete", {"sandbox": each["id"]})
        for each in self.api.lists()["endpoints"]:
            self.api.ask("endpoint.delete", {"network": each["network"], "endpoint": each["id"]})
        for name in self.names("networks") & {"net", "new-net"}:
            self.api.ask("network.delete", {"network": name})
        for pool in self.api.lists()["pools"]:
            self.api.ask("ipam.pool.release", {"pool_id": pool["pool_id"]})

    def names(self, noun):
        return {each["name"] for each in self.api.lists()[noun]}


def lost(events):
    """Return of which objects it is told that a change was lost, and what had been told."""
    return Counter(
        (difference["about"], difference["value"])
        for each in events
        if each.what == "drift.found"
        for difference in each.body["object"]["differences"]
        if difference["what"] == "lost change"
    )


def test_last_second_is_lost_and_told_and_all_is_as_it_was_before(api, redis, patiently):
    world = api.world()
    place = Place(api, redis)
    place.last_second()
    assert api.lists() != place.lists
    redis.die(keeping=place.size)
    place.settled()
    assert api.lists() == place.lists
    expected = Counter(
        {
            ("network new-net", "network.created"): 1,
            ("network net", "network.updated"): 1,
            ("sandbox new", "sandbox.created"): 1,
            ("endpoint new", "endpoint.joined"): 2,
            ("sandbox gone", "sandbox.deleted"): 1,
            ("endpoint gone", "endpoint.deleted"): 1,
            ("endpoint apart", "endpoint.deleted"): 1,
            ("endpoint spare", "endpoint.deleted"): 1,
        }
    )
    patiently(lambda: sum(lost(place.events()).values()) >= sum(expected.values()))
    assert lost(place.events()) == expected
    traffic = Traffic(api)
    boxes = {each["name"]: each for each in api.ask("sandbox.list")["sandboxes"]}
    here, there = (boxes[name]["endpoints"][0]["ipv4_address"].partition("/")[0] for name in ("kept", "gone"))
    traffic.serve(boxes["gone"], 80, "back ")
    try:
        assert traffic.resolve(boxes["kept"], "gone") == (0, [there])
        assert traffic.fetch(there, 80, boxes["kept"]) == f"back {here}"
    finally:
        traffic.end()
    place.last_second()  # once more, on what is left
    place.settled()
    assert twice_given(api) == []
    place.clear()
    place.settled()
    patiently(lambda: api.world() == world)
    redis.die()  # nothing is lost this time: nothing more is told
    place.settled()
    with api.recording():
        pass
    assert lost(place.events()) == expected


def test_file_may_end_anywhere(api, redis, patiently):
    world, chance = api.world(), random.Random(SEED)
    for _ in range(CUTS):
        place = Place(api, redis)
        place.last_second()
        cut = chance.randrange(place.size, redis.size())
        redis.die(keeping=cut)
        try:
            place.settled()
            assert twice_given(api) == []
            assert "kept" in place.names("sandboxes")
            place.clear()
            place.settled()
            patiently(lambda: api.world() == world)
        except AssertionError as error:
            error.add_note(f"after the file was cut at {cut}, from {place.size} to {redis.size()}")
            raise


def twice_given(api):
    """Return the addresses that more than one endpoint has."""
    held = Counter(each["ipv4_address"] for each in api.ask("endpoint.list")["endpoints"] if each["ipv4_address"])
    return [address for address, count in held.items() if count > 1]


def test_what_is_acknowledged_survives_redis_and_a_torn_end_of_its_file(installed_with, patiently):
    with installed_with(CNM_FSYNC="always") as installation, api_of(installation) as api:
        with redis_py.Redis(unix_socket_path=f"{installation.inside}{installation.run_dir}/redis.sock") as client:
            assert client.config_get("appendfsync") == {"appendfsync": "always"}
        assert "sync_interval: always" in (installation.run_dir / "nats.conf").read_text()
        network = api.ask("network.create", {"name": "net"})
        before = installation.pid("redis")

        async def storm():
            asked = [asyncio.ensure_future(persist(api, "sandbox.create", {"name": f"box{n}"})) for n in range(12)]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            os.kill(before, signal.SIGKILL)
            return await asyncio.gather(*asked)

        made = api.run(storm())
        assert patiently(lambda: installation.pid("redis") != before)
        acknowledged = {each["id"] for each in made if each and "error" not in each}
        assert len(acknowledged) > 1
        patiently(lambda: acknowledged <= {each["id"] for each in api.ask("sandbox.list")["sandboxes"]})
        api.ask("sandbox.connect", {"sandbox": "box0", "network": network["id"]})
        agree(api)
        lists = api.lists()
        installation.down()
        (file,) = (installation.folder / "state/redis").glob("appendonlydir/*.incr.aof")
        size = file.stat().st_size
        os.truncate(file, size + 4096)  # zeros: a length that reached the disk before what it is of
        installation.up()
        assert f"cut 4096 bytes off {file}, which ends in what is no command" in installation.log()
        with api_of(installation) as again:
            assert again.lists() == lists
            agree(again)


def test_events_go_on_where_the_stream_ends_after_its_server_died(own_api, own_installation, frozen, patiently):
    api = own_api
    js = api.client.jetstream()
    first = api.run(js.stream_info("CNM_EVENTS")).state.last_seq + 1
    api.ask("network.create", {"name": "net"})
    for number in range(4):
        api.ask("sandbox.create", {"name": f"early{number}"})
    with api.recording():
        pass
    told = api.run(events_since(js, first))
    nats, supervisor = (
        own_installation.pid("nats"),
        int(json.loads((own_installation.run_dir / "cnm.json").read_text())["pid"]),
    )
    with frozen(supervisor):
        os.kill(nats, signal.SIGKILL)
        (block,) = (own_installation.folder / "state/nats").glob("jetstream/**/CNM_EVENTS/msgs/*.blk")
        os.truncate(block, block.stat().st_size - 10)
    made = [api.run(persist(api, "sandbox.create", {"name": f"late{number}"}), patience_s=60) for number in range(4)]
    assert all("error" not in each for each in made)
    with api.recording():
        pass
    events = api.run(events_since(js, first))
    assert check_events(events) == []
    ids = [each.message_id for each in events]
    assert ids[: len(told) - 1] == [each.message_id for each in told[:-1]]
    after = Counter((each.what, each.about) for each in events[len(told) - 1 :])
    assert all(after["sandbox.created", each["id"]] == 1 for each in made)
    assert patiently(lambda: api.ask("system.check", {"repair": False})["differences"] == [])
