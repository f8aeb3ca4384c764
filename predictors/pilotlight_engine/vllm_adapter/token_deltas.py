"""vLLM's outputs as the protocol's token deltas. Adapter to vLLM's output objects; imports nothing of vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pilotlight_protocol.generation import FinishReason, GenerationParameters, TokenDelta, TokenLogprob

_FINISH_REASONS: dict[str | None, FinishReason | None] = {
    None: None,
    "stop": "stop",
    "repetition": "stop",
    "length": "length",
    "abort": "abort",
}
_LOWEST_LOGPROB = -9999.0  # vLLM's OpenAI server sends this for -inf, which JSON cannot carry
_RATE_SMOOTHING_S = 2.0


class Stream:
    """One request; `number` is its stream in the frames. `asked` says which log-probabilities it wants."""

    __slots__ = ("_asked", "_first", "_timed", "number")

    def __init__(self, number: int, asked: GenerationParameters) -> None:
        self.number = number
        self._asked = asked
        self._first = True
        self._timed = False

    def delta(self, output: Any, completion: Any) -> TokenDelta:
        delta = TokenDelta(completion.index, list(completion.token_ids))
        if completion.finish_reason is not None:
            delta.finish_reason = _FINISH_REASONS[completion.finish_reason]
            delta.stop_reason = completion.stop_reason
        if self._asked.logprobs is not None and completion.logprobs:
            delta.logprobs = [
                _token_logprob(token_id, entry, self._asked.logprobs, self._asked.logprob_token_ids)
                for token_id, entry in zip(completion.token_ids, completion.logprobs, strict=True)
            ]
        if not self._timed:
            self._timed = True
            delta.prefill_s = _prefill_s(output.metrics)
        if self._first and completion.index == 0:
            self._first = False
            delta.prompt_tokens = len(output.prompt_token_ids)
            delta.cached_tokens = output.num_cached_tokens or 0
            if output.prompt_logprobs:
                delta.prompt_logprobs = [
                    None if entry is None else _token_logprob(token_id, entry, self._asked.prompt_logprobs or 0)
                    for token_id, entry in zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
                ]
        return delta


def _prefill_s(stats: Any) -> float:
    """vLLM's own prefill interval (`RequestStateStats`, as its `request_prefill_time_seconds`); -1 without stats."""
    if stats is None or not stats.scheduled_ts or not stats.first_token_ts:
        return -1.0
    return max(0.0, float(stats.first_token_ts - stats.scheduled_ts))


class Rate:
    """Tokens per second, exponentially smoothed over the time in which the engine steps."""

    def __init__(self) -> None:
        self.per_s = 0.0
        self._last_s = 0.0

    def add(self, tokens: int, now_s: float) -> None:
        elapsed_s, self._last_s = now_s - self._last_s, now_s
        if 0.0 < elapsed_s < _RATE_SMOOTHING_S:
            weight = elapsed_s / (_RATE_SMOOTHING_S + elapsed_s)
            self.per_s += weight * (tokens / elapsed_s - self.per_s)


def _token_logprob(token_id: int, entry: Any, count: int, asked_ids: Sequence[int] | None = None) -> TokenLogprob:
    """The alternatives are the `count` most likely tokens, or those of `asked_ids`."""
    if asked_ids is not None:
        top = [(asked, entry[asked].logprob) for asked in asked_ids if asked in entry]
    else:
        ranked = sorted(((value.rank or 0, key, value.logprob) for key, value in entry.items()))
        top = [(key, logprob) for rank, key, logprob in ranked if rank <= count][:count]
    own = entry[token_id]
    shown = [(key, max(logprob, _LOWEST_LOGPROB)) for key, logprob in top]
    return TokenLogprob(token_id, max(own.logprob, _LOWEST_LOGPROB), shown, own.rank or 0)
