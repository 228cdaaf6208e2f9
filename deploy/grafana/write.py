"""Writes the dashboards beside it, ``dashboards/*.json``, from a line a panel: ``python deploy/grafana/write.py``.

A test compares the files with what is here, and asks an installation for every metric and label in the queries.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "dashboards"
SOURCE = {"type": "prometheus", "uid": "cnm-prometheus"}
WIDTH = 24
RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """A panel: its title, one query or several with their legends, the unit as Grafana calls it, and its size."""

    title: str
    queries: Sequence[tuple[str, str]]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    about: str = ""


@dataclass(frozen=True)
class Dashboard:
    """A page of panels; ``variables`` are names with the query that lists their values."""

    uid: str
    title: str
    about: str
    panels: Sequence[Panel]
    variables: Sequence[tuple[str, str]] = ()


def number(title: str, query: str, unit: str = "short", about: str = "") -> Panel:
    """Return a panel that shows one number."""
    return Panel(title, [(query, "")], unit, kind="stat", width=4, height=4, about=about)


def rate(metric: str, by: str, where: str = "") -> str:
    """Return how often something was counted a second, by a label."""
    return f"sum by ({by}) (rate({metric}{{{where}}}{RATE}))" if where else f"sum by ({by}) (rate({metric}{RATE}))"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    """Return which time a share of what was counted stayed below."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', labels, where)})"


CONTROLLER = 'worker="cnm-controller"'
IPAM = 'worker="cnm-ipam"'
CONNECT = 'subject="cnm.v1.sandbox.connect"'
OF_NETWORK = 'network="$network"'
OF_WORKER = 'worker="$worker"'
IN_USE, AVAILABLE = "cnm_pool_addresses_in_use", "cnm_pool_addresses_available"
FILL = f"max by (pool) ({IN_USE} / ({IN_USE} + {AVAILABLE}))"


def of_network(metric: str) -> str:
    """Return a metric of pools for one network, whose id the controller joins with its name."""
    names = f"max by (network_id, network) (cnm_network_info{{{OF_NETWORK}}})"
    return f"max by (pool, network_id) ({metric}) * on (network_id) group_left (network) {names}"


OVERVIEW = Dashboard(
    "cnm-overview",
    "CNM: overview",
    "What there is, what is asked, and whether it works.",
    [
        number("Networks", "max(cnm_networks)"),
        number("Sandboxes", "max(cnm_sandboxes)"),
        number("Endpoints", "max(cnm_endpoints)"),
        number("Published ports", "sum(cnm_ports_published)"),
        number("Nodes ready", 'max(cnm_nodes{state="ready"})'),
        number("Workers not ready", "count(cnm_worker_ready == 0) or vector(0)"),
        Panel("Requests", [(rate("cnm_requests_total", "subject", CONTROLLER), "{{subject}}")], "reqps"),
        Panel(
            "Refusals, by code",
            [(rate("cnm_requests_total", "code", f'{CONTROLLER}, code!="ok"'), "{{code}}")],
            "reqps",
            about="invalid, not_found, conflict and forbidden are the clients'; internal is a fault of ours.",
        ),
        Panel(
            "An attach",
            [
                (quantile(0.5, "cnm_request_duration_seconds", where=CONNECT), "half"),
                (quantile(0.99, "cnm_request_duration_seconds", where=CONNECT), "99 of 100"),
            ],
            "s",
            about="How long cnm.v1.sandbox.connect takes, from its arrival to its reply.",
        ),
        Panel("DNS answers", [(rate("cnm_dns_questions_total", "code"), "{{code}}")], "reqps"),
        Panel("Dropped packets", [(rate("cnm_network_dropped_packets_total", "reason"), "{{reason}}")], "pps"),
        Panel(
            "Traffic of all endpoints",
            [
                (f"sum(rate(cnm_endpoint_receive_bytes_total{RATE}))", "received"),
                (f"sum(rate(cnm_endpoint_transmit_bytes_total{RATE}))", "sent"),
            ],
            "Bps",
        ),
        Panel("Workers", [("cnm_worker_info", "{{name}} {{version}} on {{node}}")], kind="table", width=24, height=7),
    ],
)

