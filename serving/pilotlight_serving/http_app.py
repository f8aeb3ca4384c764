"""The outermost ASGI layer: finds the route, reads the body, runs the handler, sends a reply or a stream.

Whatever happens, the client gets the error shape of the route and never a stack trace. When the connection is lost, the
handler's task is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from pilotlight_protocol.error_bodies import ErrorStyle, style_of_path
from pilotlight_protocol.errors import ModelNotFound, PilotlightError, UnsupportedMediaType
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.route_table import Match, RouteTable
from pilotlight_serving.settings import ServerSettings
from pilotlight_serving.shell_errors import MethodNotAllowed, bug
from pilotlight_serving.shell_metrics import IN_FLIGHT, PHASE, REQUESTS, predict_observer
from pilotlight_wire.handlers import Reply, RequestContext, Route, ServedModel, Stream
from pilotlight_wire.http_answer import HttpAnswer, Scope, Send
from pilotlight_wire.http_protocol import SERVER_WIDE
from pilotlight_wire.request_body import BodyAborted, Receive, read_body
from pilotlight_wire.server_timing import server_timing_header

Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

_ALL_METHODS = "GET, HEAD, POST, DELETE, OPTIONS"

_log = logging.getLogger("pilotlight.http")


class HttpApp:
    def __init__(
        self, routes: Sequence[Route], model: ServedModel, limiter: ConcurrencyLimiter, settings: ServerSettings
    ) -> None:
        self._table = RouteTable(routes)
        self._model = model
        self.limiter = limiter
        self.settings = settings
        self.observe_predict = predict_observer(model.name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = self._table.find(scope["method"], scope["raw_path"].decode("ascii"))
        answer = HttpAnswer(scope, receive, send, self.settings.cors, _error_style(match, scope["path"]))
        answer.closing = self.limiter.draining
        if scope["method"] == "OPTIONS" and await self._options(answer, scope["path"]):
            return
        parameters = match.parameters if match is not None else {}
        context = RequestContext(
            answer.request_id,
            answer.headers,
            model_name=parameters.get("model_name", ""),
            model_version=parameters.get("version", ""),
        )
        await _Exchange(self, match, context, scope, answer).run()

    async def _options(self, answer: HttpAnswer, path: str) -> bool:
        """Answer a preflight or `OPTIONS *`; neither the model nor the limiter is asked."""
        said = self.settings.cors.preflight_headers("OPTIONS", answer.headers)
        if said is None:
            if path != SERVER_WIDE:
                return False
            said = {"allow": _ALL_METHODS}
        await answer.reply(204, "", b"", [(name.encode(), value.encode("latin-1")) for name, value in said.items()])
        return True

    def route_for(self, match: Match | None, context: RequestContext) -> Route:
        """The route to run; raises the 404, 405 or 415 that stands in its way."""
        if match is None:
            raise ModelNotFound("there is nothing at this path; GET /openapi.json lists what there is")
        route = match.route
        if route is None:
            context.response_headers["Allow"] = ", ".join(match.allowed)
            raise MethodNotAllowed(f"this path takes {' and '.join(match.allowed)}")
        if context.model_name and not self._model.serves(context.model_name):
            raise ModelNotFound(
                f"there is no model '{context.model_name}' here; this server has {', '.join(self._model.names())}",
                param="model",
            )
        if context.model_version not in ("", self._model.version):
            raise ModelNotFound(
                f"model '{context.model_name}' has no version '{context.model_version}', only '{self._model.version}'"
            )
        return route


class _Exchange:
    """One request that runs a route's handler."""

    __slots__ = ("_answer", "_app", "_context", "_match", "_scope", "_started_at")

    def __init__(
        self,
        app: HttpApp,
        match: Match | None,
        context: RequestContext,
        scope: Scope,
        answer: HttpAnswer,
    ) -> None:
        self._app = app
        self._match = match
        self._context = context
        self._scope = scope
        self._answer = answer
        self._started_at = time.perf_counter()

    async def run(self) -> None:
        answer, limiter = self._answer, self._app.limiter
        answer.cancel_when_gone()
        counted = False
        try:
            try:
                route = self._app.route_for(self._match, self._context)
                if route.counted:
                    limiter.enter()
                    counted = True
                    IN_FLIGHT.inc()
                await self._run(route)
            except asyncio.CancelledError:
                if answer.client_gone:
                    raise
                await self._fail(limiter.ending())
            except BodyAborted:
                answer.client_gone = True
            except PilotlightError as error:
                await self._fail(error)
            except Exception:
                _log.exception("request %s failed", self._context.request_id)
                await self._fail(bug())
        except asyncio.CancelledError:
            if not answer.client_gone:
                raise
        finally:
            if counted:
                limiter.leave()
                IN_FLIGHT.dec()
                self._account()
            answer.over()

    def _account(self) -> None:
        elapsed_s = time.perf_counter() - self._started_at
        status = 499 if self._answer.client_gone else self._answer.status
        self._app.observe_predict(elapsed_s)
        REQUESTS.labels("http", str(status)).inc()
        _log.info(
            "%s %s %d %.1f ms id=%s",
            self._scope["method"],
            self._scope["raw_path"].decode("ascii"),
            status,
            elapsed_s * 1000,
            self._context.request_id,
        )

    async def _run(self, route: Route) -> None:
        context = self._context
        if route.method == "POST":
            settings = self._app.settings
            _check_content_type(context, route)
            context.body = await read_body(
                self._answer.receive, context.headers, settings.max_body_bytes, settings.body_stall_timeout_s
            )
        result = await route.handler(context)
        if isinstance(result, Reply):
            context.response_headers.update(result.headers)
            await self._answer.reply(result.status, result.content_type, result.body, self._headers())
        else:
            await self._stream(result)

    async def _stream(self, stream: Stream) -> None:
        answer, events = self._answer, stream.events
        try:
            chunk = await anext(events, b"")
            await answer.start(200, [(b"content-type", stream.content_type.encode("latin-1")), *self._headers()])
            await answer.piece(chunk)
            async for chunk in events:
                await answer.piece(chunk)
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()
        await answer.end()

    async def _fail(self, error: PilotlightError) -> None:
        await self._answer.fail(error, () if self._answer.status else self._headers())

    def _headers(self) -> list[tuple[bytes, bytes]]:
        context = self._context
        self._answer.closing = self._app.limiter.draining
        headers = []
        if context.server_timing:
            for phase, milliseconds in context.server_timing.items():
                PHASE.labels(phase.partition(";")[0]).observe(milliseconds / 1000)
            headers.append((b"server-timing", server_timing_header(context.server_timing).encode("latin-1")))
        for name, value in context.response_headers.items():
            headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))
        return headers


def _error_style(match: Match | None, path: str) -> ErrorStyle:
    """The matched route's; where none matched, what a client of that part of the tree can read."""
    if match is not None and match.route is not None:
        return match.route.error_style
    return style_of_path(path)


def _check_content_type(context: RequestContext, route: Route) -> None:
    given = context.headers.get("content-type")
    if given is None:
        return
    media_type, _, options = given.partition(";")
    if media_type.strip().lower() not in route.content_types:
        raise UnsupportedMediaType(
            f"Content-Type '{media_type.strip()}' is not spoken here; send {' or '.join(route.content_types)}"
        )
    charset = options.lower().replace(" ", "").replace('"', "").partition("charset=")[2].partition(";")[0]
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"charset '{charset}' is not spoken here; send UTF-8")
