"""The V2 routes that every component serves: health, metadata, the repository, infer, metrics, the OpenAPI document."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.json_bodies import read_json
from pilotlight_protocol.v2 import decode_request, encode_response
from pilotlight_serving.data_plane import DataPlane
from pilotlight_serving.metrics import exposed
from pilotlight_wire.handlers import JSON, OCTETS, Reply, RequestContext, Route
from pilotlight_wire.http_exchange import pack

_HEADER_LENGTH = "Inference-Header-Content-Length"


class IndexRequest(msgspec.Struct):
    ready: bool = False


class Alive(msgspec.Struct):
    status: Literal["alive"]


class Live(msgspec.Struct):
    live: bool


class Ready(msgspec.Struct):
    ready: bool


class Names(msgspec.Struct):
    models: Sequence[str]


class ModelReady(msgspec.Struct):
    name: str
    ready: bool


class Loaded(msgspec.Struct):
    name: str
    load: bool


class Unloaded(msgspec.Struct):
    name: str
    unload: bool


_index_requests = msgspec.json.Decoder(IndexRequest)


class V2Routes:
    def __init__(self, plane: DataPlane, openapi: Callable[[], Mapping[str, Any]]) -> None:
        self._plane = plane
        # Made when first asked for: a start from zero does not wait for a document that nobody may read.
        self._openapi = functools.cache(lambda: msgspec.json.encode(openapi()))

    def routes(self) -> list[Route]:
        listed = [
            Route("GET", "/", self.live, counted=False),
            Route("GET", "/v2", self.server_metadata, counted=False),
            Route("GET", "/v2/health/live", self.server_live, counted=False),
            Route("GET", "/v2/health/ready", self.server_ready, counted=False),
            Route("GET", "/v2/models", self.models, counted=False),
            Route("POST", "/v2/repository/index", self.index, counted=False),
            Route("POST", "/v2/repository/models/{model_name}/load", self.load, counted=False),
            Route("POST", "/v2/repository/models/{model_name}/unload", self.unload, counted=False),
            Route("GET", "/metrics", self.metrics, counted=False),
            Route("GET", "/openapi.json", self.openapi, counted=False),
        ]
        for model in ("/v2/models/{model_name}", "/v2/models/{model_name}/versions/{version}"):
            listed += [
                Route("GET", model, self.model_metadata, counted=False),
                Route("GET", model + "/ready", self.model_ready, counted=False),
                Route("POST", model + "/infer", self.infer, content_types=(JSON, OCTETS)),
            ]
        return listed

    async def live(self, context: RequestContext) -> Reply:
        return _json(Alive("alive"))

    async def server_live(self, context: RequestContext) -> Reply:
        return _json(Live(True))

    async def server_ready(self, context: RequestContext) -> Reply:
        if not self._plane.ready():
            raise self._plane.why_not_ready()
        return _json(Ready(True))

    async def server_metadata(self, context: RequestContext) -> Reply:
        return _json(self._plane.server_metadata())

    async def models(self, context: RequestContext) -> Reply:
        return _json(Names(self._plane.model.names()))

    async def model_metadata(self, context: RequestContext) -> Reply:
        return _json(self._plane.model_metadata(context.model_name))

    async def model_ready(self, context: RequestContext) -> Reply:
        if not self._plane.ready():
            raise self._plane.why_not_ready()
        return _json(ModelReady(context.model_name, True))

    async def index(self, context: RequestContext) -> Reply:
        if not context.body:
            return _json(self._plane.index(only_ready=False))
        request = read_json(_index_requests, context.body, "a repository index request")
        return _json(self._plane.index(request.ready))

    async def load(self, context: RequestContext) -> Reply:
        self._plane.require_control(context.model_name)
        await self._plane.model.load()
        return _json(Loaded(context.model_name, True))

    async def unload(self, context: RequestContext) -> Reply:
        self._plane.require_control(context.model_name)
        await self._plane.model.unload()
        return _json(Unloaded(context.model_name, True))

    async def metrics(self, context: RequestContext) -> Reply:
        return exposed(await self._plane.metrics())

    async def openapi(self, context: RequestContext) -> Reply:
        return Reply(self._openapi())

    async def infer(self, context: RequestContext) -> Reply:
        json_length = integer_header(context, _HEADER_LENGTH.lower())
        request = decode_request(context.body, json_length)
        response = await self._plane.infer(request, context)
        body, json_length = encode_response(response, request)
        reply = Reply(body)
        if json_length is not None:
            reply.content_type = OCTETS
            reply.headers[_HEADER_LENGTH] = str(json_length)
        accept_encoding = context.headers.get("accept-encoding")
        if accept_encoding is not None and len(body) >= _WORTH_PACKING_BYTES:
            reply.body, coding = pack(body, accept_encoding)
            if coding is not None:
                reply.headers["Content-Encoding"] = coding
        return reply


_WORTH_PACKING_BYTES = 1024


def integer_header(context: RequestContext, name: str) -> int | None:
    """A header that holds a whole number, None when it is not there; raises InvalidInput."""
    given = context.headers.get(name)
    if given is None:
        return None
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        raise InvalidInput(f"the header {name} must be a whole number", param=name)
    return int(given)


def _json(value: Any) -> Reply:
    return Reply(msgspec.json.encode(value))