NETWORK = Dashboard(
    "cnm-network",
    "CNM: one network",
    "Who is on it, what goes over it, and what is dropped.",
    [
        number("Endpoints", f"max(cnm_network_endpoints{{{OF_NETWORK}}})"),
        number("Addresses in use", f"sum({of_network(IN_USE)})"),
        number("Addresses left", f"sum({of_network(AVAILABLE)})"),
        number(
            "Dropped packets a second", f"sum(rate(cnm_network_dropped_packets_total{{{OF_NETWORK}}}{RATE}))", "pps"
        ),
        Panel("Pools: addresses in use", [(of_network(IN_USE), "{{pool}}")], width=8),
        Panel(
            "Received, by endpoint",
            [(f"topk(10, {rate('cnm_endpoint_receive_bytes_total', 'endpoint', OF_NETWORK)})", "{{endpoint}}")],
            "Bps",
        ),
        Panel(
            "Sent, by endpoint",
            [(f"topk(10, {rate('cnm_endpoint_transmit_bytes_total', 'endpoint', OF_NETWORK)})", "{{endpoint}}")],
            "Bps",
        ),
        Panel(
            "Packets",
            [
                (f"sum(rate(cnm_endpoint_receive_packets_total{{{OF_NETWORK}}}{RATE}))", "received"),
                (f"sum(rate(cnm_endpoint_transmit_packets_total{{{OF_NETWORK}}}{RATE}))", "sent"),
            ],
            "pps",
        ),
        Panel(
            "Refused or dropped, by reason",
            [(rate("cnm_network_dropped_packets_total", "reason", OF_NETWORK), "{{reason}}")],
            "pps",
        ),
        Panel(
            "The same in bytes",
            [(rate("cnm_network_dropped_bytes_total", "reason", OF_NETWORK), "{{reason}}")],
            "Bps",
        ),
        Panel(
            "Dropped by links",
            [
                (rate("cnm_endpoint_receive_dropped_total", "endpoint", OF_NETWORK), "to {{endpoint}}"),
                (rate("cnm_endpoint_transmit_dropped_total", "endpoint", OF_NETWORK), "from {{endpoint}}"),
            ],
            "pps",
        ),
    ],
    [("network", "label_values(cnm_network_info, network)")],
)

DNS = Dashboard(
    "cnm-dns",
    "CNM: DNS",
    "What is asked of the embedded DNS, from where it answers, and how the servers outside do.",
    [
        number("Sandboxes answered", "sum(cnm_dns_sandboxes)"),
        number("Endpoints with names", "max(cnm_dns_names)"),
        number("Networks known", "max(cnm_dns_zones)"),
        number("Answers kept", "sum(cnm_dns_cache_entries)"),
        number("Kept, in bytes", "sum(cnm_dns_cache_bytes)", "bytes"),
        number("Questions a second", f"sum(rate(cnm_dns_questions_total{RATE}))", "reqps"),
        Panel("Questions, by type of record", [(rate("cnm_dns_questions_total", "type"), "{{type}}")], "reqps"),
        Panel("Answers, by code", [(rate("cnm_dns_questions_total", "code"), "{{code}}")], "reqps"),
        Panel(
            "Answers, by where they are from", [(rate("cnm_dns_questions_total", "source"), "{{source}}")], "reqps"
        ),
        Panel(
            "99 of 100 answers take at most",
            [(quantile(0.99, "cnm_dns_answer_duration_seconds", "source"), "{{source}}")],
            "s",
        ),
        Panel(
            "Servers outside, by what they do",
            [(rate("cnm_dns_server_questions_total", "server, outcome"), "{{server}} {{outcome}}")],
            "reqps",
        ),
        Panel(
            "Servers outside: last answer",
            [("max by (server) (cnm_dns_server_last_answer_seconds)", "{{server}}")],
            "s",
        ),
    ],
)

IPAM_PAGE = Dashboard(
    "cnm-ipam",
    "CNM: IPAM",
    "How full pools are, and what is asked of IPAM.",
    [
        number("Pools", "max(cnm_pools)"),
        number("Fullest pool", f"max({FILL})", "percentunit"),
        number("Full pools", f"count(max by (pool) ({AVAILABLE}) == 0) or vector(0)"),
        number("Not told one by one", 'max(cnm_scrape_left_out{of="pool"})'),
        Panel("Fullest pools", [(f"topk(10, {FILL})", "{{pool}}")], "percentunit", width=12),
        Panel("Fewest addresses left", [(f"bottomk(10, max by (pool) ({AVAILABLE}))", "{{pool}}")], width=12),
        Panel("Requests", [(rate("cnm_requests_total", "subject", IPAM), "{{subject}}")], "reqps"),
        Panel(
            "Refusals",
            [(rate("cnm_requests_total", "subject, code", f'{IPAM}, code!="ok"'), "{{subject}} {{code}}")],
            "reqps",
        ),
        Panel(
            "99 of 100 requests take at most",
            [(quantile(0.99, "cnm_request_duration_seconds", "subject", IPAM), "{{subject}}")],
            "s",
        ),
    ],
)

