"""The outermost ASGI layer: finds the route, reads the body, runs the handler, sends a reply or a stream.

It stands in front of KServe's FastAPI app, whose machinery a request here never enters. Whatever happens, the client
gets the error shape of the route and never a stack trace. When the connection is lost, `http_protocol` calls what
is stored under DISCONNECT in the scope, and the handler's task is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pilotlight_protocol.error_bodies import ErrorStyle, error_body, error_event, style_of_path
from pilotlight_protocol.errors import PARAM_HEADER, InvalidInput, ModelNotFound, PilotlightError, UnsupportedMediaType
from pilotlight_serving.concurrency_limiter import Gate
from pilotlight_serving.route_table import Match, RouteTable
from pilotlight_serving.settings import ServerSettings
from pilotlight_serving.shell_errors import MethodNotAllowed, bug
from pilotlight_serving.shell_metrics import IN_FLIGHT, PHASE, REQUESTS, predict_observer
from pilotlight_wire.handlers import Reply, RequestContext, Route, ServedModel, Stream
from pilotlight_wire.request_body import BodyAborted, BodyStalled, Receive, read_body
from pilotlight_wire.request_identity import request_id

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

DISCONNECT = "pilotlight.on_disconnect"
# What is read and thrown away after an early answer, so that the client gets to read it before the connection closes.
_DISCARD_BYTES = 64 * 1024 * 1024
_DISCARD_TIMEOUT_S = 2.0

_log = logging.getLogger("pilotlight.http")


class HttpApp:
    """`kserve_app` gets the paths that no route of ours has, when it has a route for them itself."""

    def __init__(
        self, routes: Sequence[Route], model: ServedModel, gate: Gate, settings: ServerSettings, kserve_app: Any
    ) -> None:
        self._table = RouteTable(routes)
        self._model = model
        self._gate = gate
        self._settings = settings
        self._kserve_app = kserve_app
        self._observe_predict = predict_observer(model.name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = self._table.find(scope["method"], scope["raw_path"].decode("ascii"))
        if match is None and self._kserve_app_has(scope):
            await self._kserve_app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        parameters = match.parameters if match is not None else {}
        context = RequestContext(
            request_id(headers.get("x-request-id")),
            headers,
            model_name=parameters.get("model_name", ""),
            model_version=parameters.get("version", ""),
        )
        await _Exchange(self, match, context, scope, receive, send).run()

    def _kserve_app_has(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0].value == 2 for route in self._kserve_app.routes)

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

    @property
    def gate(self) -> Gate:
        return self._gate

    @property
    def settings(self) -> ServerSettings:
        return self._settings

    @property
    def observe_predict(self) -> Callable[[float], None]:
        return self._observe_predict


class _Exchange:
    """One request and its response."""

    __slots__ = (
        "_app",
        "_body_unread",
        "_client_gone",
        "_context",
        "_match",
        "_receive",
        "_scope",
        "_send",
        "_started_at",
        "_status",
        "_style",
    )

    def __init__(
        self, app: HttpApp, match: Match | None, context: RequestContext, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._app = app
        self._match = match
        self._context = context
        self._scope = scope
        self._receive = receive
        self._send = send
        self._style = _error_style(match, scope["path"])
        self._status = 0
        self._started_at = time.perf_counter()
        self._client_gone = False
        self._body_unread = scope["method"] == "POST" or any(
            name in (b"transfer-encoding", b"content-length") and value != b"0" for name, value in scope["headers"]
        )

    async def run(self) -> None:
        task = asyncio.current_task()
        assert task is not None

        def on_disconnect() -> None:
            self._client_gone = True
            task.cancel()

        self._scope[DISCONNECT] = on_disconnect
        counted = False
        try:
            try:
                route = self._app.route_for(self._match, self._context)
                if route.counted:
                    self._app.gate.enter()
                    counted = True
                    IN_FLIGHT.inc()
                await self._answer(route)
            except asyncio.CancelledError:
                if self._client_gone:
                    raise
                await self._fail(self._app.gate.ending())
            except BodyAborted:
                self._client_gone = True
            except PilotlightError as error:
                await self._fail(error)
            except Exception:
                _log.exception("request %s failed", self._context.request_id)
                await self._fail(bug())
        except asyncio.CancelledError:
            if not self._client_gone:
                raise
        finally:
            if counted:
                self._app.gate.leave()
                IN_FLIGHT.dec()
                self._account()
            self._scope.pop(DISCONNECT, None)

    def _account(self) -> None:
        elapsed_s = time.perf_counter() - self._started_at
        status = 499 if self._client_gone else self._status
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

    async def _answer(self, route: Route) -> None:
        context = self._context
        if route.method == "POST":
            settings = self._app.settings
            _check_content_type(context, route)
            context.body = await read_body(
                self._receive, context.headers, settings.max_body_bytes, settings.body_stall_timeout_s
            )
            self._body_unread = False
        result = await route.handler(context)
        if isinstance(result, Reply):
            self._context.response_headers.update(result.headers)
            await self._reply(result.status, result.content_type, result.body)
        else:
            await self._stream(result)

    async def _stream(self, stream: Stream) -> None:
        events = stream.events
        try:
            chunk = await anext(events, b"")
            await self._start(200, stream.content_type, None)
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            async for chunk in events:
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            close = getattr(events, "aclose", None)
            if close is not None:
                await close()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _fail(self, error: PilotlightError) -> None:
        if self._status:
            self._status = error.http_status
            event = error_event(error, self._style)
            await self._send({"type": "http.response.body", "body": event, "more_body": True})
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        headers = self._context.response_headers
        if error.retry_after_header is not None:
            headers["Retry-After"] = error.retry_after_header
        if error.param_header is not None:
            headers[PARAM_HEADER] = error.param_header
        if self._body_unread or isinstance(error, BodyStalled):
            headers["Connection"] = "close"
        await self._reply(error.http_status, "application/json", error_body(error, self._style))

    async def _reply(self, status: int, content_type: str, body: bytes) -> None:
        await self._start(status, content_type, len(body))
        if self._body_unread and status >= 400:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            await self._discard_body()
            body = b""
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _discard_body(self) -> None:
        discarded = 0
        try:
            async with asyncio.timeout(_DISCARD_TIMEOUT_S):
                while discarded < _DISCARD_BYTES:
                    message = await self._receive()
                    discarded += len(message.get("body", b""))
                    if not message.get("more_body"):
                        return
        except TimeoutError:
            return

    async def _start(self, status: int, content_type: str, length: int | None) -> None:
        context = self._context
        headers = [
            (b"content-type", content_type.encode("latin-1")),
            (b"x-request-id", context.request_id.encode("ascii")),
        ]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        if context.server_timing:
            for phase, milliseconds in context.server_timing.items():
                PHASE.labels(phase.partition(";")[0]).observe(milliseconds / 1000)
            headers.append((b"server-timing", server_timing_header(context.server_timing).encode("latin-1")))
        for name, value in context.response_headers.items():
            headers.append((name.lower().encode("latin-1"), value.encode("latin-1")))
        if self._app.gate.draining:
            headers.append((b"connection", b"close"))
        self._status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


def _error_style(match: Match | None, path: str) -> ErrorStyle:
    """The matched route's; where none matched, what a client of that part of the tree can read."""
    if match is not None and match.route is not None:
        return match.route.error_style
    return style_of_path(path)


def server_timing_header(phases: dict[str, float]) -> str:
    return ", ".join(f"{phase};dur={milliseconds:.3f}" for phase, milliseconds in phases.items())


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


def integer_header(context: RequestContext, name: str) -> int | None:
    """A header that holds a whole number, None when it is not there; raises InvalidInput."""
    given = context.headers.get(name)
    if given is None:
        return None
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        raise InvalidInput(f"the header {name} must be a whole number", param=name)
    return int(given)
