"""One request is one trace: below the client's own span stand those of every worker, in whatever takes OTLP."""

import json
import re
import secrets
import subprocess
import sys
import threading
from base64 import b64decode
from contextlib import contextmanager
from pathlib import Path

import pytest

RECEIVER = Path(__file__).with_name("otlp_receiver.py")
EVERY_WORKER = {"cnm-controller", "cnm-ipam", "cnm-driver-bridge", "cnm-sandbox", "cnm-port-mapper", "cnm-resolver"}
SERVER, CLIENT, PRODUCER = 2, 3, 4


class Receiver:
    """Reads what the receiver prints."""

    def __init__(self, process):
        self._process = process
        self._heard = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self._heard.append(json.loads(line))

    def spans(self, trace_id=None):
        """Return the spans heard so far, those of one trace or all."""
        return [span for span in list(self._heard) if "name" in span and trace_id in (None, span["trace_id"])]

    def metrics(self, name):
        """Return what was heard so far of a metric."""
        return [told for told in list(self._heard) if told.get("metric") == name]


@contextmanager
def receiving(installation):
    """Take OTLP inside the installation's network."""
    words = ["nsenter", f"--net={installation.namespace}", sys.executable, str(RECEIVER)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield Receiver(process)
        finally:
            process.kill()


class Traced:
    """An installation that sends its spans, and who takes them."""

    def __init__(self, installation, receiver, wait_until):
        self.installation = installation
        self.receiver = receiver
        self.wait_until = wait_until

    def ask(self, verb, body, **headers):
        """Ask below a span of our own; return the reply, its headers, and the trace's id and our span's."""
        trace, span = secrets.token_hex(16), secrets.token_hex(8)
        reply, told = self.installation.ask(
            verb, body, {"traceparent": f"00-{trace}-{span}-01", "tracestate": "ours=1"} | headers
        )
        return reply, told, trace, span

    def trace(self, trace, complete):
        """Return the spans of a trace once a condition on them holds."""
        return self.wait_until(lambda: complete(spans := self.receiver.spans(trace)) and spans)

    def attach(self):
        """Attach a sandbox that publishes a port; return the endpoint and its trace."""
        self.installation.ask("network.create", {"name": "web"})
        self.installation.ask("sandbox.create", {"name": "a", "ports": [{"container_port": 80, "host_port": 8080}]})
        return self.ask("sandbox.connect", {"network": "web", "sandbox": "a"})

    def detach(self):
        self.installation.ask("sandbox.delete", {"sandbox": "a"})
        self.installation.ask("network.delete", {"network": "web"})


def settings(protocol, port):
    return {
        "OTEL_TRACES_EXPORTER": "otlp,nats",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "CNM_LOG_LEVEL": "DEBUG",
        "CNM_DNS_LOG_EVERY": "1",
    }


@pytest.fixture(scope="module")
def traced(tmp_path_factory, prepared, wait_until):
    installation = prepared(tmp_path_factory.mktemp("traced"), **settings("http/protobuf", 4318))
    try:
        with receiving(installation) as receiver:
            installation.up()
            yield Traced(installation, receiver, wait_until)
            installation.down()
    finally:
        installation.close()


@pytest.fixture(scope="module")
def attached(traced):
    """Attach once for all who look at the trace; gives the endpoint, the trace's spans, and our own span's id."""
    endpoint, _, trace, own = traced.attach()
    events = {"endpoint.created", "endpoint.joined", "port.published", "address.requested"}

    def complete(spans):
        told = {span["name"].removeprefix("publish cnm.v1.event.") for span in spans}
        known = {own, *(each["span_id"] for each in spans)}
        return (
            events <= told
            and {each["resource"]["service.name"] for each in spans} >= EVERY_WORKER
            and all(each["parent_id"] in known for each in spans)
        )

    yield endpoint, traced.trace(trace, complete), own
    traced.detach()


def named(spans, pattern):
    return [span for span in spans if re.fullmatch(pattern, span["name"])]


def test_every_workers_spans_are_below_the_clients_own(attached):
    _, spans, own = attached
    parents = {span["span_id"]: span["parent_id"] for span in spans}
    for span in spans:
        above = span["span_id"]
        while above in parents:
            above = parents[above]
        assert above == own, span
    assert {span["resource"]["service.name"] for span in spans} == EVERY_WORKER
    assert {span["state"] for span in spans if not span["name"].startswith("publish")} == {"ours=1"}
    assert all(span["took_ns"] >= 0 for span in spans)


def test_resource_tells_worker_node_and_what_the_environment_adds(attached):
    _, spans, _ = attached
    for span in spans:
        resource = span["resource"]
        assert resource["service.namespace"] == "cnm"
        assert resource["deployment.environment.name"] == "test"
        on_node = resource["service.name"] not in ("cnm-controller", "cnm-ipam")
        assert resource.get("host.name") == ("n1" if on_node else None)
    assert len({span["resource"]["service.instance.id"] for span in spans}) == len(EVERY_WORKER)


def test_messages_have_the_conventions_names(attached):
    _, spans, _ = attached
    (request,) = named(spans, r"process cnm\.v1\.sandbox\.connect")
    assert request["kind"] == SERVER
    assert request["attributes"]["messaging.system"] == "nats"
    assert request["attributes"]["messaging.operation.type"] == "process"
    assert request["attributes"]["messaging.destination.name"] == "cnm.v1.sandbox.connect"
    assert request["attributes"]["cnm.request_id"]
    (sent,) = named(spans, r"send cnm\.v1\.on\.bridge\.plug")
    (done,) = named(spans, r"process cnm\.v1\.on\.bridge\.plug")
    assert (sent["kind"], done["parent_id"]) == (CLIENT, sent["span_id"])
    assert sent["attributes"]["messaging.destination.name"] == "cnm.v1.on.n1.bridge.plug"


def test_scripts_of_redis_have_the_conventions_names(attached):
    _, spans, _ = attached
    asked = {(span["resource"]["service.name"], span["name"]): span for span in named(spans, "EVALSHA .*")}
    assert {("cnm-controller", "EVALSHA commit"), ("cnm-ipam", "EVALSHA allocate")} <= set(asked)
    assert asked["cnm-controller", "EVALSHA commit"]["attributes"] == {
        "db.system.name": "redis",
        "db.operation.name": "EVALSHA",
        "db.stored_procedure.name": "commit",
    }


def test_steps_of_the_kernel_plans_are_events(attached):
    endpoint, spans, _ = attached
    steps = [event["cnm.step"] for span in named(spans, "rtnetlink|nfnetlink|nftables") for event in span["events"]]
    assert any("type veth" in step and endpoint["driver_info"]["host_ifname"] in step for step in steps)
    assert any(endpoint["ipv4_address"].partition("/")[0] in step for step in steps)


def test_what_it_caused_is_a_part_of_it_and_carries_its_context(attached):
    _, spans, _ = attached
    told = named(spans, r"publish cnm\.v1\.event\..*")
    assert {span["kind"] for span in told} == {PRODUCER}
    assert {span["resource"]["service.name"] for span in told} == {"cnm-controller", "cnm-ipam"}


def test_published_event_carries_its_span_to_whoever_listens(traced, attached):
    endpoint, spans, _ = attached
    reply, _ = traced.installation.ask(
        "$JS.API.STREAM.MSG.GET.CNM_EVENTS", {"last_by_subj": f"cnm.v1.event.endpoint.joined.{endpoint['id']}"}
    )
    headers = b64decode(reply["message"]["hdrs"]).decode()
    (published,) = named(spans, r"publish cnm\.v1\.event\.endpoint\.joined")
    assert f"traceparent: 00-{published['trace_id']}-{published['span_id']}-01" in headers


def test_first_question_for_a_name_is_linked_to_what_made_it(traced, attached):
    _, spans, _ = attached
    traced.installation.cnm("exec", "a", "--", "getent", "hosts", "a", check=True)
    trace = spans[0]["trace_id"]

    def linked():
        return [
            span
            for span in traced.receiver.spans()
            if span["name"] == "answer DNS" and trace in span["links"] and span["trace_id"] != trace
        ]

    (question, *_) = traced.wait_until(linked)
    assert question["attributes"]["dns.question.name"] == "a"
    assert question["attributes"]["dns.response_code"] == "NOERROR"


def test_refusal_is_recorded_with_our_code_and_tells_its_trace(traced):
    reply, headers, trace, _ = traced.ask("network.get", {"network": "nonesuch"})
    assert reply["error"]["code"] == "not_found"
    assert headers["Cnm-Trace-Id"] == trace
    (request,) = named(traced.trace(trace, lambda spans: named(spans, "process .*")), "process .*")
    assert request["attributes"]["error.type"] == "not_found"
    assert request["error"] == reply["error"]["message"]


def test_repeated_refusal_names_the_trace_of_the_first(traced):
    headers = {"Cnm-Request-Id": secrets.token_hex(8)}
    _, told, first, _ = traced.ask("network.delete", {"network": "nonesuch"}, **headers)
    _, again, second, _ = traced.ask("network.delete", {"network": "nonesuch"}, **headers)
    assert (told["Cnm-Trace-Id"], again["Cnm-Trace-Id"]) == (first, first)
    assert first != second


def test_caller_who_does_not_sample_is_not_recorded(traced):
    quiet, loud = secrets.token_hex(16), secrets.token_hex(16)
    for trace, flags in ((quiet, "00"), (loud, "01")):
        traced.installation.ask("network.list", {}, {"traceparent": f"00-{trace}-{'7' * 16}-{flags}"})
    traced.trace(loud, lambda spans: named(spans, "EVALSHA .*"))
    assert traced.receiver.spans(quiet) == []


def test_routine_is_not_recorded(traced):
    _, _, trace, _ = traced.ask("network.list", {})
    traced.trace(trace, lambda spans: named(spans, "process .*"))
    assert named(traced.receiver.spans(), r".*(heartbeat|slice).*") == []


def test_each_line_of_the_log_is_an_event_and_names_its_service(traced):
    lines = [json.loads(line) for line in traced.installation.log().splitlines()]
    assert all({"event", "level", "timestamp", "service"} <= set(line) for line in lines), lines
    assert {line["service"] for line in lines} >= EVERY_WORKER


def test_trace_is_drawn_from_the_installations_own_store(traced, attached):
    _, spans, own = attached
    trace = spans[0]["trace_id"]
    drawn = traced.installation.cnm("trace", trace[:12], check=True).stdout
    assert drawn.startswith(f"trace {trace}, 20")
    for worker in EVERY_WORKER:
        assert worker in drawn
    assert "EVALSHA commit" in drawn
    assert "· ip link add" in drawn
    kept = json.loads(traced.installation.cnm("trace", trace, "-o", "json", check=True).stdout)
    assert {span["span_id"] for span in kept} >= {span["span_id"] for span in spans}
    assert min(kept, key=lambda span: span["start_ns"])["parent_id"] == own


def test_last_attach_is_found_without_its_id(traced, attached):
    traced.installation.ask("sandbox.create", {"name": "b"})
    _, _, trace, _ = traced.ask("sandbox.connect", {"network": "web", "sandbox": "b"})
    traced.installation.ask("sandbox.delete", {"sandbox": "b"})
    drawn = traced.installation.cnm("trace", "--last", "attach", check=True).stdout
    assert drawn.startswith(f"trace {trace}, ")
    both = traced.installation.cnm("trace", "--last", "attach", "-n", "2", check=True).stdout
    assert [line.split()[1].rstrip(",") for line in both.splitlines() if line.startswith("trace")] == [
        trace,
        attached[1][0]["trace_id"],
    ]
    traced.installation.ask("network.list", {})
    assert "cnm.v1.network.list" in traced.installation.cnm("trace", "--last", check=True).stdout


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("trace", "f" * 32), 1, f"no spans of 'trace {'f' * 32}' are kept"),
        (("trace", "--last", "network.nothing"), 1, "no spans of 'request network.nothing' are kept"),
        (("trace", "--last", "attach", "-n", "0"), 2, "1 to 1000"),
        (("trace", "-n", "5"), 2, "-n goes with --last"),
        (("trace", "f" * 32, "--last", "attach"), 2, "exclude one another"),
    ],
)
def test_what_is_not_kept_is_said(traced, words, status, said):
    done = traced.installation.cnm(*words)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr


