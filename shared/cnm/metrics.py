"""Every metric that a worker publishes, declared once: Prometheus and ``docs/metrics.md`` say of it what is here.

Labels take few values: of what clients make as many as they like (networks, pools, endpoints), at most
``CNM_METRICS_MAX_OBJECTS`` of a kind are told one by one, and the rest is counted in ``cnm_scrape_left_out``.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from cnm.tally import Counts, Distribution, Key, Times

T = TypeVar("T")


@dataclass(frozen=True)
class Metric:
    """A metric: ``name`` as Prometheus shows it, what it says, and the names of its labels."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    about: str
    labels: tuple[str, ...] = ()

    def __call__(self, value: float | Distribution, *labels: str) -> "Sample":
        """Return one value of it."""
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, got {labels}")
        return Sample(self, labels, value)

    def each(self, counts: Counts) -> list["Sample"]:
        """Return all values that were counted of it."""
        return [self(count, *key) for key, count in sorted(counts.items())]

    def each_of(self, times: Times) -> list["Sample"]:
        """Return all distributions that were counted of it."""
        return [self(found, *key) for key, found in sorted(times.distributions().items(), key=lambda pair: pair[0])]


@dataclass(frozen=True)
class Sample:
    """A value of a metric; ``labels`` are the values of its labels, in order."""

    metric: Metric
    labels: Key
    value: float | Distribution


@dataclass(frozen=True)
class Source:
    """Where samples are from, read when somebody asks for them; it may fail with ``CnmError`` or ``OSError``.

    One that is ``timed`` measures how long something takes, so that nothing else is read meanwhile.
    """

    name: str
    read: Callable[[], Awaitable[Iterable[Sample]]]
    timed: bool = False


@dataclass(frozen=True)
class Check:
    """What a worker needs to be ready: ``find`` returns what is amiss, or None."""

    name: str
    find: Callable[[], Awaitable[str | None]]


def first(found: Sequence[T], most: int, of: str) -> tuple[Sequence[T], Sample]:
    """Return the first of some objects, at most so many, and how many are left out."""
    return found[:most], LEFT_OUT(max(0, len(found) - most), of)


INFO = Metric(
    "gauge", "cnm_worker_info", "1; which worker this is, where, and of which version.", ("name", "node", "version")
)
READY = Metric(
    "gauge", "cnm_worker_ready", "1 when the worker answers requests and reaches what it needs, as /readyz."
)
LOOP_DELAY = Metric("gauge", "cnm_loop_delay_seconds", "By how much the event loop was late, measured once a scrape.")
SOURCE_UP = Metric(
    "gauge", "cnm_scrape_source_up", "1 when a part of this page could be read, 0 when it is missing.", ("source",)
)
LEFT_OUT = Metric(
    "gauge", "cnm_scrape_left_out", "Objects that are not told one by one, for there are too many.", ("of",)
)
REQUESTS = Metric(
    "counter", "cnm_requests_total", "Requests answered, by subject and code: ok, or an error's.", ("subject", "code")
)
REQUEST_TIMES = Metric(
    "histogram", "cnm_request_duration_seconds", "From a request's arrival to its reply.", ("subject",)
)
REQUESTS_OPEN = Metric("gauge", "cnm_requests_open", "Requests that are being answered, or wait for it.")
COMMANDS = Metric(
    "counter",
    "cnm_commands_total",
    "Commands sent to workers, by subject and code of the reply.",
    ("subject", "code"),
)
NATS_CONNECTED = Metric("gauge", "cnm_nats_connected", "1 when there is a connection to NATS.")
NATS_RECONNECTS = Metric("counter", "cnm_nats_reconnects_total", "How often the connection to NATS was made again.")
NATS_ROUND_TRIP = Metric("gauge", "cnm_nats_round_trip_seconds", "A ping to the NATS server and back, once a scrape.")
NATS_MESSAGES = Metric(
    "counter", "cnm_nats_messages_total", "Messages over the connection: in or out.", ("direction",)
)
NATS_BYTES = Metric(
    "counter", "cnm_nats_bytes_total", "Bytes of messages over the connection: in or out.", ("direction",)
)

