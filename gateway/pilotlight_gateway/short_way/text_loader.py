"""Loads texts: reads an endpoint's tokenizer files and hashes them in threads, and has a worker load them.

Nothing of a tenant's tokenizer or template is parsed in this process but what its tokens are.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import msgspec

from pilotlight_gateway.short_way.text_cache import TextRefused, UnloadedText
from pilotlight_protocol.endpoint_directory import TextFiles
from pilotlight_text.answer_parts.format_choice import NamedParsers
from pilotlight_text.text_workers.loading import WorkerText, text_in_worker
from pilotlight_text.text_workers.text_worker import LoadRefused
from pilotlight_text.text_workers.worker_room import WorkerRoom
from pilotlight_text.tokenization.text_loading import TextFilesRead, read_text_files
from pilotlight_text.tokenization.tokenizer_files import TokenizerFilesError

_T = TypeVar("_T")
_log = logging.getLogger("pilotlight.gateway.text")


class WorkerLoader:
    """Implements `text_cache.TextLoader`. `environment`: the store's."""

    def __init__(self, room: WorkerRoom, environment: Mapping[str, str]) -> None:
        self._room = room
        self._environment = environment
        self._reading = ThreadPoolExecutor(4, thread_name_prefix="read-text")

    async def read(self, files: TextFiles) -> UnloadedText:
        found = await self._in_thread(lambda: read_text_files(files.model_uri, self._environment, files.adapter_uri))
        parsers = NamedParsers(files.tool_parser, files.reasoning_parser)
        digest = await self._in_thread(lambda: _digest(found, files.max_model_len, parsers))

        async def load() -> WorkerText:
            with _told():
                return await text_in_worker(found, files.max_model_len, parsers, self._room)

        return UnloadedText(digest, load)

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        with _told():
            return await asyncio.get_running_loop().run_in_executor(self._reading, work)

    async def close(self) -> None:
        self._reading.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What is wrong with the files, for a client: what names a path of this machine stays in the log."""
    try:
        yield
    except TokenizerFilesError as error:
        _log.warning("%s", error)
        why = f": {error}" if isinstance(error, LoadRefused) else ""
        raise TextRefused(
            f"the model's tokenizer files cannot be used; its owner has to mend them{why}", retry_after_s=30
        ) from error


def _digest(found: TextFilesRead, max_model_len: int | None, parsers: NamedParsers) -> str:
    digest = hashlib.sha256(found.base.tokenizer_json)
    adapter = found.adapter
    if adapter is not None:
        digest.update(hashlib.sha256(adapter.tokenizer_json).digest())
        adapter = replace(adapter, tokenizer_json=b"")
    base = replace(found.base, tokenizer_json=b"")
    digest.update(msgspec.json.encode((base, adapter, max_model_len, parsers)))
    return digest.hexdigest()
