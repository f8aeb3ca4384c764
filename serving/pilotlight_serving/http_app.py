"""The outermost ASGI layer: finds the route, reads the body, runs the handler, sends a reply or a stream.

Whatever happens, the client gets the error shape of the route and never a stack trace. When the connection is lost, the
handler's task is cancelled.

A request path is matched in its raw form and each segment is unquoted by itself, so that a model name may hold a slash
written as `%2F`; the name of a model that is served here may hold it plain, as most clients write it. One trailing
slash is tolerated. HEAD is answered by the GET route.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, unquote

from pilotlight_protocol.errors import InvalidInput, PilotlightError, UnsupportedMediaType
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter, CountedRequest
from pilotlight_serving.errors import MethodNotAllowed, RouteNotFound, bug, no_such_model
from pilotlight_serving.settings import ServerSettings
from pilotlight_wire.bodies_held import BodiesHeld, HeldBytes
from pilotlight_wire.handlers import Reply, RequestContext, Route, ServedModel, Stream
from pilotlight_wire.hop_headers import TENANT, TIMEOUT_HEADER
from pilotlight_wire.http_exchange import (
    BodyAborted,
    HttpAnswer,
    Receive,
    Scope,
    Send,
    body_pieces,
    server_timing,
)
from pilotlight_wire.request_time import in_senders_time, keep_time

_WITH_BODY = ("POST", "PATCH")
_ALL_METHODS = "GET, HEAD, POST, PATCH, DELETE, OPTIONS"

_log = logging.getLogger("pilotlight.http")


class Router(Protocol):
    """Which route answers a request."""

    def route(self, scope: Scope, context: RequestContext) -> Route:
        """The route to run, its parameters told to `context`; raises the 404 or 405 that stands in its way."""
        ...


class ModelRouter:
    """The routes of a server that serves one model; names in paths are this model's."""

    def __init__(self, routes: Sequence[Route], model: ServedModel) -> None:
        self._table = RouteTable(routes)
        self._model = model

    def route(self, scope: Scope, context: RequestContext) -> Route:
        path = scope["raw_path"].decode("ascii")
        match = self._table.find(scope["method"], path)
        if match is None or not self._model.serves(match.parameters.get("model_name", self._model.name)):
            match = self._table.find(scope["method"], quoted_name(path, self._model.names())) or match
        route = route_of(match, context)
        assert match is not None
        name, version = match.parameters.get("model_name", ""), match.parameters.get("version", "")
        if (name and not self._model.serves(name)) or version not in ("", self._model.version):
            raise no_such_model(self._model, name, version)
        context.model_name, context.model_version = name, version
        context.path_parameters, context.query_string = match.parameters, scope.get("query_string", b"")
        return route


def route_of(match: Match | None, context: RequestContext) -> Route:
    """Raises RouteNotFound, MethodNotAllowed."""
    if match is None:
        raise RouteNotFound("there is nothing at this path; GET /openapi.json lists what there is")
    if match.route is None:
        context.response_headers["Allow"] = ", ".join(match.allowed)
        raise MethodNotAllowed(f"this path takes {' and '.join(match.allowed)}")
    return match.route


class HttpApp:
    """`observe_predict`: the seconds of each counted request."""

    def __init__(
        self,
        router: Router,
        limiter: ConcurrencyLimiter,
        settings: ServerSettings,
        observe_predict: Callable[[float], None],
    ) -> None:
        self.router = router
        self.limiter = limiter
        self.settings = settings
        self.observe_predict = observe_predict
        self.bodies = BodiesHeld(max(settings.max_bodies_bytes, 4 * settings.max_body_bytes))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = HttpAnswer(scope, receive, send, self.settings.cors, scope["path"])
        answer.closing = self.limiter.draining
        if scope["method"] == "OPTIONS" and await answer.options(_ALL_METHODS):
            return
        await _Exchange(self, scope, answer).run()


