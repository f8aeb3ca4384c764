"""What the gateway answers at which path: its own routes, and those of the text API and V2 over every endpoint.

Responsible for which requests name a model and where. What becomes of them is the pipeline's.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec

from pilotlight_gateway.directory.endpoint_table import EndpointTable
from pilotlight_gateway.errors import no_such_model, nothing_known_yet
from pilotlight_gateway.pipeline import Pipeline
from pilotlight_gateway.request_steps import Caller, Place
from pilotlight_gateway.routing.routes import Routes
from pilotlight_gateway.surfaces import component_path, model_path
from pilotlight_protocol.errors import Forbidden
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.http_app import Match, RouteTable, route_of
from pilotlight_serving.metrics import exposed
from pilotlight_text.openai_api.model_cards import ModelCard, ModelList
from pilotlight_wire.handlers import JSON, Reply, RequestContext, Route, Stream
from pilotlight_wire.http_exchange import Scope

OWNER = "pilotlight"
_LOOPBACK_ORIGIN = re.compile(r"https?://((?:localhost|127\.0\.0\.1|\[::1\])(?::\d{1,5})?)")


@dataclass(frozen=True, slots=True)
class OwnRoute:
    """A route over no model, answered for a known caller. `is_free`: it is none of the tenant's requests a minute."""

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    handler: Callable[[RequestContext, Caller], Awaitable[Reply | Stream]]
    content_types: tuple[str, ...] = (JSON,)
    reads_body: bool = True
    is_free: bool = False


