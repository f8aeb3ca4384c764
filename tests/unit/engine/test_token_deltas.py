"""vLLM's outputs as deltas: what only the first one of a stream carries."""

from types import SimpleNamespace
from typing import Any

import pytest

from pilotlight_engine.vllm_adapter.token_deltas import Stream
from pilotlight_protocol.generation import TokenDelta


def delta_of(stream: Stream, index: int, stats: Any) -> TokenDelta:
    completion = SimpleNamespace(index=index, token_ids=[7], finish_reason=None, stop_reason=None, logprobs=None)
    output = SimpleNamespace(metrics=stats, prompt_token_ids=[1, 2], num_cached_tokens=None, prompt_logprobs=None)
    return stream.delta(output, completion)


def stats(queued_ts: float, scheduled_ts: float, first_token_ts: float) -> SimpleNamespace:
    return SimpleNamespace(queued_ts=queued_ts, scheduled_ts=scheduled_ts, first_token_ts=first_token_ts)


def test_the_first_delta_carries_the_prefill_without_the_queue() -> None:
    stream = Stream(1, None)
    first = delta_of(stream, 1, stats(100.0, 103.0, 103.25))
    assert first.prefill_s == pytest.approx(0.25)
    assert first.prompt_tokens == -1
    opening = delta_of(stream, 0, stats(100.0, 103.0, 103.25))
    assert (opening.prefill_s, opening.prompt_tokens) == (-1.0, 2)


@pytest.mark.parametrize("given", [None, stats(0.0, 0.0, 0.0), stats(5.0, 5.0, 0.0)])
def test_without_vllms_times_nothing_is_said(given: Any) -> None:
    assert delta_of(Stream(1, None), 0, given).prefill_s == -1.0
