"""The files for Prometheus and Grafana fit together, and with what workers declare."""

import importlib.util
import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from cnm.metrics import METRICS
from cnm_cli.workers import WORKERS

ROOT = Path(__file__).parents[3]
GRAFANA, PROMETHEUS = ROOT / "deploy" / "grafana", ROOT / "deploy" / "prometheus"
DASHBOARDS = {path.name: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
ALERTS = [
    rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]


def heading_link(text):
    return re.sub(r"[^a-z0-9 -]", "", text.lower()).replace(" ", "-")


def test_dashboards_are_what_is_written():
    spec = importlib.util.spec_from_file_location("write", GRAFANA / "write.py")
    write = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(write)
    assert write.files() == {name: (GRAFANA / "dashboards" / name).read_text() for name in DASHBOARDS}, (
        "run .venv/bin/python deploy/grafana/write.py"
    )


def test_dashboards_ask_the_source_that_is_provisioned():
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/cnm.yml").read_text())["datasources"]
    for page in DASHBOARDS.values():
        asked = {panel["datasource"]["uid"] for panel in page["panels"]}
        asked |= {target["datasource"]["uid"] for panel in page["panels"] for target in panel["targets"]}
        assert asked == {source["uid"]}


@pytest.mark.parametrize("page", DASHBOARDS.values(), ids=DASHBOARDS)
def test_panels_do_not_overlap(page):
    taken = set()
    for place in (panel["gridPos"] for panel in page["panels"]):
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_every_metric_that_is_declared_is_shown():
    queries = " ".join(
        target["expr"] for page in DASHBOARDS.values() for panel in page["panels"] for target in panel["targets"]
    )
    queries += " ".join(rule["expr"] for rule in ALERTS)
    shown = set(re.findall(r"cnm_[a-z_]+", queries))
    declared = {metric.name for metrics in METRICS.values() for metric in metrics}
    assert declared - {name.removesuffix("_bucket") for name in shown} == set()


def test_alerts_have_a_runbook():
    links = {
        heading_link(line.lstrip("# "))
        for line in (ROOT / "docs/runbooks.md").read_text().splitlines()
        if line.startswith("#")
    }
    for rule in ALERTS:
        assert promql_parser.parse(rule["expr"])
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        path, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert path == "docs/runbooks.md"
        assert anchor in links, rule["alert"]
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)


def test_prometheus_scrapes_each_worker_where_cnm_up_has_it_listen():
    (job,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    found = {each["labels"]["worker"]: each["targets"] for each in job["static_configs"]}
    assert found == {worker.name: [f"127.0.0.1:{9464 + place}"] for place, worker in enumerate(WORKERS)}
