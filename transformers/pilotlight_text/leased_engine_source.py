"""A source of tokens over an engine that this process leases itself: no server and no wire in between.

Responsible for requests to the engine and its deltas as events. Who may ask, and whether there is room, is decided
before (the predictor's admission, the gateway's); how an engine is got and replaced is the lease's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from pilotlight_engine.contract import GenerateRequest, PoolRequest
from pilotlight_engine.leasing.engine_holder import EngineHolder
from pilotlight_engine.leasing.resume import ResumeLimits
from pilotlight_engine.leasing.resumed_generation import Generator
from pilotlight_protocol.generation import TokenDelta, TokenEvent
from pilotlight_text.token_source import AnswerFacts, TokenRequest, TokenStream
from pilotlight_wire.handlers import RequestContext
from pilotlight_wire.hop_headers import output_tokens_of

if TYPE_CHECKING:
    from pilotlight_text.pooling_source import PooledAnswer, PoolingCall


class LeasedEngineSource:
    """A TokenSource over the engine that `holder` holds; `model_name` is its base model, other names are adapters."""

    def __init__(self, holder: EngineHolder, model_name: str, limits: ResumeLimits | None = None) -> None:
        self._generator = Generator(holder, limits or ResumeLimits())
        self._model_name = model_name
        self._numbers = itertools.count(1)

    async def stream(self, request: TokenRequest) -> TokenStream:
        # The engine must tell its requests apart, also two with one id.
        generate = GenerateRequest(
            f"{request.request_id}-{next(self._numbers)}",
            request.input_ids,
            request.parameters,
            None if request.model_name == self._model_name else request.model_name,
            request.metadata.get("traceparent"),
            output_tokens_of(request.metadata),
        )
        facts = RequestContext(request.request_id, request.metadata, model_name=request.model_name)
        stream = EngineTokenStream(self._generator.generate(generate, facts), facts)
        try:
            await stream.start()
        except BaseException:
            await stream.close()
            raise
        return stream

    async def pool(self, call: PoolingCall) -> PooledAnswer:
        from pilotlight_text.pooling_source import PooledAnswer  # only where a model pools

        facts = RequestContext(call.request_id, call.metadata, model_name=call.model_name)
        requests = [
            PoolRequest(
                f"{call.request_id}-{next(self._numbers)}",
                row.input_ids,
                call.parameters,
                row.pair_start,
                call.metadata.get("traceparent"),
            )
            for row in call.rows
        ]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._generator.pool(request, facts)) for request in requests]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        vectors = [task.result().values for task in tasks]
        return PooledAnswer(vectors, AnswerFacts(facts.server_timing, facts.response_headers))

    async def close(self) -> None:
        """The holder is its maker's."""


class EngineTokenStream:
    def __init__(self, deltas: AsyncGenerator[list[TokenDelta], None], facts: RequestContext) -> None:
        self.facts = AnswerFacts(facts.server_timing, facts.response_headers)
        self._deltas = deltas
        self._first: list[TokenDelta] = []

    async def start(self) -> None:
        """Wait for the first tokens, so that a refusal is raised while the client's answer has not started."""
        self._first = await anext(self._deltas, [])

    async def events(self) -> list[TokenEvent]:
        deltas, self._first = self._first or await anext(self._deltas, []), []
        return [_event(delta) for delta in deltas]

    async def close(self) -> None:
        with contextlib.suppress(StopAsyncIteration):
            await self._deltas.aclose()


def _event(delta: TokenDelta) -> TokenEvent:
    told = delta.prompt_tokens >= 0
    return TokenEvent(
        index=delta.index,
        output_ids=delta.token_ids,
        finish_reason=delta.finish_reason,
        stop_reason=delta.stop_reason,
        logprobs=delta.logprobs,
        prompt_tokens=delta.prompt_tokens if told else None,
        cached_tokens=max(0, delta.cached_tokens) if told else None,
        prompt_logprobs=delta.prompt_logprobs,
    )
