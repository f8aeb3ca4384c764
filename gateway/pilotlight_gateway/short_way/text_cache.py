"""Texts that are loaded: shared by content, bounded in bytes of this process, loaded once for all who wait.

    its files' addresses known    ──▶ the loaded text       a dictionary look-up
    unknown ──▶ files read, hashed ──▶ equal to a loaded one, or loaded now

What is in use is never dropped; of what is not, the least recently used goes first. It must not know who asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from pilotlight_gateway.metrics import TEXT_BYTES, TEXTS
from pilotlight_protocol.endpoint_directory import TextFiles
from pilotlight_protocol.errors import Unavailable
from pilotlight_text.text_model import LoadedText
from pilotlight_text.text_workers.loading import WorkerText

MAX_BYTES = 256 * 1024 * 1024
REFUSED_S = 30.0

_log = logging.getLogger("pilotlight.gateway.text")


@dataclass(frozen=True, slots=True)
class UnloadedText:
    """Files that were read. `digest`: of all that a text is made of. `load` raises TextRefused, Unavailable."""

    digest: str
    load: Callable[[], Awaitable[WorkerText]]


class TextRefused(Unavailable):
    """What was read is no text, and would be none again."""


class TextLoader(Protocol):
    async def read(self, files: TextFiles) -> UnloadedText:
        """Off the loop. Raises Unavailable with what is wrong with the files."""
        ...


@dataclass(slots=True)
class _Cached:
    text: LoadedText
    size_bytes: int
    uses: int = 0


class TextCache:
    def __init__(self, loader: TextLoader, max_bytes: int = MAX_BYTES) -> None:
        self._loader = loader
        self._max_bytes = max_bytes
        self._digests: dict[TextFiles, str] = {}
        self._texts: OrderedDict[str, _Cached] = OrderedDict()
        self._bytes = 0
        self._refused: dict[str, tuple[float, TextRefused]] = {}
        self._loading: dict[str | TextFiles, asyncio.Task[str]] = {}

    @contextlib.asynccontextmanager
    async def text(self, files: TextFiles) -> AsyncIterator[LoadedText]:
        """The text of these files, which is not dropped inside. Raises what `TextLoader` does."""
        digest = self._digests.get(files)
        if digest is None or digest not in self._texts:
            digest = await self._joined(files, lambda: self._read(files))
        cached = self._texts[digest]
        cached.uses += 1
        self._texts.move_to_end(digest)
        try:
            yield cached.text
        finally:
            cached.uses -= 1
            self._make_room()

    def forget(self, files: TextFiles) -> None:
        """What was said of these addresses may be true no more; equal contents are found again by their digest."""
        self._digests.pop(files, None)

    async def close(self) -> None:
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        for cached in self._texts.values():
            cached.text.codec.close()
        self._texts.clear()

    async def _joined(self, key: str | TextFiles, work: Callable[[], Awaitable[str]]) -> str:
        """What is under way for `key`, or begun now; it goes on when those who wait for it leave."""
        task = self._loading.get(key)
        if task is None:

            async def run() -> str:
                try:
                    return await work()
                finally:
                    del self._loading[key]

            task = self._loading[key] = asyncio.create_task(run())
            task.add_done_callback(_look_at)
        digest = await asyncio.shield(task)
        if digest in self._texts:
            return digest
        return await self._joined(key, work)  # dropped before its turn came

    async def _read(self, files: TextFiles) -> str:
        unloaded = await self._loader.read(files)
        self._digests[files] = unloaded.digest
        if unloaded.digest in self._texts:
            TEXTS.labels("shared").inc()
            return unloaded.digest
        return await self._joined(unloaded.digest, lambda: self._load(unloaded))

    async def _load(self, unloaded: UnloadedText) -> str:
        self._refuse_again(unloaded.digest)
        try:
            loaded = await unloaded.load()
        except TextRefused as error:
            self._refused[unloaded.digest] = (asyncio.get_running_loop().time() + REFUSED_S, error)
            raise
        TEXTS.labels("loaded").inc()
        self._texts[unloaded.digest] = _Cached(loaded.text, loaded.size_bytes)
        self._bytes += loaded.size_bytes
        TEXT_BYTES.set(self._bytes)
        return unloaded.digest

    def _refuse_again(self, digest: str) -> None:
        """What could not be loaded a moment ago costs nobody another try. Raises Unavailable."""
        now_s = asyncio.get_running_loop().time()
        self._refused = {each: refusal for each, refusal in self._refused.items() if refusal[0] > now_s}
        if (refusal := self._refused.get(digest)) is not None:
            raise TextRefused(refusal[1].message, retry_after_s=refusal[1].retry_after_s)

    def _make_room(self) -> None:
        if self._bytes <= self._max_bytes:
            return
        for digest in [digest for digest, cached in self._texts.items() if not cached.uses]:
            if self._bytes <= self._max_bytes:
                break
            dropped = self._texts.pop(digest)
            dropped.text.codec.close()
            self._bytes -= dropped.size_bytes
            TEXTS.labels("dropped").inc()
        TEXT_BYTES.set(self._bytes)
        self._digests = {files: digest for files, digest in self._digests.items() if digest in self._texts}


def _look_at(task: asyncio.Task[str]) -> None:
    """Whoever waited is told; where all have left, nobody is."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.info("a text could not be loaded: %s", error)
