"""A fake engine behind the predictor's engine contract: counts up from the prompt's last token, one token per step.

Token ids with a meaning in a prompt: REFUSED makes the engine refuse the request, LOST makes it die after two tokens.
A completion that reaches EOS stops there.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncGenerator
from typing import cast

from pilotlight_engine.contract import Engine, EngineInfo, EngineStats, GenerateRequest, PooledVector, PoolRequest
from pilotlight_protocol.errors import InvalidInput, Unavailable
from pilotlight_protocol.generation import TokenDelta, TokenLogprob
from pilotlight_protocol.pooling import PoolingInfo, check_pooling, not_generating, not_pooling

VOCAB_SIZE = 1000
EOS = 999
REFUSED = 13
LOST = 14
VECTOR_SIZE = 4


def scripted_vector(request: PoolRequest) -> PooledVector:
    """[tokens, their sum, the last of them, where the second text of a pair begins or -1]."""
    ids, pair = request.prompt_token_ids, request.pair_start
    values = (len(ids), sum(ids), ids[-1], -1 if pair is None else pair)
    wanted = request.parameters.dimensions or VECTOR_SIZE
    return PooledVector(struct.pack("<4f", *values)[: 4 * wanted], len(ids))


def scripted_info(num_kv_blocks: int = 1000, pooling: PoolingInfo | None = None) -> EngineInfo:
    return EngineInfo(
        max_model_len=512,
        vocab_size=VOCAB_SIZE,
        eos_token_ids=[EOS],
        block_size=16,
        num_kv_blocks=num_kv_blocks,
        quantization="none",
        device="fake",
        boot_phases_s={"load": 0.5},
        pooling=pooling,
    )


class ScriptedEngine:
    def __init__(
        self,
        step_s: float = 0.0,
        num_kv_blocks: int = 1000,
        prefill_s: float = -1.0,
        pooling: PoolingInfo | None = None,
    ) -> None:
        self.info = scripted_info(num_kv_blocks, pooling)
        self.stats = EngineStats()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.step_s = step_s
        self.prefill_s = prefill_s
        self.seen: list[GenerateRequest] = []
        self.aborted: list[str] = []
        self.active = 0
        self.pooled: list[PoolRequest] = []

    async def pool(self, request: PoolRequest) -> PooledVector:
        if self.info.pooling is None:
            raise not_pooling()
        check_pooling(request.parameters, self.info.pooling)
        self.pooled.append(request)
        if REFUSED in request.prompt_token_ids:
            raise InvalidInput("the engine refuses this request")
        self.active += 1
        try:
            await asyncio.sleep(self.step_s)
            if LOST in request.prompt_token_ids:
                self.lose("the scripted engine died")
            if self.lost.done():
                raise Unavailable(self.lost.result())
            return scripted_vector(request)
        finally:
            self.active -= 1

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[list[TokenDelta], None]:
        self.seen.append(request)
        if self.info.pooling is not None:
            raise not_generating(self.info.pooling.task)
        if REFUSED in request.prompt_token_ids:
            raise InvalidInput("the engine refuses this request")
        self.active += 1
        finished = False
        try:
            parameters = request.parameters
            last = request.prompt_token_ids[-1]
            steps = parameters.max_tokens or 16
            for step in range(1, steps + 1):
                await asyncio.sleep(self.step_s)
                if self.lost.done():
                    raise Unavailable(self.lost.result())
                if LOST in request.prompt_token_ids and step == 3:
                    self.lose("the scripted engine died")
                    raise Unavailable("the scripted engine died")
                token = (last + step) % VOCAB_SIZE
                stop = token == EOS and not parameters.ignore_eos
                finished = stop or step == steps
                yield [self._delta(request, index, token, step, stop, finished) for index in range(parameters.n)]
                if finished:
                    return
        finally:
            self.active -= 1
            if not finished:
                self.aborted.append(request.request_id)

    def _delta(
        self, request: GenerateRequest, index: int, token: int, step: int, stop: bool, finished: bool
    ) -> TokenDelta:
        delta = TokenDelta(index, [token], prefill_s=self.prefill_s if step == 1 and index == 0 else -1.0)
        if step == 1 and index == 0:
            delta.prompt_tokens, delta.cached_tokens = len(request.prompt_token_ids), 0
        if request.parameters.logprobs is not None:
            delta.logprobs = [TokenLogprob(token, -0.5, [(token, -0.5)])]
        if finished:
            delta.finish_reason = "stop" if stop else "length"
        return delta

    def lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

    async def metrics(self) -> bytes:
        return b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running %d\n" % self.active

    async def check(self) -> None:
        if self.lost.done():
            raise Unavailable(self.lost.result())


class ScriptedProvider:
    """Gives a new ScriptedEngine each time, after `boot_s`; `refusals` are raised first, one per acquire."""

    def __init__(
        self,
        step_s: float = 0.0,
        boot_s: float = 0.0,
        refusals: list[Exception] | None = None,
        prefill_s: float = -1.0,
        deadline_s: float = 600.0,
        pooling: PoolingInfo | None = None,
    ) -> None:
        self.pooling = pooling
        self.step_s = step_s
        self.prefill_s = prefill_s
        self.boot_s = boot_s
        self.deadline_s = deadline_s
        self.refusals = refusals or []
        self.engines: list[ScriptedEngine] = []
        self.released: list[Engine] = []
        self.engine_class = ScriptedEngine
        self.phase = "idle"

    async def acquire(self) -> ScriptedEngine:
        if len(self.released) < len(self.engines):
            raise Unavailable("this predictor's engine is in use")
        self.phase = "load"
        await asyncio.sleep(min(self.boot_s, self.deadline_s))
        if self.boot_s > self.deadline_s:
            raise Unavailable(f"the engine was not ready within {self.deadline_s:g} s")
        if self.refusals:
            raise self.refusals.pop(0)
        engine = self.engine_class(self.step_s, prefill_s=self.prefill_s, pooling=self.pooling)
        self.engines.append(engine)
        self.phase = "ready"
        return engine

    async def release(self, engine: Engine) -> None:
        if engine not in self.released:
            self.released.append(engine)
            cast(ScriptedEngine, engine).lose("the engine was released")
