from pathlib import Path

import pytest

from cnm.errors import Invalid, Unavailable
from cnm_cli.runtime import Instance, exclusive, find_nats_url, read_instance, running, write_instance
from cnm_cli.settings import Settings, from_environment
from cnm_cli.workers import WORKERS, worker_environment


def test_defaults_are_those_of_the_contract() -> None:
    settings = from_environment({})
    assert (settings.run_dir, settings.state_dir) == (Path("/run/cnm"), Path("/var/lib/cnm"))
    assert settings.node
    assert (settings.nats_url, settings.redis_url, settings.metrics_address) == (None, None, None)


def test_empty_variable_counts_as_unset() -> None:
    assert from_environment({"CNM_NATS_URL": "", "CNM_RUN_DIR": ""}).nats_url is None


def test_disk_is_waited_for_when_asked_to() -> None:
    assert from_environment({}).fsync == "everysec"
    assert from_environment({"CNM_FSYNC": "always"}).fsync == "always"
    with pytest.raises(Invalid, match="CNM_FSYNC is 'never', it can be everysec or always"):
        from_environment({"CNM_FSYNC": "never"})


def test_relative_directories_become_absolute() -> None:
    assert from_environment({"CNM_RUN_DIR": "here"}).run_dir == Path.cwd() / "here"


def _environment(position: int, **settings: str) -> dict[str, str]:
    return worker_environment(
        {"PATH": "/bin", "CNM_NODE": "stale"},
        from_environment({"CNM_NODE": "n1", **settings}),
        nats_url="nats://a:1",
        redis_url="unix:///s",
        position=position,
    )


def test_worker_is_told_its_servers_and_its_node() -> None:
    environment = _environment(0, CNM_RUN_DIR="/r", CNM_STATE_DIR="/s")
    assert environment == {
        "PATH": "/bin",
        "CNM_NODE": "n1",
        "CNM_NATS_URL": "nats://a:1",
        "CNM_REDIS_URL": "unix:///s",
        "CNM_RUN_DIR": "/r",
        "CNM_STATE_DIR": "/s",
    }


def test_each_worker_serves_metrics_on_a_port_of_its_own() -> None:
    told = [_environment(n, CNM_METRICS_ADDRESS="[::1]:9464")["CNM_METRICS_ADDRESS"] for n in range(len(WORKERS))]
    assert told == [f"[::1]:{9464 + n}" for n in range(len(WORKERS))]
    assert _environment(3, CNM_METRICS_ADDRESS="127.0.0.1:0")["CNM_METRICS_ADDRESS"] == "127.0.0.1:0"


def test_metrics_address_without_a_port_is_refused() -> None:
    with pytest.raises(Invalid, match="'localhost' is no address and port"):
        _environment(0, CNM_METRICS_ADDRESS="localhost")
    with pytest.raises(Invalid, match="'9464' is no address and port"):
        _environment(0, CNM_METRICS_ADDRESS="9464")


def test_metrics_address_that_leaves_too_few_ports_is_refused() -> None:
    with pytest.raises(Invalid, match=r"leaves too few ports: each of 6 workers takes one, from 65531 on"):
        _environment(0, CNM_METRICS_ADDRESS="127.0.0.1:65531")
    assert _environment(5, CNM_METRICS_ADDRESS="127.0.0.1:65530")["CNM_METRICS_ADDRESS"] == "127.0.0.1:65535"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(run_dir=tmp_path / "run", state_dir=tmp_path / "state", node="n1")


def test_verbs_find_nats_in_the_environment_then_in_the_instance_then_by_default(settings: Settings) -> None:
    assert find_nats_url(settings) == "nats://127.0.0.1:4222"
    instance = Instance(pid=1, nats_url="nats://127.0.0.1:5555", redis_url="unix:///s", node="n1")
    with exclusive(settings):
        write_instance(settings, instance)
        assert read_instance(settings) == instance
        assert (settings.run_dir / "cnm.json").stat().st_mode & 0o777 == 0o600
        assert find_nats_url(settings) == "nats://127.0.0.1:5555"
        assert find_nats_url(settings._replace(nats_url="nats://elsewhere:1")) == "nats://elsewhere:1"
    assert find_nats_url(settings) == "nats://127.0.0.1:4222"


def test_damaged_instance_file_counts_as_none(settings: Settings) -> None:
    settings.run_dir.mkdir()
    (settings.run_dir / "cnm.json").write_text("{")
    assert read_instance(settings) is None


def test_lock_tells_who_runs_only_while_it_is_held(settings: Settings) -> None:
    assert running(settings) is None
    with exclusive(settings):
        assert running(settings)
    assert running(settings) is None


def test_lock_of_somebody_unknown_is_not_taken_for_nobody(settings: Settings) -> None:
    with exclusive(settings):
        (settings.run_dir / "cnm.lock").write_text("")
        with pytest.raises(Unavailable, match="just starting or ending"):
            running(settings)