RELIABILITY = Dashboard(
    "cnm-reliability",
    "CNM: reliability",
    "What failed, what was undone, what drifted, who died, and what waits.",
    [
        Panel("Sagas, by outcome", [(rate("cnm_sagas_total", "outcome"), "{{outcome}}")], "ops"),
        Panel(
            "Failed sagas, by step",
            [(rate("cnm_saga_failures_total", "kind, step, code"), "{{kind}}: {{step}} {{code}}")],
            "ops",
        ),
        Panel(
            "99 of 100 sagas take at most", [(quantile(0.99, "cnm_saga_duration_seconds", "kind"), "{{kind}}")], "s"
        ),
        Panel(
            "Sagas open, and taken over",
            [
                ("max(cnm_sagas_open)", "open"),
                (f"sum by (outcome) (increase(cnm_sagas_recovered_total{RATE}))", "taken over, {{outcome}}"),
            ],
        ),
        Panel("Drift found", [(f"sum by (kind) (increase(cnm_drift_found_total{RATE}))", "{{kind}}")]),
        Panel("Drift mended", [(f"sum by (kind) (increase(cnm_drift_repaired_total{RATE}))", "{{kind}}")]),
        Panel("Drift that stays", [("max by (worker, kind) (cnm_drift_unrepaired)", "{{worker}}: {{kind}}")]),
        Panel(
            "Comparisons",
            [(rate("cnm_comparisons_total", "worker, outcome"), "{{worker}} {{outcome}}")],
            "ops",
        ),
        Panel(
            "A comparison takes",
            [(quantile(0.99, "cnm_comparison_duration_seconds", "worker"), "{{worker}}")],
            "s",
        ),
        Panel(
            "Since the last comparison",
            [("time() - cnm_comparison_last_success_timestamp_seconds", "{{worker}}")],
            "s",
        ),
        Panel("Restarts in an hour", [('changes(process_start_time_seconds{job="cnm"}[1h])', "{{worker}}")]),
        Panel("Workers of nodes", [("max by (node, role) (cnm_node_worker_up)", "{{role}} of {{node}}")]),
        Panel("Reaches NATS", [("cnm_nats_connected", "{{worker}}"), ("cnm_redis_up", "{{worker}}: Redis")]),
        Panel("NATS: connected again", [(rate("cnm_nats_reconnects_total", "worker"), "{{worker}}")], "ops"),
        Panel(
            "Events that wait for the stream",
            [("cnm_outbox_events", "{{worker}}"), ("cnm_outbox_oldest_seconds", "{{worker}}: age of the oldest, s")],
        ),
        Panel(
            "Durable consumers behind the stream",
            [
                ("max by (consumer) (cnm_consumer_pending)", "{{consumer}}"),
                ("max by (consumer) (cnm_consumer_unacknowledged)", "{{consumer}}: not acknowledged"),
            ],
        ),
        Panel(
            "The stream",
            [
                ("max(cnm_stream_messages)", "events"),
                (f"max(rate(cnm_stream_last_sequence{RATE}))", "events a second"),
                ("max(cnm_stream_bytes)", "bytes"),
            ],
        ),
        Panel(
            "Parts that cannot be read",
            [("1 - min by (worker, source) (cnm_scrape_source_up)", "{{worker}}: {{source}}")],
        ),
        Panel("Not told one by one", [("max by (of) (cnm_scrape_left_out)", "{{of}}")]),
    ],
)