def test_every_workers_metrics_are_sent(traced):
    def told(name):
        found = traced.receiver.metrics(name)
        return {each["resource"]["service.name"] for each in found} == EVERY_WORKER and found

    ready = traced.wait_until(lambda: told("cnm_worker_ready"))
    assert {each["kind"] for each in ready} == {"gauge"}
    assert {point["value"] for each in ready for point in each["points"]} <= {0, 1}
    traced.ask("network.list", {})

    def listed(name):
        return [
            each
            for each in traced.receiver.metrics(name)
            for point in each["points"]
            if point["attributes"]["subject"] == "cnm.v1.network.list" and point["value"] >= 1
        ]

    assert traced.wait_until(lambda: listed("cnm_requests"))[0]["kind"] == "sum"
    assert traced.wait_until(lambda: listed("cnm_request_duration_seconds"))[0]["kind"] == "histogram"


def test_grpc_takes_the_same(tmp_path, prepared, wait_until):
    installation = prepared(tmp_path, **settings("grpc", 4317))
    try:
        with receiving(installation) as receiver:
            installation.up()
            traced = Traced(installation, receiver, wait_until)
            _, _, trace, _ = traced.attach()
            spans = traced.trace(
                trace, lambda spans: {each["resource"]["service.name"] for each in spans} >= EVERY_WORKER
            )
            assert {span["protocol"] for span in spans} == {"grpc"}
            assert wait_until(lambda: receiver.metrics("cnm_requests"))[0]["protocol"] == "grpc"
            installation.down()
    finally:
        installation.close()


def test_collector_that_is_away_holds_nobody_up(tmp_path, prepared):
    installation = prepared(tmp_path, **settings("http/protobuf", 9))
    try:
        installation.up()
        reply, _ = installation.ask("network.create", {"name": "web"})
        assert reply["name"] == "web"
        for line in installation.log().splitlines():
            assert "event" in json.loads(line)
        installation.down()  # within the patience that any stop has
    finally:
        installation.close()


def test_exporter_that_is_not_there_is_refused_by_name(tmp_path, prepared):
    installation = prepared(tmp_path, OTEL_TRACES_EXPORTER="zipkin")
    try:
        done = installation.cnm("up", "--detach")
        assert done.returncode == 1
        assert "OTEL_TRACES_EXPORTER: 'zipkin' is none of otlp, console, nats, none" in done.stderr
    finally:
        installation.close()
