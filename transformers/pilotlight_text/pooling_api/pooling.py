"""Rows to vectors: many at a time, bounded, in order; and what a handler needs around that."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence

from pilotlight_protocol.errors import InvalidInput, PayloadTooLarge
from pilotlight_protocol.pooling import PoolingParameters, PoolingTask, not_pooling
from pilotlight_text.pooling_api.answers import PromptUsage
from pilotlight_text.pooling_api.rows import Cut, RowMaker
from pilotlight_text.pooling_source import PooledAnswer, PoolingCall, PoolingRow
from pilotlight_text.text_model import TextModel, add_facts
from pilotlight_text.tokenization.pooling_traits import PoolingTraits
from pilotlight_text.tokenization.tokenizer_jobs import Side
from pilotlight_wire.handlers import RequestContext
from pilotlight_wire.request_time import passed_on

ROWS_AT_ONCE = 32
CALLS_AT_ONCE = 2
MOST_VALUES = 2**22
"""Numbers in one answer: 16 MiB of float32, several times that as text."""


class Pooling:
    """One request to a pooling model: `model` is what is served, `name` what the client called it."""

    def __init__(self, model: TextModel, context: RequestContext, name: str | None) -> None:
        self.name = name if name is not None else model.name
        model.require_name(self.name)
        self._model = model
        self._context = context
        self._loaded = model.loaded()
        traits = self._loaded.pooling
        if traits is None:
            raise not_pooling()
        self.traits: PoolingTraits = traits

    def require(self, task: PoolingTask) -> None:
        """Raises InvalidInput where the model does something else."""
        if self.traits.task != task:
            does = "embeddings" if self.traits.task == "embed" else "scores of pairs: use /openai/v1/rerank or /score"
            raise InvalidInput(f"this model makes {does}", param="model")

    def rows(self, cut_to: int | None, side: Side | None) -> RowMaker:
        """Raises InvalidInput for a length that is longer than the model's."""
        return RowMaker(self._loaded, self.traits, Cut(cut_to, side or "right"))

    async def vectors(self, rows: Sequence[PoolingRow], parameters: PoolingParameters) -> list[bytes]:
        """FP32 little-endian, in the order of `rows`. The first failure ends all."""
        chunks = [rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE)]
        first = await self._pool(0, chunks[0], parameters)
        values = len(rows) * len(first.vectors[0]) // 4
        if values > MOST_VALUES:
            raise PayloadTooLarge(f"the answer would have {values} numbers, of at most {MOST_VALUES}: send fewer")
        places = asyncio.Semaphore(CALLS_AT_ONCE)

        async def one(number: int, chunk: Sequence[PoolingRow]) -> PooledAnswer:
            async with places:
                return await self._pool(number, chunk, parameters)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(number, chunk)) for number, chunk in enumerate(chunks[1:], 1)]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [vector for answer in (first, *(task.result() for task in tasks)) for vector in answer.vectors]

    async def _pool(self, number: int, rows: Sequence[PoolingRow], parameters: PoolingParameters) -> PooledAnswer:
        request_id = self._context.request_id if number == 0 else f"{self._context.request_id}-{number}"
        headers = passed_on(self._context)
        answer = await self._model.pool(PoolingCall(self.name, request_id, rows, parameters, headers))
        add_facts(self._context, [answer.facts])
        return answer


def usage_of(rows: Sequence[PoolingRow]) -> PromptUsage:
    tokens = sum(len(row.input_ids) for row in rows)
    return PromptUsage(tokens, tokens)


def floats(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


Clock = Callable[[], float]
"""Unix seconds, for `created`."""
