"""A text whose tokenizer and templates are in a worker: what a server asks of it, by the seams it knows."""

from __future__ import annotations

from typing import Any

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.templates.chat_template import refused, too_long
from pilotlight_text.templates.limited_process import MIB, ProcessLimits
from pilotlight_text.templates.template_sources import TemplateSource
from pilotlight_text.templates.template_workers import RENDER_LIMITS
from pilotlight_text.templates.worker_main import TEXT, TOO_LONG, UNKNOWN
from pilotlight_text.text_workers.text_worker import TextWorker
from pilotlight_text.text_workers.worker_jobs import NO_ROOM, RENDER, TOKENIZE
from pilotlight_text.text_workers.worker_room import MOST_OF_ONE
from pilotlight_text.tokenization.text_encoder import JobEncoder, tokenizer_fails
from pilotlight_text.tokenization.tokenizer_jobs import Ids, Job, NoRoom, Rows, Shortened, Starts, TokenRow

BYTES_PER_CPU_S = 200_000
"""Slow tokenizers read a million bytes a second, on a slow machine."""
MEMORY_PER_BYTE = 256
"""130 were measured."""

_encode = msgspec.msgpack.Encoder().encode
_encode_json = msgspec.json.Encoder().encode
_decode = {
    Ids: msgspec.msgpack.Decoder(list[list[int]]).decode,
    Starts: msgspec.msgpack.Decoder(list[int]).decode,
    Rows: msgspec.msgpack.Decoder(list[TokenRow]).decode,
    Shortened: msgspec.msgpack.Decoder(list[str]).decode,
}


def tokenizer_limits(job_bytes: int) -> ProcessLimits:
    """Of a text of so many bytes."""
    cpu_s = 1.0 + job_bytes / BYTES_PER_CPU_S
    memory_bytes = min(128 * MIB + MEMORY_PER_BYTE * job_bytes, MOST_OF_ONE.memory_bytes)
    return ProcessLimits(cpu_s, 5.0 + 3 * cpu_s, memory_bytes)


class WorkerEncoder(JobEncoder):
    """Implements `TextEncoder`. `close` ends the worker."""

    def __init__(self, worker: TextWorker) -> None:
        self._worker = worker

    async def done(self, job: Job) -> Any:
        try:
            encoded = _encode(job)
        except UnicodeEncodeError as error:  # half a surrogate pair is no text
            raise tokenizer_fails() from error
        answer = await self._worker.ask(TOKENIZE, encoded, tokenizer_limits(len(encoded)), "tokenizer")
        if answer[:1] == TEXT:
            try:
                return _decode[type(job)](memoryview(answer)[1:])
            except msgspec.MsgspecError as error:
                raise tokenizer_fails() from error
        if answer[:1] == NO_ROOM:
            raise NoRoom
        raise tokenizer_fails()

    def close(self) -> None:
        self._worker.close()


class WorkerTemplates:
    """Implements `chat_template.TemplateRunner`."""

    def __init__(self, worker: TextWorker) -> None:
        self._worker = worker

    async def render(self, template: TemplateSource, context: bytes, max_chars: int) -> str:
        answer = await self._answer(template, b'"max_chars":%d,"context":%s' % (max_chars, context))
        if answer[:1] == TOO_LONG:
            raise too_long(max_chars)
        return _text(answer).decode()

    async def probe(self, template: TemplateSource, special_tokens: bytes) -> bytes:
        return _text(await self._answer(template, b'"probe":%s' % special_tokens))

    async def _answer(self, template: TemplateSource, asked: bytes) -> bytes:
        job = b'{"template":"%s",%s' % (template.digest.encode(), asked)
        answer = await self._ask(job + b"}")
        if answer == UNKNOWN:  # it keeps a few
            answer = await self._ask(b'%s,"source":%s}' % (job, _encode_json(template.source)))
        return answer

    async def _ask(self, job: bytes) -> bytes:
        try:
            return await self._worker.ask(RENDER, job, RENDER_LIMITS, "chat template")
        except InvalidInput as error:
            error.param = "messages"
            raise


def _text(answer: bytes) -> bytes:
    if answer[:1] != TEXT:
        raise refused(answer[1:].decode("utf-8", "replace"))
    return answer[1:]