INTERNALS = Dashboard(
    "cnm-worker",
    "CNM: inside a worker",
    "What a process takes, and what it does.",
    [
        Panel("Processor", [(f"rate(process_cpu_seconds_total{{{OF_WORKER}}}{RATE})", "cores")]),
        Panel("Memory", [(f"process_resident_memory_bytes{{{OF_WORKER}}}", "resident")], "bytes"),
        Panel("Descriptors", [(f"process_open_fds{{{OF_WORKER}}}", "open")]),
        Panel("Event loop: late by", [(f"cnm_loop_delay_seconds{{{OF_WORKER}}}", "")], "s"),
        Panel("Requests under way", [(f"cnm_requests_open{{{OF_WORKER}}}", "")]),
        Panel(
            "Garbage collections", [(rate("python_gc_collections_total", "generation", OF_WORKER), "{{generation}}")]
        ),
        Panel(
            "Requests", [(rate("cnm_requests_total", "subject, code", OF_WORKER), "{{subject}} {{code}}")], "reqps"
        ),
        Panel(
            "99 of 100 requests take at most",
            [(quantile(0.99, "cnm_request_duration_seconds", "subject", OF_WORKER), "{{subject}}")],
            "s",
        ),
        Panel(
            "Commands to others",
            [(rate("cnm_commands_total", "subject, code", OF_WORKER), "{{subject}} {{code}}")],
            "reqps",
        ),
        Panel("NATS: there and back", [(f"cnm_nats_round_trip_seconds{{{OF_WORKER}}}", "")], "s"),
        Panel("NATS: messages", [(rate("cnm_nats_messages_total", "direction", OF_WORKER), "{{direction}}")], "ops"),
        Panel("NATS: bytes", [(rate("cnm_nats_bytes_total", "direction", OF_WORKER), "{{direction}}")], "Bps"),
        Panel("Redis: there and back", [("cnm_redis_round_trip_seconds", "{{worker}}")], "s"),
        Panel("Redis: memory", [("max(cnm_redis_memory_bytes)", "")], "bytes"),
        Panel(
            "Redis: connections",
            [
                ("max(cnm_redis_clients)", "now"),
                (f"max(rate(cnm_redis_connections_accepted_total{RATE}))", "new ones a second"),
                (f"max(rate(cnm_redis_connections_refused_total{RATE}))", "refused a second"),
            ],
        ),
        Panel("Links of ours", [("sum by (of) (cnm_links)", "{{of}}")]),
        Panel("Ports", [("sum by (protocol) (cnm_ports_published)", "{{protocol}}")]),
        Panel("Relayed by the proxy", [("sum by (protocol) (cnm_proxy_connections)", "{{protocol}}")]),
        Panel(
            "Sandboxes of nodes",
            [
                ("sum(cnm_sandbox_namespaces)", "namespaces"),
                ("sum(cnm_sandbox_directories)", "directories"),
                ("sum(cnm_ports_sandboxes)", "with ports"),
            ],
        ),
    ],
    [("worker", "label_values(cnm_worker_ready, worker)")],
)

DASHBOARDS = (OVERVIEW, NETWORK, DNS, IPAM_PAGE, RELIABILITY, INTERNALS)


def files() -> dict[str, str]:
    """Return what each file should hold."""
    return {f"{each.uid}.json": json.dumps(_page(each), indent=1) + "\n" for each in DASHBOARDS}


def _page(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["cnm"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "links": [
            {"type": "dashboards", "title": "CNM", "tags": ["cnm"], "asDropdown": True, "keepTime": True},
        ],
        "templating": {"list": [_variable(name, query) for name, query in dashboard.variables]},
        "panels": list(_placed(dashboard.panels)),
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    asked = {"query": query, "refId": name}
    return {
        "type": "query",
        "name": name,
        "datasource": SOURCE,
        "definition": query,
        "query": asked,
        "refresh": 2,
        "sort": 1,
    }


def _placed(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    """Yield panels from left to right, in rows as high as the highest of each."""
    x = y = row = 0
    for position, panel in enumerate(panels, 1):
        if x + panel.width > WIDTH:
            x, y, row = 0, y + row, 0
        place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
        x, row = x + panel.width, max(row, panel.height)
        yield {
            "id": position,
            "type": panel.kind,
            "title": panel.title,
            "description": panel.about,
            "datasource": SOURCE,
            "gridPos": place,
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "targets": [
                _target(panel, number, query, legend) for number, (query, legend) in enumerate(panel.queries)
            ],
        }


def _target(panel: Panel, place: int, query: str, legend: str) -> dict[str, Any]:
    target = {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": query, "legendFormat": legend or "__auto"}
    return {**target, "instant": True, "format": "table"} if panel.kind == "table" else target


def main() -> None:
    """Write the files."""
    HERE.mkdir(exist_ok=True)
    for name, text in files().items():
        (HERE / name).write_text(text)


if __name__ == "__main__":
    main()
