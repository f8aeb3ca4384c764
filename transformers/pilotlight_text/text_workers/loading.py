"""From a model's files to a text whose tokenizer and templates are in a worker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from pilotlight_text.answer_parts.format_choice import NamedParsers
from pilotlight_text.detokenization.token_texts import PackedTexts
from pilotlight_text.templates.known_templates import KNOWN_DIGESTS
from pilotlight_text.text_model import LoadedText, TextCodec
from pilotlight_text.text_workers.text_worker import TextWorker
from pilotlight_text.text_workers.worker_jobs import LoadedTokens, TextSource
from pilotlight_text.text_workers.worker_room import WorkerRoom
from pilotlight_text.text_workers.worker_text import WorkerEncoder, WorkerTemplates
from pilotlight_text.tokenization.text_loading import TextFilesRead, loaded_text, sources_of

TABLES_PER_TOKEN = 100
"""Bytes of what a detokenizer remembers of each token, once all have been met."""


@dataclass(frozen=True, slots=True)
class WorkerText:
    """`size_bytes`: of this process's memory."""

    text: LoadedText
    size_bytes: int


async def text_in_worker(
    found: TextFilesRead, max_model_len: int | None, parsers: NamedParsers, room: WorkerRoom
) -> WorkerText:
    """Raises TokenizerFilesError, `LoadRefused` of them where a worker has looked; Unavailable (no room for one)."""
    files, adapter = found.base, found.adapter
    source = TextSource(files.tokenizer_json, {}, rows=files.vocab_size)
    if adapter is not None:
        from pilotlight_text.tokenization import adapter_files  # only where there is one

        brings = adapter.tokenizer_json not in (b"", files.tokenizer_json)
        source = msgspec.structs.replace(
            source,
            own_json=adapter.tokenizer_json if brings else b"",
            own_tokens=() if adapter.tokenizer_json else adapter.tokens,
            own_end=adapter_files.own_end(adapter, files),
        )
        files = adapter_files.with_template_of(adapter, files)
    sources = sources_of(files)
    unknown = {name: each.source for name, each in sources.items() if each.digest not in KNOWN_DIGESTS}
    encoded = await asyncio.to_thread(msgspec.msgpack.encode, msgspec.structs.replace(source, templates=unknown))
    worker = TextWorker(room, encoded)

    def made_of(loaded: LoadedTokens) -> LoadedText:
        length = max_model_len or files.context_length
        codec = TextCodec(WorkerEncoder(worker), PackedTexts(loaded.tokens), max_model_len=length)
        return loaded_text(files, sources, codec, WorkerTemplates(worker), parsers, loaded.end)

    try:
        loaded = await worker.load()
        made = await asyncio.to_thread(made_of, loaded)  # a known template is compiled there
    except BaseException:
        worker.close()
        raise
    tokens = len(loaded.tokens.ends) // 4
    return WorkerText(made, loaded.tokens.size_bytes + TABLES_PER_TOKEN * tokens + worker.kept_bytes)
