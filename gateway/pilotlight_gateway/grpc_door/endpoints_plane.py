"""V2 by gRPC over every endpoint that the caller may use: each call passes the pipeline as the REST request it is.

So keys, limits, the queue and both ways are the same; endpoints need to speak no gRPC. It implements
`grpc_plane.GrpcPlane`, and must not decide anything about a request itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol
from urllib.parse import quote

import msgspec

from pilotlight_gateway.errors import nothing_known_yet
from pilotlight_gateway.grpc_door.streamed_text import answer_of, generate_body, split_events
from pilotlight_gateway.request_steps import Caller, Place
from pilotlight_gateway.surfaces import component_path, model_path
from pilotlight_protocol.errors import (
    CODE_HEADER,
    PARAM_HEADER,
    Forbidden,
    InternalError,
    InvalidInput,
    PilotlightError,
    Unavailable,
    from_status,
)
from pilotlight_protocol.v2 import InferRequest, InferResponse, decode_response, encode_request
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.data_plane import EXTENSIONS, SERVER_NAME, SERVER_VERSION, ModelIndex, ServerMetadata
from pilotlight_serving.http_app import close_events
from pilotlight_serving.triton_options import take_options
from pilotlight_wire.handlers import JSON, OCTETS, ModelMetadata, Reply, RequestContext, Stream, TensorMetadata
from pilotlight_wire.hop_headers import parse_retry_after
from pilotlight_wire.request_time import keep_time

_JSON_LENGTH = "inference-header-content-length"
_OF_THE_CALL = frozenset(
    ("content-type", "content-length", "te", "host", "connection", "transfer-encoding", _JSON_LENGTH, "prefer")
)
_FAILED_FROM = 400


class Door(Protocol):
    """What of the pipeline is asked."""

    async def caller(self, context: RequestContext) -> Caller: ...

    async def answer(self, place: Place, context: RequestContext) -> Reply | Stream: ...


class _Error(msgspec.Struct):
    error: str


class _Tensor(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]


class _Metadata(msgspec.Struct):
    name: str
    versions: list[str] | None = None
    platform: str = ""
    inputs: list[_Tensor] = []
    outputs: list[_Tensor] = []


_errors = msgspec.json.Decoder(_Error)
_metadata = msgspec.json.Decoder(_Metadata)


class EndpointsPlane:
    """`is_known`: whether anything is known of endpoints yet. `names`: the models that a caller may ask for."""

    def __init__(
        self,
        door: Door,
        is_known: Callable[[], bool],
        names: Callable[[Caller], Sequence[str]],
        limiter: ConcurrencyLimiter,
    ) -> None:
        self._door = door
        self._is_known = is_known
        self._names = names
        self._limiter = limiter

    @property
    def name(self) -> str:
        return "gateway"

    def ready(self) -> bool:
        return self._is_known() and not self._limiter.draining

    def serves(self, service: str) -> bool:
        """No endpoint: who asks after health has no key."""
        return False

    def require(self, model_name: str, version: str = "") -> None:
        if not self._is_known():
            raise nothing_known_yet()

    def server_metadata(self) -> ServerMetadata:
        return ServerMetadata(SERVER_NAME, SERVER_VERSION, EXTENSIONS)

    async def is_ready(self, context: RequestContext) -> bool:
        try:
            await self._whole("GET", "/ready", b"", context)
        except Unavailable:
            return False
        return True

    async def metadata(self, context: RequestContext) -> ModelMetadata:
        reply = await self._whole("GET", "", b"", context)
        try:
            told = _metadata.decode(reply.body)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise _no_v2() from error
        inputs, outputs = (
            tuple(TensorMetadata(each.name, each.datatype, tuple(each.shape)) for each in tensors)
            for tensors in (told.inputs, told.outputs)
        )
        return ModelMetadata(told.name, tuple(told.versions or ()), told.platform, inputs, outputs)

    async def repository(self, context: RequestContext, only_ready: bool) -> Sequence[ModelIndex]:
        """Every model that the caller may ask for; one at zero answers, too."""
        caller = await self._door.caller(context)
        return [ModelIndex(name, "", "READY", "") for name in self._names(caller)]

    async def load(self, context: RequestContext) -> None:
        raise Forbidden("clients may not load or unload models through the gateway")

    unload = load

    async def infer(self, request: InferRequest, context: RequestContext) -> InferResponse:
        options = take_options(request.parameters)
        keep_time(context, options.timeout_s)
        body, json_length = encode_request(request)
        async with options.deadline():
            reply = await self._whole("POST", "/infer", body, context, json_length)
        told = reply.headers.get(_JSON_LENGTH, "")
        try:
            response = decode_response(reply.body, int(told) if told.isdigit() else None)
        except InvalidInput as error:
            raise _no_v2() from error
        response.parameters.update(options.sequence)
        return response

    async def stream_infer(
        self, request: InferRequest, context: RequestContext, send: Callable[[InferResponse, bool], Awaitable[None]]
    ) -> None:
        options = take_options(request.parameters)
        keep_time(context, options.timeout_s)
        async with options.deadline():
            result = await self._asked("POST", "/generate_stream", generate_body(request), context)
            if isinstance(result, Reply):
                raise _error_of(result)
            try:
                async for event in split_events(result.events):
                    response = answer_of(event, request.id)
                    response.parameters.update(options.sequence)
                    await send(response, False)
            finally:
                await close_events(result.events)
        if options.wants_empty_final:
            await send(InferResponse(context.model_name, "1", [], request.id, options.sequence), True)

    async def _whole(
        self, method: str, verb: str, body: bytes, context: RequestContext, json_length: int | None = None
    ) -> Reply:
        result = await self._asked(method, verb, body, context, json_length)
        if isinstance(result, Stream):
            await close_events(result.events)
            raise _no_v2()
        if result.status >= _FAILED_FROM:
            raise _error_of(result)
        return result

    async def _asked(
        self, method: str, verb: str, body: bytes, context: RequestContext, json_length: int | None = None
    ) -> Reply | Stream:
        version = f"/versions/{quote(context.model_version, safe='')}" if context.model_version else ""
        path = f"/v2/models/{quote(context.model_name, safe='')}{version}{verb}"
        headers = {name: value for name, value in context.headers.items() if _is_passed_on(name, value)}
        if body:
            headers["content-type"] = JSON if json_length is None else OCTETS
            if json_length is not None:
                headers[_JSON_LENGTH] = str(json_length)
        context.headers, context.body = headers, body
        named = model_path(path)
        route = f"gRPC /v2/models/{{model_name}}{verb}"
        model = context.model_name if named is None else named.model
        return await self._door.answer(Place(method, path, path, component_path(path), route, model), context)


def _is_passed_on(name: str, value: str) -> bool:
    """Metadata that a header can be; what is binary, or the call's own, is none."""
    return (
        not name.endswith("-bin") and not name.startswith("grpc-") and name not in _OF_THE_CALL and value.isprintable()
    )


def _error_of(reply: Reply) -> PilotlightError:
    try:
        message = _errors.decode(reply.body).error
    except (msgspec.MsgspecError, RecursionError):
        message = f"the endpoint answered {reply.status}"
    headers: Mapping[str, str] = {name.lower(): value for name, value in reply.headers.items()}
    retry_after_s = parse_retry_after(headers.get("retry-after"))
    return from_status(reply.status, message, retry_after_s, headers.get(PARAM_HEADER), headers.get(CODE_HEADER))


def _no_v2() -> InternalError:
    return InternalError("the endpoint's answer is none of V2's; ask it by REST to see what it says")
