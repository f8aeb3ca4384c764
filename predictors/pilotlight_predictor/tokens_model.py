"""The predictor's model: tokens in, tokens out, over an engine. What the serving shell plugs in.

One request reads: `admission` (what may be asked, whether there is room) -> `resumed_generation` (the engine, and the
next one) -> `protocol/generation` or `token_tensors` (how it is answered). When the client goes, closing the iterator
aborts.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pilotlight_engine.admission import EngineQueue, QueueLimits, RequestLimits, Rest, fit, fit_pooling
from pilotlight_engine.contract import EngineInfo, GenerateRequest, PoolRequest
from pilotlight_engine.leasing.engine_holder import EngineHolder
from pilotlight_engine.leasing.resume import ResumeLimits
from pilotlight_engine.leasing.resumed_generation import Generator
from pilotlight_predictor.pooling_tensors import INPUTS as POOLING_INPUTS
from pilotlight_predictor.pooling_tensors import outputs, pool_prompts, vector_tensors
from pilotlight_predictor.predictor_metrics import PROMISED
from pilotlight_predictor.token_parameters import parameters_from, tokens_only, v2_parameters
from pilotlight_predictor.token_tensors import (
    INPUT_IDS,
    INPUT_LENGTHS,
    Completion,
    delta_tensors,
    generate_reply,
    output_tensors,
    prompts_from,
)
from pilotlight_protocol.errors import InvalidInput, ModelNotFound, PilotlightError, Unavailable
from pilotlight_protocol.generation import EventFormatter, GenerationParameters, decode_generate
from pilotlight_protocol.pooling import (
    PoolingInfo,
    check_pooling,
    not_generating,
    not_pooling,
    parse_pooling_parameters,
)
from pilotlight_protocol.v2 import InferRequest, InferResponse
from pilotlight_wire.engine_parameters import for_engine
from pilotlight_wire.handlers import ModelMetadata, Reply, RequestContext, Route, Stream, TensorMetadata
from pilotlight_wire.hop_headers import output_tokens_of

if TYPE_CHECKING:
    from pilotlight_predictor.tokens_endpoint import TokensEvents

_INPUTS = (TensorMetadata(INPUT_IDS, "INT32", (-1, -1)), TensorMetadata(INPUT_LENGTHS, "INT32", (-1,)))
_OUTPUTS = (
    TensorMetadata("output_ids", "INT32", (-1, -1)),
    TensorMetadata("output_lengths", "INT32", (-1,)),
    TensorMetadata("finish_reason", "BYTES", (-1,)),
)
PLATFORM = "vllm_tokens"
T = TypeVar("T")


class TokensModel:
    """Implements `pilotlight_wire.handlers.ServedModel`. `loras`: adapters that are served under their own names."""

    version = "1"

    def __init__(
        self,
        name: str,
        holder: EngineHolder,
        request_limits: RequestLimits,
        queue_limits: QueueLimits,
        loras: Sequence[str] = (),
        resume_limits: ResumeLimits | None = None,
    ) -> None:
        self.name = name
        self._holder = holder
        self._generator = Generator(holder, resume_limits or ResumeLimits())
        self._limits = request_limits
        self._queue = EngineQueue(queue_limits, time.monotonic, PROMISED)
        self._loras = tuple(loras)
        self._numbers = itertools.count(1)

    def metadata(self) -> ModelMetadata:
        """Before the first engine has said otherwise, a model is one that generates."""
        pooling = self._pooling()
        if pooling is not None:
            return ModelMetadata(self.name, (self.version,), PLATFORM, POOLING_INPUTS, outputs(pooling))
        return ModelMetadata(self.name, (self.version,), PLATFORM, _INPUTS, _OUTPUTS)

    def ready(self) -> bool:
        return self._holder.ready

    def why_not_ready(self) -> Unavailable:
        return self._holder.why_not_held()

    def names(self) -> Sequence[str]:
        return (self.name, *self._loras)

    def serves(self, model_name: str) -> bool:
        return model_name == self.name or model_name in self._loras

    def routes(self) -> Sequence[Route]:
        routes = []
        for model in ("/v2/models/{model_name}", "/v2/models/{model_name}/versions/{version}"):
            routes.append(Route("POST", model + "/generate", self.generate))
            routes.append(Route("POST", model + "/generate_stream", self.generate_stream))
        return [*routes, Route("POST", "/inference/v1/generate", self.generate_tokens)]

    def openapi(self) -> Mapping[str, Any]:
        from pilotlight_predictor.predictor_openapi import predictor_openapi  # not before somebody asks for it

        return predictor_openapi(self)

    async def load(self) -> None:
        await self._holder.load()

    async def unload(self) -> None:
        await self._holder.unload()

    async def metrics(self) -> bytes:
        """vLLM's families, names unchanged; none while no engine is held."""
        engine = await self._holder.engine()
        return await engine.metrics()

    async def infer(self, request: InferRequest, context: RequestContext) -> InferResponse:
        """Tokens to tokens; of a pooling model, tokens to a vector per row."""
        info, _ = self._holder.measures()
        if info.pooling is not None:
            return await self._pool(request, info, info.pooling, context)
        if "task" in request.parameters:
            raise not_pooling()
        prompts = prompts_from(request, self._limits.max_batch)
        parameters = self._fit(prompts, parameters_from(request.parameters))
        with self._place(prompts, parameters):
            completions = await self._complete_all(prompts, parameters, context)
        return InferResponse(context.model_name, self.version, output_tensors(completions), request.id)

    async def stream_infer(self, request: InferRequest, context: RequestContext) -> AsyncIterator[InferResponse]:
        """One response per delta with one row each; with n > 1 the parameter `index` tells the choice."""
        prompts = prompts_from(request, self._limits.max_batch)
        if len(prompts) > 1:
            raise InvalidInput(f"a stream takes one prompt, not a batch of {len(prompts)}", param=INPUT_IDS)
        parameters = self._fit(prompts, parameters_from(request.parameters), output_tokens_of(context.headers))
        with self._place(prompts, parameters):
            generate = self._request(prompts[0], parameters, context)
            async with contextlib.aclosing(self._generator.generate(generate, context)) as stream:
                async for deltas in stream:
                    for delta in deltas:
                        yield InferResponse(
                            context.model_name, self.version, delta_tensors(delta), request.id, {"index": delta.index}
                        )

    async def generate(self, context: RequestContext) -> Reply:
        body = decode_generate(context.body)
        prompts = [body.input_ids]
        parameters = self._fit(prompts, parameters_from(body.parameters))
        with self._place(prompts, parameters):
            (completion,) = await self._complete_all(prompts, parameters, context)
        return Reply(generate_reply(context.model_name, self.version, body.id or context.request_id, completion))

    async def generate_stream(self, context: RequestContext) -> Stream:
        body = decode_generate(context.body)
        parameters = self._fit([body.input_ids], parameters_from(body.parameters), output_tokens_of(context.headers))
        request = self._request(body.input_ids, parameters, context)
        formatter = EventFormatter(context.model_name, self.version, body.id or context.request_id, parameters.n)
        return Stream(self._events(request, formatter, context))

    async def generate_tokens(self, context: RequestContext) -> Reply | Stream:
        """vLLM's tokens in, tokens out; what it is made of is imported when somebody asks."""
        from pilotlight_predictor import tokens_endpoint
        from pilotlight_protocol.tokens_api import decode_generate_tokens, parameters_of

        body = decode_generate_tokens(context.body)
        name = body.model or self.name
        if not self.serves(name):
            raise ModelNotFound(f"there is no model '{name[:64]}' here; this server has {', '.join(self.names())}")
        context.model_name = name
        parameters = self._fit([body.token_ids], tokens_only(parameters_of(body)))
        request_id = f"generate-tokens-{body.request_id or context.request_id}"
        if body.stream:
            request = self._request(body.token_ids, parameters, context)
            return Stream(self._events(request, tokens_endpoint.TokensEvents(body, request_id, parameters.n), context))
        with self._place([body.token_ids], parameters):
            (completion,) = await self._complete_all([body.token_ids], parameters, context)
        return Reply(tokens_endpoint.whole_answer(body, request_id, name, int(time.time()), completion))

    async def _events(
        self, request: GenerateRequest, formatter: EventFormatter | TokensEvents, context: RequestContext
    ) -> AsyncIterator[bytes]:
        tokens = 0
        with self._place([request.prompt_token_ids], request.parameters):
            async with contextlib.aclosing(self._generator.generate(request, context)) as stream:
                async for deltas in stream:
                    for delta in deltas:
                        tokens += len(delta.token_ids)
                    yield formatter.events(deltas)
        self._queue.completed(tokens // request.parameters.n)
        if end := formatter.end():
            yield end

    async def _pool(
        self, request: InferRequest, info: EngineInfo, pooling: PoolingInfo, context: RequestContext
    ) -> InferResponse:
        rows = pool_prompts(request, self._limits.max_batch)
        parameters = parse_pooling_parameters(v2_parameters(request.parameters))
        check_pooling(parameters, pooling)
        parameters = for_engine(parameters, context.headers)
        prompts = [prompt for prompt, _ in rows]
        fit_pooling(prompts, self._limits, info.vocab_size, info.max_model_len)
        traceparent = context.headers.get("traceparent")
        requests = [
            PoolRequest(f"{context.request_id}-{next(self._numbers)}", prompt, parameters, start, traceparent)
            for prompt, start in rows
        ]
        with self._queue.pooling_place(*self._holder.measures(), prompts):
            vectors = await self._all([self._generator.pool(each, context) for each in requests])
        told = {"prompt_tokens": sum(map(len, prompts)), "cached_tokens": sum(each.cached_tokens for each in vectors)}
        return InferResponse(context.model_name, self.version, vector_tensors(vectors, pooling), request.id, told)

    def _pooling(self) -> PoolingInfo | None:
        try:
            return self._holder.measures()[0].pooling
        except Unavailable:
            return None

    def _fit(
        self, prompts: Sequence[Sequence[int]], parameters: GenerationParameters, output_tokens: int = 0
    ) -> GenerationParameters:
        info, _ = self._holder.measures()
        if info.pooling is not None:
            raise not_generating(info.pooling.task)
        rest = Rest.of(output_tokens, info)
        return fit(prompts, parameters, self._limits, info.vocab_size, info.max_model_len, rest)

    def _place(
        self, prompts: Sequence[Sequence[int]], parameters: GenerationParameters
    ) -> contextlib.AbstractContextManager[None]:
        info, stats = self._holder.measures()
        return self._queue.place(info, stats, prompts, parameters)

    def _request(self, prompt: list[int], parameters: GenerationParameters, context: RequestContext) -> GenerateRequest:
        lora = None if context.model_name == self.name else context.model_name
        # A client may send the same x-request-id twice at once; the engine must tell its requests apart.
        request_id = f"{context.request_id}-{next(self._numbers)}"
        headers = context.headers
        parameters, rest = for_engine(parameters, headers), output_tokens_of(headers)
        return GenerateRequest(request_id, prompt, parameters, lora, headers.get("traceparent"), rest)

    async def _complete_all(
        self, prompts: Sequence[list[int]], parameters: GenerationParameters, context: RequestContext
    ) -> list[Completion]:
        requests = [self._request(prompt, parameters, context) for prompt in prompts]
        return await self._all([self._complete(request, context) for request in requests])

    async def _all(self, rows: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """Their results in order; the first failure ends all."""
        if len(rows) == 1:
            return [await rows[0]]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(row) for row in rows]
        except* PilotlightError as failures:
            raise _first(failures) from None
        return [task.result() for task in tasks]

    async def _complete(self, request: GenerateRequest, context: RequestContext) -> Completion:
        completion = Completion(request)
        async with contextlib.aclosing(self._generator.generate(request, context)) as stream:
            async for deltas in stream:
                completion.add(deltas)
        self._queue.completed(completion.output_tokens // len(completion.choices))
        return completion


def _first(group: BaseExceptionGroup[PilotlightError]) -> PilotlightError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, PilotlightError)
    return error
