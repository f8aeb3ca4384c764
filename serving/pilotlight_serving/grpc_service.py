"""The gRPC side: KServe's inference service with Triton's ModelStreamInfer and RepositoryIndex, and grpc.health.v1.

All methods stand in one generic handler on KServe's messages. Errors become status codes with the message as details
and `retry-after` in the trailing metadata. A client that cancels cancels the handler's task (grpc.aio does).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
import msgspec
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from pilotlight_protocol.errors import (
    CODE_HEADER,
    PARAM_HEADER,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    PilotlightError,
)
from pilotlight_protocol.v2 import InferRequest, InferResponse
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter, CountedRequest
from pilotlight_serving.errors import bug
from pilotlight_serving.grpc_messages import (
    ModelStreamInferResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    request_from,
    response_to,
    set_parameter,
)
from pilotlight_serving.grpc_plane import GrpcPlane
from pilotlight_serving.kserve_messages import predict_v2 as pb
from pilotlight_serving.metrics import predict_observer
from pilotlight_serving.settings import ServerSettings
from pilotlight_wire.handlers import RequestContext
from pilotlight_wire.http_exchange import request_id, server_timing
from pilotlight_wire.request_time import keep_time

SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"
_STREAMED_AT_ONCE = 64
_HEALTH_POLL_S = 0.25
# What protobuf and gRPC framing may add to a body at the limit.
_FRAMING_BYTES = 64 * 1024
_STATUS = {code.value[0]: code for code in grpc.StatusCode}

_log = logging.getLogger("pilotlight.grpc")

Unary = Callable[[Any, Any], Awaitable[Any]]


def grpc_server(plane: GrpcPlane, limiter: ConcurrencyLimiter, settings: ServerSettings) -> Any:
    """A grpc.aio server with all services, not yet bound."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", settings.max_body_bytes + _FRAMING_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", settings.max_concurrent_requests),
            ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.max_connection_idle_ms", int(settings.keep_alive_s * 1000)),
            # A client that is gone or reads nothing does not answer pings.
            ("grpc.keepalive_time_ms", int(settings.write_stall_timeout_s * 1000)),
            ("grpc.keepalive_timeout_ms", int(settings.body_stall_timeout_s * 1000)),
        ]
    )
    service = InferenceService(plane, limiter, settings)
    health = HealthService(plane, settings)
    server.add_generic_rpc_handlers((service.handler(), health.handler()))
    return server


def _unary(method: Unary, request: Any, response: Any, message_timeout_s: float) -> Any:
    """A unary method. To gRPC it takes a stream, which is the same on the wire: its own unary calls wait for a message
    as long as the client likes, and one that never sends it would hold a call for ever."""

    @functools.wraps(method)
    async def answer(messages: Any, call: Any) -> Any:
        try:
            return await method(await _only_message(messages, message_timeout_s), call)
        except PilotlightError as error:
            await _abort(call, error)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception:
            _log.exception("a gRPC call failed")
            await _abort(call, bug())

    return grpc.stream_unary_rpc_method_handler(answer, _reader(request), response.SerializeToString)


def _reader(request: Any) -> Callable[[bytes], Any]:
    """None for what cannot be read: an exception here would be told to the client as the server's failure."""

    def read(data: bytes) -> Any:
        try:
            return request.FromString(data)
        except DecodeError:
            return None

    return read


def _unreadable() -> InvalidInput:
    return InvalidInput("the message is not one that this method takes: it cannot be decoded")


async def _only_message(messages: Any, timeout_s: float) -> Any:
    try:
        async with asyncio.timeout(timeout_s):
            message = await anext(messages)
    except TimeoutError:
        raise DeadlineExceeded(f"no message arrived for {timeout_s:g} s; send the call again") from None
    except StopAsyncIteration:
        raise InvalidInput("the call has no message") from None
    if message is None:
        raise _unreadable()
    return message


async def _abort(call: Any, error: PilotlightError) -> None:
    trailing = tuple(call.trailing_metadata() or ())
    if error.retry_after_header is not None:
        trailing += (("retry-after", error.retry_after_header),)
    if error.param_header is not None:
        trailing += ((PARAM_HEADER, error.param_header),)
    if error.code is not None:
        trailing += ((CODE_HEADER, error.code),)
    await call.abort(_STATUS[error.grpc_code], error.message, trailing)


def _context(call: Any, model_name: str, version: str) -> RequestContext:
    headers = {
        name: value if isinstance(value, str) else value.decode("latin-1")
        for name, value in call.invocation_metadata() or ()
    }
    context = RequestContext(
        request_id(headers.get("x-request-id")), headers, model_name=model_name, model_version=version
    )
    keep_time(context, call.time_remaining())
    return context


