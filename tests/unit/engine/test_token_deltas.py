"""vLLM's outputs as deltas: what only the first one of a stream carries."""

from types import SimpleNamespace
from typing import Any

import pytest

from pilotlight_engine.vllm_adapter.token_deltas import Stream
from pilotlight_protocol.generation import GenerationParameters, TokenDelta, TokenLogprob


def delta_of(stream: Stream, index: int, stats: Any) -> TokenDelta:
    completion = SimpleNamespace(index=index, token_ids=[7], finish_reason=None, stop_reason=None, logprobs=None)
    output = SimpleNamespace(metrics=stats, prompt_token_ids=[1, 2], num_cached_tokens=None, prompt_logprobs=None)
    return stream.delta(output, completion)


def stats(queued_ts: float, scheduled_ts: float, first_token_ts: float) -> SimpleNamespace:
    return SimpleNamespace(queued_ts=queued_ts, scheduled_ts=scheduled_ts, first_token_ts=first_token_ts)


def test_the_first_delta_carries_the_prefill_without_the_queue() -> None:
    stream = Stream(1, GenerationParameters())
    first = delta_of(stream, 1, stats(100.0, 103.0, 103.25))
    assert first.prefill_s == pytest.approx(0.25)
    assert first.prompt_tokens == -1
    opening = delta_of(stream, 0, stats(100.0, 103.0, 103.25))
    assert (opening.prefill_s, opening.prompt_tokens) == (-1.0, 2)


@pytest.mark.parametrize("given", [None, stats(0.0, 0.0, 0.0), stats(5.0, 5.0, 0.0)])
def test_without_vllms_times_nothing_is_said(given: Any) -> None:
    assert delta_of(Stream(1, GenerationParameters()), 0, given).prefill_s == -1.0


def entry(**ranks: int) -> dict[int, Any]:
    """`t7=2`: token 7 is the second most likely; its logprob is minus its rank."""
    return {int(name[1:]): SimpleNamespace(rank=rank, logprob=-float(rank)) for name, rank in ranks.items()}


def logprob_of(asked: GenerationParameters, token_id: int, **ranks: int) -> TokenLogprob:
    completion = SimpleNamespace(
        index=0, token_ids=[token_id], finish_reason=None, stop_reason=None, logprobs=[entry(**ranks)]
    )
    output = SimpleNamespace(
        metrics=None,
        prompt_token_ids=[1, token_id],
        num_cached_tokens=None,
        prompt_logprobs=None if asked.prompt_logprobs is None else [None, entry(**ranks)],
    )
    delta = Stream(1, asked).delta(output, completion)
    assert delta.logprobs is not None
    if asked.prompt_logprobs is not None:
        assert delta.prompt_logprobs == [None, *delta.logprobs]
    return delta.logprobs[0]


def test_the_alternatives_are_the_most_likely_and_the_token_has_its_rank() -> None:
    asked = GenerationParameters(logprobs=2, prompt_logprobs=2)
    assert logprob_of(asked, 7, t7=3, t4=1, t5=2) == TokenLogprob(7, -3.0, [(4, -1.0), (5, -2.0)], 3)
    assert logprob_of(asked, 4, t4=1, t5=2) == TokenLogprob(4, -1.0, [(4, -1.0), (5, -2.0)], 1)
    assert logprob_of(GenerationParameters(logprobs=0), 7, t7=1) == TokenLogprob(7, -1.0, [], 1)


def test_alternatives_asked_for_by_id_are_those_and_no_other() -> None:
    asked = GenerationParameters(logprobs=1, logprob_token_ids=[9, 8])
    # vLLM gives them ranks of their own, by place; the sampled token's is the true one.
    assert logprob_of(asked, 7, t7=1, t9=1, t8=2) == TokenLogprob(7, -1.0, [(9, -1.0), (8, -2.0)], 1)
