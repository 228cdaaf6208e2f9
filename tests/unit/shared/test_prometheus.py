"""The pages that a worker serves over HTTP, asked by a plain socket on loopback."""

import asyncio
import contextlib
import socket

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cnm import prometheus
from cnm.errors import Unavailable
from cnm.metrics import REQUEST_TIMES, REQUESTS, Check, Source
from cnm.prometheus import CONNECTIONS, serving
from cnm.scrape import Scrape
from cnm.tally import Times


async def samples():
    times = Times(bounds=(0.1, 1.0))
    for took_s in (0.05, 0.5, 5.0):
        times.add(took_s, "s")
    return [REQUESTS(3, 'a "quoted"\nname', "ok"), *REQUEST_TIMES.each_of(times)]


@pytest.fixture
def scrape():
    return Scrape(worker="cnm-x", node="n1", sources=[Source("some", samples)], serving=True)


@pytest.fixture
async def port(scrape):
    async with serving(scrape, "127.0.0.1", 0) as port:
        yield port


async def send(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    with contextlib.suppress(ConnectionError):
        reply = await reader.read()
    writer.close()
    head, _, body = reply.partition(b"\r\n\r\n")
    return head.decode(), body.decode()


async def get(port, path, *lines, method="GET"):
    request = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *lines, "", ""])
    head, body = await send(port, request.encode())
    return int(head.split(" ")[1]), head, body


async def test_page_is_what_prometheus_reads(port):
    status, head, body = await get(port, "/metrics?x=1")
    assert status == 200
    assert "text/plain" in head
    assert f"Content-Length: {len(body.encode())}" in head
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }
    assert found["cnm_requests_total", ("code", "ok"), ("subject", 'a "quoted"\nname')] == 3
    buckets = [
        found["cnm_request_duration_seconds_bucket", ("le", le), ("subject", "s")] for le in ("0.1", "1.0", "+Inf")
    ]
    assert buckets == [1, 2, 3]
    assert found["cnm_request_duration_seconds_count", ("subject", "s")] == 3
    assert found["cnm_request_duration_seconds_sum", ("subject", "s")] == pytest.approx(5.55)
    assert found["cnm_worker_ready",] == 1
    assert found["process_open_fds",] > 3
    assert "# HELP cnm_requests_total Requests answered, by subject and code" in body
    assert "# TYPE cnm_requests_total counter" in body


async def test_openmetrics_is_spoken_to_who_asks_for_it(port):
    _, head, body = await get(port, "/metrics", "Accept: application/openmetrics-text; version=1.0.0")
    assert "application/openmetrics-text" in head
    assert body.endswith("# EOF\n")


async def test_health_and_readiness(port, scrape):
    assert (await get(port, "/healthz"))[::2] == (200, "ok\n")
    assert (await get(port, "/readyz"))[::2] == (200, "ready\n")

    async def find():
        return "no connection"

    scrape.checks.append(Check("NATS", find))
    scrape.serving = False
    assert (await get(port, "/readyz"))[::2] == (503, "it does not answer requests\nNATS: no connection\n")
    assert (await get(port, "/healthz"))[0] == 200


async def test_head_has_no_body(port):
    status, head, body = await get(port, "/healthz", method="HEAD")
    assert (status, body) == (200, "")
    assert "Content-Length: 3" in head


async def test_what_is_asked_otherwise_is_refused(port):
    assert (await get(port, "/"))[0] == 404
    status, head, _ = await get(port, "/metrics", method="POST")
    assert status == 405
    assert "Allow: GET, HEAD" in head


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET \xff\xfe HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=["words", "no version", "no ascii", "many headers", "a long one"],
)
async def test_nonsense_gets_400_and_harms_nothing(port, request_bytes):
    head, _ = await send(port, request_bytes)
    assert head.startswith("HTTP/1.1 400")
    assert (await get(port, "/healthz"))[0] == 200


async def test_other_versions_are_refused(port):
    head, _ = await send(port, b"GET / HTTP/2.0\r\n\r\n")
    assert head.startswith("HTTP/1.1 505")


async def test_who_says_nothing_is_let_go(port, monkeypatch):
    monkeypatch.setattr(prometheus, "REQUEST_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await reader.read() == b""
    writer.close()


async def test_more_connections_than_there_is_room_for_are_closed(port):
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS)]
    while True:  # until all of them were accepted
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(0.2):
                assert await reader.read() == b""
            break
        except TimeoutError:
            held.append((reader, writer))
            assert len(held) < 2 * CONNECTIONS
    for _, other in [*held, (reader, writer)]:
        other.close()
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(IndexError, UnboundLocalError):
                if (await get(port, "/healthz"))[0] == 200:
                    break


async def test_address_that_is_taken_is_said(scrape):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(Unavailable, match=f"CNM_METRICS_ADDRESS: cannot listen on 127.0.0.1:{port}: .*in use"):
            async with serving(scrape, "127.0.0.1", port):
                pass


async def test_nothing_is_served_any_more_when_it_ends(scrape):
    async with serving(scrape, "127.0.0.1", 0) as port:
        _, held = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", port)
    held.close()
