"""A text model as a server has it: what it says of itself, its routes, and V2's infer. No I/O is done here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pilotlight_protocol.answer_record import TELL
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.v2 import InferRequest, InferResponse
from pilotlight_text.anthropic_api.routes import messages_routes
from pilotlight_text.openai_api.routes import openai_routes
from pilotlight_text.pooling_api.routes import pooling_routes
from pilotlight_text.responses_api.routes import responses_routes
from pilotlight_text.split_api.routes import split_routes
from pilotlight_text.text_model import VERSION, TextModel
from pilotlight_text.tokenization_api.routes import tokenization_routes
from pilotlight_text.v2_api.handlers import V2Text
from pilotlight_text.v2_api.requests import FINISH_REASON, TEXT_INPUT, TEXT_OUTPUT
from pilotlight_wire.handlers import ModelMetadata, Reply, RequestContext, Route, Stream, TensorMetadata

if TYPE_CHECKING:
    from pilotlight_text.responses_api.response_store import ResponseStore


class ServedText:
    """The part of `ServedModel` that needs no files. `platform`: as V2's metadata names it. `stored`: where several
    models keep their responses; None for a place of its own."""

    def __init__(self, model: TextModel, platform: str, stored: ResponseStore | None = None) -> None:
        self._model = model
        self._platform = platform
        self._stored = stored
        self._v2 = V2Text(model)
        self.name = model.name
        self.version = VERSION

    def metadata(self) -> ModelMetadata:
        return ModelMetadata(
            name=self.name,
            versions=(VERSION,),
            platform=self._platform,
            inputs=(TensorMetadata(TEXT_INPUT, "BYTES", (-1,)),),
            outputs=self._outputs(),
        )

    def _outputs(self) -> tuple[TensorMetadata, ...]:
        pooling = self._model.loaded().pooling if self._model.is_loaded else None
        if pooling is None:
            return (TensorMetadata(TEXT_OUTPUT, "BYTES", (-1,)), TensorMetadata(FINISH_REASON, "BYTES", (-1,)))
        from pilotlight_text.pooling_api.v2 import outputs  # only where a model pools

        return outputs(pooling.task)

    def ready(self) -> bool:
        return self._model.is_loaded

    def why_not_ready(self) -> Unavailable:
        return self._model.why_not_loaded()

    def names(self) -> Sequence[str]:
        return self._model.names

    def serves(self, model_name: str) -> bool:
        return model_name in self._model.names

    async def infer(self, request: InferRequest, context: RequestContext) -> InferResponse:
        if self._model.loaded().pooling is not None:
            from pilotlight_text.pooling_api import v2  # only where a model pools

            return await v2.infer(self._model, request, context)
        return await self._v2.infer(request, context)

    def stream_infer(self, request: InferRequest, context: RequestContext) -> AsyncIterator[InferResponse]:
        return self._v2.stream_infer(request, context)

    def routes(self) -> Sequence[Route]:
        model = self._model
        openai = [*openai_routes(model), *responses_routes(model, stored=self._stored), *messages_routes(model)]
        streaming = [_telling(route) for route in (*self._v2.routes(), *openai)]
        return [*streaming, *tokenization_routes(model), *split_routes(model), *pooling_routes(model)]

    async def metrics(self) -> bytes:
        return b""


def _telling(route: Route) -> Route:
    """Where its answer is a stream, it is told of which tokens that is made, to whoever asks."""
    answer = route.handler

    async def handle(context: RequestContext) -> Reply | Stream:
        if TELL not in context.headers:
            return await answer(context)
        from pilotlight_text.resumption.told_answers import told  # only where a gateway asks

        return await told(answer, context)

    return replace(route, handler=handle) if route.method == "POST" else route
