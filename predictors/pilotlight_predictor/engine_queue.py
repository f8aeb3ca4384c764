"""Books what the predictor has promised the engine, and asks the admission policy before it promises more."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pilotlight_engine.contract import EngineInfo, EngineStats
from pilotlight_predictor.admission import AdmissionLimits, Admit, EngineLoad, Estimate, TurnedAway, admit
from pilotlight_predictor.predictor_metrics import IN_FLIGHT_SEQUENCES, PROMISED_TOKENS, REFUSED
from pilotlight_protocol.errors import Unavailable
from pilotlight_protocol.generation import GenerationParameters

# What a completion is taken to be long before any has been seen, and the weight of each one that is.
FIRST_OUTPUT_GUESS_TOKENS = 256.0
OUTPUT_GUESS_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """`max_queue`: sequences that may wait for a place in the engine's batch. `kv_watermark`: see `admission`."""

    max_queue: int = 256
    kv_watermark: float = 0.9


class EngineQueue:
    def __init__(self, limits: QueueLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
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
        estimate = self._estimate(prompts, parameters)
        decision, self._turned_away = admit(
            AdmissionLimits(self._limits.max_queue, self._limits.kv_watermark, info.block_size, info.num_kv_blocks),
            EngineLoad(
                self._in_flight,
                stats.running,
                stats.waiting,
                stats.kv_cache_usage,
                self._promised_tokens,
                stats.generation_tokens_per_s,
                self._usual_output_tokens,
            ),
            estimate,
            self._turned_away,
            self._clock(),
        )
        if not isinstance(decision, Admit):
            REFUSED.labels(decision.reason).inc()
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
        IN_FLIGHT_SEQUENCES.set(self._in_flight)
        PROMISED_TOKENS.set(self._promised_tokens)
