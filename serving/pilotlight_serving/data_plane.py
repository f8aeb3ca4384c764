"""What V2's server and model questions answer, and how a request reaches the model, the same for HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Literal

import msgspec

from pilotlight_protocol.errors import Forbidden, ModelNotFound, PilotlightError, Unavailable
from pilotlight_protocol.v2 import InferRequest, InferResponse
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.errors import no_such_model
from pilotlight_serving.http_app import close_events
from pilotlight_serving.triton_options import take_options
from pilotlight_wire.handlers import ModelMetadata, RequestContext, ServedModel
from pilotlight_wire.request_time import in_senders_time

SERVER_NAME = "pilotlight"
SERVER_VERSION = "0.1.0"
EXTENSIONS = ("binary_tensor_data", "model_repository", "generate", "statistics_prometheus")


State = Literal["READY", "UNAVAILABLE"]


class ServerMetadata(msgspec.Struct):
    name: str
    version: str
    extensions: Sequence[str]


class ModelIndex(msgspec.Struct):
    name: str
    version: str
    state: State
    reason: str


class DataPlane:
    def __init__(self, model: ServedModel, limiter: ConcurrencyLimiter, *, model_control: bool) -> None:
        self.model = model
        self._limiter = limiter
        self._model_control = model_control

    def ready(self) -> bool:
        return not self._limiter.draining and self.model.ready()

    def why_not_ready(self) -> Unavailable:
        return self._limiter.ending() if self._limiter.draining else self.model.why_not_ready()

    def require(self, model_name: str, version: str = "") -> None:
        """Raises ModelNotFound unless that model and version are served here."""
        if not self.model.serves(model_name) or version not in ("", self.model.version):
            raise no_such_model(self.model, model_name, version)

    def require_control(self, model_name: str) -> None:
        """Raises Forbidden unless model control is on, ModelNotFound for an adapter: it is not loaded by itself."""
        if not self._model_control:
            raise Forbidden(
                "clients may not load or unload models here; start the server with --model_control explicit"
            )
        if model_name != self.model.name:
            raise ModelNotFound(f"there is no model '{model_name}' to load here, only '{self.model.name}'")

    def server_metadata(self) -> ServerMetadata:
        return ServerMetadata(SERVER_NAME, SERVER_VERSION, EXTENSIONS)

    def model_metadata(self, model_name: str) -> ModelMetadata:
        return replace(self.model.metadata(), name=model_name)

    def index(self, only_ready: bool) -> list[ModelIndex]:
        """The model repository extension's index: one entry per served name."""
        ready = self.ready()
        if only_ready and not ready:
            return []
        state: State = "READY" if ready else "UNAVAILABLE"
        reason = "" if ready else self.why_not_ready().message
        return [ModelIndex(name, self.model.version, state, reason) for name in self.model.names()]

    # By gRPC (`grpc_plane`)

    @property
    def name(self) -> str:
        return self.model.name

    def serves(self, service: str) -> bool:
        return self.model.serves(service)

    async def is_ready(self, context: RequestContext) -> bool:
        self.require(context.model_name, context.model_version)
        return self.ready()

    async def metadata(self, context: RequestContext) -> ModelMetadata:
        self.require(context.model_name, context.model_version)
        return self.model_metadata(context.model_name)

    async def repository(self, context: RequestContext, only_ready: bool) -> Sequence[ModelIndex]:
        return self.index(only_ready)

    async def load(self, context: RequestContext) -> None:
        self.require_control(context.model_name)
        await self.model.load()

    async def unload(self, context: RequestContext) -> None:
        self.require_control(context.model_name)
        await self.model.unload()

    # By both

    async def infer(self, request: InferRequest, context: RequestContext) -> InferResponse:
        """One response. Raises DeadlineExceeded when the request's own `timeout` is over, or its sender's time."""
        options = take_options(request.parameters)
        async with in_senders_time(context), options.deadline():
            response = await self.model.infer(request, context)
        response.parameters.update(options.sequence)
        return response

    async def stream_infer(
        self, request: InferRequest, context: RequestContext, send: Callable[[InferResponse, bool], Awaitable[None]]
    ) -> None:
        """Each response is sent as it comes, with whether it is the last: only an empty one, asked for, can say so."""
        options = take_options(request.parameters)
        responses = self.model.stream_infer(request, context)
        try:
            async with in_senders_time(context) as waiting, options.deadline():
                async for response in responses:
                    waiting.reschedule(None)
                    response.parameters.update(options.sequence)
                    await send(response, False)
        finally:
            await close_events(responses)
        if options.wants_empty_final:
            await send(InferResponse(context.model_name, self.model.version, [], request.id, options.sequence), True)

    async def metrics(self) -> bytes:
        try:
            return await self.model.metrics()
        except PilotlightError:
            return b""