class InferenceService:
    def __init__(self, plane: GrpcPlane, limiter: ConcurrencyLimiter, settings: ServerSettings) -> None:
        self._plane = plane
        self._limiter = limiter
        self._settings = settings
        self._observe_predict = predict_observer(plane.name)

    def handler(self) -> Any:
        def unary(method: Unary, request: Any, response: Any) -> Any:
            return _unary(method, request, response, self._settings.body_stall_timeout_s)

        methods = {
            "ServerLive": unary(self.server_live, pb.ServerLiveRequest, pb.ServerLiveResponse),
            "ServerReady": unary(self.server_ready, pb.ServerReadyRequest, pb.ServerReadyResponse),
            "ModelReady": unary(self.model_ready, pb.ModelReadyRequest, pb.ModelReadyResponse),
            "ServerMetadata": unary(self.server_metadata, pb.ServerMetadataRequest, pb.ServerMetadataResponse),
            "ModelMetadata": unary(self.model_metadata, pb.ModelMetadataRequest, pb.ModelMetadataResponse),
            "ModelInfer": unary(self.model_infer, pb.ModelInferRequest, pb.ModelInferResponse),
            "RepositoryIndex": unary(self.repository_index, RepositoryIndexRequest, RepositoryIndexResponse),
            "RepositoryModelLoad": unary(
                self.repository_load, pb.RepositoryModelLoadRequest, pb.RepositoryModelLoadResponse
            ),
            "RepositoryModelUnload": unary(
                self.repository_unload, pb.RepositoryModelUnloadRequest, pb.RepositoryModelUnloadResponse
            ),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
                self.model_stream_infer, _reader(pb.ModelInferRequest), ModelStreamInferResponse.SerializeToString
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def server_live(self, message: Any, call: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, message: Any, call: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._plane.ready())

    async def model_ready(self, message: Any, call: Any) -> Any:
        context = _context(call, message.name, message.version)
        return pb.ModelReadyResponse(ready=await self._plane.is_ready(context))

    async def server_metadata(self, message: Any, call: Any) -> Any:
        return pb.ServerMetadataResponse(**msgspec.to_builtins(self._plane.server_metadata()))

    async def model_metadata(self, message: Any, call: Any) -> Any:
        told = await self._plane.metadata(_context(call, message.name, message.version))
        return pb.ModelMetadataResponse(**msgspec.to_builtins(told))

    async def repository_index(self, message: Any, call: Any) -> Any:
        index = await self._plane.repository(_context(call, "", ""), message.ready)
        return RepositoryIndexResponse(models=msgspec.to_builtins(index))

    async def repository_load(self, message: Any, call: Any) -> Any:
        await self._plane.load(_context(call, message.model_name, ""))
        return pb.RepositoryModelLoadResponse(model_name=message.model_name, isLoaded=True)

    async def repository_unload(self, message: Any, call: Any) -> Any:
        await self._plane.unload(_context(call, message.model_name, ""))
        return pb.RepositoryModelUnloadResponse(model_name=message.model_name, isUnloaded=True)

    async def model_infer(self, message: Any, call: Any) -> Any:
        self._plane.require(message.model_name, message.model_version)
        context = _context(call, message.model_name, message.model_version)
        call.set_trailing_metadata((("x-request-id", context.request_id),))
        with self._counted(context):
            request = request_from(message)
            response = await self._plane.infer(request, context)
            call.set_trailing_metadata(_trailing(context))
            return response_to(response, request, raw=bool(message.raw_input_contents))

    async def model_stream_infer(self, requests: Any, call: Any) -> None:
        """Triton's bidirectional method: every request of the stream is answered by a run of responses.

        Requests of one stream run at the same time, at most 64; the next one is read when one has ended. An error ends
        its request with `error_message`, not the stream. When the request sets `triton_enable_empty_final_response`,
        its run ends with an empty response whose `triton_final_response` is true. A stream on which nothing runs and
        nothing comes for `keep_alive_s` is ended: it keeps its pod from zero.
        """
        idle_s = self._settings.keep_alive_s
        loop = asyncio.get_running_loop()
        writer = _Writer(call)
        running: set[asyncio.Task[None]] = set()
        places = asyncio.Semaphore(_STREAMED_AT_ONCE)
        try:
            async with asyncio.timeout(idle_s) as idle, asyncio.TaskGroup() as group:

                def ended(task: asyncio.Task[None]) -> None:
                    running.discard(task)
                    places.release()
                    if not running and not idle.expired():
                        idle.reschedule(loop.time() + idle_s)

                await places.acquire()
                async for message in requests:
                    if message is None:
                        await writer.write(_stream_error(_unreadable(), ""))
                        continue
                    idle.reschedule(None)
                    task = group.create_task(self._run(message, call, writer))
                    running.add(task)
                    task.add_done_callback(ended)
                    await places.acquire()
                idle.reschedule(None)
        except TimeoutError:
            await _abort(call, DeadlineExceeded(f"nothing came on this stream for {idle_s:g} s; open another"))

    async def _run(self, message: Any, call: Any, writer: _Writer) -> None:
        context = _context(call, message.model_name, message.model_version)
        try:
            self._plane.require(message.model_name, message.model_version)
            with self._counted(context):
                await self._stream(message, context, writer)
        except PilotlightError as error:
            await writer.write(_stream_error(error, message.id))
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception:
            _log.exception("request %s failed", context.request_id)
            await writer.write(_stream_error(bug(), message.id))

    @contextlib.contextmanager
    def _counted(self, context: RequestContext) -> Iterator[None]:
        """A place for one request, whose end is told with the name of the status that its client sees."""
        counted = CountedRequest(self._limiter, context, "grpc", self._observe_predict)
        status = "UNKNOWN"
        try:
            yield
            status = "OK"
        except PilotlightError as error:
            status = _STATUS[error.grpc_code].name
            raise
        except asyncio.CancelledError:
            status = "CANCELLED"
            raise
        finally:
            counted.end(context.model_name, status)

    async def _stream(self, message: Any, context: RequestContext, writer: _Writer) -> None:
        request = request_from(message)
        raw = bool(message.raw_input_contents)

        async def send(response: InferResponse, final: bool) -> None:
            # The empty last response has none of the outputs that were asked for.
            asked = InferRequest([]) if final else request
            await writer.write(_stream_response(response, asked, raw, final=final))

        await self._plane.stream_infer(request, context, send)


class _Writer:
    """Writes for the requests of one stream in turn: gRPC's core takes one message at a time."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._turn = asyncio.Lock()

    async def write(self, message: Any) -> None:
        async with self._turn:
            await self._call.write(message)


def _trailing(context: RequestContext) -> tuple[tuple[str, str], ...]:
    trailing = [("x-request-id", context.request_id)]
    if context.server_timing:
        trailing.append(("server-timing", server_timing(context.server_timing)))
    trailing += [(name.lower(), value) for name, value in context.response_headers.items()]
    return tuple(trailing)


def _stream_response(response: InferResponse, request: InferRequest, raw: bool, *, final: bool) -> Any:
    message = response_to(response, request, raw)
    set_parameter(message.parameters, "triton_final_response", final)
    return ModelStreamInferResponse(infer_response=message)


def _stream_error(error: PilotlightError, id_: str) -> Any:
    """The message has no place for a code: `status` (HTTP) and `retry_after_s` are parameters of an empty response."""
    message = ModelStreamInferResponse(error_message=error.message)
    # Triton's clients match an error to its request by the id.
    message.infer_response.id = id_
    set_parameter(message.infer_response.parameters, "status", error.http_status)
    if error.retry_after_header is not None:
        set_parameter(message.infer_response.parameters, "retry_after_s", int(error.retry_after_header))
    if error.param_header is not None:
        set_parameter(message.infer_response.parameters, "param", error.param_header)
    if error.code is not None:
        set_parameter(message.infer_response.parameters, "code", error.code)
    return message


class HealthService:
    """grpc.health.v1: "" and the inference service mean the server, else a model's name."""

    def __init__(self, plane: GrpcPlane, settings: ServerSettings) -> None:
        self._plane = plane
        self._settings = settings

    def handler(self) -> Any:
        request, response = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        methods = {
            "Check": _unary(self.check, request, response, self._settings.body_stall_timeout_s),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch, _reader(request), response.SerializeToString),
        }
        return grpc.method_handlers_generic_handler(HEALTH_SERVICE, methods)

    def _status(self, service: str) -> Any:
        known = service in ("", SERVICE) or self._plane.serves(service)
        if not known:
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        serving = health_pb2.HealthCheckResponse.SERVING
        return serving if self._plane.ready() else health_pb2.HealthCheckResponse.NOT_SERVING

    async def check(self, message: Any, call: Any) -> Any:
        status = self._status(message.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            raise ModelNotFound(f"there is no service '{message.service}' here")
        return health_pb2.HealthCheckResponse(status=status)

    async def watch(self, message: Any, call: Any) -> None:
        if message is None:
            await _abort(call, _unreadable())
        last: Any = None
        while True:
            status = self._status(message.service)
            if status != last:
                last = status
                await call.write(health_pb2.HealthCheckResponse(status=status))
            await asyncio.sleep(_HEALTH_POLL_S)
