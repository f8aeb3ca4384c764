"""What a request of OpenAI's asks of the engine: its fields as generation parameters, in OpenAI's ranges. Pure."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import msgspec

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters, parse_parameters
from pilotlight_text.openai_api.requests import ChatRequest, CompletionRequest
from pilotlight_text.tokenization.truncation import Truncation

COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for /completions; /chat/completions has none."""

_SHARED = (
    *("n", "temperature", "top_p", "seed", "stop", "presence_penalty", "frequency_penalty", "top_k", "min_p"),
    *("min_tokens", "repetition_penalty", "ignore_eos", "stop_token_ids", "priority", "cache_salt", "logit_bias"),
    *("bad_words", "allowed_token_ids", "logprob_token_ids", "prompt_logprobs", "repetition_detection"),
    "stream_interval",
)
_SHAPES = (
    *("response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"),
    "guided_json_object",
)
"""Each says what the output must look like."""

# One call each instead of one per field: every request passes here.
_shared_of, _shapes_of = attrgetter(*_SHARED), attrgetter(*_SHAPES)
_NO_SHAPES = (None,) * len(_SHAPES)


def chat_parameters(request: ChatRequest) -> GenerationParameters:
    values = _shared(request)
    if request.logprobs:
        values["logprobs"] = request.top_logprobs or 0
    if request.max_completion_tokens is None:
        return openai_parameters(values | {"max_tokens": request.max_tokens})
    try:
        return openai_parameters(values | {"max_tokens": request.max_completion_tokens})
    except InvalidInput as error:
        if error.param != "max_tokens":
            raise
        named = error.message.replace("max_tokens", "max_completion_tokens")
        raise InvalidInput(named, param="max_completion_tokens") from None


def completion_parameters(request: CompletionRequest) -> GenerationParameters:
    """`max_tokens` 0 (score the prompt, with `echo`) becomes 1 here; `only_echo` tells the caller to drop the token."""
    max_tokens = COMPLETION_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    values = _shared(request) | {"max_tokens": 1 if only_echo(request) else max_tokens, "logprobs": request.logprobs}
    parameters = openai_parameters(values)
    if request.echo and parameters.logprobs is not None:
        most = max(parameters.logprobs, parameters.prompt_logprobs or 0)
        return msgspec.structs.replace(parameters, prompt_logprobs=most)
    return parameters


def only_echo(request: CompletionRequest) -> bool:
    return bool(request.echo) and request.max_tokens == 0


def truncation_of(request: ChatRequest | CompletionRequest, parameters: GenerationParameters) -> Truncation | None:
    if request.truncate_prompt_tokens is None:
        return None
    room = parameters.max_tokens or 1
    return Truncation(request.truncate_prompt_tokens, request.truncation_side or "left", room)


def _shared(request: ChatRequest | CompletionRequest) -> dict[str, Any]:
    values = dict(zip(_SHARED, _shared_of(request), strict=True))
    shapes = _shapes_of(request)
    if shapes != _NO_SHAPES:
        from pilotlight_text.openai_api.structured_outputs import structured_outputs_of  # what few requests need

        values["structured_outputs"] = structured_outputs_of(
            {name: value for name, value in zip(_SHAPES, shapes, strict=True) if value is not None}
        )
    return values


def format_field(request: ChatRequest | CompletionRequest) -> str:
    """Which of its fields says what the output must look like, of a request that has one."""
    from pilotlight_text.openai_api.structured_outputs import field_of

    return field_of({name: getattr(request, name) for name in _SHAPES})


def openai_parameters(values: dict[str, Any]) -> GenerationParameters:
    """OpenAI's `top_p` begins at 0, where the nucleus is the one most likely token: greedy. vLLM's begins above it."""
    if values.get("top_p") != 0:
        return parse_parameters(values)
    parsed = parse_parameters(values | {"top_p": None})
    return msgspec.structs.replace(parsed, temperature=0.0)
