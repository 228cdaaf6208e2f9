"""Whatever the dashboards and alerts ask for is there, in what an installation that worked a little tells."""

import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cnm.errors import BY_CODE
from cnm.metrics import METRICS
from cnm_cli.workers import WORKERS

ROOT = Path(__file__).parents[2]
FIRST_PORT = 9464
PATIENCE_S = 15.0
FROM_PROMETHEUS = {"job": "cnm", "instance": ""}
"""What deploy/prometheus/prometheus.yml puts on every series besides the worker's name."""
DASHBOARDS = {
    path.stem: json.loads(path.read_text()) for path in sorted(ROOT.glob("deploy/grafana/dashboards/*.json"))
}
GROUPS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
VARIABLES = {"$__rate_interval": "5m", "$network": "web", "$worker": "cnm-controller"}
DNS_SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
print(flush=True)
while True:
    packet, peer = s.recvfrom(512)
    s.sendto(packet[:2] + bytes([0x81, 0x83]) + packet[4:], peer)
"""


class Watched:
    """An installation whose workers are asked for their metrics."""

    def __init__(self, installation):
        self.installation = installation

    def get(self, position, path):
        """Return status and body of a page of a worker."""
        url = f"http://127.0.0.1:{FIRST_PORT + position}{path}"
        body, _, status = self.installation.sh(f"curl -s -w '\\n%{{http_code}}' {url}").rpartition("\n")
        return int(status), body

    def scrape(self, position):
        """Return the series of a worker, as Prometheus has them: name, labels and value."""
        status, page = self.get(position, "/metrics")
        assert status == 200, page
        added = FROM_PROMETHEUS | {"worker": WORKERS[position].name}
        return [
            (sample.name, sample.labels | added, sample.value)
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        ]

    def ask(self, verb, body, *, refused=None):
        reply, _ = self.installation.ask(verb, body)
        assert reply.get("error", {}).get("code") == refused, reply
        return reply

    def work(self):
        """Have every part of the installation do something: right, wrong, and outwards."""
        pools = [{"subnet": "10.77.0.0/24", "gateway": "10.77.0.1"}]
        self.ask("network.create", {"name": "web", "ipam": {"pools": pools}, "dns": {"servers": ["10.77.0.1"]}})
        self.ask("sandbox.create", {"name": "a", "ports": [{"container_port": 80, "host_port": 8080}]})
        self.ask("sandbox.create", {"name": "b"})
        self.ask("sandbox.connect", {"network": "web", "sandbox": "a", "ipv4_address": "10.77.0.2"})
        self.ask(
            "sandbox.connect", {"network": "web", "sandbox": "b", "ipv4_address": "10.77.0.2"}, refused="conflict"
        )
        self.ask("sandbox.connect", {"network": "web", "sandbox": "b"})
        self.ask("network.get", {"network": "nonesuch"}, refused="not_found")
        self.installation.cnm("exec", "a", "--", "ping", "-c", "1", "-W", "5", "b", check=True)
        with self.serving_names("10.77.0.1"):
            assert self.installation.cnm("exec", "a", "--", "getent", "hosts", "nowhere.example").returncode == 2
        config = {"durable_name": "audit", "ack_policy": "explicit"}
        consumer = {"stream_name": "CNM_EVENTS", "config": config}
        self.ask("$JS.API.CONSUMER.DURABLE.CREATE.CNM_EVENTS.audit", consumer)

    @contextmanager
    def serving_names(self, address):
        """Have an external DNS server on the node, which knows no name."""
        server = subprocess.Popen(
            ["nsenter", f"--net={self.installation.namespace}", sys.executable, "-c", DNS_SERVER, address],
            stdout=subprocess.PIPE,
        )
        with server:
            assert server.stdout.readline()
            yield
            server.kill()


class Told:
    """What was scraped, and what Prometheus adds."""

    def __init__(self, scraped):
        self.by_worker = scraped
        self._labels = {"up": set(FROM_PROMETHEUS) | {"worker"}}
        self._values = {}
        for name, labels, _ in (series for page in scraped.values() for series in page):
            self._labels.setdefault(name, set()).update(labels)
            for label, value in labels.items():
                self._values.setdefault((name, label), set()).add(value)

    def value(self, name, **labels):
        """Return the sum of the series that have these labels."""
        found = [
            value
            for page in self.by_worker.values()
            for each, others, value in page
            if each == name and labels.items() <= others.items()
        ]
        assert found, f"no series {name} with {labels}"
        return sum(found)

    def count(self, name):
        """Return how many series there are."""
        return sum(each == name for page in self.by_worker.values() for each, _, _ in page)

    def values_of(self, name, label):
        """Return the values of a label."""
        return self._values[name, label]

    def labels_of(self, expression):
        """Return which labels the result of a query has; everything that it asks for is there."""
        match expression:
            case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
                return set()
            case promql_parser.ParenExpr() | promql_parser.UnaryExpr() | promql_parser.SubqueryExpr():
                return self.labels_of(expression.expr)
            case promql_parser.MatrixSelector():
                return self.labels_of(expression.vector_selector)
            case promql_parser.VectorSelector():
                return self._selected(expression)
            case promql_parser.Call():
                found = set().union(*map(self.labels_of, expression.args))
                return found - {"le"} if expression.func.name == "histogram_quantile" else found
            case promql_parser.AggregateExpr():
                return self._aggregated(expression)
            case promql_parser.BinaryExpr():
                return self._joined(expression)
        raise TypeError(expression)

    def _selected(self, selector):
        name = selector.name
        assert name in self._labels, f"nobody tells {name}"
        for matcher in selector.matchers.matchers:
            assert matcher.name in self._labels[name], f"{name} has no label {matcher.name}"
            if matcher.op == promql_parser.MatchOp.Equal and name != "up":
                known = self._values[name, matcher.name] | (
                    set(BY_CODE) | {"SERVFAIL"} if matcher.name == "code" else set()
                )
                assert matcher.value in known, f"{name} has no {matcher.name}={matcher.value!r}, but {sorted(known)}"
        return self._labels[name]

    def _aggregated(self, expression):
        inner = self.labels_of(expression.expr)
        if expression.modifier is None:
            return inner if expression.param is not None else set()  # topk and bottomk leave labels as they are
        asked = set(expression.modifier.labels)
        assert asked <= inner, f"{expression} asks for {asked - inner}"
        return asked

    def _joined(self, expression):
        left, right = self.labels_of(expression.lhs), self.labels_of(expression.rhs)
        modifier = expression.modifier
        if modifier is None or modifier.matching is None:
            return left | right
        on = set(modifier.matching.labels)
        assert on <= left & right, f"{expression} joins on {on - (left & right)}"
        brought = set(modifier.group_labels or ())
        assert brought <= right, f"{expression} brings {brought - right}"
        return left | brought


@pytest.fixture(scope="module")
def watched(prepared, tmp_path_factory):
    made = prepared(tmp_path_factory.mktemp("cnm"), CNM_METRICS_ADDRESS=f"127.0.0.1:{FIRST_PORT}")
    try:
        made.up()
        found = Watched(made)
        found.work()
        yield found
    finally:
        made.close()


@pytest.fixture(scope="module")
def told(watched):
    driver = [worker.name for worker in WORKERS].index("cnm-driver-bridge")
    deadline = time.monotonic() + PATIENCE_S
    while True:  # the driver knows names once it has compared
        found = {labels.get("endpoint") for _, labels, _ in watched.scrape(driver)}
        if {"a", "b"} <= found:
            return Told({worker.name: watched.scrape(position) for position, worker in enumerate(WORKERS)})
        assert time.monotonic() < deadline, f"the driver tells of {found}"
        time.sleep(0.1)


def filled(query):
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return query


PANELS = [
    pytest.param(target, id=f"{name}: {panel['title']}")
    for name, page in DASHBOARDS.items()
    for panel in page["panels"]
    for target in panel["targets"]
]


@pytest.mark.parametrize("target", PANELS)
def test_panel_asks_for_what_is_there(told, target):
    labels = told.labels_of(promql_parser.parse(filled(target["expr"])))
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels


@pytest.mark.parametrize("name", DASHBOARDS)
def test_variable_of_a_dashboard_has_values(told, name):
    for variable in DASHBOARDS[name]["templating"]["list"]:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
        assert VARIABLES[f"${variable['name']}"] in told.values_of(metric, label)


@pytest.mark.parametrize(
    "rule", [pytest.param(rule, id=rule["alert"]) for group in GROUPS for rule in group["rules"]]
)
def test_alert_asks_for_what_is_there(told, rule):
    labels = told.labels_of(promql_parser.parse(rule["expr"]))
    assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= labels


@pytest.mark.parametrize("worker", [worker.name for worker in WORKERS])
def test_worker_tells_all_that_it_declares(told, worker):
    names = {name for name, _, _ in told.by_worker[worker]}
    for metric in (*METRICS["every worker"], *METRICS[worker]):
        shown = f"{metric.name}_count" if metric.kind == "histogram" else metric.name
        assert shown in names
    declared = {metric.name for metric in (*METRICS["every worker"], *METRICS[worker])}
    ours = {re.sub("_(bucket|count|sum)$", "", name) for name in names if name.startswith("cnm_")}
    assert ours <= declared


def test_values_are_what_was_done(told):
    controller = {"worker": "cnm-controller"}
    connects = {**controller, "subject": "cnm.v1.sandbox.connect"}
    assert told.value("cnm_requests_total", **connects, code="ok") == 2
    assert told.value("cnm_requests_total", **connects, code="conflict") == 1
    assert told.value("cnm_request_duration_seconds_count", **connects) == 3
    assert told.value("cnm_sagas_total", kind="sandbox.connect", outcome="committed") == 2
    assert told.value("cnm_sagas_total", kind="sandbox.connect", outcome="undone") == 1
    assert told.value("cnm_saga_failures_total", step="cnm.v1.ipam.endpoint.allocate", code="conflict") == 1
    assert told.value("cnm_networks") == 4
    assert told.value("cnm_sandboxes") == told.value("cnm_endpoints") == told.value("cnm_network_endpoints") == 2
    assert told.value("cnm_nodes", state="ready") == 1
    assert told.value("cnm_node_worker_up") == 4
    assert told.value("cnm_worker_ready") == len(WORKERS)
    assert told.value("cnm_scrape_source_up") == told.count("cnm_scrape_source_up")
    assert told.value("cnm_consumer_pending", consumer="audit") > 5
    assert told.value("cnm_pool_addresses_in_use", pool="LocalDefault/10.77.0.0/24") == 3
    assert told.value("cnm_pool_addresses_available", pool="LocalDefault/10.77.0.0/24") == 251
    assert told.value("cnm_endpoint_transmit_packets_total", network="web", endpoint="a") > 0
    assert told.value("cnm_endpoint_receive_bytes_total", network="web", endpoint="b") > 0
    assert told.value("cnm_links", of="endpoint") == told.value("cnm_sandbox_namespaces") == 2
    assert told.value("cnm_ports_published", protocol="tcp") == 2
    assert told.value("cnm_dns_questions_total", source="outside", code="NXDOMAIN") > 0
    assert told.value("cnm_dns_server_questions_total", server="10.77.0.1 (in the sandbox)", outcome="answered") > 0
    assert told.value("cnm_dns_names") == told.value("cnm_dns_sandboxes") == 2


def test_no_label_is_an_id(told):
    for page in told.by_worker.values():
        for name, labels, _ in page:
            for label, value in labels.items():
                assert label == "network_id" or not re.search("[0-9a-f]{12}", value), (name, label, value)


def test_workers_are_ready_and_say_when_they_are_not(watched, frozen):
    for position in range(len(WORKERS)):
        assert watched.get(position, "/healthz") == (200, "ok\n")
        assert watched.get(position, "/readyz") == (200, "ready\n")
    with frozen(watched.installation.pid("redis")):
        status, said = watched.get(0, "/readyz")
        assert (status, said.split(":")[0]) == (503, "Redis")
        assert watched.get(0, "/healthz") == (200, "ok\n")


def test_page_is_there_though_redis_is_away_and_says_what_is_missing(watched, frozen):
    with frozen(watched.installation.pid("redis")):
        found = {(name, labels.get("source", "")): value for name, labels, value in watched.scrape(0)}
    assert found["cnm_scrape_source_up", "census"] == 0
    assert found["cnm_scrape_source_up", "nats"] == 1
    assert found["cnm_worker_ready", ""] == 0
    assert ("cnm_networks", "") not in found
