"""What may be asked of the engine at all, and whether it has room for it now. Pure: what is measured is an argument.

    queue bound     waiting sequences + the request's   <= max_queue
    KV watermark    blocks in use or promised + the request's <= kv_watermark * blocks

A request that comes to an idle engine is always admitted: vLLM decides then whether it fits at all.

`Retry-After` is when the engine, at its measured throughput, has made room for what is ahead: the work over the limit,
and those who were turned away before (`TurnedAway`). Each is told a time of its own, so that they do not come back
together and meet each other again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import msgspec

from pilotlight_protocol.endpoint_directory import RequestBounds
from pilotlight_protocol.engine_frames import EngineInfo, EngineStats
from pilotlight_protocol.errors import ContextLengthExceeded, InvalidInput, PayloadTooLarge, Unavailable
from pilotlight_protocol.generation import GenerationParameters

RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1.0, 60.0
# Said while no throughput has been measured yet.
RETRY_AFTER_UNKNOWN_S = 5.0

# What a completion is taken to be long before any has been seen, and the weight of each one that is.
FIRST_OUTPUT_GUESS_TOKENS = 256.0
OUTPUT_GUESS_WEIGHT = 0.1

Reason = Literal["queue", "kv_cache"]


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """None: the context length is the only limit. `max_sequences` bounds batch rows times `n`."""

    max_prompt_tokens: int | None = None
    max_output_tokens: int | None = None
    max_batch: int = 64
    max_sequences: int = 256

    @classmethod
    def of(cls, bounds: RequestBounds) -> RequestLimits:
        return cls(bounds.max_prompt_tokens, bounds.max_output_tokens, bounds.max_batch, bounds.max_sequences)


@dataclass(frozen=True, slots=True)
class Rest:
    """`output_tokens` at the prompt's end were generated; without `max_tokens` it was `default_max_tokens` in all."""

    output_tokens: int
    default_max_tokens: int | None

    def fitted(
        self, limits: RequestLimits, parameters: GenerationParameters
    ) -> tuple[RequestLimits, GenerationParameters]:
        """Limits and request as they are for what is left."""
        if parameters.max_tokens is None:
            most = limits.max_output_tokens or self.default_max_tokens
            if most is not None:
                left = max(1, most - self.output_tokens, parameters.min_tokens)
                parameters = msgspec.structs.replace(parameters, max_tokens=left)
        most_prompt = limits.max_prompt_tokens
        if most_prompt is not None:
            limits = replace(limits, max_prompt_tokens=most_prompt + self.output_tokens)
        return limits, parameters

    @classmethod
    def of(cls, output_tokens: int, info: EngineInfo) -> Rest | None:
        return cls(output_tokens, info.default_max_tokens) if output_tokens else None


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """`max_queue`: sequences that may wait for a place in the engine's batch. `kv_watermark`: see `admission`."""

    max_queue: int = 256
    kv_watermark: float = 0.9

    @classmethod
    def of(cls, bounds: RequestBounds) -> QueueLimits:
        return cls(bounds.max_queue, bounds.kv_watermark)


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
    if limits.num_kv_blocks == 0:
        return None, "", 0.0  # an encoder keeps nothing
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


def fit(
    prompts: Sequence[Sequence[int]],
    parameters: GenerationParameters,
    limits: RequestLimits,
    vocab_size: int,
    max_model_len: int,
    rest: Rest | None = None,
) -> GenerationParameters:
    """Check every prompt against the model and the limits. `rest`: it is what another engine left of a request.

    A `max_tokens` that was not given becomes the server's limit; the engine cuts it to the context. Raises InvalidInput
    (ids, context), PayloadTooLarge (a limit of this server).
    """
    if rest is not None:
        limits, parameters = rest.fitted(limits, parameters)
    sequences = len(prompts) * parameters.n
    if sequences > limits.max_sequences:
        raise PayloadTooLarge(
            f"{len(prompts)} prompts with n={parameters.n} are {sequences} sequences; "
            f"at most {limits.max_sequences} are taken",
            param="n",
        )
    _check_ids(parameters, vocab_size)
    asked, most = parameters.max_tokens, limits.max_output_tokens
    if asked is not None and most is not None and asked > most:
        raise InvalidInput(
            f"parameter 'max_tokens' is {asked}; this server generates at most {most}", param="max_tokens"
        )
    for row, prompt in enumerate(prompts):
        _check_prompt(row, prompt, limits, vocab_size, max_model_len, asked)
        if asked is not None and len(prompt) + asked > max_model_len:
            raise ContextLengthExceeded.of(max_model_len, len(prompt), asked, "max_tokens")
    if asked is None and most is not None:
        return msgspec.structs.replace(parameters, max_tokens=max(most, parameters.min_tokens))
    return parameters


def _check_ids(parameters: GenerationParameters, vocab_size: int) -> None:
    """What vLLM uses as an index into the logits."""
    for name in ("stop_token_ids", "allowed_token_ids", "logprob_token_ids", "logit_bias"):
        _check_within(name, getattr(parameters, name) or (), vocab_size)
    for word in parameters.bad_words_token_ids:
        _check_within("bad_words_token_ids", word, vocab_size)