REDIS_UP = Metric("gauge", "cnm_redis_up", "1 when Redis answers.")
REDIS_ROUND_TRIP = Metric("gauge", "cnm_redis_round_trip_seconds", "A ping to Redis and back, once a scrape.")
REDIS_MEMORY = Metric("gauge", "cnm_redis_memory_bytes", "What the Redis server's data take.")
REDIS_CLIENTS = Metric("gauge", "cnm_redis_clients", "Connections to the Redis server, of whomever.")
REDIS_ACCEPTED = Metric(
    "counter",
    "cnm_redis_connections_accepted_total",
    "Connections that the Redis server took since it started: it grows when clients connect again.",
)
REDIS_REFUSED = Metric(
    "counter", "cnm_redis_connections_refused_total", "Connections that the Redis server refused for want of room."
)
REDIS_WRITES_OK = Metric(
    "gauge", "cnm_redis_last_write_ok", "1 when the Redis server's last write to its append-only file worked."
)
OUTBOX_EVENTS = Metric(
    "gauge", "cnm_outbox_events", "Events that are written with a change and not yet in the stream."
)
OUTBOX_OLDEST = Metric("gauge", "cnm_outbox_oldest_seconds", "How old the oldest of them is; 0 when there is none.")

DRIFT_FOUND = Metric(
    "counter",
    "cnm_drift_found_total",
    "Differences between what should be and what was, by what differed.",
    ("kind",),
)
DRIFT_REPAIRED = Metric("counter", "cnm_drift_repaired_total", "Those of them that were mended.", ("kind",))
DRIFT_LEFT = Metric(
    "gauge", "cnm_drift_unrepaired", "Differences that the last comparison found and could not mend.", ("kind",)
)
COMPARISONS = Metric(
    "counter",
    "cnm_comparisons_total",
    "Comparisons of the node with what should stand on it: done or failed.",
    ("outcome",),
)
COMPARISON_TIMES = Metric(
    "histogram", "cnm_comparison_duration_seconds", "How long a comparison and what it mended took."
)
COMPARED = Metric(
    "gauge",
    "cnm_comparison_last_success_timestamp_seconds",
    "When the last comparison was done, in seconds since 1970.",
)

NETWORKS = Metric("gauge", "cnm_networks", "Networks, the predefined ones among them.")
SANDBOXES = Metric("gauge", "cnm_sandboxes", "Sandboxes.")
ENDPOINTS = Metric("gauge", "cnm_endpoints", "Endpoints, joined or not.")
NETWORK_ENDPOINTS = Metric("gauge", "cnm_network_endpoints", "Endpoints of a network.", ("network",))
NETWORK_INFO = Metric(
    "gauge",
    "cnm_network_info",
    "1; the name of a network, to be joined with what knows its id alone.",
    ("network", "network_id"),
)
NODES = Metric("gauge", "cnm_nodes", "Nodes that ever reported: ready or down.", ("state",))
NODE_WORKERS = Metric(
    "gauge", "cnm_node_worker_up", "1 when a worker of a node was heard of lately.", ("node", "role")
)
SAGAS = Metric(
    "counter",
    "cnm_sagas_total",
    "Sagas, by kind and outcome: committed, undone, refused (never begun), unfinished (left to recovery), "
    "in_doubt (the store did not say).",
    ("kind", "outcome"),
)
SAGA_FAILURES = Metric(
    "counter",
    "cnm_saga_failures_total",
    "Sagas that were not committed, by the step that failed: a command's subject, begin, commit, deadline, or "
    "controller for what it refused itself.",
    ("kind", "step", "code"),
)
SAGA_TIMES = Metric(
    "histogram", "cnm_saga_duration_seconds", "From a saga's begin to its end, undoing included.", ("kind",)
)
SAGAS_RECOVERED = Metric(
    "counter",
    "cnm_sagas_recovered_total",
    "Sagas that were taken over from processes that died: finished or unfinished.",
    ("outcome",),
)
SAGAS_OPEN = Metric("gauge", "cnm_sagas_open", "Sagas in the journal: under way, or to be recovered.")
STREAM_MESSAGES = Metric("gauge", "cnm_stream_messages", "Events in the stream.")
STREAM_BYTES = Metric("gauge", "cnm_stream_bytes", "Bytes that the stream takes.")
STREAM_SEQUENCE = Metric("gauge", "cnm_stream_last_sequence", "Number of the stream's last event.")
CONSUMER_PENDING = Metric(
    "gauge",
    "cnm_consumer_pending",
    "Events that a durable consumer of the stream has not been given yet.",
    ("consumer",),
)
CONSUMER_UNACKNOWLEDGED = Metric(
    "gauge", "cnm_consumer_unacknowledged", "Events that it was given and has not acknowledged.", ("consumer",)
)

