"""Writes ``docs/metrics.md`` from the declarations of the metrics."""

from collections.abc import Iterator

from cnm.metrics import METRICS, Metric
from cnm.settings import METRICS_OBJECTS, METRICS_OBJECTS_VARIABLE, METRICS_VARIABLE

PAGE = f"""\
# Metrics and health

Written by `make docs` from `shared/cnm/metrics.py`.

With `{METRICS_VARIABLE}`, such as `127.0.0.1:9464` or `[::1]:9464`, a worker serves over HTTP:

| path | |
|---|---|
| `/metrics` | what is below, for Prometheus (text or OpenMetrics, as `Accept` asks) |
| `/healthz` | 200 for as long as the process does its work; no answer means that it hangs |
| `/readyz` | 200 when it answers requests and reaches what it needs; 503 and a line for each thing that is amiss |

`cnm up` gives the workers of a node this port and the next ones: first the controller, then ipam, sandbox,
driver-bridge, port-mapper, resolver. Without the variable nothing is served, and what serving takes is not even
loaded. There is no password: listen on loopback, or where only Prometheus comes.

Most values are read when somebody asks. Labels take few values: subjects are those of [subjects.md](subjects.md)
without the node, never ids. Of networks, pools, endpoints, nodes, external servers and consumers at most
`{METRICS_OBJECTS_VARIABLE}` ({METRICS_OBJECTS}) of each are told one by one; `cnm_scrape_left_out` counts the rest.
A part that cannot be read, because Redis is away for instance, is missing, and `cnm_scrape_source_up` of it is 0.

Several controllers, or several workers of IPAM, tell the same of the installation: take `max`, not `sum`. What a
process counts (counters and histograms) is its own, and begins anew with it; what the kernel counts goes on.
"""


def metrics_page() -> str:
    """Return the page."""
    return "\n".join([PAGE, *(line for owner, metrics in METRICS.items() for line in _section(owner, metrics))])


def _section(owner: str, metrics: tuple[Metric, ...]) -> Iterator[str]:
    yield f"## {owner[0].upper()}{owner[1:]}" if " " in owner else f"## {owner}"
    yield ""
    if owner == "every worker":
        yield "Besides what the Python client tells of its process: `process_*` and `python_gc_*`."
        yield ""
    yield "| metric | kind | labels | |"
    yield "|---|---|---|---|"
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.about} |"
    yield ""
