"""The HTTP server: the page, and the JSON and the events that it reads. There is nothing but ``GET``.

There is no password, so whoever asks must call us by a name that is ours (or a page of another site could, by DNS
rebinding), and is told nothing as a page of another site.
"""

import asyncio
import hashlib
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import structlog
from aiohttp import web

from cnm.bus import Bus
from cnm.errors import CnmError, Exhausted, Forbidden, Internal, NotFound, Unavailable, to_reply
from cnm.messages.message import encode
from cnm_gateway import handlers
from cnm_gateway.config import ADDRESS_VARIABLE, HOSTS_VARIABLE, LIMITS, Limits, Place, name_of
from cnm_gateway.live import Live
from cnm_gateway.ports import Spans
from cnm_gateway.sse import RETRY, last_id

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
STOP_S = 2.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Find = Callable[[], Awaitable[Sequence[str]]]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class File:
    """A file of the page."""

    body: bytes
    kind: str
    etag: str


def files() -> dict[str, File]:
    """Read the files of the page, by name."""
    found = {}
    for each in resources.files("cnm_gateway").joinpath("page").iterdir():
        body = each.read_bytes()
        kind = mimetypes.guess_type(each.name)[0] or "application/octet-stream"
        kind = "text/javascript" if each.name.endswith(".js") else kind
        found[each.name] = File(body, kind, hashlib.sha256(body).hexdigest()[:16])
    return found


@dataclass(kw_only=True)
class Server:
    """Answers browsers; ``faults`` tells what keeps the worker from being ready."""

    live: Live
    spans: Spans
    bus: Bus
    names: frozenset[str]
    faults: Find
    limits: Limits = LIMITS
    _files: dict[str, File] = field(default_factory=files)
    _under_way: int = 0

    def app(self) -> web.Application:
        """Return the application: its routes, and what holds for all of them."""
        app = web.Application(middlewares=[self._headed, self._guarded])
        app.on_response_prepare.append(_add_headers)
        get = app.router.add_get
        get("/", self._page)
        get("/api/state", self._state)
        get("/api/events", self._events, allow_head=False)
        get("/api/traces", self._traces)
        get("/api/traces/{trace_id}", self._trace)
        get("/api/objects/{noun}/{key}", self._object)
        get("/healthz", self._health)
        get("/readyz", self._ready)
        get("/{name}", self._page)
        return app

    @web.middleware
    async def _headed(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Tell errors as the bus does, in words."""
        try:
            return await handler(request)
        except CnmError as error:
            return _told(error)
        except web.HTTPMethodNotAllowed as refusal:
            allow = {"Allow": ", ".join(sorted(refusal.allowed_methods))}
            return _told(Forbidden(f"{request.method} is not allowed: nothing can be changed here"), 405, allow)
        except web.HTTPNotFound:
            return _told(NotFound(f"there is no {request.path}"))
        except web.HTTPException:
            raise
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:
            log.exception("gateway.failed", path=request.path, error=repr(error))
            return _told(Internal("the gateway failed; its log says more"))

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let nobody in who calls us by a name that is not ours, asks from another site, or is one too many."""
        name = name_of(request.headers.get("Host", ""))
        if name not in self.names:
            raise Forbidden(f"the host {name!r} is not one of ours; {HOSTS_VARIABLE} names those that are")
        if request.path.startswith("/api/") and request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
            raise Forbidden("a page of another site asks, and there is nothing here for it")
        if self._under_way >= self.limits.requests:
            raise Exhausted(f"{self._under_way} requests are under way, and no more may be: try again")
        self._under_way += 1
        try:
            return await handler(request)
        finally:
            self._under_way -= 1

    async def _page(self, request: web.Request) -> web.StreamResponse:
        found = self._files.get(request.match_info.get("name", "index.html"))
        if found is None:
            raise NotFound(f"there is no {request.path}")
        response = web.Response(body=found.body, content_type=found.kind, charset=_charset(found.kind))
        response.headers["Cache-Control"] = "no-cache"
        response.etag = found.etag
        known = request.if_none_match or ()
        return web.Response(status=304) if any(each.value == found.etag for each in known) else response

    async def _state(self, _: web.Request) -> web.StreamResponse:
        return _json(handlers.state(live=self.live))

    async def _traces(self, request: web.Request) -> web.StreamResponse:
        return _json(await handlers.last_traces(request.query.get("limit"), spans=self.spans, live=self.live))

    async def _trace(self, request: web.Request) -> web.StreamResponse:
        return _json(await handlers.trace(request.match_info["trace_id"], spans=self.spans, live=self.live))

    async def _object(self, request: web.Request) -> web.StreamResponse:
        return _json(await handlers.shown(request.match_info["noun"], request.match_info["key"], bus=self.bus))

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Tell what happens until the browser goes, or takes nothing for too long."""
        after = last_id(request.headers.get("Last-Event-ID") or request.query.get("after"))
        with self.live.watching():
            response = web.StreamResponse(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
            response.content_type = "text/event-stream"
            await response.prepare(request)
            try:
                await response.write(RETRY)
                async for told in self.live.told(after):
                    async with asyncio.timeout(self.limits.write_s):
                        await response.write(told)
            except TimeoutError:
                log.info("gateway.browser_dropped", why=f"it took nothing for {self.limits.write_s} s")
                if request.transport is not None:
                    request.transport.abort()
            except ConnectionError:
                pass  # it went
        return response

    async def _health(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n")

    async def _ready(self, _: web.Request) -> web.StreamResponse:
        found = await self.faults()
        return web.Response(status=503 if found else 200, text="".join(f"{each}\n" for each in found) or "ready\n")


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    if request.path.startswith("/api/"):
        response.headers["Cache-Control"] = "no-store"
    response.headers.pop("Server", None)


def _charset(kind: str) -> str | None:
    return "utf-8" if kind.startswith("text/") else None


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=encode(value), status=status, content_type="application/json", headers=headers)


def _told(error: CnmError, status: int | None = None, headers: dict[str, str] | None = None) -> web.Response:
    return _json(to_reply(error), status or (503 if isinstance(error, Exhausted) else error.status), headers)


@asynccontextmanager
async def serving(server: Server, place: Place) -> AsyncIterator[int]:
    """Serve as long as the body runs (port 0 picks one); yield the port.

    Raises:
        Unavailable: nobody can listen there.
    """
    runner = web.AppRunner(server.app(), access_log=None, handle_signals=False, shutdown_timeout=STOP_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, place.host, place.port).start()
        except OSError as error:
            why = error.strerror or str(error)
            raise Unavailable(f"{ADDRESS_VARIABLE}: cannot listen on {place.host}:{place.port}: {why}") from None
        port: int = runner.addresses[0][1]
        log.info("gateway.serving", host=place.host, port=port)
        yield port
    finally:
        server.live.close()
        await runner.cleanup()