POOLS = Metric("gauge", "cnm_pools", "Pools of addresses, of all spaces.")
POOL_IN_USE = Metric(
    "gauge",
    "cnm_pool_addresses_in_use",
    "Reserved addresses of a pool, gateway and auxiliary ones among them.",
    ("pool", "network_id"),
)
POOL_AVAILABLE = Metric(
    "gauge",
    "cnm_pool_addresses_available",
    "Addresses of a pool that could still be handed out.",
    ("pool", "network_id"),
)

LINKS = Metric(
    "gauge", "cnm_links", "Links of ours on the node: bridges of networks, and host ends of endpoints.", ("of",)
)
DROPPED_PACKETS = Metric(
    "counter",
    "cnm_network_dropped_packets_total",
    "Packets of a network that were refused or dropped, by reason.",
    ("network", "reason"),
)
DROPPED_BYTES = Metric(
    "counter",
    "cnm_network_dropped_bytes_total",
    "Bytes of a network that were refused or dropped, by reason.",
    ("network", "reason"),
)
RECEIVED_BYTES = Metric(
    "counter", "cnm_endpoint_receive_bytes_total", "Bytes that an endpoint received.", ("network", "endpoint")
)
SENT_BYTES = Metric(
    "counter", "cnm_endpoint_transmit_bytes_total", "Bytes that an endpoint sent.", ("network", "endpoint")
)
RECEIVED_PACKETS = Metric(
    "counter", "cnm_endpoint_receive_packets_total", "Packets that an endpoint received.", ("network", "endpoint")
)
SENT_PACKETS = Metric(
    "counter", "cnm_endpoint_transmit_packets_total", "Packets that an endpoint sent.", ("network", "endpoint")
)
RECEIVED_DROPS = Metric(
    "counter",
    "cnm_endpoint_receive_dropped_total",
    "Packets to an endpoint that its link dropped.",
    ("network", "endpoint"),
)
SENT_DROPS = Metric(
    "counter",
    "cnm_endpoint_transmit_dropped_total",
    "Packets from an endpoint that its link dropped.",
    ("network", "endpoint"),
)

NAMESPACES = Metric("gauge", "cnm_sandbox_namespaces", "Namespaces of sandboxes that are mounted on the node.")
DIRECTORIES = Metric("gauge", "cnm_sandbox_directories", "Sandboxes on the node, by the directories of their files.")

PORTS = Metric(
    "gauge", "cnm_ports_published", "Host ports that sandboxes have, by protocol; one for each family.", ("protocol",)
)
PORT_SANDBOXES = Metric("gauge", "cnm_ports_sandboxes", "Sandboxes that have published ports.")
PROXIED = Metric(
    "gauge", "cnm_proxy_connections", "Connections and sessions that the proxy relays, by protocol.", ("protocol",)
)

