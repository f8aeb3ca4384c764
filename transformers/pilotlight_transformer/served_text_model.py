"""The transformer as the serving shell's ServedModel: what it says of itself, and loading its files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any

from pilotlight_protocol.errors import Unavailable
from pilotlight_text.served_text import ServedText
from pilotlight_text.templates.template_workers import TemplateWorkers
from pilotlight_text.text_model import LoadedText, TextModel
from pilotlight_text.token_source import TokenSource
from pilotlight_text.tokenization.text_loading import load_text
from pilotlight_text.tokenization.tokenizer_files import TokenizerFilesError
from pilotlight_transformer.settings import TransformerSettings
from pilotlight_wire.openapi_operations import ModelNames

_log = logging.getLogger("pilotlight.transformer")


class ServedTextModel(ServedText):
    """`source` and `templates` are closed when `lifespan` ends."""

    def __init__(self, settings: TransformerSettings, source: TokenSource, templates: TemplateWorkers) -> None:
        self._templates = templates
        self._settings = settings
        self._source = source
        super().__init__(TextModel((settings.model_name, *settings.lora_names), source), "pilotlight_transformer")
        self.load_failed = False

    def openapi(self) -> Mapping[str, Any]:
        from pilotlight_text.openapi.text_openapi import text_openapi  # not before somebody asks for it

        return text_openapi(ModelNames.of(self))

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
                    settings.adapter_uri,
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
