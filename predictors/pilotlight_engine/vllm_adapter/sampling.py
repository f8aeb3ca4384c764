"""The protocol's generation parameters as vLLM's SamplingParams. Adapter to vLLM; strings never come here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from vllm.sampling_params import (
    RepetitionDetectionParams,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsParams,
)

from pilotlight_protocol.generation import GenerationParameters

CONSTRAINED = StructuredOutputsParams(json_object=True)
"""Tells vLLM that a request has a grammar; which one, `OutputGrammars` knows."""

_MODELS_OWN = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens")
"""What is the model's to say where the request does not."""


def sampling_params(asked: GenerationParameters, defaults: Mapping[str, Any], room: int) -> SamplingParams:
    """`defaults`: the model's, by SamplingParams' names. `room`: tokens that the context has left, at least 1.

    Raises VLLMValidationError and ValueError.
    """
    values = dict(defaults)
    for name in _MODELS_OWN:
        if (value := getattr(asked, name)) is not None:
            values[name] = value
    for name in ("presence_penalty", "frequency_penalty"):
        if value := getattr(asked, name):
            values[name] = value
    values["max_tokens"] = min(values.get("max_tokens") or room, room)
    made = SamplingParams(
        n=asked.n,
        seed=asked.seed,
        min_tokens=min(asked.min_tokens, values["max_tokens"]),
        stop_token_ids=asked.stop_token_ids or None,
        ignore_eos=asked.ignore_eos,
        logprobs=None if asked.logprob_token_ids else asked.logprobs,
        logprob_token_ids=asked.logprob_token_ids,
        prompt_logprobs=asked.prompt_logprobs,
        logit_bias=asked.logit_bias or None,
        allowed_token_ids=asked.allowed_token_ids,
        repetition_detection=_repetition_detection(asked),
        stream_interval=asked.stream_interval,
        structured_outputs=None if asked.structured_outputs is None else CONSTRAINED,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        **values,
    )
    if asked.bad_words_token_ids:
        # vLLM makes them of words with its tokenizer, which this engine is without.
        made._bad_words_token_ids = asked.bad_words_token_ids
    return made


def _repetition_detection(asked: GenerationParameters) -> RepetitionDetectionParams | None:
    if asked.repetition_detection is None:
        return None
    return RepetitionDetectionParams(**msgspec.structs.asdict(asked.repetition_detection))