def _check_within(name: str, token_ids: Iterable[int], vocab_size: int) -> None:
    for token_id in token_ids:
        if token_id >= vocab_size:
            raise InvalidInput(
                f"parameter '{name}': token id {token_id} is not in the vocabulary, 0 to {vocab_size - 1}", param=name
            )


def fit_pooling(prompts: Sequence[Sequence[int]], limits: RequestLimits, vocab_size: int, max_model_len: int) -> None:
    """As `fit`, for prompts that are read and not continued: one may fill the context."""
    if len(prompts) > limits.max_sequences:
        raise PayloadTooLarge(f"{len(prompts)} prompts; at most {limits.max_sequences} are taken", param="input_ids")
    for row, prompt in enumerate(prompts):
        if len(prompt) > max_model_len:
            raise InvalidInput(
                f"prompt {row} has {len(prompt)} tokens; this model reads {max_model_len}", param="input_ids"
            )
        _check_prompt(row, prompt, limits, vocab_size, max_model_len + 1, None)


def _check_prompt(
    row: int,
    prompt: Sequence[int],
    limits: RequestLimits,
    vocab_size: int,
    max_model_len: int,
    max_tokens: int | None,
) -> None:
    if not prompt:
        raise InvalidInput("input_ids is empty; send at least one token", param="input_ids")
    if limits.max_prompt_tokens is not None and len(prompt) > limits.max_prompt_tokens:
        raise PayloadTooLarge(
            f"prompt {row} has {len(prompt)} tokens; at most {limits.max_prompt_tokens} are taken", param="input_ids"
        )
    if len(prompt) >= max_model_len:
        raise ContextLengthExceeded.of(max_model_len, len(prompt), max_tokens, "input_ids")
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        wrong = next(token for token in prompt if not 0 <= token < vocab_size)
        raise InvalidInput(f"token id {wrong} is not in the vocabulary, 0 to {vocab_size - 1}", param="input_ids")


class Count(Protocol):
    """A metric."""

    def inc(self, amount: float = 1) -> None: ...


@dataclass(frozen=True, slots=True)
class QueueGauges:
    """Whoever is told what is promised, less when it has ended, and what is refused."""

    sequences: Count
    tokens: Count
    refused: Callable[[Reason], Count]


class EngineQueue:
    """Books what its owner has promised the engine, and asks `admit` before it promises more."""

    def __init__(self, limits: QueueLimits, clock: Callable[[], float], gauges: QueueGauges) -> None:
        self._limits = limits
        self._clock = clock
        self._gauges = gauges
        self._turned_away = TurnedAway()
        self._in_flight = 0
        self._promised_tokens = 0
        self._usual_output_tokens = FIRST_OUTPUT_GUESS_TOKENS

    @contextlib.contextmanager
    def place(
        self,
        info: EngineInfo,
        stats: EngineStats,
        prompts: Sequence[Sequence[int]],
        parameters: GenerationParameters,
    ) -> Iterator[None]:
        """A place for these prompts until the block ends; raises Unavailable with the time to wait."""
        with self._held(info, stats, self._estimate(prompts, parameters), self._usual_output_tokens):
            yield

    @contextlib.contextmanager
    def pooling_place(self, info: EngineInfo, stats: EngineStats, prompts: Sequence[Sequence[int]]) -> Iterator[None]:
        """As `place`; the work that a pooling model does is reading its prompts, and so its rate is of them."""
        tokens = sum(map(len, prompts))
        each = max(1, tokens // len(prompts))
        with self._held(info, stats, Estimate(len(prompts), tokens, each), each):
            yield

    @contextlib.contextmanager
    def _held(self, info: EngineInfo, stats: EngineStats, estimate: Estimate, usual_tokens: float) -> Iterator[None]:
        decision, self._turned_away = admit(
            AdmissionLimits(self._limits.max_queue, self._limits.kv_watermark, info.block_size, info.num_kv_blocks),
            EngineLoad(
                self._in_flight,
                stats.running,
                stats.waiting,
                stats.kv_cache_usage,
                self._promised_tokens,
                stats.generation_tokens_per_s,
                usual_tokens,
            ),
            estimate,
            self._turned_away,
            self._clock(),
        )
        if not isinstance(decision, Admit):
            self._gauges.refused(decision.reason).inc()
            raise Unavailable(decision.message, retry_after_s=decision.retry_after_s)
        self._book(estimate.sequences, estimate.tokens)
        try:
            yield
        finally:
            self._book(-estimate.sequences, -estimate.tokens)

    def completed(self, output_tokens: int) -> None:
        """Learn how long completions usually are, for requests that do not say."""
        self._usual_output_tokens += OUTPUT_GUESS_WEIGHT * (output_tokens - self._usual_output_tokens)

    def _estimate(self, prompts: Sequence[Sequence[int]], parameters: GenerationParameters) -> Estimate:
        usual = max(1, round(self._usual_output_tokens))
        output = usual if parameters.max_tokens is None else min(parameters.max_tokens, usual)
        output = max(output, parameters.min_tokens)
        sequences = len(prompts) * parameters.n
        # The choices of a prompt share its blocks.
        return Estimate(sequences, sum(map(len, prompts)) + sequences * output, output)

    def _book(self, sequences: int, tokens: int) -> None:
        self._in_flight += sequences
        self._promised_tokens += tokens
        self._gauges.sequences.inc(sequences)
        self._gauges.tokens.inc(tokens)
