"""The record of one streamed answer: which tokens it is made of, told line by line, and replayed where it is continued.

Responsible for what is told and for the order of replay and rest. It must not know what the answer looks like.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque

from pilotlight_protocol.answer_record import (
    SEVERAL,
    Batch,
    Seed,
    TokenCounts,
    Told,
    batch_json,
    line,
    prompt_crc,
    prompt_line,
    time_line,
    tokens_line,
)
from pilotlight_protocol.errors import Unavailable
from pilotlight_text.resumption.rest_of_answer import Rest
from pilotlight_text.token_source import AnswerFacts, TokenRequest, TokenSource, TokenStream


class AnswerRecord:
    """Implements `current_record.Record`. `told`: of the answer that this one goes on with."""

    def __init__(self, seed: Seed, told: Told | None = None) -> None:
        self._seed = seed
        self._told = told
        self._times_s = deque(told.times_s if told is not None else ())
        self._names = 0
        self._streams = 0
        self._prompt_tokens = 0
        self._output_tokens = 0
        self._cached_tokens = 0
        self._lines: list[bytes] = []
        self._batches: list[bytes] = []

    def now_s(self) -> float:
        """The seed's until there are tokens; then what was said before, else what is said now and told."""
        if not self._output_tokens:
            return float(self._seed.created_s)
        if self._times_s:
            return float(self._times_s.popleft())
        now_s = int(time.time())
        self._lines.append(time_line(now_s))
        return float(now_s)

    def token(self, size_bytes: int) -> str:
        self._names += 1
        name = f"{self._seed.secret} {self._names}".encode()
        return hashlib.blake2b(name, digest_size=size_bytes).hexdigest()

    def drain(self) -> bytes:
        """The lines since the last time."""
        if not self._batches and not self._lines:
            return b""
        lines, self._lines = self._lines, []
        if self._batches:
            lines.append(
                tokens_line(TokenCounts(self._prompt_tokens, self._output_tokens, self._cached_tokens), self._batches)
            )
            self._batches.clear()
        return b"".join(lines)

    async def stream(self, source: TokenSource, request: TokenRequest) -> TokenStream:
        """As the source's, told. Raises Unavailable where it cannot go on with what was told."""
        self._streams += 1
        told = self._told
        if self._streams > 1:
            if told is not None:
                raise Unavailable(
                    "an answer of several generations cannot go on elsewhere; send it again", retry_after_s=0
                )
            self._lines.append(line(SEVERAL))
            return _Told(await source.stream(request), self)
        crc = prompt_crc(request.input_ids)
        if told is None or told.prompt is None:
            stream = await source.stream(request)
            self._lines.append(prompt_line(crc))
            return _Told(stream, self)
        if told.prompt != crc:
            raise Unavailable("the request's prompt is another one than when it began; send it again", retry_after_s=0)
        return _Replayed(told, Rest(source, request), self)

    def note(self, batch: Batch, *, is_new: bool) -> None:
        for event in batch:
            self._output_tokens += len(event.output_ids)
            if event.prompt_tokens is not None:
                self._prompt_tokens += event.prompt_tokens
                self._cached_tokens += event.cached_tokens or 0
        if is_new:
            self._batches.append(batch_json(batch))


class _Told:
    def __init__(self, stream: TokenStream, record: AnswerRecord) -> None:
        self.facts = stream.facts
        self._stream = stream
        self._record = record

    async def events(self) -> Batch:
        batch = await self._stream.events()
        if batch:
            self._record.note(batch, is_new=True)
        return batch

    async def close(self) -> None:
        await self._stream.close()


class _Replayed:
    """What was told, as it came; then the rest, which is not asked for before."""

    def __init__(self, told: Told, rest: Rest, record: AnswerRecord) -> None:
        self.facts = AnswerFacts()
        self._known = deque(told.batches)
        self._rest = rest
        self._record = record

    async def events(self) -> Batch:
        is_new = not self._known
        batch = await self._rest.events() if is_new else self._known.popleft()
        if not is_new:
            batch = self._rest.delivered(batch)
        self._record.note(batch, is_new=is_new)
        return batch

    async def close(self) -> None:
        await self._rest.close()
