"""What the resolver tells of itself takes few labels, whatever is asked."""

from ipaddress import ip_address
from types import SimpleNamespace

import pytest

from cnm_resolver.counters import BOUNDS_S, Counters
from cnm_resolver.directory import Directory
from cnm_resolver.metrics import source
from cnm_resolver.zone import Server


class Listening(list):
    def __init__(self, counters):
        super().__init__(["s1", "s2"])
        self.counters = counters


class Kept(list):
    size = 700


async def told(counters, most=9, directory=None):
    names = SimpleNamespace(listeners=Listening(counters), directory=directory or Directory())
    found = await source(names, Kept(["a"]), most).read()
    return {(each.metric.name.removeprefix("cnm_dns_"), *each.labels): each.value for each in found}


async def test_unusual_types_and_codes_are_one():
    counters = Counters()
    counters.questions = {("own", 1, 0): 3, ("own", 1, -1): 1} | {
        ("outside", kind, code): 1 for kind in range(1000, 2000) for code in (3, 11)
    }
    found = await told(counters)
    assert {key: value for key, value in found.items() if key[0] == "questions_total"} == {
        ("questions_total", "own", "A", "NOERROR"): 3,
        ("questions_total", "own", "A", "none"): 1,
        ("questions_total", "outside", "other", "NXDOMAIN"): 1000,
        ("questions_total", "outside", "other", "other"): 1000,
    }


async def test_servers_are_told_one_by_one_up_to_the_maximum():
    counters = Counters()
    for number in range(5):
        health = counters.server(Server(ip_address(f"192.0.2.{number}")))
        health.answered, health.failed, health.silent = 3, 2, 1
    counters.server(Server(ip_address("192.0.2.0"), 5353, inside=True)).last_s = 0.25
    found = await told(counters, most=2)
    assert {key[1] for key in found if key[0] == "server_questions_total"} == {
        "192.0.2.0",
        "192.0.2.0 port 5353 (in the sandbox)",
    }
    assert found["server_questions_total", "192.0.2.0", "silent"] == 1
    assert found["server_last_answer_seconds", "192.0.2.0 port 5353 (in the sandbox)"] == 0.25
    assert ("server_last_answer_seconds", "192.0.2.0") not in found
    assert found["cnm_scrape_left_out", "server"] == 4


async def test_times_have_a_sum():
    counters = Counters()
    for took_s in (0.0002, 0.2):
        counters._time("outside", took_s)
    found = (await told(counters))["answer_duration_seconds", "outside"]
    assert sum(found.counts) == 2
    assert found.bounds == BOUNDS_S
    assert found.total == pytest.approx(0.2002)


async def test_names_and_what_is_kept_are_counted(directory):
    found = await told(Counters(), directory=directory)
    assert (found["names",], found["zones",], found["sandboxes",]) == (9, 3, 2)
    assert (found["cache_entries",], found["cache_bytes",]) == (1, 700)
