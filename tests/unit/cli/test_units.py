"""Do the systemd units agree with the compose file, and with what they deploy?"""

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cnm_cli.workers import ALL_WORKERS, WORKERS

ROOT = Path(__file__).parents[3]
UNITS = ROOT / "deploy/systemd"
NAMES = [worker.name.removeprefix("cnm-") for worker in ALL_WORKERS]
NEEDED = [worker.name for worker in WORKERS]
CLUSTER = ("controller", "ipam", "gateway")
OWN_VIEW = re.compile(  # systemd.exec(5): what gives a process a mount namespace
    r"(PrivateTmp|PrivateDevices|PrivateMounts|ProtectSystem|ProtectHome|ProtectKernelTunables|ProtectKernelModules|"
    r"ProtectKernelLogs|ProtectControlGroups|ProtectProc|ProcSubset|ReadOnlyPaths|ReadWritePaths|InaccessiblePaths|"
    r"ExecPaths|NoExecPaths|TemporaryFileSystem|BindPaths|BindReadOnlyPaths|RootDirectory|RootImage|DynamicUser|"
    r"PrivateIPC|MountFlags|MountAPIVFS|LoadCredential.*|SetCredential.*)"
)


def service(path: Path) -> dict[str, str]:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # its names have capitals
    unit.read_string(path.read_text())
    return dict(unit["Service"])


def of_worker(name: str) -> dict[str, str]:
    return service(UNITS / f"cnm-{name}.service")


def test_each_worker_has_a_unit_and_the_target_wants_those_without_whom_there_is_no_cnm() -> None:
    assert {path.stem for path in UNITS.glob("*.service")} == {f"cnm-{name}" for name in NAMES}
    wanted = re.findall(r"cnm-[a-z-]+\.service", (UNITS / "cnm.target").read_text())
    assert sorted(wanted) == sorted(f"{name}.service" for name in NEEDED)
    assert "WantedBy=cnm.target" in (UNITS / "cnm-gateway.service").read_text()
    for name in NAMES:
        assert of_worker(name)["ExecStart"] == f"/opt/cnm/bin/cnm-{name}"


@pytest.mark.parametrize("name", NAMES)
def test_containers_have_the_capabilities_that_units_have(name: str) -> None:
    containers: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    container = containers[name]
    assert container["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in container["security_opt"]
    unit = of_worker(name)
    assert {f"CAP_{each}" for each in container.get("cap_add", ())} == set(unit["CapabilityBoundingSet"].split())
    if unit["User"] != "root":
        assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"]


@pytest.mark.parametrize("name", CLUSTER)
def test_cluster_workers_are_plain_users_and_can_do_nothing_else(name: str) -> None:
    containers: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert containers[name]["user"].partition(":")[0] not in ("0", "root", "")
    assert "cap_add" not in containers[name]
    unit = of_worker(name)
    assert (unit["User"], unit["CapabilityBoundingSet"], unit["AmbientCapabilities"]) == ("cnm", "", "")


def test_what_the_sandbox_worker_mounts_is_seen_by_all() -> None:
    shared = service(UNITS / "cnm-.service.d/worker.conf")
    assert not [name for name in {**shared, **of_worker("sandbox")} if OWN_VIEW.fullmatch(name)]


def test_no_worker_gains_privileges_and_all_read_one_environment() -> None:
    shared = service(UNITS / "cnm-.service.d/worker.conf")
    assert (shared["NoNewPrivileges"], shared["EnvironmentFile"]) == ("yes", "/etc/cnm/cnm.env")
    for name in NAMES:
        assert not {"NoNewPrivileges", "EnvironmentFile"} & set(of_worker(name))


def test_the_environment_file_names_documented_variables_only() -> None:
    named = re.findall(r"^#?(CNM_\w+)=", (UNITS / "cnm.env").read_text(), re.MULTILINE)
    readme = (ROOT / "README.md").read_text()
    assert {"CNM_NATS_URL", "CNM_REDIS_URL"} <= set(named)
    assert not [name for name in named if f"`{name}`" not in readme]


def test_each_capability_is_explained() -> None:
    text = (ROOT / "docs/security.md").read_text()
    for name in NAMES:
        for capability in of_worker(name)["CapabilityBoundingSet"].split():
            assert f"| `cnm-{name}` | `{capability}` |" in text
