"""Do the workers start and stop in the order that they need?"""

from pathlib import Path

from cnm_cli.client import Readiness
from cnm_cli.settings import Settings
from cnm_cli.workers import worker_stages

SETTINGS = Settings(run_dir=Path("/run/c"), state_dir=Path("/var/c"), node="n1")


def _stages(settings=SETTINGS):
    readiness = Readiness("nats://127.0.0.1:1")
    return worker_stages(
        settings, nats_url="nats://127.0.0.1:1", redis_url="unix:///r", readiness=readiness, to_terminal=False
    )


def test_no_worker_waits_for_another_to_start():
    assert not [program.name for stage in _stages() for program in stage if program.gate]


def test_controller_stops_before_those_it_asks():
    assert [program.name for program in _stages()[-1]] == ["cnm-controller"]


def test_gateway_is_started_where_it_has_an_address_and_stops_before_all_others():
    assert "cnm-gateway" not in [program.name for stage in _stages() for program in stage]
    stages = _stages(SETTINGS._replace(gateway_address="127.0.0.1:8780"))
    assert [program.name for program in stages[-1]] == ["cnm-gateway"]
    assert stages[-1][0].command[-1] == "cnm_gateway"


def test_gateway_has_the_last_of_the_ports_for_metrics():
    settings = SETTINGS._replace(gateway_address="127.0.0.1:8780", metrics_address="127.0.0.1:9464")
    told = {each.name: each.environment["CNM_METRICS_ADDRESS"] for stage in _stages(settings) for each in stage}
    assert told["cnm-gateway"] == "127.0.0.1:9470"
    assert len(set(told.values())) == 7
