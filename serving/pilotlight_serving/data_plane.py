"""What V2's server and model questions answer, and how a request reaches the model, the same for HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pilotlight_protocol.errors import Forbidden, ModelNotFound, PilotlightError, Unavailable
from pilotlight_protocol.v2 import InferRequest, InferResponse
from pilotlight_serving.concurrency_limiter import ConcurrencyLimiter
from pilotlight_serving.errors import no_such_model
from pilotlight_serving.triton_options import take_options
from pilotlight_wire.handlers import RequestContext, ServedModel

SERVER_NAME = "pilotlight"
SERVER_VERSION = "0.1.0"
EXTENSIONS = ("binary_tensor_data", "model_repository", "generate", "statistics_prometheus")


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

    def server_metadata(self) -> dict[str, Any]:
        return {"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": list(EXTENSIONS)}

    def model_metadata(self, model_name: str) -> dict[str, Any]:
        metadata = self.model.metadata()
        return {
            "name": model_name,
            "versions": list(metadata.versions),
            "platform": metadata.platform,
            "inputs": [_tensor(tensor) for tensor in metadata.inputs],
            "outputs": [_tensor(tensor) for tensor in metadata.outputs],
        }

    def index(self, only_ready: bool) -> list[dict[str, str]]:
        """The model repository extension's index: one entry per served name."""
        if self.ready():
            state, reason = "READY", ""
        else:
            state, reason = "UNAVAILABLE", self.why_not_ready().message
        if only_ready and state != "READY":
            return []
        return [
            {"name": name, "version": self.model.version, "state": state, "reason": reason}
            for name in self.model.names()
        ]

    async def infer(self, request: InferRequest, context: RequestContext) -> InferResponse:
        """One response. Raises DeadlineExceeded when the request's own `timeout` is over."""
        options = take_options(request.parameters)
        async with options.deadline():
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
            async with options.deadline():
                async for response in responses:
                    response.parameters.update(options.sequence)
                    await send(response, False)
        finally:
            close = getattr(responses, "aclose", None)
            if close is not None:
                await close()
        if options.wants_empty_final:
            await send(InferResponse(context.model_name, self.model.version, [], request.id, options.sequence), True)

    async def metrics(self) -> bytes:
        try:
            return await self.model.metrics()
        except PilotlightError:
            return b""


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
