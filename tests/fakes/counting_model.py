"""A model for the serving shell's own tests: it echoes, counts, fails where told to, and lists what was cancelled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from pilotlight_protocol.errors import InvalidInput, PilotlightError, Unavailable, from_status
from pilotlight_protocol.v2 import InferRequest, InferResponse, Tensor
from pilotlight_wire.handlers import ModelMetadata, Reply, RequestContext, Route, Stream, TensorMetadata


class CountingModel:
    name = "counter"
    version = "1"

    def __init__(self) -> None:
        self.is_ready = True
        self.cancelled: list[str] = []

    def metadata(self) -> ModelMetadata:
        values = TensorMetadata("values", "INT32", (-1,))
        return ModelMetadata(self.name, (self.version,), "test", (values,), (values,))

    def ready(self) -> bool:
        return self.is_ready

    def why_not_ready(self) -> Unavailable:
        return Unavailable("the model was unloaded; load it", retry_after_s=7)

    def names(self) -> Sequence[str]:
        return [self.name, "org/adapter"]

    def serves(self, model_name: str) -> bool:
        return model_name in self.names()

    async def infer(self, request: InferRequest, context: RequestContext) -> InferResponse:
        values = request.tensor("values")
        if values is None:
            raise InvalidInput("input 'values' is missing", param="values")
        pause_s = float(request.parameters.get("pause_s", 0))
        try:
            await asyncio.sleep(pause_s)
        except asyncio.CancelledError:
            self.cancelled.append(context.request_id)
            raise
        context.server_timing["pause"] = pause_s * 1000
        echo = Tensor("values", "INT32", values.shape, values.data)
        return InferResponse(context.model_name, self.version, [echo], request.id)

    async def stream_infer(self, request: InferRequest, context: RequestContext) -> AsyncIterator[InferResponse]:
        try:
            for _ in range(int(request.parameters.get("count", 3))):
                yield await self.infer(request, context)
        except GeneratorExit:
            self.cancelled.append(context.request_id)
            raise

    def routes(self) -> Sequence[Route]:
        return [
            Route("POST", "/v2/models/{model_name}/generate_stream", self.generate_stream),
            Route("GET", "/v2/cancelled", self.list_cancelled, counted=False),
            Route("POST", "/openai/v1/fail", self.fail),
        ]

    async def generate_stream(self, context: RequestContext) -> Stream:
        return Stream(self._events(context))

    async def _events(self, context: RequestContext) -> AsyncIterator[bytes]:
        wanted = json.loads(context.body)
        try:
            for number in range(wanted["count"]):
                if number == wanted.get("fail_at"):
                    raise from_status(wanted.get("status", 503), "told to fail", 3)
                if number == wanted.get("break_at"):
                    raise RuntimeError("a secret detail")
                context.server_timing["prefill"] = 1.5
                yield b"data: %d\n\n" % number
                await asyncio.sleep(wanted.get("pause_s", 0))
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.append(context.request_id)
            raise

    async def list_cancelled(self, context: RequestContext) -> Reply:
        return Reply(json.dumps(self.cancelled).encode())

    async def fail(self, context: RequestContext) -> Reply:
        error: PilotlightError = from_status(json.loads(context.body)["status"], "told to fail", 2)
        error.param = "status"
        raise error

    def openapi(self) -> Mapping[str, Any]:
        return {}

    async def load(self) -> None:
        self.is_ready = True

    async def unload(self) -> None:
        self.is_ready = False

    async def metrics(self) -> bytes:
        return b"# HELP counter_things Things\n# TYPE counter_things counter\ncounter_things 3\n"
