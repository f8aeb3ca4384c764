"""What an engine is and says, for a proof of its swaps: its live tensors, and greedy answers to fixed prompts.

Prompts are token ids: no tokenizer is needed, and they are the same for every engine with that vocabulary.
Adapter to vLLM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from vllm.sampling_params import SamplingParams

from pilotlight_engine.swap import live_state, packed_layers
from pilotlight_protocol.swap_proofs import EngineState, GreedyAnswer

# One token, a few, many, and more than two KV blocks of a CPU (128 tokens each).
_LENGTHS = (1, 7, 64, 300)
_ANSWER_TOKENS = 12
_STEP = 7919

Answer = Callable[[SamplingParams, list[int]], Any]
"""vLLM's last output for this prompt, alone in the engine."""


def examine(model: Any, answer: Answer, vocab_size: int, max_model_len: int) -> EngineState:
    """Changes nothing but the prefix cache. The engine must be idle."""
    began_s = time.perf_counter()
    tensors = live_state.live_tensors(model, packed_layers.unpacked)
    digested_s = time.perf_counter()
    parameters = SamplingParams(
        temperature=0.0, max_tokens=_ANSWER_TOKENS, ignore_eos=True, logprobs=1, detokenize=False
    )
    answers = tuple(_greedy(answer(parameters, prompt)) for prompt in prompts(vocab_size, max_model_len))
    answered_s = time.perf_counter()
    return EngineState(tensors, answers, round(digested_s - began_s, 3), round(answered_s - digested_s, 3))


def prompts(vocab_size: int, max_model_len: int) -> Sequence[list[int]]:
    longest = max_model_len - _ANSWER_TOKENS
    return [
        [(number + place * _STEP) % vocab_size for place in range(length)]
        for number, length in enumerate(_LENGTHS)
        if length <= longest
    ]


def _greedy(output: Any) -> GreedyAnswer:
    completion = output.outputs[0]
    tokens = tuple(completion.token_ids)
    return GreedyAnswer(
        tokens, tuple(step[token].logprob for token, step in zip(tokens, completion.logprobs, strict=True))
    )
