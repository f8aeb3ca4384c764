"""Whether the engine has room for a request. Pure: what is measured is an argument.

    queue bound     waiting sequences + the request's   <= max_queue
    KV watermark    blocks in use or promised + the request's <= kv_watermark * blocks

A request that comes to an idle engine is always admitted: vLLM decides then whether it fits at all. Nothing here
depends on the time of day, so there is no clock among the arguments; `Retry-After` comes from the measured throughput.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1.0, 60.0
# Said while no throughput has been measured yet.
RETRY_AFTER_UNKNOWN_S = 5.0

Reason = Literal["queue", "kv_cache"]


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """`max_queue`: sequences that may wait for a place in the batch. `kv_watermark`: share of the cache in (0, 1]."""

    max_queue: int
    kv_watermark: float
    block_size: int
    num_kv_blocks: int


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """`in_flight`: admitted sequences that have not ended; `running`: those of them in the engine's batch.

    `kv_cache_usage` in [0, 1] is what vLLM holds now, `promised_tokens` what the admitted requests are expected to hold
    when they end. `tokens_per_s` is the engine's smoothed generation rate, 0 when unknown.
    """

    in_flight: int
    running: int
    waiting: int
    kv_cache_usage: float
    promised_tokens: int
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a request will hold: `sequences` of `prompt_tokens` + `output_tokens` each, all summed in `tokens`."""

    sequences: int
    tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Admit:
    pass


@dataclass(frozen=True, slots=True)
class Refuse:
    reason: Reason
    message: str
    retry_after_s: float


def admit(limits: AdmissionLimits, load: EngineLoad, estimate: Estimate) -> Admit | Refuse:
    if load.in_flight == 0:
        return Admit()
    waiting = max(load.waiting, load.in_flight - load.running)
    excess_sequences = waiting + estimate.sequences - limits.max_queue
    if excess_sequences > 0:
        return Refuse(
            "queue",
            f"{waiting} sequences wait for the engine, {limits.max_queue} may; try again",
            retry_after_s(excess_sequences * estimate.output_tokens, load.tokens_per_s),
        )
    held_blocks = max(
        load.kv_cache_usage * limits.num_kv_blocks, math.ceil(load.promised_tokens / limits.block_size) + load.in_flight
    )
    wanted_blocks = math.ceil(estimate.tokens / limits.block_size) + estimate.sequences
    excess_blocks = held_blocks + wanted_blocks - limits.kv_watermark * limits.num_kv_blocks
    if excess_blocks > 0:
        return Refuse(
            "kv_cache",
            f"the KV cache would be over {limits.kv_watermark:.0%} full with this request; try again",
            retry_after_s(excess_blocks * limits.block_size, load.tokens_per_s),
        )
    return Admit()


def retry_after_s(tokens_to_wait_for: float, tokens_per_s: float) -> float:
    """Seconds until that many tokens are generated, from 1 to 60; 5 while the rate is unknown."""
    if tokens_per_s <= 0:
        return RETRY_AFTER_UNKNOWN_S
    return min(RETRY_AFTER_MAX_S, max(RETRY_AFTER_MIN_S, tokens_to_wait_for / tokens_per_s))
