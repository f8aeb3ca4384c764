"""Loads texts with threads: reads an endpoint's tokenizer files, hashes them, and makes codec and template of them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import msgspec

from pilotlight_gateway.short_way.text_cache import UnloadedText
from pilotlight_protocol.endpoint_directory import TextFiles
from pilotlight_protocol.errors import Unavailable
from pilotlight_text.answer_parts.format_choice import NamedParsers
from pilotlight_text.templates.template_workers import TemplateWorkers
from pilotlight_text.text_model import LoadedText
from pilotlight_text.tokenization.text_loading import TextFilesRead, read_text_files, text_of
from pilotlight_text.tokenization.tokenizer_files import TokenizerFilesError

BYTES_PER_FILE_BYTE = 12
"""What a loaded tokenizer takes of memory, for each byte of its tokenizer.json."""

_T = TypeVar("_T")
_log = logging.getLogger("pilotlight.gateway.text")


class ThreadedLoader:
    """Implements `text_cache.TextLoader`. `environment`: the store's."""

    def __init__(self, templates: TemplateWorkers, environment: Mapping[str, str]) -> None:
        self._templates = templates
        self._environment = environment
        self._reading = ThreadPoolExecutor(4, thread_name_prefix="read-text")
        self._making = ThreadPoolExecutor(1, thread_name_prefix="load-text")

    async def read(self, files: TextFiles) -> UnloadedText:
        found = await self._in(
            self._reading, lambda: read_text_files(files.model_uri, self._environment, files.adapter_uri)
        )
        parsers = NamedParsers(files.tool_parser, files.reasoning_parser)
        digest = await self._in(self._reading, lambda: _digest(found, files.max_model_len, parsers))

        async def load() -> LoadedText:
            text = await self._in(self._making, lambda: text_of(found, files.max_model_len, self._templates, parsers))
            if text.template.needs_worker:
                self._templates.warm_up()
            return text

        return UnloadedText(digest, BYTES_PER_FILE_BYTE * _tokenizer_bytes(found), load)

    async def _in(self, executor: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, work)
        except TokenizerFilesError as error:
            _log.warning("%s", error)
            raise Unavailable(
                "the model's tokenizer files cannot be used; its owner has to mend them", retry_after_s=30
            ) from error

    def close(self) -> None:
        self._reading.shutdown(wait=False, cancel_futures=True)
        self._making.shutdown(wait=False, cancel_futures=True)


def _tokenizer_bytes(found: TextFilesRead) -> int:
    return len(found.base.tokenizer_json) + (len(found.adapter.tokenizer_json) if found.adapter is not None else 0)


def _digest(found: TextFilesRead, max_model_len: int | None, parsers: NamedParsers) -> str:
    digest = hashlib.sha256(found.base.tokenizer_json)
    adapter = found.adapter
    if adapter is not None:
        digest.update(hashlib.sha256(adapter.tokenizer_json).digest())
        adapter = replace(adapter, tokenizer_json=b"")
    base = replace(found.base, tokenizer_json=b"")
    digest.update(msgspec.json.encode((base, adapter, max_model_len, parsers)))
    return digest.hexdigest()
