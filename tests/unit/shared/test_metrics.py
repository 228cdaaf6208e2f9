"""What a worker tells of itself: counted on the way, read when somebody asks, bounded."""

import asyncio
import re
import subprocess
import sys

import pytest

from cnm import scrape, settings
from cnm.errors import Conflict, Invalid, Unavailable
from cnm.metrics import METRICS, POOL_IN_USE, REQUESTS, Check, Source, first
from cnm.scrape import Scrape
from cnm.tally import BOUNDS_S, Counts, Requests, Times, Turns


def test_off_loads_nothing_for_it():
    workers = "controller, cnm_ipam, cnm_sandbox, cnm_driver_bridge, cnm_port_mapper, cnm_resolver"
    imports = "".join(f"import {each.strip()}.__main__\n" for each in f"cnm_{workers}".split(","))
    script = f"import sys\n{imports}assert 'prometheus_client' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=50)


def test_names_are_as_prometheus_has_them():
    every = {metric for metrics in METRICS.values() for metric in metrics}
    assert len({metric.name for metric in every}) == len(every)
    for metric in every:
        assert re.fullmatch(r"cnm_[a-z]+(_[a-z]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric
        assert metric.name.endswith("_seconds") or metric.kind != "histogram", metric
        assert metric.about.endswith("."), metric
        # what Prometheus itself puts on a series, and what its configuration in deploy/prometheus does
        assert not {"le", "job", "instance", "worker"} & set(metric.labels), metric


def test_sample_has_the_labels_of_its_metric():
    assert POOL_IN_USE(3, "LocalDefault/10.0.0.0/8", "").labels == ("LocalDefault/10.0.0.0/8", "")
    with pytest.raises(ValueError, match="pool"):
        POOL_IN_USE(3, "LocalDefault/10.0.0.0/8")


def test_of_too_many_the_first_are_told_and_the_rest_is_counted():
    shown, left_out = first(["a", "b", "c"], 2, "thing")
    assert (shown, left_out.labels, left_out.value) == (["a", "b"], ("thing",), 1)
    shown, left_out = first(["a"], 2, "thing")
    assert (shown, left_out.value) == (["a"], 0)


def test_times_are_counted_by_bound_and_label():
    times = Times()
    for took_s in (0.0005, BOUNDS_S[0], 0.02, 1e6):
        times.add(took_s, "a")
    times.add(0.5, "b")
    found = times.distributions()
    assert found["a",].counts == (2, 0, 0, 0, 1, *[0] * 8, 1)
    assert found["a",].total == pytest.approx(1e6 + 0.0215)
    assert sum(found["b",].counts) == 1


def test_requests_are_counted_by_the_code_of_their_reply():
    requests = Requests()
    for status in (None, None, "409", "507", "999"):
        requests.answer("cnm.v1.network.create", status, 0.01)
    found = {sample.labels[1]: sample.value for sample in REQUESTS.each(requests.answered)}
    assert found == {"ok": 2, "conflict": 1, "exhausted": 1, "internal": 1}
    assert sum(requests.times.distributions()["cnm.v1.network.create",].counts) == 5


def test_commands_are_counted_by_how_they_end():
    requests = Requests()
    with requests.asking("a"):
        pass
    with pytest.raises(Conflict), requests.asking("a"):
        raise Conflict("taken")
    with pytest.raises(asyncio.CancelledError), requests.asking("a"):
        raise asyncio.CancelledError
    assert requests.asked == {("a", "ok"): 1, ("a", "conflict"): 1, ("a", "timeout"): 1}


def test_turns_are_counted_by_how_they_end():
    turns = Turns()
    with turns.turn():
        pass
    assert turns.last > 0
    last = turns.last
    with pytest.raises(OSError, match="x"), turns.turn():
        raise OSError("x")
    assert turns.ended == {("done",): 1, ("failed",): 1}
    assert turns.last == last


def read_by(samples):
    async def read():
        return samples

    return read


async def fail():
    raise Unavailable("Redis is away")


async def hang():
    await asyncio.sleep(3600)


def told(samples):
    return {(sample.metric.name, *sample.labels): sample.value for sample in samples}


async def test_what_cannot_be_read_is_left_out_and_said_to_be(monkeypatch):
    monkeypatch.setattr(scrape, "READ_S", 0.05)
    count = REQUESTS(1, "a", "ok")
    sources = [Source("good", read_by([count])), Source("bad", fail), Source("slow", hang, timed=True)]
    found = told(await Scrape(worker="w", node="n", sources=sources, serving=True).read())
    assert found["cnm_requests_total", "a", "ok"] == 1
    up = {labels[0]: value for (name, *labels), value in found.items() if name == "cnm_scrape_source_up"}
    assert up == {"good": True, "bad": False, "slow": False}
    assert found["cnm_worker_ready",] == 1


async def test_worker_is_ready_when_it_serves_and_has_what_it_needs(monkeypatch):
    monkeypatch.setattr(scrape, "READ_S", 0.05)
    worker = Scrape(worker="w", node="n")
    assert list(await worker.faults()) == ["it does not answer requests"]
    worker.serving = True
    assert list(await worker.faults()) == []
    worker.checks += [Check("Redis", read_by("gone")), Check("NATS", read_by(None)), Check("moon", hang)]
    assert list(await worker.faults()) == ["Redis: gone", "moon: no answer within 0.05 s"]
    assert told(await worker.read())["cnm_worker_ready",] == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:9464", ("::1", 9464)), ("localhost:0", ("localhost", 0))],
)
def test_address_is_read(text, found):
    assert settings.from_environment({"CNM_METRICS_ADDRESS": text}).metrics_address == found


@pytest.mark.parametrize("text", ["9464", ":9464", "127.0.0.1", "127.0.0.1:", "a:99999", "::1:9464", "[]:1", "a:-1"])
def test_malformed_address_is_refused_by_name(text):
    with pytest.raises(Invalid, match="CNM_METRICS_ADDRESS") as refused:
        settings.from_environment({"CNM_METRICS_ADDRESS": text})
    assert repr(text) in refused.value.message


def test_maximum_is_a_number():
    assert settings.from_environment({}).metrics_objects == 200
    assert settings.from_environment({"CNM_METRICS_MAX_OBJECTS": "0"}).metrics_objects == 0
    with pytest.raises(Invalid, match="CNM_METRICS_MAX_OBJECTS is 'many'"):
        settings.from_environment({"CNM_METRICS_MAX_OBJECTS": "many"})


def test_off_by_default():
    assert settings.from_environment({}).metrics_address is None
    assert settings.from_environment({"CNM_METRICS_ADDRESS": ""}).metrics_address is None


def test_counts_add_up():
    counts = Counts()
    counts.add("a", "b")
    counts.add("a", "b", times=3)
    assert counts == {("a", "b"): 4}
