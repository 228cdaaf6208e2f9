"""Does the compose file agree with the project it deploys?"""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from cnm_cli.workers import WORKERS

ROOT = Path(__file__).parents[3]
DOCUMENTED = {
    "CNM_NATS_URL",
    "CNM_REDIS_URL",
    "CNM_NODE",
    "CNM_NODE_ADDRESS",
    "CNM_STATE_DIR",
    "CNM_RUN_DIR",
    "CNM_METRICS_ADDRESS",
    "CNM_DEFAULT_ADDRESS_POOLS",
}
NODE_WORKERS = {"sandbox", "driver-bridge", "port-mapper", "resolver"}
WORKER_SERVICES = [worker.name.removeprefix("cnm-") for worker in WORKERS]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return found


def console_scripts() -> set[str]:
    files = [ROOT / "cli/pyproject.toml", *ROOT.glob("services/*/pyproject.toml")]
    return {name for file in files for name in tomllib.loads(file.read_text())["project"].get("scripts", {})}


def test_every_worker_that_up_starts_is_deployed(services: dict[str, Any]) -> None:
    assert set(WORKER_SERVICES) <= set(services)


@pytest.mark.parametrize("name", WORKER_SERVICES)
def test_worker_runs_its_console_script_and_is_checked_by_name(services: dict[str, Any], name: str) -> None:
    assert services[name]["command"] == [f"cnm-{name}"]
    assert f"cnm-{name}" in console_scripts()
    assert services[name]["healthcheck"]["test"] == ["CMD", "cnm", "status", f"cnm-{name}"]
    assert {"nats", "redis"} <= set(services[name]["depends_on"])


@pytest.mark.parametrize("name", WORKER_SERVICES)
def test_worker_gets_documented_variables_only(services: dict[str, Any], name: str) -> None:
    told = set(services[name]["environment"])
    assert {variable for variable in told if not variable.startswith("OTEL_")} <= DOCUMENTED
    assert {"CNM_NATS_URL", "CNM_REDIS_URL", "CNM_NODE"} <= told


@pytest.mark.parametrize("name", WORKER_SERVICES)
def test_only_node_workers_reach_into_the_node(services: dict[str, Any], name: str) -> None:
    reaches = {"network_mode", "pid", "cap_add", "volumes"} & set(services[name])
    assert bool(reaches) == (name in NODE_WORKERS)
    if name in NODE_WORKERS:
        (run,) = services[name]["volumes"]
        assert (run["source"], run["target"], run["bind"]["propagation"]) == ("/run/cnm", "/run/cnm", "rshared")


def test_servers_listen_on_loopback_only(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_collector_uses_only_what_it_defines() -> None:
    config = yaml.safe_load((ROOT / "deploy/otel-collector.yaml").read_text())
    assert set(config["service"]["extensions"]) <= set(config["extensions"])
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind])


def test_image_and_setup_use_the_same_uv() -> None:
    versions = {
        *re.findall(r"^UV_VERSION=(\S+)", (ROOT / "deploy/setup").read_text(), re.MULTILINE),
        *re.findall(r"uv==(\S+)", (ROOT / "deploy/Dockerfile").read_text()),
    }
    assert len(versions) == 1
