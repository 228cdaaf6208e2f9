"""Do the workers start and stop in the order that they need?"""

from pathlib import Path

from cnm_cli.client import Readiness
from cnm_cli.settings import Settings
from cnm_cli.workers import worker_stages

SETTINGS = Settings(run_dir=Path("/run/c"), state_dir=Path("/var/c"), node="n1")


def _stages():
    readiness = Readiness("nats://127.0.0.1:1")
    return worker_stages(
        SETTINGS, nats_url="nats://127.0.0.1:1", redis_url="unix:///r", readiness=readiness, to_terminal=False
    )


def test_no_worker_waits_for_another_to_start():
    assert not [program.name for stage in _stages() for program in stage if program.gate]


def test_controller_stops_before_those_it_asks():
    assert [program.name for program in _stages()[-1]] == ["cnm-controller"]