class _Exchange:
    """One request that runs a route's handler."""

    __slots__ = ("_answer", "_app", "_context", "_held", "_scope")

    def __init__(self, app: HttpApp, scope: Scope, answer: HttpAnswer) -> None:
        self._app = app
        self._scope = scope
        self._answer = answer
        self._held = HeldBytes(app.bodies)
        self._context = RequestContext(answer.request_id, answer.headers)
        if TIMEOUT_HEADER in answer.headers:
            keep_time(self._context)

    async def run(self) -> None:
        answer, limiter = self._answer, self._app.limiter
        answer.cancel_when_gone()
        counted: CountedRequest | None = None
        try:
            try:
                route = self._app.router.route(self._scope, self._context)
                if route.counted:
                    counted = CountedRequest(limiter, self._context, "http", self._app.observe_predict)
                if route.admit is not None and not answer.small_body_is_here and route.method in _WITH_BODY:
                    try:
                        await route.admit(self._context)
                        self._held.tenant = self._context.headers.get(TENANT, "")
                    except PilotlightError as error:
                        if counted is not None:  # what it still sends is thrown away for a while, without a place
                            counted.end(self._what(), str(error.http_status))
                            counted = None
                        raise
                await self._run(route)
            except asyncio.CancelledError:
                if answer.client_gone:
                    raise
                await self._fail(limiter.ending())
            except BodyAborted:
                answer.client_gone = True
            except PilotlightError as error:
                await self._fail(error)
            except RecursionError:  # of what decodes JSON: nothing else here goes as deep as a client says
                await self._fail(InvalidInput("the body is nested too deeply"))
            except Exception:
                _log.exception("request %s failed", self._context.request_id)
                await self._fail(bug())
        except asyncio.CancelledError:
            if not answer.client_gone:
                raise
        finally:
            if counted is not None:
                status = 499 if answer.client_gone else answer.status
                counted.end(self._what(), str(status))
            self._held.give_back()
            answer.over()

    def _what(self) -> str:
        return f"{self._scope['method']} {self._scope['raw_path'].decode('ascii')}"

    async def _run(self, route: Route) -> None:
        context = self._context
        if route.method in _WITH_BODY:
            settings = self._app.settings
            check_content_type(context, route)
            if route.reads_body:
                context.body = await self._answer.body(settings, self._held)
            else:
                context.pieces = body_pieces(self._answer.receive, settings.body_stall_timeout_s, chunked=False)
        if context.ends_s is None or route.keeps_time:
            result, first = await self._begun(route)
        else:
            async with in_senders_time(context):
                result, first = await self._begun(route)
        if isinstance(result, Reply):
            context.response_headers.update(result.headers)
            await self._answer.reply(result.status, result.content_type, result.body, self._headers())
        else:
            await self._stream(result, first)

    async def _begun(self, route: Route) -> tuple[Reply | Stream, bytes]:
        """The answer, and the first piece of one that is a stream."""
        result = await route.handler(self._context)
        if isinstance(result, Reply):
            return result, b""
        try:
            return result, await anext(result.events, b"")
        except BaseException:
            await close_events(result.events)
            raise

    async def _stream(self, stream: Stream, first: bytes) -> None:
        answer, events = self._answer, stream.events
        try:
            await answer.start(200, [(b"content-type", stream.content_type.encode("latin-1")), *self._headers()])
            await answer.piece(first)
            await answer.pieces(events)
        finally:
            await close_events(events)
        await answer.end()

    async def _fail(self, error: PilotlightError) -> None:
        await self._answer.fail(error, () if self._answer.status else self._headers())

    def _headers(self) -> list[tuple[bytes, bytes]]:
        context = self._context
        self._answer.closing = self._app.limiter.draining
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in context.response_headers.items()
        ]
        if context.server_timing:
            headers.append((b"server-timing", server_timing(context.server_timing).encode("latin-1")))
        return headers


async def close_events(events: AsyncIterator[Any]) -> None:
    """End what an answer's events come from, where it can be ended."""
    close = getattr(events, "aclose", None)
    if close is not None:
        await close()


def check_content_type(context: RequestContext, route: Route) -> None:
    """Raises UnsupportedMediaType."""
    given = context.headers.get("content-type")
    if given is None or given in route.content_types:
        return
    media_type, _, options = given.partition(";")
    if media_type.strip().lower() not in route.content_types:
        raise UnsupportedMediaType(
            f"Content-Type '{media_type.strip()}' is not spoken here; send {' or '.join(route.content_types)}"
        )
    if not options:
        return
    charset = options.lower().replace(" ", "").replace('"', "").partition("charset=")[2].partition(";")[0]
    if charset not in ("", "utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"charset '{charset}' is not spoken here; send UTF-8")


def quoted_name(raw_path: str, names: Iterable[str]) -> str:
    """The path with the slashes of a served model's name written as `%2F`."""
    for name in names:
        if "/" not in name:
            continue
        for written in (name, quote(name)):
            before, found, after = raw_path.partition(f"/models/{written}")
            if found and after[:1] in ("", "/"):
                return f"{before}/models/{quote(name, safe='')}{after}"
    return raw_path


@dataclass(slots=True)
class _Node:
    """`takes_rest`: what `wild` stands for may be several segments, where nothing else fits them."""

    children: dict[str, _Node] = field(default_factory=dict)
    wild: _Node | None = None
    wild_name: str = ""
    takes_rest: bool = False
    routes: dict[str, Route] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """`route` is None when the path exists but not for this method; `allowed` lists the methods then."""

    route: Route | None
    parameters: dict[str, str]
    allowed: tuple[str, ...] = ()


class RouteTable:
    def __init__(self, routes: Sequence[Route]) -> None:
        self._root = _Node()
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._root
        for segment in _segments(route.path):
            if segment.startswith("{"):
                if node.wild is None:
                    node.wild = _Node()
                    node.wild_name = segment[1:-1].removesuffix("...")
                node.takes_rest = node.takes_rest or segment.endswith("...}")
                node = node.wild
            else:
                node = node.children.setdefault(segment, _Node())
        if route.method in node.routes:
            raise ValueError(f"two routes for {route.method} {route.path}")
        node.routes[route.method] = route

    def find(self, method: str, raw_path: str) -> Match | None:
        """The match for `method` on `raw_path` (percent-encoded, without the query), None for an unknown path."""
        node = self._root
        parameters: dict[str, str] = {}
        segments = _segments(raw_path)
        for place, segment in enumerate(segments):
            child = node.children.get(segment)
            if child is not None:
                node = child
            elif node.wild is not None and segment:
                value = "/".join(segments[place:]) if node.takes_rest else segment
                parameters[node.wild_name] = unquote(value) if "%" in value else value
                takes_rest, node = node.takes_rest, node.wild
                if takes_rest:
                    break
            else:
                return None
        if not node.routes:
            return None
        route = node.routes.get("GET" if method == "HEAD" else method)
        if route is not None:
            return Match(route, parameters)
        allowed = sorted(node.routes) + (["HEAD"] if "GET" in node.routes else [])
        return Match(None, parameters, tuple(allowed))


def _segments(path: str) -> list[str]:
    segments = path.split("/")[1:]
    if segments and not segments[-1]:
        segments.pop()
    return segments
