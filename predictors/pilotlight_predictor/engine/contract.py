"""What the predictor's front knows of an engine. No I/O, no vLLM, no torch is imported here.

The front asks an `EngineProvider` for an `Engine` and never learns whether it is a child process, a leased slot of a
warm pool, or a fake of a test.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
from pilotlight_protocol.generation import GenerationParameters, TokenDelta


class GenerateRequest(msgspec.Struct, array_like=True):
    """`prompt_token_ids`: int[seq], each in [0, vocab_size). `lora`: the name of a configured adapter, or None.

    `parameters.max_tokens` is None when the rest of the context may be used. `stop` strings were refused before.
    """

    request_id: str
    prompt_token_ids: list[int]
    parameters: GenerationParameters
    lora: str | None = None
    traceparent: str | None = None


class EngineInfo(msgspec.Struct, array_like=True):
    """Facts of a running engine; `boot_phases_s` maps phase names to seconds in the order in which they ran."""

    max_model_len: int
    vocab_size: int
    eos_token_ids: list[int]
    block_size: int
    num_kv_blocks: int
    dtype: str
    quantization: str
    device: str
    vllm_version: str
    loras: list[str]
    boot_phases_s: dict[str, float]


class EngineStats(msgspec.Struct, array_like=True):
    """A snapshot the engine pushes with its steps. `kv_cache_usage` in [0, 1]; the rate is smoothed."""

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    generation_tokens_per_s: float = 0.0


class Engine(Protocol):
    """A running engine. Every method may raise Unavailable when it was lost; `lost` is then set with the reason."""

    info: EngineInfo
    stats: EngineStats
    lost: asyncio.Future[str]

    def generate(self, request: GenerateRequest) -> AsyncIterator[list[TokenDelta]]:
        """Token deltas as they come, coalesced while the reader is slow; closing the iterator aborts the request.

        Raises InvalidInput (the engine refuses the request), Unavailable (it was lost).
        """
        ...

    async def metrics(self) -> bytes:
        """vLLM's own Prometheus exposition (text format), labels and names unchanged."""
        ...

    async def check(self) -> None:
        """Return when the engine answers; raises Unavailable when it does not within the deadline."""
        ...


class EngineProvider(Protocol):
    """Where engines come from. `acquire` raises Unavailable with a reason a person can act on when there is none."""

    async def acquire(self) -> Engine: ...

    async def release(self, engine: Engine) -> None:
        """Give the engine back; a child process ends within the provider's grace period."""
        ...
