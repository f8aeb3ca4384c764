"""The token source of one endpoint: who may ask, whether there is room, what the engine calls the model, what it took.

It stands on a source over leased engines and does what a predictor does before that: it checks a request against the
engine's own bounds, and promises the engine no more than it holds. It must not see text.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pilotlight_engine.admission import EngineQueue, QueueLimits, RequestLimits, Rest, fit, fit_pooling
from pilotlight_engine.contract import EngineInfo, EngineStats
from pilotlight_engine.leasing.engine_holder import EngineHolder
from pilotlight_gateway.metering import usage_now
from pilotlight_gateway.metrics import PROMISED
from pilotlight_gateway.request_steps import TokenUsage
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.generation import TokenEvent
from pilotlight_protocol.pooling import check_pooling, not_generating, not_pooling
from pilotlight_text.token_source import AnswerFacts, TokenRequest, TokenSource, TokenStream
from pilotlight_wire.engine_parameters import for_engine
from pilotlight_wire.hop_headers import output_tokens_of

if TYPE_CHECKING:
    from pilotlight_text.pooling_source import PooledAnswer, PoolingCall


class AdmittedSource:
    """Implements `TokenSource`. `engine_names`: what clients call the model and its adapters, to the engine's names."""

    def __init__(
        self,
        holder: EngineHolder,
        engines: TokenSource,
        engine_names: Mapping[str, str],
        request_limits: RequestLimits,
        queue_limits: QueueLimits,
    ) -> None:
        self._holder = holder
        self._engines = engines
        self._engine_names = engine_names
        self._limits = request_limits
        self._most_waiting = queue_limits.max_queue
        self._queue = EngineQueue(queue_limits, time.monotonic, PROMISED)
        self._waiting = 0

    async def stream(self, request: TokenRequest) -> TokenStream:
        with contextlib.ExitStack() as held:
            (info, stats), waited_s = await self._measures()
            if info.pooling is not None:
                raise not_generating(info.pooling.task)
            prompts = [request.input_ids]
            asked = for_engine(request.parameters, request.metadata)
            rest = Rest.of(output_tokens_of(request.metadata), info)
            parameters = fit(prompts, asked, self._limits, info.vocab_size, info.max_model_len, rest)
            held.enter_context(self._queue.place(info, stats, prompts, parameters))
            name = self._engine_names[request.model_name]
            stream = await self._engines.stream(replace(request, model_name=name, parameters=parameters))
            return _Admitted(stream, _with_lease(stream.facts, waited_s), held.pop_all(), self._queue, usage_now())

    async def pool(self, call: PoolingCall) -> PooledAnswer:
        (info, stats), _ = await self._measures()
        if info.pooling is None:
            raise not_pooling()
        check_pooling(call.parameters, info.pooling)
        prompts = [row.input_ids for row in call.rows]
        fit_pooling(prompts, self._limits, info.vocab_size, info.max_model_len)
        parameters = for_engine(call.parameters, call.metadata)
        name = self._engine_names[call.model_name]
        with self._queue.pooling_place(info, stats, prompts):
            answer = await self._engines.pool(replace(call, model_name=name, parameters=parameters))
        usage_now().prompt_tokens += sum(map(len, prompts))
        return answer

    async def close(self) -> None:
        await self._engines.close()

    async def _measures(self) -> tuple[tuple[EngineInfo, EngineStats], float]:
        """What requests are measured by, and how long the endpoint's first engine was waited for."""
        try:
            return self._holder.measures(), 0.0
        except Unavailable:
            if self._waiting >= self._most_waiting:
                raise
        asked_at = time.perf_counter()
        self._waiting += 1
        try:
            with self._holder.work():
                await self._holder.engine(self._holder.first_wait_s)
        finally:
            self._waiting -= 1
        return self._holder.measures(), time.perf_counter() - asked_at


class _Admitted:
    """A stream that holds its place until it is closed, and counts what passes."""

    def __init__(
        self,
        stream: TokenStream,
        facts: AnswerFacts,
        place: contextlib.ExitStack,
        queue: EngineQueue,
        usage: TokenUsage,
    ) -> None:
        self.facts = facts
        self._stream = stream
        self._place = place
        self._queue = queue
        self._usage = usage
        self._tokens = 0
        self._choices: set[int] = set()

    async def events(self) -> list[TokenEvent]:
        events = await self._stream.events()
        tokens = 0
        for event in events:
            tokens += len(event.output_ids)
            if event.prompt_tokens is not None:
                self._usage.prompt_tokens += event.prompt_tokens
                self._usage.cached_tokens += event.cached_tokens or 0
            if event.finish_reason is not None:
                self._choices.add(event.index)
        self._usage.output_tokens += tokens
        self._tokens += tokens
        return events

    async def close(self) -> None:
        self._place.close()
        if self._choices:
            self._queue.completed(self._tokens // len(self._choices))
            self._choices.clear()
        await self._stream.close()


def _with_lease(facts: AnswerFacts, waited_s: float) -> AnswerFacts:
    if not waited_s:
        return facts
    return AnswerFacts({"lease": waited_s * 1000, **facts.phases_ms}, facts.metadata)