DNS_QUESTIONS = Metric(
    "counter",
    "cnm_dns_questions_total",
    "DNS questions, by where the answer is from (own, kept, outside, dropped), type of record, and response code.",
    ("source", "type", "code"),
)
DNS_TIMES = Metric(
    "histogram",
    "cnm_dns_answer_duration_seconds",
    "How long answers took; of own ones 1 in 64 is timed.",
    ("source",),
)
DNS_SERVER = Metric(
    "counter",
    "cnm_dns_server_questions_total",
    "Questions to an external server: answered, failed or silent.",
    ("server", "outcome"),
)
DNS_SERVER_TIME = Metric(
    "gauge", "cnm_dns_server_last_answer_seconds", "How long an external server's last answer took.", ("server",)
)
DNS_NAMES = Metric("gauge", "cnm_dns_names", "Endpoints that the embedded DNS has names of.")
DNS_ZONES = Metric("gauge", "cnm_dns_zones", "Networks that the embedded DNS knows.")
DNS_SANDBOXES = Metric("gauge", "cnm_dns_sandboxes", "Sandboxes that the embedded DNS answers.")
DNS_KEPT = Metric("gauge", "cnm_dns_cache_entries", "Answers of external servers that are kept.")
DNS_KEPT_BYTES = Metric("gauge", "cnm_dns_cache_bytes", "What they take.")

EVERY_WORKER = (
    INFO, READY, LOOP_DELAY, SOURCE_UP, REQUESTS, REQUEST_TIMES, REQUESTS_OPEN,
    NATS_CONNECTED, NATS_RECONNECTS, NATS_ROUND_TRIP, NATS_MESSAGES, NATS_BYTES,
)  # fmt: skip
WITH_REDIS = (
    REDIS_UP, REDIS_ROUND_TRIP, REDIS_MEMORY, REDIS_CLIENTS, REDIS_ACCEPTED, REDIS_REFUSED, REDIS_WRITES_OK,
    OUTBOX_EVENTS, OUTBOX_OLDEST,
)  # fmt: skip
DRIFT = (DRIFT_FOUND, DRIFT_REPAIRED)
ON_NODE = (*DRIFT, DRIFT_LEFT, COMPARISONS, COMPARISON_TIMES, COMPARED, COMMANDS)
METRICS: Mapping[str, tuple[Metric, ...]] = {
    "every worker": EVERY_WORKER,
    "cnm-controller": (
        NETWORKS, SANDBOXES, ENDPOINTS, NETWORK_ENDPOINTS, NETWORK_INFO, NODES, NODE_WORKERS,
        SAGAS, SAGA_FAILURES, SAGA_TIMES, SAGAS_RECOVERED, SAGAS_OPEN,
        STREAM_MESSAGES, STREAM_BYTES, STREAM_SEQUENCE, CONSUMER_PENDING, CONSUMER_UNACKNOWLEDGED,
        *DRIFT, COMMANDS, LEFT_OUT, *WITH_REDIS,
    ),
    "cnm-ipam": (POOLS, POOL_IN_USE, POOL_AVAILABLE, LEFT_OUT, *WITH_REDIS),
    "cnm-sandbox": (NAMESPACES, DIRECTORIES, *ON_NODE),
    "cnm-driver-bridge": (
        LINKS, DROPPED_PACKETS, DROPPED_BYTES,
        RECEIVED_BYTES, SENT_BYTES, RECEIVED_PACKETS, SENT_PACKETS, RECEIVED_DROPS, SENT_DROPS,
        LEFT_OUT, *ON_NODE,
    ),
    "cnm-port-mapper": (PORTS, PORT_SANDBOXES, PROXIED, *ON_NODE),
    "cnm-resolver": (
        DNS_QUESTIONS, DNS_TIMES, DNS_SERVER, DNS_SERVER_TIME, DNS_NAMES, DNS_ZONES, DNS_SANDBOXES,
        DNS_KEPT, DNS_KEPT_BYTES, LEFT_OUT, *ON_NODE,
    ),
}  # fmt: skip
"""Who publishes what, besides what its process takes (``process_*``, ``python_gc_*``)."""
