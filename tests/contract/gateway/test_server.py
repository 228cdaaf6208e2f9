"""What is answered over HTTP, to whom, and what is not."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiohttp
import pytest

from cnm.bus import Route
from cnm.errors import Unavailable
from cnm.messages.node import GetNode, Node
from cnm.spans import SpanRecord
from cnm.testing import MemoryBus
from cnm_gateway.aiohttp_server import HEADERS, Server, serving
from cnm_gateway.config import Limits, Place
from cnm_gateway.live import Health, Live

LIMITS = Limits(clients=1, write_s=0.2, heartbeat_s=0.02)
NODE = Node(name="n1", address=None, workers=[], state="ready", kernel={}, sandboxes=0, endpoints=0)


class Spans:
    """``Spans`` in memory."""

    def __init__(self):
        self.kept, self.away, self.asked = {}, False, None

    async def trace(self, trace_id):
        return self.kept.get(trace_id, [])

    async def last(self, operations, *, limit):
        if self.away:
            raise Unavailable("the store of spans cannot be read")
        self.asked = set(operations), limit
        return list(self.kept.values())


class Gateway:
    """A server over nothing but fakes, and a client of it."""

    def __init__(self, port, client, live, spans):
        self.port, self.client, self.live, self.spans = port, client, live, spans

    async def get(self, path, *, method="GET", **headers):
        url = f"http://127.0.0.1:{self.port}{path}"
        async with self.client.request(method, url, headers=headers) as reply:
            return reply.status, await reply.read(), reply.headers

    async def told(self, path, **headers):
        status, body, _ = await self.get(path, **headers)
        return status, json.loads(body)


@asynccontextmanager
async def gateway(limits=LIMITS):
    bus = MemoryBus()

    async def get_node(_):
        return NODE

    bus.serve([Route(command=GetNode, handler=get_node)])
    live, spans = Live(bus=bus, events=None, limits=limits), Spans()

    async def faults():
        return [] if live.health.live else [live.health.why]

    server = Server(
        live=live, spans=spans, bus=bus, names=frozenset(("127.0.0.1", "cnm.example")), faults=faults, limits=limits
    )
    async with (
        serving(server, Place(host="127.0.0.1", port=0, names=frozenset())) as port,
        aiohttp.ClientSession() as client,
    ):
        yield Gateway(port, client, live, spans)


async def test_every_answer_forbids_what_the_page_does_not_need():
    async with gateway() as made:
        for path in ("/", "/page.js", "/page.css", "/icon.svg", "/api/state", "/nothing", "/healthz"):
            _, _, headers = await made.get(path)
            assert {name: headers[name] for name in HEADERS} == HEADERS
            assert not [name for name in headers if name.lower().startswith("access-control")]
            assert "Server" not in headers
        assert "unsafe" not in HEADERS["Content-Security-Policy"]


async def test_files_are_as_they_are_and_asked_for_once():
    async with gateway() as made:
        status, body, headers = await made.get("/page.js")
        assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
        assert b"import" in body
        assert (await made.get("/page.js", **{"If-None-Match": headers["ETag"]}))[0] == 304
        for path in ("/nothing", "/../config.py", "/%2e%2e/config.py", "/..%2fconfig.py", "/__init__.py"):
            assert (await made.get(path))[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "cnm.example:1"}, 200),
        ({"Host": "CNM.EXAMPLE"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
async def test_who_comes_from_elsewhere_is_told_nothing(headers, status):
    async with gateway() as made:
        found, body = await made.told("/api/state", **headers)
        assert found == status
        assert (body.get("error", {}).get("code") == "forbidden") == (status == 403)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/api/state", "/api/events", "/api/objects/node/n1"])
async def test_nothing_can_be_changed(method, path):
    async with gateway() as made:
        status, body, headers = await made.get(path, method=method)
        assert (status, json.loads(body)["error"]["code"]) == (405, "forbidden")
        assert "GET" in headers["Allow"]


async def test_objects_are_as_get_shows_them_and_errors_in_words():
    async with gateway() as made:
        assert (await made.told("/api/objects/node/n1"))[1]["name"] == "n1"
        status, body = await made.told("/api/objects/comet/x")
        assert (status, body["error"]["code"]) == (404, "not_found")
        status, body = await made.told("/api/objects/network/demo")
        assert (status, body["error"]["message"]) == (503, "nobody answers on cnm.v1.network.get")
        status, body = await made.told("/api/nothing")
        assert (status, body["error"]["message"]) == (404, "there is no /api/nothing")


async def test_traces_are_waterfalls_of_attaches():
    async with gateway() as made:
        assert await made.told("/api/traces") == (200, {"traces": []})
        span = SpanRecord(
            trace_id="t" * 32, span_id="a", parent_id=None, service="s", name="process cnm.v1.sandbox.connect",
            start_ns=10**18, end_ns=10**18 + 10**6,
        )  # fmt: skip
        made.spans.kept[span.trace_id] = [span]
        _, body = await made.told("/api/traces?limit=7")
        assert [(each["operation"], each["took_ms"]) for each in body["traces"]] == [("sandbox.connect", 1.0)]
        assert made.spans.asked == ({"sandbox.connect", "endpoint.join"}, 7)
        assert (await made.told(f"/api/traces/{span.trace_id}"))[1]["bars"][0]["span_id"] == "a"
        status, body = await made.told("/api/traces/nonesuch")
        assert (status, body["error"]["message"]) == (404, "nothing is recorded of the trace nonesuch")
        for limit in ("0", "51", "x", "-1", "9" * 30):
            status, body = await made.told(f"/api/traces?limit={limit}")
            assert (status, body["error"]["code"]) == (400, "invalid")
        made.spans.away = True
        assert (await made.told("/api/traces"))[0] == 503


async def test_health_is_the_process_and_readiness_what_is_shown():
    async with gateway() as made:
        assert (await made.get("/healthz"))[:2] == (200, b"ok\n")
        assert (await made.get("/readyz"))[:2] == (503, b"the first state has not come yet\n")
        made.live.health = Health(live=True, why=None, since=datetime.now(UTC))
        assert (await made.get("/readyz"))[:2] == (200, b"ready\n")


async def test_as_many_follow_as_may_and_the_next_is_told_so():
    async with gateway() as made:
        url = f"http://127.0.0.1:{made.port}/api/events"
        async with made.client.get(url) as reply:
            assert reply.headers["Content-Type"] == "text/event-stream"
            assert await reply.content.readuntil(b"\n\n") == b"retry: 1000\n\n"
            assert (await reply.content.readuntil(b"\n\n")).startswith(b"id: 0\nevent: state\n")
            status, body = await made.told("/api/events")
            assert (status, body["error"]["code"]) == (503, "exhausted")
        async with asyncio.timeout(5):
            while made.live.watchers:
                await asyncio.sleep(0.01)


async def test_a_browser_that_takes_nothing_is_dropped():
    async with gateway() as made:
        with socket.socket() as browser:
            browser.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            browser.connect(("127.0.0.1", made.port))
            browser.sendall(b"GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            async with asyncio.timeout(10):
                while not made.live.watchers:
                    await asyncio.sleep(0.01)
                while made.live.watchers:
                    made.live._tell(b"x" * 1_000_000)
                    await asyncio.sleep(0.01)


async def test_whoever_follows_is_let_go_when_it_stops():
    async with gateway() as made:
        reply = await made.client.get(f"http://127.0.0.1:{made.port}/api/events")
        made.live.close()
        async with asyncio.timeout(5):
            assert (await reply.content.read()).startswith(b"retry")


async def test_an_address_that_is_taken_is_named():
    async with gateway() as made:
        server = Server(live=made.live, spans=made.spans, bus=None, names=frozenset(), faults=None)
        with pytest.raises(Unavailable, match=rf"CNM_GATEWAY_ADDRESS: cannot listen on 127.0.0.1:{made.port}"):
            async with serving(server, Place(host="127.0.0.1", port=made.port, names=frozenset())):
                pass
