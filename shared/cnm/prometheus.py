"""Serves a worker's metrics and health over HTTP: ``/metrics``, ``/healthz``, ``/readyz``.

Imported only where ``CNM_METRICS_ADDRESS`` is set. A connection carries one request; whoever is slow, or sends what
is no such request, is let go.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from http.client import HTTPException, parse_headers
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family

from cnm.errors import Unavailable
from cnm.metrics import Metric, Sample
from cnm.scrape import Scrape
from cnm.settings import METRICS_VARIABLE
from cnm.tally import Distribution

REQUEST_S = 10.0
HEAD_BYTES = 16 << 10
CONNECTIONS = 16
TEXT = "text/plain; charset=utf-8"
KINDS = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}

log = structlog.get_logger()


@asynccontextmanager
async def serving(scrape: Scrape, host: str, port: int) -> AsyncIterator[int]:
    """Serve as long as the body runs, at an address (port 0 picks one); yield the port.

    Raises:
        Unavailable: nobody can listen there.
    """
    pages = Pages(scrape)
    try:
        server = await asyncio.start_server(pages.answer, host, port, limit=HEAD_BYTES)
    except OSError as error:
        raise Unavailable(f"{METRICS_VARIABLE}: cannot listen on {host}:{port}: {error.strerror or error}") from None
    bound: int = server.sockets[0].getsockname()[1]
    log.info("metrics.serving", host=host, port=bound)
    try:
        yield bound
    finally:
        server.close()
        pages.end()


class Pages:
    """Answers each connection's one request."""

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        GCCollector(registry=self._process)
        self._reading = asyncio.Lock()
        self._open: set[asyncio.Task[None] | None] = set()

    def end(self) -> None:
        """End what is being answered."""
        for task in self._open:
            if task is not None:
                task.cancel()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a connection and close it."""
        task = asyncio.current_task()
        try:
            if len(self._open) < CONNECTIONS:
                self._open.add(task)
                async with asyncio.timeout(REQUEST_S):
                    writer.write(await self._reply(reader))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # it went away, or took too long
        finally:
            self._open.discard(task)
            writer.close()

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, rest = head.partition(b"\r\n")
            method, target, version = line.decode("ascii").split(" ")
            headers = parse_headers(io.BytesIO(rest))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, HTTPException):
            return _response(HTTPStatus.BAD_REQUEST, b"no HTTP request\n")
        if not version.startswith("HTTP/1."):
            return _response(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, b"HTTP/1.1 is spoken here\n")
        if method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD\n", allow="GET, HEAD")
        status, body, kind = await self._page(target.partition("?")[0], headers.get("Accept", ""))
        return _response(status, body, kind=kind, whole=method == "GET")

    async def _page(self, path: str, accept: str) -> tuple[HTTPStatus, bytes, str]:
        match path:
            case "/metrics":
                encode, kind = choose_encoder(accept)
                async with self._reading:  # whoever asks while another is answered waits
                    page = _Page(self._process, await self._scrape.read())
                    return HTTPStatus.OK, await asyncio.to_thread(encode, page), kind
            case "/healthz":
                return HTTPStatus.OK, b"ok\n", TEXT
            case "/readyz":
                faults = await self._scrape.faults()
                if faults:
                    return HTTPStatus.SERVICE_UNAVAILABLE, "".join(f"{each}\n" for each in faults).encode(), TEXT
                return HTTPStatus.OK, b"ready\n", TEXT
            case _:
                return HTTPStatus.NOT_FOUND, b"there are /metrics, /healthz and /readyz\n", TEXT


class _Page(CollectorRegistry):
    """What one reading found, as prometheus_client writes it."""

    def __init__(self, process: CollectorRegistry, samples: Iterable[Sample]) -> None:
        super().__init__()
        self._process = process
        self._samples = samples

    def collect(self) -> Iterator[Family]:
        yield from self._process.collect()
        yield from families(self._samples)


def families(samples: Iterable[Sample]) -> Iterable[Family]:
    """Return samples the way that prometheus_client knows them, one family a metric."""
    found: dict[Metric, Any] = {}  # each kind of family has an add_metric of its own
    for sample in samples:
        metric = sample.metric
        family = found.get(metric)
        if family is None:
            family = found[metric] = KINDS[metric.kind](metric.name, metric.about, labels=metric.labels)
        if isinstance(sample.value, Distribution):
            family.add_metric(sample.labels, _buckets(sample.value), sample.value.total)
        else:
            family.add_metric(sample.labels, sample.value)
    return found.values()


def _buckets(value: Distribution) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*value.bounds, "+Inf"), value.counts, strict=True):
        total += count
        buckets.append((str(bound), total))
    return buckets


def _response(status: HTTPStatus, body: bytes, *, kind: str = TEXT, allow: str = "", whole: bool = True) -> bytes:
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *([f"Allow: {allow}"] if allow else []),
    ]
    head = "\r\n".join([*lines, "", ""]).encode("ascii")
    return head + body if whole else head
