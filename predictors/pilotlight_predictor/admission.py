"""Whether the engine has room for a request. Pure: what is measured is an argument.

    queue bound     waiting sequences + the request's   <= max_queue
    KV watermark    blocks in use or promised + the request's <= kv_watermark * blocks

A request that comes to an idle engine is always admitted: vLLM decides then whether it fits at all.

`Retry-After` is when the engine, at its measured throughput, has made room for what is ahead: the work over the limit,
and those who were turned away before (`TurnedAway`). Each is told a time of its own, so that they do not come back
together and meet each other again.
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
    when they end. `tokens_per_s` is the engine's smoothed generation rate, 0 when unknown; `usual_output_tokens` how
    long completions have been, and so how much is generated until a sequence gives up its place.
    """

    in_flight: int
    running: int
    waiting: int
    kv_cache_usage: float
    promised_tokens: int
    tokens_per_s: float
    usual_output_tokens: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a request will hold: `sequences` of `prompt_tokens` + `output_tokens` each, all summed in `tokens`."""

    sequences: int
    tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """Work of the clients that were told to come back: `tokens` of it at `at_s`, worked off at the engine's rate."""

    tokens: float = 0.0
    at_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Admit:
    pass


@dataclass(frozen=True, slots=True)
class Refuse:
    reason: Reason
    message: str
    retry_after_s: float


def admit(
    limits: AdmissionLimits, load: EngineLoad, estimate: Estimate, turned_away: TurnedAway, now_s: float
) -> tuple[Admit | Refuse, TurnedAway]:
    """Whether there is room at `now_s`, and the clients that are turned away from now on."""
    reason, message, excess_tokens = _excess(limits, load, estimate)
    if reason is None:
        return Admit(), turned_away
    wait_s, turned_away = _turn_away(turned_away, excess_tokens, estimate, load.tokens_per_s, now_s)
    return Refuse(reason, message, wait_s), turned_away


def _excess(limits: AdmissionLimits, load: EngineLoad, estimate: Estimate) -> tuple[Reason | None, str, float]:
    """The limit the request is over, what to say of it, and how many tokens until it is not."""
    if load.in_flight == 0:
        return None, "", 0.0
    waiting = max(load.waiting, load.in_flight - load.running)
    excess_sequences = waiting + estimate.sequences - limits.max_queue
    if excess_sequences > 0:
        message = f"{waiting} sequences wait for the engine, {limits.max_queue} may; try again"
        return "queue", message, excess_sequences * load.usual_output_tokens
    held_blocks = max(
        load.kv_cache_usage * limits.num_kv_blocks, math.ceil(load.promised_tokens / limits.block_size) + load.in_flight
    )
    wanted_blocks = math.ceil(estimate.tokens / limits.block_size) + estimate.sequences
    excess_blocks = held_blocks + wanted_blocks - limits.kv_watermark * limits.num_kv_blocks
    if excess_blocks > 0:
        message = f"the KV cache would be over {limits.kv_watermark:.0%} full with this request; try again"
        return "kv_cache", message, excess_blocks * limits.block_size
    return None, "", 0.0


def _turn_away(
    turned_away: TurnedAway, excess_tokens: float, estimate: Estimate, tokens_per_s: float, now_s: float
) -> tuple[float, TurnedAway]:
    if tokens_per_s <= 0:
        return RETRY_AFTER_UNKNOWN_S, turned_away
    ahead = max(0.0, turned_away.tokens - (now_s - turned_away.at_s) * tokens_per_s)
    wait_s = min(RETRY_AFTER_MAX_S, max(RETRY_AFTER_MIN_S, (excess_tokens + ahead) / tokens_per_s))
    own = estimate.sequences * estimate.output_tokens
    # Nobody is told more than the longest time, so no more than that is remembered.
    return wait_s, TurnedAway(min(ahead + own, RETRY_AFTER_MAX_S * tokens_per_s), now_s)
