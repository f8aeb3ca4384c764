"""What V2's server and model questions answer, the same for HTTP and gRPC, and KServe's view of the model.

`KServeAdapter` is the model in KServe's repository: KServe times `predict` there and asks it for readiness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pilotlight_protocol.errors import Forbidden, ModelNotFound, PilotlightError, Unavailable
from pilotlight_protocol.v2 import InferRequest, InferResponse
from pilotlight_serving.concurrency_limiter import Gate
from pilotlight_serving.kserve_sdk import Model, ModelRepository
from pilotlight_wire.handlers import RequestContext, ServedModel

SERVER_NAME = "pilotlight"
SERVER_VERSION = "0.1.0"
EXTENSIONS = ("binary_tensor_data", "model_repository", "generate", "statistics_prometheus")


@dataclass(frozen=True, slots=True)
class InferCall:
    request: InferRequest
    context: RequestContext


class KServeAdapter(Model):  # type: ignore[misc]
    def __init__(self, model: ServedModel, gate: Gate) -> None:
        self._model = model
        self._gate = gate
        super().__init__(model.name)

    @property
    def ready(self) -> bool:
        return not self._gate.draining and self._model.ready()

    @ready.setter
    def ready(self, value: bool) -> None:
        """KServe's base class sets it; readiness here is what the model says."""

    def validate(self, payload: InferCall) -> InferCall:
        return payload

    async def predict(self, payload: InferCall, headers: dict[str, str] | None = None) -> InferResponse:
        return await self._model.infer(payload.request, payload.context)


class DataPlane:
    def __init__(self, model: ServedModel, gate: Gate, repository: ModelRepository, *, model_control: bool) -> None:
        self.model = model
        self._gate = gate
        self._model_control = model_control
        self._adapter = KServeAdapter(model, gate)
        repository.update(self._adapter)

    def ready(self) -> bool:
        return bool(self._adapter.ready)

    def why_not_ready(self) -> Unavailable:
        return self._gate.ending() if self._gate.draining else self.model.why_not_ready()

    def require(self, model_name: str, version: str = "") -> None:
        """Raises ModelNotFound unless that model and version are served here."""
        if not self.model.serves(model_name):
            raise ModelNotFound(
                f"there is no model '{model_name}' here; this server has {', '.join(self.model.names())}",
                param="model",
            )
        if version not in ("", self.model.version):
            raise ModelNotFound(
                f"model '{model_name}' has no version '{version}', only '{self.model.version}'", param="model"
            )

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
        response, _ = await self._adapter(InferCall(request, context), context.headers)
        assert isinstance(response, InferResponse)
        return response

    async def metrics(self) -> bytes:
        try:
            return await self.model.metrics()
        except PilotlightError:
            return b""


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