class GatewayRouter:
    """Implements `http_app.Router`. `endpoint_routes`: those of any endpoint, for their paths; what keeps no model in
    them (a stored response) is answered by their own handlers."""

    def __init__(
        self,
        pipeline: Pipeline,
        table: EndpointTable,
        routes: Routes,
        endpoint_routes: RouteTable,
        limiter: ConcurrencyLimiter,
        own: Sequence[OwnRoute] = (),
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._pipeline = pipeline
        self._endpoint_routes = endpoint_routes
        self._table = table
        self._routes = routes
        self._limiter = limiter
        self._started_s = int(now_s())
        self._plain: dict[tuple[str, str], Route] = {}
        """Of requests whose target is a route's path and nothing else: there are as many as routes."""
        self._own = RouteTable([*self._plain_routes(), *(self._for_caller(route) for route in own)])
        self._document = functools.cache(lambda: _document(own))

    def route(self, scope: Scope, context: RequestContext) -> Route:
        method, path = scope["method"], scope["raw_path"].decode("ascii")
        context.query_string = scope.get("query_string", b"")
        plain = self._plain.get((method, path)) if not context.query_string else None
        return plain or self._found(method, path, context)

    def _found(self, method: str, path: str, context: RequestContext) -> Route:
        own = self._own.find(method, path)
        if own is not None:
            return _matched(own, context)
        of_component = component_path(path)
        route = _matched(self._endpoint_routes.find(method, of_component), context)
        named = model_path(path)
        if named is None and (method in ("GET", "HEAD", "DELETE") or "{" in route.path):
            return replace(route, handler=self._with_caller(route.handler))
        query = context.query_string.decode("latin-1")
        target, model = f"{path}?{query}" if query else path, None if named is None else named.model
        place = Place(method, target, path, of_component, route.path, model)
        answer, admit = functools.partial(self._pipeline.answer, place), self._pipeline.admit
        found = replace(route, handler=answer, admit=admit, keeps_time=True)
        if target == path == route.path:
            self._plain[method, path] = found
        return found

    def _plain_routes(self) -> list[Route]:
        return [
            Route("GET", "/", self._alive, counted=False),
            Route("GET", "/healthz", self._alive, counted=False),
            Route("GET", "/v2/health/live", self._live, counted=False),
            Route("GET", "/readyz", self._ready, counted=False),
            Route("GET", "/v2/health/ready", self._ready, counted=False),
            Route("GET", "/metrics", self._metrics, counted=False),
            Route("GET", "/v2/models", self._names, counted=False),
            Route("GET", "/openapi.json", self._openapi, counted=False),
            *(
                route
                for prefix in ("/openai/v1", "/v1")
                for route in (
                    Route("GET", f"{prefix}/models", self._list, counted=False),
                    Route("GET", f"{prefix}/models/{{model_name...}}", self._card, counted=False),
                )
            ),
        ]

    def _for_caller(self, route: OwnRoute) -> Route:
        known = self._pipeline.caller if route.is_free else self._pipeline.counted_caller

        async def handle(context: RequestContext) -> Reply | Stream:
            caller = await known(context)
            _check_no_web_page(caller, context.headers)
            return await route.handler(context, caller)

        kinds, reads_body, admit = route.content_types, route.reads_body, self._pipeline.admit
        return Route(route.method, route.path, handle, content_types=kinds, reads_body=reads_body, admit=admit)

    def _with_caller(
        self, handler: Callable[[RequestContext], Awaitable[Reply | Stream]]
    ) -> Callable[[RequestContext], Awaitable[Reply | Stream]]:
        async def handle(context: RequestContext) -> Reply | Stream:
            await self._pipeline.counted_caller(context)
            return await handler(context)

        return handle

    async def _alive(self, context: RequestContext) -> Reply:
        return Reply(b'{"status":"alive"}')

    async def _live(self, context: RequestContext) -> Reply:
        return Reply(b'{"live":true}')

    async def _ready(self, context: RequestContext) -> Reply:
        if not self._table.known:
            raise nothing_known_yet()
        if self._limiter.draining:
            raise self._limiter.ending()
        return Reply(b'{"ready":true}')

    async def _metrics(self, context: RequestContext) -> Reply:
        _check_no_web_page(await self._pipeline.metrics_reader(context), context.headers)
        return exposed()

    async def _names(self, context: RequestContext) -> Reply:
        caller = await self._pipeline.caller(context)
        return Reply(msgspec.json.encode({"models": self._routes.names(caller)}))

    async def _list(self, context: RequestContext) -> Reply:
        caller = await self._pipeline.caller(context)
        return Reply(msgspec.json.encode(ModelList("list", [self._shown(name) for name in self._routes.names(caller)])))

    async def _card(self, context: RequestContext) -> Reply:
        caller = await self._pipeline.caller(context)
        name = context.path_parameters["model_name"]
        if not self._routes.knows(caller, name):
            raise no_such_model(name, full_names=self._table.full_names(caller, name))
        return Reply(msgspec.json.encode(self._shown(name)))

    async def _openapi(self, context: RequestContext) -> Reply:
        from pilotlight_gateway.openapi.gateway_document import with_models  # not before somebody asks for it

        caller = await self._pipeline.caller(context)
        return Reply(msgspec.json.encode(with_models(self._document(), self._routes.names(caller))))

    def _shown(self, name: str) -> ModelCard:
        return ModelCard(name, "model", self._started_s, OWNER)


def _document(own: Sequence[OwnRoute]) -> dict[str, Any]:
    from pilotlight_gateway.openapi.gateway_document import gateway_document  # not before somebody asks for it

    return gateway_document({(route.method, route.path) for route in own})


def _check_no_web_page(caller: Caller, headers: Mapping[str, str]) -> None:
    """Any page in somebody's browser can reach an open door, also with a header that looks like a key. It may neither
    read nor change what is kept there. Raises Forbidden."""
    origin = headers.get("origin")
    if caller.key_id or origin is None:
        return
    # A name that is not loopback's may be one that its owner lets point here.
    of_loopback = _LOOPBACK_ORIGIN.fullmatch(origin)
    if of_loopback is None or of_loopback[1] != headers.get("host"):
        raise Forbidden(
            "a web page gets nothing that is kept here while this server's door is open: make a tenant and a key"
        )


def _matched(match: Match | None, context: RequestContext) -> Route:
    route = route_of(match, context)
    assert match is not None
    context.path_parameters = match.parameters
    return route
