"""Damage is heard of and mended with a timer that never fires; the workers' own changes are not heard."""

import time
from contextlib import contextmanager

import pytest

from .conftest import Making, Traffic, api_of
from .test_drift import DAMAGES, Scene, differences

NEVER_S = "3600"
HEARD = {what: command for what, (command, _) in DAMAGES.items() if not command.startswith("@")}
"""Nobody is told of what happens inside of a sandbox, which the timer finds."""


@pytest.fixture(scope="module")
def installation(prepared, tmp_path_factory):
    """An installation of the module's own whose timer never fires."""
    made = prepared(tmp_path_factory.mktemp("hearing"), CNM_CONVERGE_PERIOD_S=NEVER_S)
    try:
        made.up()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def scene(installation):
    with api_of(installation) as api:
        traffic = Traffic(api)
        made = Scene(api, installation, Making(api), traffic)
        made.serve()
        yield made
        traffic.end()


@pytest.mark.parametrize("what", sorted(HEARD, key=lambda what: what == "namespace"))
def test_damage_is_heard_of_and_mended(scene, patiently, what):
    patiently(lambda: differences(scene.api, repair=False) == [])
    with scene.api.recording() as events:
        scene.damage(HEARD[what])
        patiently(lambda: "drift.repaired" in {each.what for each in events})
        patiently(lambda: differences(scene.api, repair=False) == [])
    if what == "namespace":  # in which somebody served
        scene.serve()
    patiently(scene.answers)


@contextmanager
def comparing(api):
    """Give a list that grows with each comparison of a worker, which begins with a question for its slice."""
    asked = []

    async def note(message):
        asked.append(message.subject)

    subscription = api.run(api.client.subscribe("cnm.v1.node.slice.>", cb=note))
    api.run(api.client.flush())
    yield asked
    api.run(subscription.unsubscribe())


def test_what_commands_change_wakes_nobody(scene, patiently):
    api = scene.api
    making = Making(api)
    with comparing(api) as asked:

        def is_quiet():
            before = len(asked)
            time.sleep(0.7)  # a worker that was woken compares within half a second
            return len(asked) == before

        patiently(is_quiet)
        asked.clear()
        until = time.monotonic() + 3  # in which a worker that hears its own doing compares six times
        while time.monotonic() < until:
            box = making.sandbox(on=[scene.network], ports=[{"container_port": 80}])
            api.ask("sandbox.update", {"sandbox": box["id"], "extra_hosts": [{"name": "db", "ip": "10.0.0.5"}]})
            api.ask("sandbox.disconnect", {"sandbox": box["id"], "network": scene.network["id"]})
            api.ask("sandbox.delete", {"sandbox": box["id"]})
        network = making.network()
        api.ask("network.delete", {"network": network["id"]})
        patiently(is_quiet)
        woken = list(asked)
        scene.damage(HEARD["link"])
        patiently(lambda: len(asked) > len(woken))
    making.end()
    assert len(woken) <= 2, woken  # what is told late may be taken for somebody else's
