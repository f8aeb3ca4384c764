"""The transformer as the serving shell's ServedModel: what it says of itself, and loading its files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.v2 import InferRequest, InferResponse
from pilotlight_text.anthropic_api.routes import messages_routes
from pilotlight_text.openai_api.routes import openai_routes
from pilotlight_text.pooling_api.routes import pooling_routes
from pilotlight_text.responses_api.routes import responses_routes
from pilotlight_text.split_api.routes import split_routes
from pilotlight_text.templates.template_workers import TemplateWorkers
from pilotlight_text.text_model import VERSION, LoadedText, TextModel
from pilotlight_text.token_source import TokenSource
from pilotlight_text.tokenization.text_loading import load_text
from pilotlight_text.tokenization.tokenizer_files import TokenizerFilesError
from pilotlight_text.tokenization_api.routes import tokenization_routes
from pilotlight_text.v2_api.handlers import V2Text
from pilotlight_text.v2_api.requests import FINISH_REASON, TEXT_INPUT, TEXT_OUTPUT
from pilotlight_transformer.settings import TransformerSettings
from pilotlight_wire.handlers import ModelMetadata, RequestContext, Route, TensorMetadata

_log = logging.getLogger("pilotlight.transformer")


class ServedTextModel:
    """`source` and `templates` are closed when `lifespan` ends."""

    def __init__(self, settings: TransformerSettings, source: TokenSource, templates: TemplateWorkers) -> None:
        self._templates = templates
        self._settings = settings
        self._source = source
        self._model = TextModel((settings.model_name, *settings.lora_names), source)
        self._v2 = V2Text(self._model)
        self.name = settings.model_name
        self.version = VERSION
        self.load_failed = False

    def metadata(self) -> ModelMetadata:
        return ModelMetadata(
            name=self.name,
            versions=(VERSION,),
            platform="pilotlight_transformer",
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
        openai = [*openai_routes(model), *responses_routes(model), *messages_routes(model)]
        return [*self._v2.routes(), *openai, *tokenization_routes(model), *split_routes(model), *pooling_routes(model)]

    def openapi(self) -> Mapping[str, Any]:
        from pilotlight_transformer.openapi import openapi  # not before somebody asks for it

        return openapi(self)

    async def load(self) -> None:
        """Load the tokenizer and the template again. Raises Unavailable with what is wrong with the files."""
        settings = self._settings
        try:
            self._set_loaded(
                await asyncio.to_thread(
                    load_text,
                    settings.model_uri,
                    settings.max_model_len,
                    self._templates,
                    settings.environment,
                    settings.parsers,
                )
            )
        except Exception as error:
            raise Unavailable(self._told(error)) from error

    def _told(self, error: Exception) -> str:
        """The reason alone; where in the code it came up is told to who asks for DEBUG."""
        if isinstance(error, TokenizerFilesError):
            return str(error)
        _log.debug("loading the tokenizer failed", exc_info=error)
        return f"the tokenizer of {self.name} cannot be loaded: {type(error).__name__}: {error}"

    async def unload(self) -> None:
        self._set_loaded(None)

    def _set_loaded(self, loaded: LoadedText | None) -> None:
        if self._model.is_loaded:
            self._model.loaded().codec.close()
        self._model.set_loaded(loaded)

    async def metrics(self) -> bytes:
        return b""

    @asynccontextmanager
    async def lifespan(self, loading: Future[LoadedText], stop: Callable[[], None]) -> AsyncIterator[None]:
        """Takes what `loading` brings, or calls `stop` when it fails; closes the predictor's connections at the end."""
        taking = asyncio.create_task(self._take(loading, stop))
        try:
            yield
        finally:
            taking.cancel()
            self._set_loaded(None)
            await self._templates.close()
            await self._source.close()

    async def _take(self, loading: Future[LoadedText], stop: Callable[[], None]) -> None:
        try:
            loaded: LoadedText = await asyncio.wrap_future(loading)
            self._set_loaded(loaded)
        except Exception as error:
            _log.error("%s", self._told(error))  # the platform shows people the last lines, and clients the last
        else:
            if loaded.template.needs_worker:
                self._templates.warm_up()
            _log.info("the tokenizer and the chat template of %s are ready", self.name)
            await loaded.template.learn()
            return
        self.load_failed = True
        stop()
